"""Several writers of one dataset's columns, and what they find after one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl import files
from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_columns import remove_progress, write_progress
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.errors import BadInput
from tests.dopamine_rl.test_lerobot_copy import recorded

COUNT = 6
NAMES = [f"episode_{i:06d}" for i in range(COUNT)]
WRITER = """
import sys, numpy as np
from pathlib import Path
from dopamine_rl.episodes.lerobot_columns import write_progress
root, name = sys.argv[1:]
sys.stdin.read(1)
write_progress(Path(root), {name: np.full(7, 0.5, np.float32)}, overwrite=True)
"""
KILLED = """
import os, signal, sys, numpy as np
from pathlib import Path
from dopamine_rl import files
from dopamine_rl.episodes.lerobot_columns import write_progress
root, moment, count = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "staging":
    files.Path.rename = die
else:
    files.Path.replace = die
write_progress(Path(root), {"episode_000000": np.full(int(count), 0.25, np.float32)}, overwrite=True)
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for i in range(COUNT):
        recorded(tmp_path / "raw", f"take_{i}", 7, i)
    write_dataset(tmp_path / "set", open_source(tmp_path / "raw"), episodes_per_file=2)
    return tmp_path / "set"


def check_all_written(root: Path) -> None:
    source = LeRobotSource(root)
    assert [source.column(name, "progress").tolist() for name in NAMES] == [[0.5] * 7] * COUNT
    assert not list(root.glob(".*"))


def test_files_that_a_file_system_leaves_beside_the_others_are_left_alone(dataset: Path) -> None:
    beside = dataset / "data/chunk-000/._file-000.parquet"
    beside.write_bytes(b"Mac OS X")
    write_progress(dataset, {name: np.full(7, 0.5, np.float32) for name in NAMES})
    assert beside.read_bytes() == b"Mac OS X"


def test_processes_that_write_at_once_keep_each_other_s_values(dataset: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(dataset), name], stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in NAMES
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"x")
        writer.stdin.flush()
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said.decode()
    check_all_written(dataset)


def test_threads_that_write_at_once_keep_each_other_s_values(dataset: Path) -> None:
    def write(name: str) -> None:
        write_progress(dataset, {name: np.full(7, 0.5, np.float32)}, overwrite=True)

    threads = [threading.Thread(target=write, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    check_all_written(dataset)


@pytest.mark.parametrize("moment", ["staging", "exchange"])
def test_a_writer_that_is_killed_leaves_neither_a_lock_nor_a_broken_dataset(dataset: Path, moment: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(dataset), moment, "7"], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (dataset / files.LOCK).exists()
    assert (dataset / files.PENDING).exists() == (moment == "exchange")
    source = LeRobotSource(dataset)  # completes what was begun
    assert not (dataset / files.PENDING).exists()
    if moment == "exchange":
        assert source.column(NAMES[0], "progress").tolist() == [0.25] * 7
    for name in NAMES:
        write_progress(dataset, {name: np.full(7, 0.5, np.float32)}, overwrite=True)
    check_all_written(dataset)
    remove_progress(dataset)
    assert not list(dataset.glob(".*"))


def test_a_reader_waits_for_a_change_that_goes_on(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half, go_on = threading.Event(), threading.Event()
    finish = files._finish_replacing

    def slow(root: Path) -> None:
        if (root / files.PENDING).exists():
            half.set()
            assert go_on.wait(60)
        finish(root)

    monkeypatch.setattr(files, "_finish_replacing", slow)
    progress = {name: np.full(7, 0.5, np.float32) for name in NAMES}
    writer = threading.Thread(target=write_progress, args=(dataset, progress))
    writer.start()
    assert half.wait(60)
    columns: list[list[float]] = []
    reader = threading.Thread(
        target=lambda: columns.append(LeRobotSource(dataset).column(NAMES[5], "progress").tolist())
    )
    reader.start()
    go_on.set()
    reader.join(60)
    writer.join(60)
    assert columns == [[0.5] * 7]


def test_a_folder_that_cannot_be_locked_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with files.changing(dataset), pytest.raises(BadInput, match="another process has been writing"):  # noqa: SIM117
        with files.changing(dataset, timeout_s=0.0):
            pass

    def unsupported(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(files.fcntl, "flock", unsupported)
    with pytest.raises(BadInput, match="supports locks"):
        write_progress(dataset, {})
