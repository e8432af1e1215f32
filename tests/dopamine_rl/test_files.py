"""Folders that are replaced: a process may be killed at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dopamine_rl import files

PROGRAM = """
import os, signal, sys
from pathlib import Path
from dopamine_rl import files

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr(*((Path, sys.argv[2]) if hasattr(Path, sys.argv[2]) else (files.shutil, sys.argv[2])), killed)
files.write_folder_atomically(Path(sys.argv[1]), lambda folder: (folder / "state").write_text("new"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names in one step")
@pytest.mark.parametrize("killed_in", ["mkdir", "write_text", "rename", "rmtree"])
def test_a_killed_replacement_leaves_the_old_folder_or_the_new_one(tmp_path: Path, killed_in: str) -> None:
    folder = tmp_path / "checkpoint"
    files.write_folder_atomically(folder, lambda folder: (folder / "state").write_text("old"))
    subprocess.run([sys.executable, "-c", PROGRAM, folder, killed_in], check=False)
    assert (folder / "state").read_text() == ("old" if killed_in in ("mkdir", "write_text") else "new")


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_replaced_folder_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    if not exchanges:
        monkeypatch.setattr(files, "_exchange", lambda first, second: False)
    for content in ("old", "new"):
        files.write_folder_atomically(
            tmp_path / "checkpoint", lambda folder, text=content: (folder / "state").write_text(text)
        )
    assert [path.name for path in tmp_path.rglob("*")] == ["checkpoint", "state"]
    assert (tmp_path / "checkpoint" / "state").read_text() == "new"
