"""Checks of this machine for `dopamine doctor`: one small probe for each requirement, all with a deadline."""

from __future__ import annotations

import importlib.metadata
import locale
import netrc
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dopamine_rl.errors import BadInput
from experiments.runtime.cluster import LONGEST_SOCKET, ROOT, SOCKET

State = Literal["ok", "missing", "optional"]
DEADLINE_S = 90.0
"""For each probe; all of them run at once."""

LEAST_CORES, LEAST_MEMORY_GB, LEAST_DISK_GB, LEAST_SHARED_GB = 2, 4.0, 2.0, 0.5
LEAST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Finding:
    """The result of a probe.

    Args:
        state: ok; missing, if something does not work without it; optional, if there is a fallback.
        what: what was found.
        fix: how to fix it; "" if nothing needs a fix.
    """

    state: State
    what: str
    fix: str = ""


Probe = Callable[[], Finding]


def python() -> Finding:
    """The interpreter, against what the project asks for."""
    version, least = ".".join(map(str, sys.version_info[:3])), ".".join(map(str, LEAST_PYTHON))
    if tuple(sys.version_info[:2]) < LEAST_PYTHON:
        return Finding("missing", version, f"make setup PYTHON=python{least}")
    return Finding("ok", f"{version}, {sys.executable}")


def packages(project: Path = ROOT / "pyproject.toml") -> Finding:
    """Installed versions against those that the project asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    except OSError:
        wanted = [text for text in importlib.metadata.requires("dopamine-rl") or () if "extra ==" not in text]
    faults = []
    for requirement in map(Requirement, wanted):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"no {requirement.name}")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} {version} instead of {requirement.specifier}")
    if faults:
        return Finding("missing", "; ".join(faults), f"make setup, or: {sys.executable} -m pip install -e .")
    return Finding("ok", f"{len(wanted)} packages as pyproject.toml asks for")


def rendering(script: Path = ROOT / "scripts" / "render_probe.py", timeout_s: float = 60.0) -> Finding:
    """Whether the simulator can render a picture."""
    fix = "make vulkan (installs Mesa's lavapipe: mesa-vulkan-drivers >= 24.3, libvulkan1), or your GPU's Vulkan driver"
    if not script.is_file():
        return Finding("optional", f"not tried: {script.name} is not installed", "")
    try:
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout_s,
            env={**os.environ, "LP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return Finding("missing", f"no picture after {timeout_s:g} s", fix)
    if done.returncode != 0:
        return Finding("missing", f"no usable Vulkan driver: {_last_line(done.stderr)}", fix)
    return Finding("ok", "a picture was rendered by Vulkan")


def cores() -> Finding:
    """Processor cores that this process may use."""
    count: float = len(os.sched_getaffinity(0))
    quota = _cgroup("cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        count = min(count, int(quota[0]) / int(quota[1]))
    if count < LEAST_CORES:
        return Finding("missing", f"{count:g}", f"give this machine or container at least {LEAST_CORES} cores")
    return Finding("ok", f"{count:g}")


def memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Memory that is free now."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"))
    except OSError:
        match = None
    if match is None:
        return Finding("optional", "unknown: /proc/meminfo has no value", "")
    free = int(match[1]) / 2**20
    most, used = _cgroup("memory.max").strip(), _cgroup("memory.current").strip()
    if most.isdigit() and used.isdigit():
        free = min(free, (int(most) - int(used)) / 2**30)
    fix = f"free {LEAST_MEMORY_GB:g} GiB: close other programs, or raise the container's limit"
    return Finding(
        "ok" if free >= LEAST_MEMORY_GB else "missing", f"{free:.1f} GiB free", fix * (free < LEAST_MEMORY_GB)
    )


def disk(folder: Path | None = None) -> Finding:
    """Room for runs."""
    where = folder or Path(os.environ.get("DOPAMINE_STORAGE") or ROOT / "runs")
    while not where.exists() and where != where.parent:
        where = where.parent
    free = shutil.disk_usage(where).free / 2**30
    if not os.access(where, os.W_OK):
        return Finding("missing", f"{where} is not writable", "set another folder: export DOPAMINE_STORAGE=DIR")
    fix = "free disk space, or set another folder: export DOPAMINE_STORAGE=DIR"
    return Finding(
        "ok" if free >= LEAST_DISK_GB else "missing", f"{free:.1f} GiB free in {where}", fix * (free < LEAST_DISK_GB)
    )


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for Ray's object store."""
    fix = "raise the container's limit: docker run --shm-size=2g; otherwise Ray uses the disk, which is slow"
    if not folder.is_dir():
        return Finding("optional", f"no {folder}", fix)
    free = shutil.disk_usage(folder).free / 2**30
    return Finding(
        "ok" if free >= LEAST_SHARED_GB else "optional", f"{free:.1f} GiB free", fix * (free < LEAST_SHARED_GB)
    )


