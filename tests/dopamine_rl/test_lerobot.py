"""LeRobotDataset v3: written and read back frame by frame, progress as a column, and what is malformed is named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from dopamine_rl import files
from dopamine_rl.episodes import lerobot_columns
from dopamine_rl.episodes.cached_source import CachedSource
from dopamine_rl.episodes.lerobot import LeRobotSource, segments
from dopamine_rl.episodes.lerobot_columns import remove_progress, write_progress
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import KEYFRAMES, write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.types import EpisodeInfo
from tests.dopamine_rl.test_raw_episodes import make_demonstration

LENGTHS = (5, 9, 7)
NAMES = [f"episode_{i:06d}" for i in range(len(LENGTHS))]
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> RawSource:
    folder = tmp_path_factory.mktemp("raw")
    for i, length in enumerate(LENGTHS):
        rng = np.random.default_rng(i)
        episode = replace(
            make_demonstration(2, length),
            episode_id=f"take_{i}",
            frames=rng.integers(0, 256, (length, 2, 32, 48, 3), dtype=np.uint8),
        )
        write_demonstration(folder, episode)
    return RawSource(sorted(folder.glob("take_*")))


@pytest.fixture(scope="module")
def written(raw: RawSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes in the first file, one in the second."""
    root = tmp_path_factory.mktemp("written") / "dataset"
    assert write_dataset(root, raw, episodes_per_file=2, lossless=True) == ["take_0", "take_1", "take_2"]
    return root


@pytest.fixture
def dataset(written: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(written, tmp_path / "dataset"))


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_column(path: Path, name: str, values: Any) -> None:
    table = parquet.read_table(path)
    columns = {**{column: table.column(column) for column in table.column_names}, name: values}
    parquet.write_table(pa.table({key: value for key, value in columns.items() if value is not None}), path)


def contents(root: Path) -> dict[str, str]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_frames_come_back_bit_for_bit_across_files_of_many_episodes(raw: RawSource, dataset: Path) -> None:
    source = open_source(dataset)
    assert isinstance(source, LeRobotSource)
    assert sorted(path.relative_to(dataset).as_posix() for path in dataset.glob("videos/*/*/*")) == [
        f"videos/observation.images.{camera}/chunk-000/file-00{file}.mp4"
        for camera in ("cam_high", "cam_left_wrist")
        for file in (0, 1)
    ]
    for i, length in enumerate(LENGTHS):
        for ids in ([0], [length - 1], [1, 3], list(range(length))):
            found = source.frames(NAMES[i], np.array(ids))
            assert np.array_equal(found, raw.frames(f"take_{i}", np.array(ids)))
    assert source.frames(NAMES[1], np.array([2]), size=(16, 24)).shape == (1, 2, 16, 24, 3)
    only = LeRobotSource(dataset, cameras=["observation.images.cam_left_wrist"])
    assert np.array_equal(only.frames(NAMES[2], np.array([4]))[:, 0], raw.frames("take_2", np.array([4]))[:, 1])


def test_what_is_said_of_an_episode_comes_back(raw: RawSource, dataset: Path) -> None:
    for wanted, found in zip(raw.episodes(), open_source(dataset).episodes(), strict=True):
        assert found.instructions == wanted.instructions[:1], "the format keeps one task a frame"
        assert found.frame_count == wanted.frame_count
        assert found.frames_per_second == wanted.frames_per_second
        assert np.array_equal(found.keyframes, wanted.keyframes)
        assert found.stages == wanted.stages
        assert found.annotation.endswith("subtask_index")
        assert found.success is wanted.success is True


