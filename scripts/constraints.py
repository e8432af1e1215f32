"""Keeps scripts/constraints.txt: the version of every package that continuous integration uses, transitive ones too.

python scripts/constraints.py            fail where the file is stale: it is not what is installed here
python scripts/constraints.py --write    write what is installed here
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "scripts" / "constraints.txt"
EXTRA = "dev"
ACCELERATORS = re.compile(r"nvidia-.*|cuda-.*|triton|pytorch-triton.*")
"""What torch brings along only where its build has GPUs; the file says nothing of it."""
HEAD = """\
# The versions that continuous integration uses; `make setup` installs with them (pip install -c).
# Written by `make constraints`. Without local parts (2.13.0+cpu), so that builds for any accelerator will do.
"""


def main(arguments: list[str]) -> int:
    """Check the file, or write it; returns the exit status."""
    installed, missing = installed_versions(requirements(ROOT / "pyproject.toml"))
    if missing:
        print(f"error: not installed: {', '.join(sorted(missing))}: run `make setup`", file=sys.stderr)
        return 1
    if arguments == ["--write"]:
        lines = [f"{name}=={version}\n" for name, version in sorted(installed.items())]
        FILE.write_text(HEAD + "".join(lines), encoding="utf-8")
        print(f"{FILE.relative_to(ROOT)}: {len(lines)} packages")
        return 0
    if arguments:
        print(f"error: {arguments[0]}: give --write or nothing", file=sys.stderr)
        return 2
    stale = differences(read(FILE), installed)
    for line in stale:
        print(line, file=sys.stderr)
    if stale:
        print("error: scripts/constraints.txt is stale: run `make constraints`, and the tests", file=sys.stderr)
    return 1 if stale else 0


def requirements(pyproject: Path) -> list[Requirement]:
    """What the project needs, development included."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][EXTRA])]


def installed_versions(wanted: list[Requirement]) -> tuple[dict[str, str], set[str]]:
    """The public versions of what is wanted and of what that needs in turn; and the names of what is not installed."""
    versions: dict[str, str] = {}
    missing: set[str] = set()
    done: set[tuple[str, str]] = set()
    waiting = [(requirement, extra) for requirement in wanted for extra in ("", *requirement.extras)]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in done or ACCELERATORS.fullmatch(name):
            continue
        done.add((name, extra))
        try:
            found = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        versions[name] = Version(found.version).public
        for inner in map(Requirement, found.requires or ()):
            environment = {**default_environment(), "extra": extra}
            if inner.marker is None or inner.marker.evaluate(environment):
                waiting += [(inner, further) for further in ("", *inner.extras)]
    return versions, missing


def read(file: Path) -> dict[str, str]:
    """The versions that a constraints file names."""
    if not file.exists():
        return {}
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def differences(written: dict[str, str], installed: dict[str, str]) -> list[str]:
    """A line for every package of which the file does not say what is installed."""
    lines = []
    for name in sorted(written.keys() | installed.keys()):
        if written.get(name) != installed.get(name):
            lines.append(
                f"{name}: {written.get(name, 'not in the file')}, installed {installed.get(name, 'not needed')}"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
