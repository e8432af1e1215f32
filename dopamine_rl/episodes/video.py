"""Videos whose frame k is picture k: lossless writing, complete decoding."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from dopamine_rl.types import Views


def write_video(path: Path, pictures: Views, frames_per_second: int = 5, lossless: bool = True) -> None:
    """Write uint8 [F, H, W, 3] as an h264 mp4; frame k is picture k.

    Args:
        lossless: RGB without loss, for data; else in the colours that every player understands (H and W even).
    """
    if lossless:
        codec, pixels, options = "libx264rgb", "rgb24", {"qp": "0", "preset": "veryfast"}
    else:
        codec, pixels, options = "libx264", "yuv420p", {"crf": "18"}
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=frames_per_second, options=options))
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def read_pictures(
    path: Path, wanted: set[int] | None = None, size: tuple[int, int] | None = None
) -> tuple[int, list[NDArray[np.uint8]]]:
    """Decode a whole video; containers' own frame counts are not to be trusted.

    Args:
        path: of the video.
        wanted: ids of the frames to keep, from 0; None keeps all.
        size: (height, width) to scale pictures to; None keeps them as they are.
    Returns:
        The number of frames in the video, and the pictures kept, uint8 [H, W, 3] each.
    Raises:
        ValueError: the file is no video that can be decoded.
    """
    height, width = size or (None, None)
    pictures: list[NDArray[np.uint8]] = []
    count = 0
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].thread_count = 1
            for frame in container.decode(video=0):
                if wanted is None or count in wanted:
                    picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
                    pictures.append(cast(NDArray[np.uint8], picture))
                count += 1
    except (OSError, IndexError, av.FFmpegError) as error:
        raise ValueError(str(error)) from error
    return count, pictures