@pytest.mark.parametrize("known", [(True, False, None), (None, False, True), (None, None, None)])
def test_outcomes_come_back(raw: RawSource, tmp_path: Path, known: tuple[bool | None, ...]) -> None:
    infos = [replace(info, success=success) for info, success in zip(raw.episodes(), known, strict=True)]
    write_dataset(tmp_path / "set", Told(raw, infos), episodes_per_file=2)
    source = LeRobotSource(tmp_path / "set")
    assert tuple(info.success for info in source.episodes()) == known
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    if known == (None, None, None):
        assert "next.success" not in features
        return
    assert features["next.success"]["dtype"] == "bool"
    types = {parquet.read_schema(path).field("next.success").type for path in (tmp_path / "set").glob("data/*/*")}
    assert types == {pa.bool_()}
    for name, success, length in zip(NAMES, known, LENGTHS, strict=True):
        rows = [None if success is None else False] * (length - 1) + [success]
        assert source.column(name, "next.success").tolist() == rows


def test_an_outcome_that_is_no_bool_is_named(dataset: Path) -> None:
    change_column(dataset / DATA, "next.success", [0.0] * 14)
    with pytest.raises(EpisodeError, match=rf"dataset/{DATA}: episode_000000\.next\.success = 0\.0"):
        LeRobotSource(dataset).episodes()


class Told:
    """A source of which something else is said."""

    def __init__(self, source: RawSource, infos: list[EpisodeInfo]) -> None:
        self.episodes, self.frames = lambda: infos, source.frames


def test_an_episode_without_sub_tasks_is_one_segment_and_says_so(dataset: Path) -> None:
    info = json.loads((dataset / "meta/info.json").read_text())
    del info["features"]["subtask_index"]
    (dataset / "meta/info.json").write_text(json.dumps(info))
    episode = LeRobotSource(dataset).episodes()[1]
    assert episode.annotation == ""
    assert episode.keyframes.tolist() == [0, 8]
    assert episode.stages == ("put the peg in",)


@pytest.mark.parametrize(
    ("labels", "keyframes", "stages"),
    [
        ([0, 0, 1, 1], [0, 2, 3], (0, 1)),
        ([-1, 2, 2, 0, 0, None], [1, 3, 4], (2, 0)),
        ([0, None, -1, 0, 1, 1], [0, 4, 5], (0, 1)),
        ([0, 0, 1], [0, 2], (0,)),
        ([3, 3], [0, 1], (3,)),
    ],
)
def test_sub_tasks_are_cut_where_they_change(labels: list[Any], keyframes: list[int], stages: tuple[int, ...]) -> None:
    found = segments(labels)
    assert found is not None
    assert (found[0].tolist(), found[1]) == (keyframes, stages)
    assert segments([None, 0]) is None


