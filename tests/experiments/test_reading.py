"""Recordings as people have them: cameras of any name and order, junk beside the files, missing words, odd paths."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import find_recordings, open_source
from dopamine_rl.episodes.raw import INSTRUCTIONS, KEYFRAMES, write_demonstration
from dopamine_rl.episodes.recordings import read_frames
from dopamine_rl.episodes.stored import StoredSource, list_stored, picture_shape
from dopamine_rl.episodes.video import read_pictures, write_video
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.evaluation.plans import make_plans, notes, warnings
from dopamine_rl.evaluation.unseen import read_unseen
from experiments.commands import convert, grm_train
from experiments.commands import grm_pairs as pairs
from experiments.commands import grm_score as score
from experiments.runtime.ending import UsageError
from tests.dopamine_rl.test_raw_episodes import make_demonstration

ROOT = Path(__file__).parents[2]
COUNT = 9
FRONT, WRIST = "observation.images.scene.rgb", "observation.images.wrist.rgb"
EPISODES, INFO = "meta/episodes/chunk-000/file-000.parquet", "meta/info.json"


@pytest.fixture(scope="module")
def source_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw folder of three episodes, and `set`, the same with other names of cameras, the wrist listed first."""
    folder = tmp_path_factory.mktemp("reading")
    for i in range(3):
        frames = np.random.default_rng(i).integers(0, 256, (COUNT, 2, 32, 48, 3), dtype=np.uint8)
        frames[:, 0, ..., 0], frames[:, 1, ..., 0] = 250, 5  # the front view is red
        write_demonstration(
            folder / "raw", replace(make_demonstration(2, COUNT), episode_id=f"take_{i}", frames=frames)
        )
    write_dataset(folder / "set", open_source(folder / "raw"), lossless=True)
    rename_cameras(folder / "set", {"observation.images.cam_left_wrist": WRIST, "observation.images.cam_high": FRONT})
    return folder


@pytest.fixture
def data(source_data: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(source_data, tmp_path / "data"))


def rename_cameras(root: Path, names: dict[str, str]) -> None:
    """Give a dataset's cameras other names, in the order given."""
    change_info(root, lambda info: {new: info["features"].pop(old) for old, new in names.items()})
    table = parquet.read_table(root / EPISODES)
    for old, new in names.items():
        (root / "videos" / old).rename(root / "videos" / new)
        table = table.rename_columns(
            [column.replace(f"videos/{old}/", f"videos/{new}/") for column in table.column_names]
        )
    parquet.write_table(table, root / EPISODES)


def change_info(root: Path, first_features: Any) -> None:
    info = json.loads((root / INFO).read_text(encoding="utf-8"))
    info["features"] = {**first_features(info), **info["features"]}
    (root / INFO).write_text(json.dumps(info), encoding="utf-8")


def change_rows(root: Path, **columns: Any) -> None:
    table = parquet.read_table(root / EPISODES)
    for name, values in columns.items():
        name = next(column for column in table.column_names if column.endswith(name))
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    parquet.write_table(table, root / EPISODES)


def plans(*words: object) -> Any:
    return make_plans(score.parse([*map(str, words), "--url", "http://127.0.0.1:1"]))


def is_red(pictures: np.ndarray) -> bool:
    return bool(pictures[..., 0].mean() > 200)


def test_the_front_view_is_not_the_camera_that_is_listed_first(data: Path) -> None:
    [recording] = find_recordings(f"{data}/set#1")
    frames = read_frames(recording, 3, (32, 48), 2).frames
    assert is_red(frames[:, 0])
    assert not is_red(frames[:, 1])
    assert recording.note == f"set: front view {FRONT}, then {WRIST} (--cameras chooses others)"
    [plan] = plans(f"{data}/set#1", "--demo", f"{data}/set#0")
    assert list(notes([plan])) == [recording.note], "once for a dataset, however many of its episodes are used"


