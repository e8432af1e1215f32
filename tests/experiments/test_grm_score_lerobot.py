"""`dopamine grm score` on a LeRobotDataset: the numbers of the raw folder it was written from, and a column of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import find_recordings, open_source
from dopamine_rl.episodes.raw import TRANSITIONS, write_demonstration
from dopamine_rl.episodes.recordings import read_frames
from dopamine_rl.errors import BadInput
from dopamine_rl.files import PENDING
from dopamine_rl.grm.checkpoint import save_grm
from dopamine_rl.grm.model import build_grm
from experiments.reports.columns import held
from tests.dopamine_rl.grm_toys import TINY
from tests.dopamine_rl.test_lerobot import with_reward
from tests.dopamine_rl.test_lerobot_columns import KILLED
from tests.experiments.test_grm_score import COUNT, recorded, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, seed in (("take_0", 1), ("take_1", 2)):
        write_demonstration(folder / "raw", recorded(name, seed))
    write_dataset(folder / "set", open_source(folder / "raw"), lossless=True)
    save_grm(build_grm(TINY), folder / "grm", {})
    return folder


def test_a_dataset_gives_the_raw_folder_s_numbers_and_keeps_them_as_a_column(data: Path, tmp_path: Path) -> None:
    options = ("--demo", data / "raw/take_0", "--model", data / "grm", "--stride", 2, "--no-video")
    plain = run(data / "raw", *options, "--out", tmp_path / "raw")
    for number in (1, 0):
        (result,) = run(f"{data / 'set'}#{number}", *options, "--out", tmp_path / "set", "--column", "progress")
        for name in ("frames", "final_progress", "outcome", "progress_mae"):
            assert result[name] == plain[number][name], name
    source = LeRobotSource(data / "set")
    for number in (0, 1):
        content = json.loads((tmp_path / "set" / f"episode_00000{number}.json").read_text())["columns"]
        column = source.column(f"episode_00000{number}", "progress")
        assert content["frame"] == [2, 4, 6, 8, 10, 11]
        assert column[:2].tolist() == [0.0, 0.0]
        assert np.allclose(column[content["frame"]], content["progress"], atol=1e-6)
        assert column[3] == column[2], "held until the next scored frame"
    assert [result["episode"] for result in run(data / "set", *options, "--out", tmp_path / "set")] == [
        "episode_000000",
        "episode_000001",
    ]


def test_a_missing_camera_repeats_the_front_view(data: Path) -> None:
    (recording,) = find_recordings(f"{data / 'set'}#1")
    frames = read_frames(recording, 5, (32, 32), 3).frames
    assert len(frames) == 4
    assert frames.shape[1] == 3
    assert np.array_equal(frames[:, 2], frames[:, 0])


def test_bad_requests_are_named(data: Path, tmp_path: Path) -> None:
    for number in ("7", "x", "-1"):
        with pytest.raises(BadInput, match="EPISODE"):
            find_recordings(f"{data / 'set'}#{number}")
    with pytest.raises(BadInput, match="--column"):
        run(data / "raw", "--demo", data / "raw/take_0", "--model", data / "grm", "--out", tmp_path, "--column", "p")


def test_a_user_s_own_column_is_refused_before_anything_is_scored(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data / "set", tmp_path / "set"))
    with_reward(root)
    with pytest.raises(BadInput, match=rf"--column = 'reward': {root} .*choose another name"):
        run(
            f"{root}#0",
            "--demo",
            data / "raw/take_0",
            "--model",
            data / "grm",
            "--out",
            tmp_path / "out",
            "--column",
            "reward",
        )
    assert not (tmp_path / "out").exists()
    assert set(LeRobotSource(root).column("episode_000000", "reward").tolist()) == {0.25}


def test_the_same_command_goes_on_after_one_that_was_killed_while_it_wrote_a_column(data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data / "set", tmp_path / "set"))
    options = ("--demo", data / "raw/take_0", "--model", data / "grm", "--stride", 2, "--no-video")
    command = (f"{root}#1", *options, "--out", tmp_path / "out", "--column", "progress")
    run(*command)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root), "exchange", str(COUNT)], timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert (root / PENDING).exists()
    (result,) = run(*command)
    assert result["kept"]
    source = LeRobotSource(root)
    assert source.column("episode_000000", "progress").tolist() == [0.25] * COUNT
    assert not np.isnan(source.column("episode_000001", "progress")).any()


def test_a_failure_of_a_dataset_is_no_demonstration(data: Path, tmp_path: Path) -> None:
    write_demonstration(tmp_path / "raw", recorded("take_2", 3, success=False))
    write_dataset(tmp_path / "set", open_source(tmp_path / "raw"))
    (recording,) = find_recordings(str(tmp_path / "set"))
    assert recording.success is False
    assert recording.true_progress(np.arange(COUNT), COUNT) is None
    with pytest.raises(BadInput, match=r"--demo.*a failed episode"):
        run(tmp_path / "set", "--model", data / "grm", "--out", tmp_path / "out")


def test_an_outcome_alone_does_not_make_every_frame_worth_scoring(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data / "raw", tmp_path / "raw")) / "take_0"
    (whole,) = find_recordings(str(folder))
    np.savez(folder / TRANSITIONS, success=False)
    (plain,) = find_recordings(str(folder))
    assert (whole.success, whole.dense) == (True, True)
    assert (plain.success, plain.dense) == (False, False)


def test_progress_is_held_and_never_invented() -> None:
    assert held(6, [2, 4], [0.5, 0.25]).tolist() == [0.0, 0.0, 0.5, 0.5, 0.25, 0.25]
    assert np.isnan(held(3, [1, 2], [None, None])).all()