def test_tasks_can_be_read_by_pandas_as_the_format_wants_them(dataset: Path) -> None:
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(dataset / "meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks.loc["put the peg in"].task_index == 0


def curves() -> dict[str, np.ndarray]:
    return {NAMES[0]: np.linspace(0, 1, 5, dtype=np.float32), NAMES[2]: np.full(7, 0.5, np.float32)}


def test_progress_becomes_a_column_and_goes_again(dataset: Path) -> None:
    before = {path: parquet.read_table(dataset / path) for path in (DATA, DATA.replace("file-000", "file-001"))}
    videos = {path: digest for path, digest in contents(dataset).items() if path.startswith("videos")}
    (dataset / "meta/stats.json").write_text('{"timestamp": {"min": [0.0]}}')
    write_progress(dataset, curves())
    source = LeRobotSource(dataset)
    for name, values in curves().items():
        assert source.column(name, "progress").astype(np.float32).tolist() == values.tolist()
    assert np.isnan(source.column(NAMES[1], "progress")).all(), "no value is not a number"
    info, stats = (json.loads((dataset / "meta" / name).read_text()) for name in ("info.json", "stats.json"))
    feature = {"dtype": "float32", "shape": [1], "names": None, "written_by": "dopamine-rl"}
    assert info["features"]["progress"] == feature
    assert stats["progress"]["count"] == [12]
    for path, table in before.items():
        after = parquet.read_table(dataset / path)
        assert after.column_names == [*table.column_names, "progress"]
        assert after.schema.field("progress").type == pa.float32()
        assert after.drop_columns(["progress"]).equals(table)
    with pytest.raises(BadInput, match="column = 'progress'"):
        write_progress(dataset, curves())
    write_progress(dataset, {NAMES[1]: np.zeros(9, np.float32)}, overwrite=True)
    assert LeRobotSource(dataset).column(NAMES[1], "progress").tolist() == [0.0] * 9
    assert LeRobotSource(dataset).column(NAMES[2], "progress").tolist() == [0.5] * 7, "what is left out stays"
    remove_progress(dataset)
    assert all(parquet.read_table(dataset / path).equals(table) for path, table in before.items())
    assert "progress" not in json.loads((dataset / "meta/info.json").read_text())["features"]
    assert json.loads((dataset / "meta/stats.json").read_text()) == {"timestamp": {"min": [0.0]}}
    assert {path: digest for path, digest in contents(dataset).items() if path.startswith("videos")} == videos


def test_row_groups_and_other_programs_descriptions_are_kept(dataset: Path) -> None:
    table = parquet.read_table(dataset / DATA)
    described = {b"huggingface": json.dumps({"info": {"features": {"index": {"dtype": "int64"}}}}).encode(), b"x": b"y"}
    parquet.write_table(table.replace_schema_metadata(described), dataset / DATA, row_group_size=5)
    write_progress(dataset, curves())
    with parquet.ParquetFile(dataset / DATA) as file:
        assert file.num_row_groups == 3
        metadata = file.schema_arrow.metadata
    assert json.loads(metadata[b"huggingface"])["info"]["features"]["progress"] == {
        "dtype": "float32",
        "_type": "Value",
    }
    assert metadata[b"x"] == b"y"


@pytest.mark.parametrize("moment", ["staging", "exchange"])
def test_a_killed_write_leaves_the_old_dataset_or_finishes_the_new_one(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before = contents(dataset)
    if moment == "staging":
        monkeypatch.setattr(lerobot_columns, "write_json", _killed)
    else:
        monkeypatch.setattr(files, "_finish_replacing", _killed_after(1, files._finish_replacing))
    with pytest.raises(KeyboardInterrupt):
        write_progress(dataset, curves())
    monkeypatch.undo()
    if moment == "staging":
        assert contents(dataset) == before
        return
    assert (dataset / files.PENDING).exists()
    assert LeRobotSource(dataset).column(NAMES[0], "progress").tolist() == np.linspace(0, 1, 5).tolist()
    assert not list(dataset.glob(".*"))


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


def _killed_after(calls: int, real: Any) -> Any:
    """The first `calls` are real; the next one puts one file in place and dies."""
    done = 0

    def stand_in(root: Path) -> None:
        nonlocal done
        done += 1
        if done <= calls:
            real(root)
            return
        (root / files.PENDING / DATA).replace(root / DATA)
        raise KeyboardInterrupt

    return stand_in


@pytest.mark.parametrize(
    ("progress", "column", "field"),
    [
        ({NAMES[0]: np.zeros(4, np.float32)}, "progress", r"progress\[episode_000000\]"),
        ({"take_0": np.zeros(5, np.float32)}, "progress", r"progress\[take_0\]"),
        ({NAMES[0]: np.full(5, 1.5, np.float32)}, "progress", r"progress\[episode_000000\]"),
        ({}, "frame_index", "column"),
        ({}, "timestamp", "column"),
        ({}, "a/b", "column"),
    ],
)
def test_progress_that_does_not_fit_changes_nothing(dataset: Path, progress: Any, column: str, field: str) -> None:
    before = contents(dataset)
    with pytest.raises(BadInput, match=field):
        write_progress(dataset, progress, column, overwrite=True)
    with pytest.raises(BadInput, match="column"):
        remove_progress(dataset, column if column != "progress" else "reward")
    assert contents(dataset) == before


def test_a_column_of_the_dataset_s_own_is_neither_overwritten_nor_removed(dataset: Path) -> None:
    with_reward(dataset)
    before = contents(dataset)
    for change in (
        lambda: write_progress(dataset, curves(), "reward", overwrite=True),
        lambda: remove_progress(dataset, "reward"),
    ):
        with pytest.raises(BadInput, match=rf"column = 'reward': .*{dataset}"):
            change()
    assert contents(dataset) == before


def with_reward(root: Path) -> None:
    """Give a dataset a float column of its own."""
    info = json.loads((root / "meta/info.json").read_text())
    scalar = {"dtype": "float32", "shape": [1], "names": None}
    change_json(root / "meta/info.json", features={**info["features"], "reward": scalar})
    for path in root.glob("data/*/*.parquet"):
        rewards = np.full(len(parquet.read_table(path)), 0.25, np.float32)
        change_column(path, "reward", rewards)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"codebase_version": "v2.1"}, "codebase_version"),
        ({"fps": 0}, "fps"),
        ({"fps": "30"}, "fps"),
        ({"features": []}, "features"),
        ({"features": {"a": {"shape": [1]}}}, r"features\.a"),
        ({"features": {"action": {"dtype": "float32"}}}, "features"),
        ({"data_path": None}, "data_path"),
        ({"video_path": "videos/{nobody}.mp4"}, "video_path"),
        ({"video_path": "{video_key.__class__}.mp4"}, "video_path"),
        ({"video_path": "../elsewhere/{video_key}.mp4"}, "video_path = .*give paths below the dataset's folder"),
        ({"video_path": "/data/{video_key}.mp4"}, "video_path = .*give paths below the dataset's folder"),
        ({"data_path": "data/../../{chunk_index}.parquet"}, "data_path = .*give paths below the dataset's folder"),
        ({"data_path": "/etc/passwd"}, "data_path = .*give paths below the dataset's folder"),
    ],
)
def test_malformed_metadata_is_named(dataset: Path, fields: dict[str, Any], named: str) -> None:
    change_json(dataset / "meta/info.json", **fields)
    with pytest.raises(EpisodeError, match=rf"dataset/meta/info\.json: {named}"):
        LeRobotSource(dataset)


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("episode_index", [0, 1, 1], "dataset/meta/episodes: episode_index"),
        ("length", [5, -1, 7], rf"dataset/{EPISODES}: episode_000001\.length"),
        ("length", [5.0, np.nan, 7.0], rf"dataset/{EPISODES}: episode_000001\.length"),
        ("episode_index", [0.0, np.nan, 2.0], rf"dataset/{EPISODES}: episode_index"),
        (
            "videos/observation.images.cam_high/from_timestamp",
            [0.0, np.nan, 0.0],
            r"episode_000001\..*cam_high/from_timestamp",
        ),
        ("length", None, rf"dataset/{EPISODES}: length = 'missing'"),
        ("length", [5, None, 7], rf"dataset/{EPISODES}: episode_000001\.length"),
        (
            "videos/observation.images.cam_high/to_timestamp",
            [1.0, 1.2, 1.4],
            r"000001\..*cam_high/to_timestamp",
        ),
    ],
)
def test_malformed_episodes_are_named(dataset: Path, column: str, values: Any, named: str) -> None:
    change_column(dataset / EPISODES, column, values)
    with pytest.raises(EpisodeError, match=named):
        LeRobotSource(dataset)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("subtask_index", ["near"] * 14),
        ("subtask_index", [[0]] * 14),
        ("frame_index", [np.nan] * 14),
        ("frame_index", [None] * 14),
        ("next.success", [np.nan] * 14),
    ],
)
def test_values_of_frames_that_cannot_be_are_named(dataset: Path, column: str, values: list[Any]) -> None:
    change_column(dataset / DATA, column, values)
    with pytest.raises(EpisodeError, match=rf"file-000\.parquet: (episode_00000\d\.)?{re.escape(column)} = "):
        LeRobotSource(dataset).episodes()


