"""A dataset's videos: streams copied pixel by pixel, encoded where they cannot be; and the statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from pyarrow import parquet

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.episodes.video import read_pictures, write_video
from dopamine_rl.errors import BadInput
from tests.dopamine_rl.test_raw_episodes import make_demonstration
from tests.videos import encode

KEYS = ("observation.images.cam_high", "observation.images.cam_left_wrist")


def moving(count: int, seed: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth pictures that move, uint8 [F, H, W, 3]: encoders use B-frames for them."""
    rng = np.random.default_rng(seed)
    large = np.kron(rng.integers(0, 256, (height // 16 + 4, width // 16 + 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    return np.stack([large[k % 48 : k % 48 + height, k % 48 : k % 48 + width] for k in range(count)])


def recorded(folder: Path, name: str, count: int, seed: int, **options: Any) -> Path:
    """A raw episode of two cameras whose videos another program wrote."""
    episode = write_demonstration(folder, replace(make_demonstration(2, count), episode_id=name))
    for view, camera in enumerate(("cam_high", "cam_left_wrist")):
        encode(episode / f"{camera}.mp4", moving(count, 10 * seed + view), **options)
    return episode


def check_same(before: Any, after: LeRobotSource) -> None:
    """Every frame of every episode decodes to the source's pixels, whether asked for alone or with the others."""
    for old, new in zip(before.episodes(), after.episodes(), strict=True):
        wanted = before.frames(old.episode_id, np.arange(old.frame_count))
        assert np.array_equal(after.frames(new.episode_id, np.arange(old.frame_count)), wanted)
        for frame in (0, old.frame_count // 2, old.frame_count - 1):
            assert np.array_equal(after.frames(new.episode_id, np.array([frame]))[0], wanted[frame])


def packets(paths: Sequence[Path]) -> list[bytes]:
    content = []
    for path in paths:
        with av.open(str(path)) as container:
            content += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return content


def files_of(root: Path, key: str = KEYS[0]) -> list[Path]:
    return sorted((root / "videos" / key).glob("*/*.mp4"))


@pytest.mark.parametrize(
    "options",
    [
        {"g": "7", "bf": "3"},
        {"g": "250", "bf": "2", "x264-params": "open-gop=1:keyint=5:min-keyint=5"},
        {"codec": "libx265", "pixels": "yuv420p", "x265-params": "log-level=none:keyint=6:bframes=3"},
        {"codec": "libsvtav1", "preset": "8", "g": "2", "crf": "30"},
        {"pixels": "yuv444p"},
    ],
)
def test_streams_are_copied_and_every_frame_keeps_its_pixels_and_its_place(tmp_path: Path, options: Any) -> None:
    for i, count in enumerate((11, 24, 17)):
        recorded(tmp_path / "raw", f"take_{i}", count, i, **options)
    raw = open_source(tmp_path / "raw")
    write_dataset(tmp_path / "set", raw)
    check_same(raw, LeRobotSource(tmp_path / "set"))
    takes = [tmp_path / f"raw/take_{i}/cam_high.mp4" for i in range(3)]
    assert packets(files_of(tmp_path / "set")) == packets(takes)
    with av.open(str(files_of(tmp_path / "set")[0])) as container:
        times = sorted((packet.pts or 0) * packet.time_base for packet in container.demux(video=0) if packet.size)
        assert container.streams.video[0].average_rate == 10
    assert times == [Fraction(k, 10) for k in range(len(times))]
    # Copied once more, from a file that shows many episodes, and divided among files otherwise.
    write_dataset(tmp_path / "again", LeRobotSource(tmp_path / "set"), episodes_per_file=2)
    assert packets(files_of(tmp_path / "again")) == packets(takes)
    check_same(raw, LeRobotSource(tmp_path / "again"))


def test_an_episode_that_begins_within_a_group_of_pictures_is_encoded(tmp_path: Path) -> None:
    recorded(tmp_path / "raw", "take_0", 20, 0, g="250", bf="0")
    write_dataset(tmp_path / "set", open_source(tmp_path / "raw"))
    path = tmp_path / "set/meta/episodes/chunk-000/file-000.parquet"
    table = parquet.read_table(path).to_pydict()
    halves = {name: values * 2 for name, values in table.items()}
    halves |= {"episode_index": [0, 1], "length": [12, 8], "dataset_from_index": [0, 12], "dataset_to_index": [12, 20]}
    for key in KEYS:
        halves |= {f"videos/{key}/from_timestamp": [0.0, 1.2], f"videos/{key}/to_timestamp": [1.2, 2.0]}
    import pyarrow as pa

    parquet.write_table(pa.table(halves), path)
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    for name in ("subtask_index", "next.success"):
        del info["features"][name]
    (tmp_path / "set/meta/info.json").write_text(json.dumps(info))
    before = LeRobotSource(tmp_path / "set")
    write_dataset(tmp_path / "two", before, lossless=True)
    assert len(files_of(tmp_path / "two")) == 2, "one copied, one encoded"
    check_same(before, LeRobotSource(tmp_path / "two"))


def test_streams_that_differ_do_not_share_a_file(tmp_path: Path) -> None:
    for i, options in enumerate(({}, {"refs": "1", "bf": "0"}, {"pixels": "yuv444p"}, {"codec": "mpeg4", "q:v": "2"})):
        recorded(tmp_path / "raw", f"take_{i}", 9, i, **options)
    raw = open_source(tmp_path / "raw")
    write_dataset(tmp_path / "set", raw, lossless=True)
    assert len(files_of(tmp_path / "set")) == 3, "two copied, two encoded together"
    check_same(raw, LeRobotSource(tmp_path / "set"))


def test_pictures_that_are_turned_when_shown_are_encoded(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "raw", "take_0", 9, 0)
    for path in folder.glob("*.mp4"):
        with av.open(str(path)) as old, av.open(str(tmp_path / "turned.mp4"), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            stream.set_display_rotation(180)
            for packet in old.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
        (tmp_path / "turned.mp4").replace(path)
    raw = open_source(tmp_path / "raw")
    write_dataset(tmp_path / "set", raw, lossless=True)
    assert (
        json.loads((tmp_path / "set/meta/info.json").read_text())["features"][KEYS[0]]["info"]["video.pix_fmt"]
        == "gbrp"
    )
    check_same(raw, LeRobotSource(tmp_path / "set"))


def test_a_recording_with_uneven_times_gets_even_ones(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "raw", "take_0", 12, 0, bf="0")
    for path in folder.glob("*.mp4"):
        with av.open(str(path)) as old, av.open(str(tmp_path / "uneven.mp4"), "w") as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for number, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
                packet.stream, packet.time_base = stream, Fraction(1, 1000)
                packet.pts = packet.dts = 100 * number + (35 if number % 3 == 1 else 0)
                new.mux(packet)
        (tmp_path / "uneven.mp4").replace(path)
    raw = open_source(tmp_path / "raw")
    write_dataset(tmp_path / "set", raw)
    check_same(raw, LeRobotSource(tmp_path / "set"))


def test_all_pictures_can_be_encoded(tmp_path: Path) -> None:
    write_demonstration(tmp_path / "raw", make_demonstration(2, 7))
    for name, copy, pixels in (("copied", True, "gbrp"), ("encoded", False, "yuv420p")):
        write_dataset(tmp_path / name, open_source(tmp_path / "raw"), copy=copy)
        info = json.loads((tmp_path / name / "meta/info.json").read_text())
        assert info["features"][KEYS[0]]["info"]["video.pix_fmt"] == pixels


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("shape", [(97, 129), (96, 129), (97, 128)])
def test_odd_heights_and_widths_keep_their_pictures(tmp_path: Path, shape: tuple[int, int], lossless: bool) -> None:
    pictures = np.stack([moving(7, seed, *shape) for seed in (0, 1)], axis=1)
    write_demonstration(tmp_path / "raw", replace(make_demonstration(2, 7), frames=pictures))
    raw = open_source(tmp_path / "raw")
    write_dataset(tmp_path / "set", raw, lossless=lossless, copy=False)
    after = LeRobotSource(tmp_path / "set").frames("episode_000000", np.arange(7))
    assert after.shape == pictures.shape
    assert np.abs(after.astype(int) - pictures).mean() < (1e-9 if lossless else 4.0)
    write_video(tmp_path / "video.mp4", pictures[:, 0], lossless=lossless)
    assert read_pictures(tmp_path / "video.mp4")[0].shape == (*shape, 3)


def test_episodes_of_different_picture_sizes_are_refused(tmp_path: Path) -> None:
    recorded(tmp_path / "raw", "take_0", 7, 0)
    write_demonstration(tmp_path / "raw", replace(make_demonstration(2, 7), episode_id="take_1"))
    source = Renamed(open_source(tmp_path / "raw"), None, 10.0)
    for copy in (True, False):
        with pytest.raises(BadInput, match="picture size"):
            write_dataset(tmp_path / "set", source, copy=copy)
    assert not list(tmp_path.glob("*set*"))


class Renamed:
    """A source with other cameras' names, or at another rate."""

    def __init__(self, source: Any, cameras: tuple[str, ...] | None, rate: float | None = None) -> None:
        self.frames, self.clips = source.frames, source.clips
        self._infos = [
            replace(info, cameras=cameras or info.cameras, frames_per_second=rate or info.frames_per_second)
            for info in source.episodes()
        ]

    def episodes(self) -> Any:
        return self._infos


def test_cameras_whose_names_end_alike_stay_two(tmp_path: Path) -> None:
    recorded(tmp_path / "raw", "take_0", 9, 0)
    raw = open_source(tmp_path / "raw")
    names = ("observation.images.left.rgb", "observation.images.right.rgb")
    write_dataset(tmp_path / "set", Renamed(raw, names))
    after = LeRobotSource(tmp_path / "set")
    assert after.cameras == names
    check_same(raw, after)
    write_dataset(tmp_path / "plain", Renamed(raw, ("left.rgb", "right.rgb")))
    assert LeRobotSource(tmp_path / "plain").cameras == names
    for cameras in (("top", "observation.images.top"), ("top", "../top"), ("", "top"), ("top", "top")):
        with pytest.raises(BadInput, match="cameras"):
            write_dataset(tmp_path / "refused", Renamed(raw, cameras))
    assert not list(tmp_path.glob("*refused*"))


def test_statistics_are_those_of_the_pixels_and_columns(tmp_path: Path) -> None:
    for i, count in enumerate((9, 14)):
        recorded(tmp_path / "raw", f"take_{i}", count, i)
    raw = open_source(tmp_path / "raw")
    assert isinstance(raw, RawSource)
    write_dataset(tmp_path / "set", raw)
    stats = json.loads((tmp_path / "set/meta/stats.json").read_text())
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert set(stats) == set(info["features"])
    rows = parquet.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    frames = [raw.frames(f"take_{i}", np.arange(count)) / 255.0 for i, count in enumerate((9, 14))]
    for view, key in enumerate(KEYS):
        for figures, pictures in (
            (stats[key], np.concatenate(frames)[:, view]),
            *(
                ({n: row[f"stats/{key}/{n}"] for n in stats[key]}, part[:, view])
                for row, part in zip(rows, frames, strict=True)
            ),
        ):
            assert figures["count"] == [len(pictures)]
            for name in ("min", "max", "mean", "std"):
                expected = getattr(pictures, name)(axis=(0, 1, 2)).reshape(3, 1, 1)
                assert np.allclose(figures[name], expected), name
            expected = np.quantile(pictures, 0.9, axis=(0, 1, 2), method="inverted_cdf").reshape(3, 1, 1)
            assert np.allclose(figures["q90"], expected)
    assert stats["index"] | {"q01": 0} == {
        "min": [0.0],
        "max": [22.0],
        "mean": [11.0],
        "std": [np.arange(23).std()],
        "count": [23],
        "q01": 0,
        "q10": [2.2],
        "q50": [11.0],
        "q90": [pytest.approx(19.8)],
        "q99": [pytest.approx(21.78)],
    }
    assert [row["stats/frame_index/max"] for row in rows] == [[8.0], [13.0]]


def test_a_folder_that_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    recorded(tmp_path / "raw", "take_0", 7, 0)

    def appear(text: str, matters: bool) -> None:
        write_demonstration(tmp_path / "set", make_demonstration(1))

    with pytest.raises(BadInput, match="already exists"):
        write_dataset(tmp_path / "set", open_source(tmp_path / "raw"), on_progress=appear)
    assert (tmp_path / "set/episode_001").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
