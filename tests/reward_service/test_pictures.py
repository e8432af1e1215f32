"""Picture files: what they will cost is known from their headers, and only what keeps every pixel is taken."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from dopamine_rl.errors import BadInput
from reward_service.pictures import PictureHeader, decode_picture, read_header
from tests.reward_service.bodies import file_of

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG whose header says anything."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_png_comes_back_as_it_went() -> None:
    data = file_of(PIXELS)
    header = read_header("frames", data)
    assert header == PictureHeader("PNG", 6, 9)
    np.testing.assert_array_equal(decode_picture("frames", data, header), PIXELS)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"exif": b"Exif\0\0" + b"x" * 500}])
def test_jpeg_is_what_its_own_library_reads(options: dict) -> None:
    pixels = np.full((40, 56, 3), (200, 30, 90), np.uint8)
    data = file_of(pixels, "JPEG", quality=95, **options)
    header = read_header("frames", data)
    assert header == PictureHeader("JPEG", 40, 56)
    assert np.abs(decode_picture("frames", data, header).astype(int) - pixels).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_is_repeated_for_each_colour(kind: str) -> None:
    grey = np.full((8, 8), 77, np.uint8)
    data = file_of(grey, kind)
    np.testing.assert_array_equal(decode_picture("f", data, read_header("f", data)), np.full((8, 8, 3), 77, np.uint8))


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        (b"", "PNG or JPEG"),
        (b"GIF89a" + b"\0" * 40, "PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "whole PNG"),
        (file_of(PIXELS)[:20], "whole PNG"),
        (png_of(0, 4), "at least one pixel"),
        (png_of(4, 4, depth=16), "8-bit RGB"),
        (png_of(4, 4, colour=6), "without alpha"),
        (png_of(4, 4, colour=3), "8-bit RGB"),
        (b"\xff\xd8\xff", "whole JPEG"),
        (file_of(PIXELS, "JPEG")[:40], "whole JPEG"),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 10_000, "whole JPEG"),
        (b"\xff\xd8\xff\xc3\x00\x0b\x08\x00\x08\x00\x08\x03\x01", "ordinary 8-bit"),
        (b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x08\x00\x08\x04\x01", "ordinary 8-bit"),
        (file_of(PIXELS, "JPEG") + b"\xff\xda" * 30, "ordinary JPEG"),
    ],
)
def test_what_is_not_taken_is_refused_by_its_header(data: bytes, fix: str) -> None:
    with pytest.raises(BadInput, match=fix) as caught:
        read_header("goal", data)
    assert caught.value.field == "goal"


def test_four_channel_jpeg_is_refused() -> None:
    import io

    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    with pytest.raises(BadInput, match="4 channels"):
        read_header("goal", buffer.getvalue())


@pytest.mark.parametrize("data", [file_of(PIXELS)[:-30], png_of(9, 6, data=b"rubbish"), file_of(PIXELS, "JPEG")[:-40]])
def test_damaged_pixels_are_no_picture(data: bytes) -> None:
    header = read_header("goal", data)
    with pytest.raises(BadInput, match="undamaged"):
        decode_picture("goal", data, header)


def test_reading_the_header_of_a_bomb_costs_nothing() -> None:
    bomb = png_of(1 << 30, 1 << 30, data=zlib.compress(bytes(10 << 20)))
    tracemalloc.start()
    assert read_header("goal", bomb) == PictureHeader("PNG", 1 << 30, 1 << 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000