@pytest.mark.parametrize("chosen", ["wrist,scene", "wrist.rgb,scene.rgb", f"{WRIST},{FRONT}"])
def test_cameras_can_be_chosen_by_every_command(
    data: Path, chosen: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    [plan] = plans(f"{data}/set#0", "--cameras", chosen)
    assert not is_red(read_frames(plan.recording, 4, (32, 48), 2).frames[:, 0])
    names = tuple(chosen.split(","))
    [stored, *_] = list_stored(data / "set", cameras=names)
    assert stored.info.cameras == (WRIST, FRONT)
    assert not is_red(StoredSource([stored]).frames("0", np.array([0, 3]))[:, 0])
    assert picture_shape(stored) == (32, 48)
    episodes, _ = read_unseen([data / "set"], None, 1, None, 0.9, cameras=names)
    assert WRIST in str(episodes[0].plan.recording.videos[0])
    pairs.main([str(data / "set"), "-n", "20", "--cameras", chosen])
    assert f"front view {WRIST}, then {FRONT}" in capsys.readouterr().out
    convert.main([str(data / "set"), str(tmp_path / "copy"), "--cameras", chosen.split(",")[0]])
    shown = capsys.readouterr().out
    assert f"front view {WRIST}; not used: {FRONT}" in shown
    assert len(json.loads(shown.splitlines()[-1])["cameras"]) == 1
    arguments, *_ = grm_train.parse([str(data / "set"), "--out", str(tmp_path / "grm"), "--cameras", chosen])
    assert arguments.cameras == names


def test_training_says_which_camera_it_takes_for_what(data: Path) -> None:
    said: list[str] = []
    list_stored(data / "set", on_progress=lambda text, _: said.append(text))
    assert said == [f"set: front view {FRONT}, then {WRIST} (--cameras chooses others)"]


def test_cameras_of_folders_and_videos(data: Path) -> None:
    folder = data / "raw/take_0"
    for old, new in (("cam_high", "top"), ("cam_left_wrist", "hand")):
        (folder / f"{old}.mp4").rename(folder / f"{new}.mp4")
    (folder / "._top.mp4").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").write_bytes(b"\0")
    [plan] = plans(folder, "--cameras", "hand,top")
    assert [video.name for video in plan.recording.videos] == ["hand.mp4", "top.mp4"]
    assert plan.recording.keyframes is not None
    assert list(notes([plan])) == ["take_0: front view hand, then top (--cameras chooses others)"]
    [info] = open_source(folder, ["top"]).episodes()
    assert info.cameras == ("top",)
    assert is_red(open_source(folder, ["top"]).frames("take_0", np.array([1]))[:, 0])
    (folder / KEYFRAMES).unlink()
    [bare] = plans(folder, "--cameras", "top,hand", "--demo", f"{folder}/top.mp4,{folder}/hand.mp4")
    assert is_red(read_frames(bare.recording, 4, (32, 48), 2).frames[:, 0])
    with pytest.raises(BadInput, match=r"--cameras top,hand|--cameras hand,top"):
        plans(folder, "--demo", "blank")
    with pytest.raises(BadInput, match=r"--cameras = 'a'.*leave it out"):
        plans(f"{folder}/top.mp4", "--cameras", "a", "--demo", "blank")
    with pytest.raises(BadInput, match=r"--cameras = 'side'.*take_0 has no camera side: choose from hand, top"):
        plans(folder, "--cameras", "side", "--demo", "blank")


@pytest.mark.parametrize("chosen", ["", "a,,b", "a,a", "a,b,c,d"])
def test_cameras_that_cannot_be_meant_are_refused(chosen: str) -> None:
    with pytest.raises(UsageError, match=r"--cameras.*give each camera once, separated by commas, at most 3"):
        score.parse(["E", "--url", "u", "--cameras", chosen])


def test_an_only_camera_is_the_front_view_whatever_it_is_called(data: Path) -> None:
    change_info(data / "set", lambda info: info["features"].pop(FRONT) and {})
    [recording] = find_recordings(f"{data}/set#0")
    assert len(recording.videos) == 1
    assert recording.note == f"set: front view {WRIST}"


def test_what_other_systems_leave_beside_the_files_is_not_read(data: Path) -> None:
    junk = b"\0\5\x16\7\0\2\0\0Mac OS X        "
    for path in [path for path in data.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(junk)
    for folder in [data, *(path for path in data.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(junk)
        (folder / "Thumbs.db").write_bytes(junk)
    (data / "set/meta/episodes/.chunk-000").mkdir()
    (data / "set/meta/episodes/.chunk-000/file-000.parquet").write_bytes(junk)
    (data / "raw/._take_0").write_bytes(junk)
    assert len(LeRobotSource(data / "set").episodes()) == 3
    assert LeRobotSource(data / "set").frames("episode_000001", np.array([0, 8])).shape == (2, 2, 32, 48, 3)
    assert len(open_source(data / "raw").episodes()) == 3
    assert len(find_recordings(str(data / "raw"))) == 3


def test_an_episode_without_words_takes_the_demonstration_s_or_those_given(data: Path) -> None:
    for empty in ([[""], ["push it"], ["push it"]], [["  "], ["push it"], ["push it"]], [[], ["push it"], ["push it"]]):
        change_rows(data / "set", tasks=empty)
        target = f"{data}/set#0"
        assert plans(target, "--demo", f"{data}/set#1")[0].instruction == "push it"
        assert plans(target, "--demo", data / "raw/take_0")[0].instruction == "put the peg in"
        assert plans(target, "--instruction", "lift it")[0].instruction == "lift it"
        for words in ((target,), (target, "--demo", "blank"), (f"{data}/set#1", "--instruction", " ")):
            with pytest.raises(BadInput, match="--instruction"):
                plans(*words)
    assert plans(f"{data}/set#1")[0].instruction == "push it", "the others are as they were"


def test_where_nothing_else_says_the_task_it_is_asked_for(data: Path, tmp_path: Path) -> None:
    change_rows(data / "set", tasks=[["push it"], [""], ["push it"]])
    fault = r"episode_000001: task = '': nobody said its task"
    with pytest.raises(EpisodeError, match=fault):
        list_stored(data / "set")
    with pytest.raises(EpisodeError, match=fault):
        convert.convert(convert.Arguments(data / "set", tmp_path / "copy"))
    with pytest.raises(EpisodeError, match=fault):
        pairs.report(pairs.Arguments(data / "set", tmp_path / "items.json"))
    episodes, _ = read_unseen([data / "set"], Path(f"{data}/set#0"), 1, None, 0.9)
    assert {episode.plan.instruction for episode in episodes} == {"push it"}
    with pytest.raises(EpisodeError, match=fault):
        read_unseen([data / "set"], Path(f"{data}/set#1"), 1, None, 0.9)


def test_a_task_that_is_one_string_is_one_sentence(data: Path) -> None:
    change_rows(data / "set", tasks=["push it"] * 3)
    assert LeRobotSource(data / "set").episodes()[0].instructions == ("push it",)


@pytest.mark.parametrize("length", [0, 1])
def test_an_episode_without_two_frames_is_left_out_and_named(data: Path, length: int, tmp_path: Path) -> None:
    change_rows(data / "set", length=[COUNT, length, COUNT])
    line = f"set: left out, because an episode needs at least 2 frames: episode_000001 ({length})"
    whole = find_recordings(f"{data}/set")
    assert [recording.name for recording in whole] == ["episode_000000", "episode_000002"]
    assert line in whole[0].note
    assert find_recordings(f"{data}/set#0")[0].name == "episode_000000"
    assert find_recordings(f"{data}/set#2")[0].name == "episode_000002", "numbers stay those of the dataset"
    with pytest.raises(BadInput, match=rf"set#1': it has {length} frames"):
        find_recordings(f"{data}/set#1")
    said: list[str] = []
    assert len(list_stored(data / "set", on_progress=lambda text, _: said.append(text))) == 2
    assert line in said
    convert.main([str(data / "set"), str(tmp_path / "copy")])
    assert len(open_source(tmp_path / "copy").episodes()) == 2
    with pytest.raises(EpisodeError, match=r"episode_000001\.length"):
        LeRobotSource(data / "set").frames("episode_000001", np.array([0]))
    change_rows(data / "set", length=[length] * 3)
    with pytest.raises(EpisodeError, match=r"set/meta/episodes: episode_000000\.length"):
        find_recordings(f"{data}/set")


def test_a_raw_episode_of_one_frame_is_left_out_and_named(data: Path) -> None:
    for camera in ("cam_high", "cam_left_wrist"):
        video = data / f"raw/take_1/{camera}.mp4"
        write_video(video, read_pictures(video)[:1])
    (data / "raw/take_1" / KEYFRAMES).write_text("[]", encoding="utf-8")
    line = "raw: left out, because an episode needs at least 2 frames: take_1"
    assert [info.episode_id for info in open_source(data / "raw").episodes()] == ["take_0", "take_2"]
    assert open_source(data / "raw").notes == (line,)
    recordings = find_recordings(str(data / "raw"))
    assert ([recording.name for recording in recordings], recordings[0].note) == (["take_0", "take_2"], line)
    with pytest.raises(EpisodeError, match="at least 2 frames"):
        open_source(data / "raw/take_1").episodes()


def test_an_episode_without_keyframes_is_scored_with_the_others(data: Path) -> None:
    (data / "raw/take_1" / KEYFRAMES).unlink()
    recordings = find_recordings(str(data / "raw"))
    assert [recording.name for recording in recordings] == ["take_0", "take_2", "take_1"]
    assert recordings[2].keyframes is None
    assert recordings[2].instructions == recordings[0].instructions
    for take in ("take_0", "take_2"):
        (data / "raw" / take / KEYFRAMES).unlink()
    assert [recording.name for recording in find_recordings(str(data / "raw"))] == ["take_0", "take_1", "take_2"]


@pytest.mark.parametrize("name", ["my#set", "#", "a#1", "set#0"])
def test_a_folder_s_name_may_have_the_mark_of_an_episode(data: Path, name: str) -> None:
    (data / "set").rename(data / name)
    (data / "raw").rename(data / f"raw{name}")
    assert len(find_recordings(str(data / name))) == 3
    assert find_recordings(f"{data / name}#2")[0].name == "episode_000002"
    assert len(find_recordings(str(data / f"raw{name}"))) == 3
    assert find_recordings(str(data / f"raw{name}/take_1"))[0].name == "take_1"
    assert len(list_stored(data / name)) == 3
    episodes, reference = read_unseen([data / name], Path(f"{data / name}#1"), 1, None, 0.9)
    assert (len(episodes), reference.name) == (2, "episode_000001")
    for number in ("3", "-1", "x", "1.0", "²"):
        with pytest.raises(BadInput, match=r"EPISODE = .*give a number from 0 to 2"):
            find_recordings(f"{data / name}#{number}")


def test_a_video_s_name_may_have_a_comma(data: Path) -> None:
    video = (data / "raw/take_0/cam_high.mp4").rename(data / "one, two #3.mp4")
    assert find_recordings(str(video))[0].videos == (video,)


def test_cameras_that_are_not_read_are_named(data: Path) -> None:
    image = {"dtype": "image", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    change_info(data / "set", lambda info: {"observation.images.side": image})
    source = LeRobotSource(data / "set")
    assert source.cameras == (FRONT, WRIST)
    assert (
        "set: observation.images.side is not read (dtype image): only colour cameras stored as videos are"
        in source.notes
    )
    fault = r"set/meta/info\.json: features\.observation\.images\.side\.dtype = 'image': .*store this camera as a video"
    with pytest.raises(EpisodeError, match=fault):
        LeRobotSource(data / "set", ["observation.images.side"])
    change_info(data / "set", lambda info: info["features"].pop(FRONT) and info["features"].pop(WRIST) and {})
    for read in (open_source, list_stored, lambda path: find_recordings(str(path))):
        with pytest.raises(EpisodeError, match=fault):
            read(data / "set")


def test_sentences_are_read_in_every_form_that_is_around(data: Path) -> None:
    text = "τ über"
    forms: list[Any] = [
        {"instruction": text},
        {"instructions": [text]},
        {"instructions": text},
        [text],
        text,
        ["", text],
    ]
    for content in forms:
        for encoding in ("utf-8", "utf-8-sig"):
            (data / "raw" / INSTRUCTIONS).write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
            assert open_source(data / "raw").episodes()[0].instructions == ("τ über",)
            assert plans(data / "raw/take_0")[0].instruction == "τ über"
    for content in ([""], []):
        (data / "raw" / INSTRUCTIONS).write_text(json.dumps(content), encoding="utf-8")
        assert plans(data / "raw/take_0", "--instruction", "lift it")[0].instruction == "lift it"
        with pytest.raises(BadInput, match="--instruction"):
            plans(data / "raw/take_0")


def test_utf8_is_read_and_written_under_any_locale(data: Path) -> None:
    (data / "raw" / INSTRUCTIONS).write_text(json.dumps(["τ über"], ensure_ascii=False), encoding="utf-8")
    change_info(data / "set", lambda info: {"τ": {"dtype": "float32", "shape": [1]}})
    code = """if True:
        import locale, sys
        from pathlib import Path
        from dopamine_rl.episodes.lerobot import read_info
        from dopamine_rl.episodes.raw import read_instructions
        assert locale.getencoding().upper() != "UTF-8"
        root = Path(sys.argv[1])
        print(ascii([read_instructions(root / "raw/take_0"), list(read_info(root / "set")["features"])[0]]))
    """
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(data)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == [("τ über",), "τ"]


def test_a_broken_video_is_one_line_that_names_file_and_fix(data: Path) -> None:
    video = next((data / f"set/videos/{FRONT}").rglob("*.mp4"))
    whole = video.read_bytes()
    for content in (b"", b"no video", whole[: len(whole) // 2]):
        video.write_bytes(content)
        for read in (
            lambda: read_frames(find_recordings(f"{data}/set#0")[0], 4, (32, 48), 2),
            lambda: plans(f"{data}/set#0"),
        ):
            with pytest.raises(BadInput, match=r"file-000\.mp4'.*readable video") as raised:
                read()
            assert "\n" not in str(raised.value)
    write_video(video, np.zeros((4, 32, 48, 3), np.uint8))
    with pytest.raises(BadInput, match=r"file-000\.mp4': give a readable video with all frames \(there is no frame at"):
        read_frames(find_recordings(f"{data}/set#0")[0], 4, (32, 48), 2)
    video.unlink()
    with pytest.raises(BadInput, match=r"EPISODE = .*file-000\.mp4.*No such file"):
        list(warnings(plans(f"{data}/set#0", "--size", "32", "--stride", "4")))
    with pytest.raises(BadInput, match=r"file-000\.mp4"):
        plans(f"{data}/set#0", "--demo", f"{data}/set#1")
