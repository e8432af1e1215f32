"""Provenance of a result: code, packages and machine. Plain Python, without heavy imports."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
"""The folder of our packages: a checkout, a job's copy of one, or site-packages."""
SOURCES = ("dopamine_rl", "actors", "learner", "reward_service", "experiments")
DISTRIBUTIONS = ("dopamine-rl", "ray", "torch", "transformers", "mani-skill", "numpy")
DEADLINE_S = 10.0
"""Deadline for calls of git and of the GPU driver."""
UNKNOWN = "unknown"


@cache
def code(root: Path = ROOT) -> dict[str, Any]:
    """The version of the code.

    Returns:
        commit: of the checkout; "unknown" without one, as in a submitted job.
        dirty: whether our files differ from it; None if unknown.
        sources: 16 hexadecimal digits that identify the content of our files, with or without git.
        packages: versions, including Python's; None for a package that is not installed.
    """
    commit, dirty = _commit(root)
    versions = {name: _version(name) for name in DISTRIBUTIONS} | {"python": platform.python_version()}
    return {"commit": commit, "dirty": dirty, "sources": sources_digest(root), "packages": versions}


def describe() -> str:
    """The version for people: 0.1.0 (commit 6b2b785, changed), or (files 0123456789abcdef) without a checkout."""
    about = code()
    commit = f"commit {about['commit'][:7]}{', changed' if about['dirty'] else ''}"
    which = f"files {about['sources']}" if about["commit"] == UNKNOWN else commit
    return f"dopamine-rl {about['packages']['dopamine-rl'] or UNKNOWN} ({which})"


@cache
def machine() -> dict[str, Any]:
    """cpu (the model's name), cores, memory_gb and gpus (names; may be empty) of this machine."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gb": _memory_gb(), "gpus": _gpus()}


def provenance(**settings: Any) -> dict[str, Any]:
    """`code()`, `machine()` and the caller's settings, such as preset and seed, as JSON values."""
    return {**code(), "machine": machine(), **settings}


def sources_digest(root: Path = ROOT) -> str:
    """16 hexadecimal digits that change with the content or the name of any of our code and data files."""
    digest = hashlib.sha256()
    for path in _source_files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line on how `code()` differs from an earlier one; None if it does not."""
    parts = []
    if before.get("sources") != now["sources"]:
        parts.append(f"our code {_named(before)}, now {_named(now)}")
    packages = before.get("packages") or {}
    parts += [
        f"{name} {packages.get(name)}, now {version}"
        for name, version in now["packages"].items()
        if packages.get(name) != version
    ]
    return "; ".join(parts) or None


def _named(code: Mapping[str, Any]) -> str:
    commit, dirty = str(code.get("commit", UNKNOWN)), code.get("dirty")
    if commit == UNKNOWN or dirty:
        changed = " with changes" if dirty else ""
        return f"{commit[:12]}{changed} (sources {code.get('sources', UNKNOWN)})"
    return commit[:12]


def _source_files(root: Path) -> Iterator[Path]:
    for package in SOURCES:
        for path in sorted((root / package).rglob("*")):
            hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and path.suffix not in (".pyc", ".md"):
                yield path


def _commit(root: Path) -> tuple[str, bool | None]:
    # A .git further up belongs to another project, into whose checkout the packages may be installed.
    if not (root / ".git").exists():
        return UNKNOWN, None
    commit = _run("git", "-C", str(root), "rev-parse", "HEAD")
    changes = _run("git", "-C", str(root), "status", "--porcelain", "--", *SOURCES, "pyproject.toml")
    return commit or UNKNOWN, None if commit is None or changes is None else bool(changes)


def _run(*command: str) -> str | None:
    """The output of a command; None if it fails or takes too long."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        process = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.decode(errors="replace").strip()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or UNKNOWN


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpus() -> list[str]:
    names = _run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return [line.strip() for line in (names or "").splitlines() if line.strip()]
