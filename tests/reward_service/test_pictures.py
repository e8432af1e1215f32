"""Picture files: what they will cost is known from their headers, and only what keeps every pixel is taken."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from dopamine_rl.errors import BadInput
from reward_service.pictures import PictureHeader, decode_picture, read_header
from tests.reward_service.bodies import file_of

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    """A PNG whose header says anything."""
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
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(buffer, "JPEG")
    with pytest.raises(BadInput, match="4 channels"):
        read_header("goal", buffer.getvalue())


@pytest.mark.parametrize("data", [file_of(PIXELS)[:-30], png_of(9, 6, data=b"rubbish"), file_of(PIXELS, "JPEG")[:-40]])
def test_damaged_pixels_are_no_picture(data: bytes) -> None:
    header = read_header("goal", data)
    with pytest.raises(BadInput, match="undamaged"):
        decode_picture("goal", data, header)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_come_upright_as_their_own_library_shows_them(kind: str, orientation: int) -> None:
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:8, :16], pixels[8:, :16], pixels[:8, 32:] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(pixels, kind, exif=exif)
    header = read_header("f", data)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert (header.height, header.width) == wanted.shape[:2]
    np.testing.assert_array_equal(decode_picture("f", data, header), wanted)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"II",
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03",
        b"x" * 400,
    ],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_damaged_exif_turns_nothing(kind: str, exif: bytes) -> None:
    data = file_of(PIXELS, kind)
    if kind == "JPEG":
        block = b"Exif\0\0" + exif
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + data[2:]
    else:
        data = data[:33] + chunk(b"eXIf", exif) + data[33:]
    header = read_header("f", data)
    assert (header.height, header.width, header.orientation) == (6, 9, 1)
    assert decode_picture("f", data, header).shape == (6, 9, 3)


@pytest.mark.parametrize(
    ("added", "fix"),
    [
        (chunk(b"tRNS", b"\0" * 6), "without transparency"),
        (chunk(b"acTL", b"\0" * 8), "one picture"),
        (chunk(b"teSt", b"") * 5000, "ordinary PNG"),
    ],
)
def test_chunks_that_change_what_is_shown_are_refused(added: bytes, fix: str) -> None:
    data = file_of(PIXELS)
    with pytest.raises(BadInput, match=fix):
        read_header("f", data[:33] + added + data[33:])


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "P", "PA", "I;16", "CMYK"])
def test_other_modes_are_refused_by_their_header(mode: str) -> None:
    buffer = io.BytesIO()
    kind = "JPEG" if mode == "CMYK" else "PNG"
    Image.new("LA" if mode == "PA" else mode, (8, 8)).save(buffer, kind)
    with pytest.raises(BadInput, match="8-bit"):
        read_header("f", buffer.getvalue())


def test_reading_the_header_of_a_bomb_costs_nothing() -> None:
    bomb = png_of(1 << 30, 1 << 30, data=zlib.compress(bytes(10 << 20)))
    tracemalloc.start()
    assert read_header("goal", bomb) == PictureHeader("PNG", 1 << 30, 1 << 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000
