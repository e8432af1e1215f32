"""A disk that is really full: one line names the file, nothing half-written stays."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from dopamine_rl.episodes.lerobot_columns import write_progress
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.video import write_video
from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_atomically, write_folder_atomically, write_npz, write_text
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.model import build_grm
from experiments.commands import grm_pairs as pairs
from experiments.runtime.console import Console
from tests.dopamine_rl.grm_toys import TINY, record_squares
from tests.dopamine_rl.test_raw_episodes import make_demonstration

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own, nearly full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        (folder / "ballast").write_bytes(bytes(MIB - 2**15))
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)


def test_what_cannot_be_written_is_named_whatever_library_writes_it(disk: Path) -> None:
    writers = {
        "text": lambda path: write_text(path, "x" * MIB),
        "npz": lambda path: write_atomically(path, lambda temporary: write_npz(temporary, {"x": noise()})),
        "torch": lambda path: write_atomically(path, lambda temporary: torch.save({"x": torch.ones(MIB)}, temporary)),
        "film.mp4": lambda path: write_atomically(path, lambda temporary: write_video(temporary, noise(), 5)),
        "model": lambda path: save_grm(build_grm(TINY), path, {}),
        "folder": lambda path: write_folder_atomically(path, lambda made: (made / "big").write_bytes(bytes(MIB))),
    }
    for name, write in writers.items():
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(disk / name)
        assert caught.value.filename == str(disk / name)
        assert [path.name for path in disk.iterdir()] == ["ballast"], name


def test_pairs_onto_a_full_disk_end_with_one_line(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = record_squares(tmp_path / "raw", 3, 0, count=40)
    with pytest.raises(SystemExit) as ended:
        pairs.main([str(raw), "-n", "400", "--items", str(disk / "items.json")])
    assert ended.value.code == 1
    [said] = capsys.readouterr().err.splitlines()
    assert str(disk / "items") in said
    assert "No space left on device: free disk space" in said
    assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_a_column_that_cannot_be_written_names_the_dataset(disk: Path, tmp_path: Path) -> None:
    write_demonstration(tmp_path / "raw", make_demonstration(1, 5))
    (disk / "ballast").unlink()
    root = disk / "set"
    write_dataset(root, open_source(tmp_path / "raw"))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while ballast.write(bytes(4096)):
            pass
    with pytest.raises((OSError, BadInput)) as caught:
        write_progress(root, {"episode_000000": np.zeros(5, np.float32)})
    assert str(root) in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_page_that_cannot_be_written_costs_no_result(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Console().attempt("report.md", lambda: write_text(disk / "report.md", "x" * MIB), None) is None
    assert "no report.md: [Errno 28] No space left on device" in capsys.readouterr().out
