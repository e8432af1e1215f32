"""Recordings that cannot be read: the error names a path that can be opened, as the user gave it, and the fix."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from dopamine_rl.episodes import raw as raw_format
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import _of_videos, find_recordings, open_source
from dopamine_rl.episodes.raw import INSTRUCTIONS, KEYFRAMES, TRANSITIONS, read_raw_episode
from dopamine_rl.episodes.stored import list_stored
from dopamine_rl.episodes.video import write_video
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.evaluation.plans import Plan, make_plans
from dopamine_rl.evaluation.unseen import read_unseen
from experiments.commands import grm_pairs, grm_score, grm_train
from experiments.job import reward_model
from experiments.runtime.console import Console
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


def refusal(call: Callable[[], object]) -> BadInput | None:
    try:
        call()
    except BadInput as error:
        return error
    return None


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


def test_keyframes_that_coincide_are_named_by_their_file(data: Path) -> None:
    error = fault(lambda: list_stored(data / "raw", stride=30))
    assert error.field == f"data/raw/episode_000/{KEYFRAMES}: keyframes"


def annotate(episode: Path, first: int, last: int) -> Path:
    segment = {"annotation": "near", "start_frame_id": first, "end_frame_id": last}
    (episode / KEYFRAMES).write_text(json.dumps([segment]), encoding="utf-8")
    np.savez(episode / TRANSITIONS, success=True)  # with true progress, only episodes of two stages are references
    return episode / KEYFRAMES


SHORT = (
    "states = 2: annotate a longer part of it, or use more of its frames: at least 3 states are needed",
    "states = 2: annotate more segments, or use fewer frames per state: at least 3 states are needed",
)


def test_an_episode_with_too_few_states_is_skipped_and_named(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record_squares(data / "more", 4, 1, count=20)
    path = annotate(data / "more/episode_001", 4, 5)
    figures = grm_pairs.report(grm_pairs.Arguments(data / "more", n=100, frames_per_state=2.0))
    assert figures["episodes"] == 3
    said = capsys.readouterr().out
    assert f"skipped: {path}: {SHORT[1]}" in said
    assert "pause or retreat" not in said
    notes: list[str] = []
    for demo in (None, data / "more/episode_000"):
        episodes, reference = read_unseen([data / "more"], demo, 1, None, 0.8, lambda text, _: notes.append(text))
        assert [episode.name for episode in episodes] == ["episode_002", "episode_003", "episode_004"]
        assert reference.name == "episode_000"
        assert notes.count(f"skipped: {path}: {SHORT[0]}") == 1
        notes.clear()
    annotate(data / "more/episode_000", 7, 8)
    assert read_unseen([data / "more"], None, 1, None, 0.8)[1].name == "episode_002"
    with pytest.raises(EpisodeError, match=SHORT[0]):
        read_unseen([data / "more"], data / "more/episode_001", 1, None, 0.8)
    chosen = reward_model._usable_episodes(*training(data / "more"), Console())
    assert [episode.info.episode_id for episode in chosen] == ["episode_002", "episode_003", "episode_004"]
    assert f"skipped: {path}: {SHORT[0]}" in capsys.readouterr().out


def training(folder: Path) -> tuple[reward_model.TrainingArguments, reward_model.GRMTrainingConfig]:
    arguments, config, _ = grm_train.parse([str(folder), "--out", "model"])
    return arguments, config


def test_only_if_no_episode_has_enough_states_the_command_ends(data: Path) -> None:
    for episode in ("episode_000", "episode_001"):
        annotate(data / "raw" / episode, 4, 5)
    for read in (
        lambda: grm_pairs.report(grm_pairs.Arguments(data / "raw")),
        lambda: read_unseen([data / "raw"], None, 1, None, 0.8),
        lambda: reward_model._usable_episodes(*training(data / "raw"), Console()),
    ):
        error = fault(read)
        assert error.field == f"data/raw/episode_000/{KEYFRAMES}: states"
    annotate(data / "raw/episode_000", 0, 19)
    with pytest.raises(EpisodeError, match=f"episode_001/{KEYFRAMES}: {SHORT[0]}"):
        read_unseen([data / "raw"], None, 1, None, 0.8)


@pytest.mark.parametrize(
    ("segment", "field", "fix"),
    [
        ({"annotation": "a", "start": 0, "end_frame_id": 9}, "[0].start_frame_id", "rename the key start to"),
        ({"annotation": "a", "start_frame_id": 0, "end": 9}, "[0].end_frame_id", "rename the key end to end_frame_id"),
        ({"annotation": "a", "Start_Frame_Id": 0, "end_frame_id": 9}, "[0].start_frame_id", "the key Start_Frame_Id"),
        ({"annotation": "a", "from": 0, "to": 9}, "[0].start_frame_id", "found: annotation, from, to"),
        ({"annotations": "a", "start_frame_id": 0, "end_frame_id": 9}, "[0].annotation", "rename the key annotations"),
        ({"start_frame_id": 0, "end_frame_id": 9}, "[0].annotation", "found: start_frame_id, end_frame_id"),
        ({}, "[0].start_frame_id", "found: none"),
    ],
)
def test_a_missing_key_is_named_with_those_that_are_there(data: Path, segment: object, field: str, fix: str) -> None:
    path = data / "raw/episode_000" / KEYFRAMES
    path.write_text(json.dumps([segment]), encoding="utf-8")
    error = fault(lambda: find_recordings(str(data / "raw")))
    assert (error.field, error.value) == (f"{path}: {field}", "missing")
    assert fix in error.fix


JSON = {
    "": "it is empty",
    " \n": "it is empty",
    "[": "line 1, column 2",
    "[" * 100_000: "it is nested too deeply",
    "1" * 5_000: "it cannot be read as JSON",
    "\xff": "it is not UTF-8 text",
}


@pytest.mark.parametrize(("content", "reason"), JSON.items(), ids=list(JSON.values()))
@pytest.mark.parametrize("name", [f"raw/episode_000/{KEYFRAMES}", f"raw/{INSTRUCTIONS}", "set/meta/info.json"])
def test_a_damaged_json_file_is_described_in_words(data: Path, name: str, content: str, reason: str) -> None:
    (data / name).write_bytes(content.encode("latin-1"))
    error = fault(lambda: find_recordings(str(data / name.partition("/")[0])))
    assert error.field == f"{data / name}: content"
    assert reason in str(error.value)
    assert "(char " not in str(error)
    for word in ("annotation", "sentence", "copy the dataset again"):
        if name.endswith({"annotation": KEYFRAMES, "sentence": INSTRUCTIONS}.get(word, "info.json")):
            assert word in error.fix


def damage_archive(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("success.npy", b"\x93NUMPY nonsense")
    middle = whole.index(b"actions.npy") + 200
    return {
        "empty": b"",
        "text": b"success: true",
        "one array": array.getvalue(),
        "pickle": pickle.dumps([1, 2]),
        "cut short": whole[: len(whole) // 2],
        "a flipped byte": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        "no arrays inside": packed.getvalue(),
    }


@pytest.mark.parametrize(
    "kind", ["empty", "text", "one array", "pickle", "cut short", "a flipped byte", "no arrays inside"]
)
def test_damaged_transitions_are_called_damaged(data: Path, kind: str) -> None:
    path = data / "raw/episode_000" / TRANSITIONS
    path.write_bytes(damage_archive(path)[kind])
    for call in (
        lambda: find_recordings(str(data / "raw")),
        lambda: open_source(data / "raw").episodes(),
        lambda: raw_format.read_demonstration(path.parent),
    ):
        error = fault(call)
        assert error.field.startswith(f"{path}: ")
        assert "pickle" not in str(error)
        assert "it is damaged, or was not written by numpy.savez" in str(error)
        assert "copy it again" in error.fix


def test_transitions_without_an_array_say_which_are_there(data: Path) -> None:
    path = data / "raw/episode_000" / TRANSITIONS
    np.savez(path, success=True, seed=1)
    error = fault(lambda: find_recordings(str(data / "raw")))
    assert (error.field, error.value) == (f"{path}: observations", "missing")
    assert "found: success, seed" in error.fix
    np.savez(path, success=np.array([None]))
    error = fault(lambda: find_recordings(str(data / "raw")))
    assert (error.field, error.value) == (f"{path}: content", "its array success cannot be read")


def test_any_damage_of_a_table_is_one_line_with_a_fix(data: Path) -> None:
    tables = [*(data / "set/data").rglob("*.parquet"), *(data / "set/meta").rglob("*.parquet")]
    rng = np.random.default_rng(0)
    for table in tables:
        whole = table.read_bytes()
        cuts = [b"", b"PAR1", b"no table", whole[: len(whole) // 2]]
        for place in rng.integers(0, len(whole), 60):
            cuts.append(whole[:place] + bytes(rng.integers(0, 256, 8, np.uint8)) + whole[place + 8 :])
        for content in cuts:
            table.write_bytes(content)
            error = refusal(lambda: open_source(data / "set").episodes())
            if error is not None and error.field.endswith(": content"):
                assert path_in(error.field) == table
                assert "copy the dataset again" in error.fix
        table.write_bytes(whole)


def plans(*words: object) -> list[Plan]:
    """What `dopamine grm score` knows before it loads the model."""
    return make_plans(grm_score.parse([*map(str, words), "--url", "http://127.0.0.1:1"]))


def unseen(folder: Path) -> object:
    return read_unseen([folder], None, 1, None, 0.8)


def index_first(video: Path) -> bytes:
    """The bytes of a video with its index before the pictures, as for streaming: half of it can be opened."""
    with av.open(str(video)) as source:
        stream = source.streams.video[0]
        with av.open("streamed.mp4", "w", options={"movflags": "faststart"}) as target:
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    return Path("streamed.mp4").read_bytes()


@pytest.mark.parametrize("camera", ["cam_high", "cam_left_wrist"])
@pytest.mark.parametrize("kind", ["raw", "set"])
def test_a_video_that_is_cut_short_is_found_before_anything_is_loaded(data: Path, kind: str, camera: str) -> None:
    video = next(path for path in (data / kind).rglob("*.mp4") if camera in str(path))
    whole = index_first(video)
    for part in (0.5, 0.9):
        video.write_bytes(whole[: int(len(whole) * part)])
        for read in (lambda: plans(data / kind), lambda: list_stored(data / kind), lambda: unseen(data / kind)):
            error = fault(read)
            assert str(video) in str(error)
            assert re.search(r"it is cut short, \d+ of \d+ bytes\): copy or record it again", error.fix)
    video.write_bytes(whole)
    assert len(plans(data / kind)) == len(list_stored(data / kind)) == 2


def test_keyframes_beyond_the_end_are_found_before_anything_is_loaded(data: Path) -> None:
    path = data / "raw/episode_001" / KEYFRAMES
    path.write_text('[{"annotation": "push", "start_frame_id": 0, "end_frame_id": 20}]', encoding="utf-8")
    other = data / "raw/episode_000"
    for read in (
        lambda: plans(data / "raw"),
        lambda: plans(other, "--demo", path.parent),
        lambda: list_stored(data / "raw"),
        lambda: unseen(data / "raw"),
    ):
        error = fault(read)
        assert (error.field, error.value) == (f"{path}: frame id", 20)
        assert error.fix == "give 0 to 19: the videos have 20 frames"


def test_a_folder_without_a_video_says_what_it_lacks(data: Path) -> None:
    folder = data / "raw/episode_001"
    for video in folder.glob("*.mp4"):
        video.rename(video.with_suffix(".avi"))
    for read in (lambda: plans(folder), lambda: plans(data / "raw"), lambda: list_stored(data / "raw")):
        error = fault(read)
        assert (error.field, error.value) == (f"{folder}/*.mp4: cameras", [])
        assert "put the front camera's video there as cam_high.mp4" in error.fix
        assert "cam_high.avi is there: convert it, ffmpeg -i cam_high.avi cam_high.mp4" in error.fix
    (folder / KEYFRAMES).unlink()
    error = fault(lambda: plans(folder, "--demo", "blank"))
    assert (error.field, error.value) == ("EPISODE", str(folder))
    assert "cam_high.avi is there: convert it" in error.fix
    for path in folder.iterdir():
        path.unlink()
    error = fault(lambda: plans(folder, "--demo", "blank"))
    assert "it holds neither videos (.mp4) nor episodes' folders" in error.fix
    (folder / "cam_left_wrist.mp4").write_bytes((data / "raw/episode_000/cam_left_wrist.mp4").read_bytes())
    (folder / KEYFRAMES).write_bytes((data / "raw/episode_000" / KEYFRAMES).read_bytes())
    error = fault(lambda: plans(folder))
    assert (error.field, error.value) == (f"{folder}/*.mp4: cameras", ["cam_left_wrist"])
    assert "put the front camera's video there as cam_high.mp4" in error.fix


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("cam_left_wrist", "cam_high"), "front view first: cam_high, cam_left_wrist"),
        (("wrist", "front"), "front view first: front, wrist"),
        (("cam_high", "cam_high"), "name each video once"),
    ],
)
def test_videos_are_named_once_and_in_their_order(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    for name in names:
        (tmp_path / f"{name}.mp4").touch()
    argument = ",".join(str(tmp_path / f"{name}.mp4") for name in names)
    with pytest.raises(BadInput, match=told):
        _of_videos(argument, None)
    assert len(_of_videos(str(tmp_path / f"{names[0]}.mp4"), None).videos) == 1
