"""scripts/ensure_vulkan.sh with a system of fakes: what it would change, and nothing where that is forbidden."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKES = {
    "apt-get": 'echo "apt-get $*" >>"$LOG"; [ "$1" != install ] || touch "$LOG.installed"',
    "apt-cache": "echo '  Candidate: 25.0.0'",
    "dpkg": 'exec /usr/bin/dpkg "$@"',
    "dpkg-query": "echo 25.0.0",
    "id": "echo 0",
    "python": '[ -e "$LOG.installed" ]',
}  # what cannot render does after an installation

pytestmark = pytest.mark.skipif(not Path("/usr/bin/dpkg").exists(), reason="not Debian or Ubuntu")


def ensure(folder: Path, system: str | None, **fakes: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the script; returns how it ended, and the calls of apt-get that change something."""
    log = folder / "log"
    for name, body in (FAKES | {name.replace("_", "-"): body for name, body in fakes.items()}).items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin", "LOG": str(log)} | ({"DOPAMINE_SYSTEM": system} if system else {})
    script = ["bash", str(ROOT / "scripts" / "ensure_vulkan.sh"), str(folder / "python")]
    sources = Path("/etc/apt/sources.list.d")
    before = sorted(os.listdir(sources)) if sources.exists() else []
    done = subprocess.run(script, env=environment, capture_output=True, text=True)
    assert (sorted(os.listdir(sources)) if sources.exists() else []) == before
    return done, log.read_text() if log.exists() else ""


def test_a_system_that_renders_is_left_alone(tmp_path: Path) -> None:
    done, calls = ensure(tmp_path, None, python="echo a warning; echo llvmpipe")
    assert (done.returncode, calls, done.stderr) == (0, "", "")
    assert done.stdout == "Vulkan driver: llvmpipe\n"


def test_the_driver_is_installed_where_that_is_allowed(tmp_path: Path) -> None:
    done, calls = ensure(tmp_path, None)
    assert done.returncode == 0, done.stderr
    assert "apt-get install" in calls


def test_keep_changes_nothing_and_prints_the_commands(tmp_path: Path) -> None:
    done, calls = ensure(tmp_path, "keep")
    assert done.returncode == 1
    assert calls == ""
    assert "apt-get install --no-install-recommends mesa-vulkan-drivers libvulkan1" in done.stderr
    assert "DOPAMINE_SYSTEM=keep" in done.stderr
    assert "sources.list.d" not in done.stderr


def test_keep_prints_the_entry_that_an_old_release_needs(tmp_path: Path) -> None:
    done, calls = ensure(tmp_path, "keep", apt_cache="echo '  Candidate: 22.3.6'")
    assert done.returncode == 1
    assert calls == ""
    assert "apt-get install" in done.stderr


def test_a_misspelt_word_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    done, calls = ensure(tmp_path, "kepp")
    assert done.returncode == 2
    assert calls == ""
    assert "'kepp'" in done.stderr
