"""Recordings that cannot be read: the error names a path that can be opened, as the user gave it, and the fix."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes import raw as raw_format
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import find_recordings, open_source
from dopamine_rl.episodes.raw import INSTRUCTIONS, KEYFRAMES, TRANSITIONS, read_raw_episode
from dopamine_rl.episodes.stored import list_stored
from dopamine_rl.episodes.video import write_video
from dopamine_rl.errors import BadInput, EpisodeError
from tests.dopamine_rl.grm_toys import record_squares

READERS: dict[str, Callable[[Path], object]] = {
    "training": list_stored,
    "pairs, conversion": lambda path: open_source(path).episodes(),
    "scoring": lambda path: find_recordings(str(path)),
    "one by one": lambda path: [read_raw_episode(episode) for episode in raw_format.list_episodes(path)],
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    record_squares(folder / "raw", 2, 0, count=20)
    write_dataset(folder / "set", open_source(folder / "raw"))
    return folder


@pytest.fixture
def data(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `data/raw` and `data/set`, which are named relative to it."""
    shutil.copytree(recorded, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return Path("data")


def fault(call: Callable[[], object]) -> BadInput:
    with pytest.raises(BadInput) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


def path_in(field: str) -> Path:
    return Path(field.partition(": ")[0])


@pytest.mark.parametrize("reader", READERS)
def test_malformed_keyframes_are_named_by_a_path_that_can_be_opened(data: Path, reader: str) -> None:
    path = data / "raw/episode_001" / KEYFRAMES
    path.write_text("{}", encoding="utf-8")
    error = fault(lambda: READERS[reader](data / "raw"))
    assert error.field == f"data/raw/episode_001/{KEYFRAMES}: segments"


def test_the_folder_itself_may_be_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "raw" / INSTRUCTIONS).write_text("{}", encoding="utf-8")
    monkeypatch.chdir(data / "raw/episode_000")
    for folder in (".", "../episode_000", "../../raw/episode_000"):
        error = fault(lambda folder=folder: find_recordings(folder))  # type: ignore[misc]
        assert path_in(error.field).is_file(), error.field
    os.remove(KEYFRAMES)
    Path(KEYFRAMES).write_text("{}", encoding="utf-8")
    assert fault(lambda: find_recordings(".")).field == f"{KEYFRAMES}: segments"


def test_a_file_of_instructions_lies_beside_the_episodes(data: Path) -> None:
    (data / "raw" / INSTRUCTIONS).write_text("{}", encoding="utf-8")
    for read in READERS.values():
        assert fault(lambda read=read: read(data / "raw")).field == f"data/raw/{INSTRUCTIONS}: instructions"  # type: ignore[misc]
    (data / "raw" / INSTRUCTIONS).write_text("[]", encoding="utf-8")
    assert f"write it into data/raw/{INSTRUCTIONS}" in fault(lambda: list_stored(data / "raw")).fix


@pytest.mark.parametrize("reader", ["training", "pairs, conversion", "scoring"])
def test_malformed_transitions_are_named_by_their_path(data: Path, reader: str) -> None:
    path = data / "raw/episode_000" / TRANSITIONS
    np.savez(path, success=[1, 2])
    assert fault(lambda: READERS[reader](data / "raw")).field == f"{path}: success"


@pytest.mark.parametrize("reader", ["training", "pairs, conversion", "scoring"])
def test_a_dataset_s_files_are_named_by_their_paths(data: Path, reader: str) -> None:
    info = json.loads((data / "set/meta/info.json").read_text(encoding="utf-8"))
    (data / "set/meta/info.json").write_text(json.dumps({**info, "fps": 0}), encoding="utf-8")
    assert fault(lambda: READERS[reader](data / "set")).field == "data/set/meta/info.json: fps"
    (data / "set/meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    tables = [*(data / "set/data").rglob("*.parquet"), *(data / "set/meta/episodes").rglob("*.parquet")]
    for table in tables:
        whole = table.read_bytes()
        table.write_bytes(whole[: len(whole) // 2])
        assert path_in(fault(lambda: READERS[reader](data / "set")).field) == table
        table.write_bytes(whole)


@pytest.mark.parametrize("reader", ["training", "pairs, conversion"])
def test_cameras_that_differ_are_named_by_their_folder(data: Path, reader: str) -> None:
    write_video(data / "raw/episode_001/cam_left_wrist.mp4", np.zeros((4, 56, 56, 3), np.uint8))
    error = fault(lambda: READERS[reader](data / "raw"))
    assert error.field == "data/raw/episode_001/*.mp4: frame count"


def test_too_few_states_and_keyframes_that_coincide_are_named_by_their_file(data: Path) -> None:
    path = data / "raw/episode_001" / KEYFRAMES
    error = fault(lambda: list_stored(data / "raw", stride=30))
    assert error.field == f"data/raw/episode_000/{KEYFRAMES}: keyframes"
    path.write_text('[{"annotation": "push", "start_frame_id": 3, "end_frame_id": 4}]', encoding="utf-8")
    from dopamine_rl.episodes.states import episode_states

    with pytest.raises(EpisodeError, match=rf"^{path}: states = 2"):
        episode_states(open_source(data / "raw").episodes()[1], 1.0)