def ray_address(environ: Mapping[str, str] = os.environ, noted: Path | None = None) -> Finding:
    """Whether the Ray cluster that commands would join is there."""
    address = environ.get("RAY_ADDRESS", "")
    if address and address not in ("auto", "local"):
        if "//" in address:
            return Finding("ok", f"RAY_ADDRESS is {address}, of ray job submit")
        if _listens(address):
            return Finding("ok", f"reachable at {address}")
        return Finding(
            "missing", f"nothing listens at RAY_ADDRESS={address}", "unset RAY_ADDRESS, or set it to a running cluster"
        )
    file = noted or Path(environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        noted_address = file.read_text(encoding="utf-8").strip()
    except OSError:
        return Finding("ok", "none is running: each command starts its own")
    if _listens(noted_address):
        return Finding("ok", f"one is running at {noted_address}: export RAY_ADDRESS={noted_address} to join it")
    return Finding("optional", f"{file} names {noted_address}, where nothing listens", f"rm {file}")


def ray_token(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Finding:
    """Whether Ray's nodes and its command line agree about tokens."""
    file = Path(environ.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / ".ray" / "auth_token")
    mode, has_token = environ.get("RAY_AUTH_MODE", ""), bool(environ.get("RAY_AUTH_TOKEN")) or file.is_file()
    if mode not in ("", "token", "disabled"):
        return Finding("missing", f"RAY_AUTH_MODE={mode}", "export RAY_AUTH_MODE=disabled, or token")
    if mode == "token" and not has_token:
        return Finding(
            "missing",
            f"RAY_AUTH_MODE=token, but no {file}",
            "ray get-auth-token --generate, the same token on every node",
        )
    if not mode and has_token:
        what = f"{file} is there: ray start --head asks for the token, ray job submit sends none"
        return Finding("optional", what, "before both: export RAY_AUTH_MODE=token, or disabled")
    return Finding("ok", f"RAY_AUTH_MODE={mode}" if mode else "no token, none asked for")


def temporary_folder(environ: Mapping[str, str] = os.environ) -> Finding:
    """Whether Ray's sockets find room behind the temporary folder's path."""
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in environ else "TMPDIR"
    folder, most = environ.get(name, "/tmp"), LONGEST_SOCKET - len(SOCKET)
    if not os.access(folder, os.W_OK):
        return Finding("missing", f"{name}={folder} is not writable", f"export {name}=/tmp")
    if len(os.fsencode(folder)) > most:
        what = f"{name} has {len(os.fsencode(folder))} characters, Ray's sockets leave {most}"
        if name == "TMPDIR":
            return Finding("optional", f"{what}: a shorter folder is used instead", "export RAY_TMPDIR=/tmp")
        return Finding("missing", what, "export RAY_TMPDIR=/tmp")
    return Finding("ok", folder)


def gpu(timeout_s: float = 60.0) -> Finding:
    """Whether torch sees a GPU."""
    code = (
        "import torch; n = torch.cuda.device_count(); "
        "print(torch.__version__, n, *[torch.cuda.get_device_name(i) for i in range(n)])"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        return Finding("optional", f"torch did not start within {timeout_s:g} s", "")
    if done.returncode != 0:
        return Finding("missing", f"torch cannot be imported: {_last_line(done.stderr)}", "make setup")
    version, count, *names = done.stdout.split(maxsplit=2)
    if count != "0":
        return Finding("ok", " ".join(names))
    if shutil.which("nvidia-smi") is not None:
        fix = "install a torch built for your driver's CUDA: https://pytorch.org/get-started/locally"
        return Finding("optional", f"nvidia-smi is installed, but torch {version} finds no GPU", fix)
    return Finding("optional", "none: everything runs on the CPU", "")


def wandb_key(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Finding:
    """Whether there is a key for Weights & Biases."""
    if environ.get("WANDB_API_KEY"):
        return Finding("ok", "WANDB_API_KEY")
    file = Path(environ.get("NETRC") or (home or Path.home()) / ".netrc")
    try:
        has_key = "api.wandb.ai" in netrc.netrc(str(file)).hosts
    except (OSError, netrc.NetrcParseError):
        has_key = False
    if has_key:
        return Finding("ok", str(file))
    return Finding("optional", "no key: with --tracking.wandb runs are recorded offline", "wandb login")


def service_token() -> Finding:
    """Whether the reward service can be offered to other machines."""
    from reward_service.guards import TOKEN_VARIABLE, load_token

    fix = f"export {TOKEN_VARIABLE}=$(openssl rand -hex 16)"
    try:
        token = load_token(None, "127.0.0.1")
    except BadInput as error:
        return Finding("missing", f"{TOKEN_VARIABLE} cannot be used: {error.fix}", fix)
    if token is None:
        return Finding("optional", f"no {TOKEN_VARIABLE}: dopamine serve only answers this machine", fix)
    return Finding("ok", TOKEN_VARIABLE)


def text_encoding() -> Finding:
    """Whether files and output are UTF-8."""
    encodings = {
        locale.getpreferredencoding(False).lower().replace("-", ""),
        (sys.stdout.encoding or "").lower().replace("-", ""),
    }
    if encodings - {"utf8"}:
        return Finding(
            "optional", f"text is {', '.join(sorted(encodings - {'utf8'}))}", "export PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        )
    return Finding("ok", "UTF-8")


PROBES: dict[str, Probe] = {
    "Python": python,
    "packages": packages,
    "rendering": rendering,
    "cores": cores,
    "memory": memory,
    "disk": disk,
    "/dev/shm": shared_memory,
    "temporary folder": temporary_folder,
    "Ray cluster": ray_address,
    "Ray token": ray_token,
    "GPU": gpu,
    "wandb": wandb_key,
    "service token": service_token,
    "locale": text_encoding,
}


def examine(probes: Mapping[str, Probe] | None = None, deadline_s: float = DEADLINE_S) -> dict[str, Finding]:
    """Run all probes at the same time. A probe that fails or misses the deadline also yields a finding."""
    probes = PROBES if probes is None else probes
    findings: dict[str, Finding] = {}

    def run(name: str, probe: Probe) -> None:
        try:
            findings[name] = probe()
        except Exception as error:
            findings[name] = Finding("missing", f"the check failed: {error!r}", "report this as a bug")

    threads = {name: threading.Thread(target=run, args=(name, probe), daemon=True) for name, probe in probes.items()}
    for thread in threads.values():
        thread.start()
    end = time.monotonic() + deadline_s
    for thread in threads.values():
        thread.join(max(0.0, end - time.monotonic()))
    none = Finding("missing", f"no answer within {deadline_s:g} s", "try again; if it persists, report it as a bug")
    return {name: findings.get(name, none) for name in probes}


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5.0).close()
    except (OSError, ValueError):
        return False
    return True


def _cgroup(name: str) -> str:
    """A limit of this container; "" where there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text(encoding="ascii")
    except OSError:
        return ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a message")[:200]
