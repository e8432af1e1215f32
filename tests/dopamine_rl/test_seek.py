"""Frames found by their times are the frames that a complete decoding gives, whatever the codec and its key frames."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from dopamine_rl.episodes.seek import count_frames, frame_times, pictures_at
from dopamine_rl.episodes.video import read_pictures, write_video
from tests.videos import encode

COUNT = 40


@pytest.fixture(scope="module", params=["h264", "h264_reordered", "av1"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    pictures = np.repeat(rng.integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8), 8, axis=1).repeat(8, axis=2)
    path = tmp_path_factory.mktemp("videos") / f"{request.param}.mp4"
    codec, options = {
        "h264": ("libx264", {"g": "5", "bf": "0"}),
        "h264_reordered": ("libx264", {"g": "7", "bf": "3", "b_strategy": "0", "open_gop": "1"}),
        "av1": ("libsvtav1", {"g": "8", "preset": "12"}),
    }[request.param]
    encode(path, pictures, codec, **options)
    return path


@pytest.mark.parametrize("ids", [[0], [COUNT - 1], [3, 4, 5], [1, 20, 21, 39], list(range(COUNT)), [6, 7, 13, 14]])
def test_chosen_frames_are_those_of_a_complete_decoding(video: Path, ids: list[int]) -> None:
    whole, times = read_pictures(video), frame_times(video)
    assert len(whole) == len(times) == count_frames(video) == COUNT
    assert np.array_equal(pictures_at(video, times[ids], 1e-6), np.stack(whole)[ids])


def test_frames_are_found_by_the_nearest_time(video: Path) -> None:
    whole = read_pictures(video)
    found = pictures_at(video, np.array([0.31, 1.19]), tolerance_s=0.025)
    assert np.array_equal(found, [whole[3], whole[12]])


def test_a_time_without_a_frame_is_refused(video: Path) -> None:
    for time in (0.35, 4.0, -0.2):
        with pytest.raises(ValueError, match="no frame at"):
            pictures_at(video, [time], tolerance_s=0.025)


def test_little_beside_the_wanted_frames_is_decoded(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames far apart cost at most two groups of pictures, not all that lies between them."""
    decoded = 0

    class Counting:
        def __init__(self, container: av.container.InputContainer) -> None:
            self._container = container

        def seek(self, *args: object, **kwargs: object) -> None:
            self._container.seek(*args, **kwargs)  # type: ignore[arg-type]

        def decode(self, stream: av.VideoStream) -> object:
            nonlocal decoded
            for frame in self._container.decode(stream):
                decoded += 1
                yield frame

    from dopamine_rl.episodes import seek

    reader = seek._Reader

    def counting(container: av.container.InputContainer, *rest: object) -> object:
        return reader(Counting(container), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(seek, "_Reader", counting)
    pictures_at(video, np.array([0.2, 3.9]), tolerance_s=0.025)
    assert 2 <= decoded < COUNT / 2


def test_a_truncated_video_is_refused_or_has_the_frames_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="nvalid data"):
        frame_times(path)
    with av.open(str(tmp_path / "front.mp4"), "w", options={"movflags": "faststart"}) as container:
        path.write_bytes(whole)
        source = av.open(str(path))
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
        source.close()
    tables_first = (tmp_path / "front.mp4").read_bytes()
    path.write_bytes(tables_first[: len(tables_first) // 2])
    with pytest.raises(ValueError, match="cut short"):
        count_frames(path)
    assert 0 < len(frame_times(path)) < 9
