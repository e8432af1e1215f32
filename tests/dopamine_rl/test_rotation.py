"""Videos with a display matrix are read as players show them, in every place that decodes one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dopamine_rl.episodes.lerobot import LeRobotSource
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import find_recordings, open_source
from dopamine_rl.episodes.raw import read_raw_episode, write_demonstration
from dopamine_rl.episodes.recordings import read_frames, size_of
from dopamine_rl.episodes.seek import frame_times, pictures_at
from dopamine_rl.episodes.stored import list_stored, picture_shape
from dopamine_rl.episodes.video import every_picture, read_pictures, video_format
from tests.dopamine_rl.test_raw_episodes import make_demonstration

HEIGHT, WIDTH, COUNT = 32, 48, 12
MARK = 8
"""Side of the bright square in the upper left corner of what the camera saw."""


def scene(index: int) -> np.ndarray:
    """An upright picture [H, W, 3] that looks different from every side; its grey tells the frame."""
    picture = np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)
    picture[:MARK, :MARK] = 255
    picture[-MARK:, :MARK] = (255, 0, 0)
    return picture


# What the sensor read, and the way back, as (degrees counter-clockwise, mirrored left to right behind it).
TURNS = {
    "upright": (lambda p: p, 0, False),
    "90": (lambda p: np.rot90(p, -1), 90, False),
    "180": (lambda p: np.rot90(p, 2), 180, False),
    "270": (lambda p: np.rot90(p, 1), 270, False),
    "mirrored": (lambda p: p[:, ::-1], 0, True),
    "upside down": (lambda p: p[::-1], 180, True),
    "90 mirrored": (lambda p: np.rot90(p[:, ::-1], -1), 90, True),
    "270 mirrored": (lambda p: np.rot90(p[:, ::-1], 1), 270, True),
}


def film(path: Path, turn: str, every_other: bool = False) -> None:
    """Write what the sensor read, with the matrix that puts it right.

    Args:
        every_other: frames follow one another after one tick and after two in turn.
    """
    stored, degrees, mirrored = TURNS[turn]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(10), options={"qp": "0", "g": "5"})
        stream.pix_fmt, stream.thread_count = "rgb24", 1
        stream.height, stream.width = stored(scene(0)).shape[:2]
        if turn != "upright":
            stream.set_display_rotation(degrees, hflip=mirrored)
        for index in range(COUNT):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored(scene(index))), format="rgb24")
            frame.pts = index + (index // 2 if every_other else 0)
            frame.time_base = Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("every_other", [False, True])
def test_every_way_to_decode_shows_what_the_camera_saw(turn: str, every_other: bool, tmp_path: Path) -> None:
    path = tmp_path / "front.mp4"
    film(path, turn, every_other)
    wanted = np.stack([scene(index) for index in range(COUNT)])
    assert np.array_equal(read_pictures(path), wanted)
    for index, picture in every_picture(path, 5):
        assert np.array_equal(picture, wanted[index])
    ids = [1, 7, 11]
    times = frame_times(path)
    assert len(times) == COUNT
    assert np.array_equal(pictures_at(path, times[ids], 1e-6), wanted[ids])
    shape = video_format(path)
    assert (shape.height, shape.width) == (HEIGHT, WIDTH)
    small = pictures_at(path, times[:1], 1e-6, (16, 24))[0]
    assert small.shape == (16, 24, 3)
    assert small[1, 1].min() > 200
    assert small[1, -2].max() < 60


@pytest.mark.parametrize("turn", ["90", "270 mirrored"])
def test_recordings_raw_episodes_and_datasets_show_it_too(turn: str, tmp_path: Path) -> None:
    film(tmp_path / "turned.mp4", turn)
    [recording] = find_recordings(str(tmp_path / "turned.mp4"))
    assert size_of(recording) == (HEIGHT, WIDTH)
    frames = read_frames(recording, 4, size_of(recording), 1).frames
    assert np.array_equal(frames[:, 0], [scene(index) for index in (0, 4, 8, 11)])
    folder = write_demonstration(tmp_path / "raw", make_demonstration(1, COUNT))
    film(folder / "cam_high.mp4", turn)
    wanted = np.stack([scene(index) for index in range(COUNT)])
    assert np.array_equal(read_raw_episode(folder).frames[:, 0], wanted)
    assert np.array_equal(read_raw_episode(folder, [3, 9]).frames[:, 0], wanted[[3, 9]])
    assert picture_shape(list_stored(tmp_path / "raw")[0]) == (HEIGHT, WIDTH)
    write_dataset(tmp_path / "set", open_source(tmp_path / "raw"), lossless=True)
    video = tmp_path / "set/videos/observation.images.cam_high/chunk-000/file-000.mp4"
    for _ in ("as converted", "as recorded by such a camera"):
        shown = LeRobotSource(tmp_path / "set").frames("episode_000000", np.array([0, 6, 11]))
        assert np.array_equal(shown[:, 0], wanted[[0, 6, 11]])
        film(video, turn)