def test_numbers_that_pandas_made_floats_are_numbers(dataset: Path) -> None:
    change_column(dataset / EPISODES, "length", [5.0, 9.0, 7.0])
    change_column(dataset / EPISODES, "data/file_index", [0.0, 0.0, 1.0])
    change_column(dataset / DATA, "frame_index", [float(i) for i in (*range(5), *range(9))])
    assert [info.frame_count for info in LeRobotSource(dataset).episodes()] == list(LENGTHS)


def test_files_of_a_dataset_may_be_links_as_caches_have_them(dataset: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for number, path in enumerate([path for path in dataset.rglob("*") if path.is_file()]):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    assert LeRobotSource(dataset).frames(NAMES[2], np.array([0, 6])).shape[0] == 2


def test_malformed_files_are_named(dataset: Path) -> None:
    change_column(dataset / DATA, "subtask_index", [0] * 4 + [9] * 10)
    with pytest.raises(EpisodeError, match=r"dataset/meta/subtasks\.parquet: episode_000001\.subtask_index"):
        LeRobotSource(dataset).episodes()
    (dataset / DATA).write_bytes(b"PAR1")
    with pytest.raises(EpisodeError, match=r"dataset/data/chunk-000/file-000\.parquet: content = .*readable"):
        LeRobotSource(dataset).episodes()
    video = dataset / "videos/observation.images.cam_high/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[:200])
    with pytest.raises(EpisodeError, match=r"episode_000000: video = .*cam_high/chunk-000/file-000\.mp4"):
        LeRobotSource(dataset).frames(NAMES[0], np.array([1]))


def test_frames_out_of_range_are_refused(dataset: Path) -> None:
    source = LeRobotSource(dataset)
    for ids in ([], [5], [-1], [2, 1]):
        with pytest.raises(EpisodeError, match="episode_000000: frame_ids"):
            source.frames(NAMES[0], np.array(ids, np.int64))
    with pytest.raises(BadInput, match="episode_id"):
        source.frames("episode_000009", np.array([0]))


def test_a_dataset_is_never_written_over_another(dataset: Path, raw: RawSource) -> None:
    with pytest.raises(BadInput, match="root"):
        write_dataset(dataset, raw)


class Counting:
    """A source that counts the frames it decodes."""

    def __init__(self, source: RawSource) -> None:
        self.source, self.decoded = source, 0

    def episodes(self) -> Any:
        return self.source.episodes()

    def frames(self, episode_id: str, frame_ids: np.ndarray, size: Any = None) -> np.ndarray:
        self.decoded += len(frame_ids)
        return self.source.frames(episode_id, frame_ids, size)


def test_a_cached_frame_is_not_decoded_again_and_memory_is_bounded(raw: RawSource) -> None:
    counting = Counting(raw)
    picture = 2 * 32 * 48 * 3
    cached = CachedSource(counting, max_bytes=3 * picture)
    wanted = raw.frames("take_1", np.array([1, 4]))
    for _ in range(2):
        assert np.array_equal(cached.frames("take_1", np.array([1, 4])), wanted)
    assert counting.decoded == 2
    assert np.array_equal(cached.frames("take_1", np.array([1, 2, 4])), raw.frames("take_1", np.array([1, 2, 4])))
    assert (counting.decoded, cached.nbytes) == (3, 3 * picture)
    cached.frames("take_1", np.array([3]))
    assert cached.nbytes == 3 * picture
    cached.frames("take_1", np.array([2, 4]))
    assert counting.decoded == 4, "the longest unused one went, which was 1"
    assert cached.frames("take_1", np.arange(9)).shape[0] == 9


def test_a_raw_episode_whose_cameras_or_keyframes_do_not_fit_is_named_without_decoding(tmp_path: Path) -> None:
    folder = write_demonstration(tmp_path, make_demonstration(2))
    assert open_source(tmp_path).episodes()[0].frame_count == open_source(folder).episodes()[0].frame_count == 5
    other = write_demonstration(tmp_path / "other", make_demonstration(2, 9))
    (other / "cam_high.mp4").replace(folder / "cam_high.mp4")
    with pytest.raises(EpisodeError, match=r"episode_001/\*\.mp4: frame count"):
        open_source(tmp_path).episodes()
    (folder / "cam_high.mp4").write_bytes(b"")
    with pytest.raises(EpisodeError, match=r"episode_001: video = .*/cam_high\.mp4"):
        RawSource([folder]).episodes()
    (folder / KEYFRAMES).unlink()
    with pytest.raises(BadInput, match="DATA"):
        open_source(tmp_path)
