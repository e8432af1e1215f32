"""Videos as other programs write them."""

import multiprocessing
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np


def encode(path: Path, pictures: np.ndarray, codec: str = "libx264", pixels: str = "yuv420p", **options: str) -> None:
    """Write a video of 10 frames per second from uint8 [F, H, W, 3].

    AV1 is encoded in a process of its own: for root, SVT-AV1 makes the process that encodes a real-time one
    (SCHED_FIFO 99), children included, which would starve all others for the rest of the tests.
    """
    if codec != "libsvtav1":
        _encode(path, pictures, codec, pixels, options)
        return
    process = multiprocessing.get_context("spawn").Process(
        target=_encode, args=(path, pictures, codec, pixels, options)
    )
    process.start()
    process.join()
    assert process.exitcode == 0


def _encode(path: Path, pictures: np.ndarray, codec: str, pixels: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=Fraction(10), options=options))
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], pixels
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
