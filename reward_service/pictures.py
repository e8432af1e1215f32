"""JPEG and PNG files as pictures. What a file will cost is read from its header, before any pixel is decoded.

Orientation tags are ignored: pixels come as they are stored. Only what cameras write is taken: 8-bit RGB or grey, so that
nothing is silently dropped (alpha) or squeezed (16 bits).
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dopamine_rl.errors import BadInput

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_SCANS = 24
"""Scans of one JPEG. Each costs a pass over all pixels, however few bytes it has; a usual progressive file has ten."""
MAX_SEGMENTS = 64
"""Marker segments before a JPEG's size; a camera writes about ten."""
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended, progressive; the others are lossless or arithmetic."""


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """What a file says of itself.

    Args:
        kind: "PNG" or "JPEG".
        height, width: pixels.
    """

    kind: str
    height: int
    width: int


def read_header(name: str, data: bytes) -> PictureHeader:
    """Return the size of a picture file from its first bytes; decodes nothing.

    Args:
        name: the field, for the error.
    Raises:
        BadInput: neither PNG nor JPEG, cut off, or of a kind that is not taken.
    """
    if data.startswith(PNG_MAGIC):
        header = _read_png(name, data)
    elif data.startswith(JPEG_MAGIC):
        header = _read_jpeg(name, data)
    else:
        raise BadInput(name, data[:12], "give the bytes of a PNG or JPEG file, or an array of raw pixels")
    if header.height == 0 or header.width == 0:
        raise BadInput(name, (header.height, header.width), "give a picture with at least one pixel")
    return header


def decode_picture(name: str, data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Return uint8 [H, W, 3], RGB, of a file whose header was accepted.

    Raises:
        BadInput: the pixels cannot be read, or are not those that the header announced.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[header.kind]) as image:
            if image.size != (header.width, header.height) or image.mode not in ("RGB", "L"):
                raise ValueError(f"{image.mode} of {image.size}")
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # A decoder fails in many ways; every one means that this file is no picture.
        raise BadInput(name, f"{type(error).__name__}: {error}"[:100], "give a whole, undamaged picture file") from None
    return pixels


def _read_png(name: str, data: bytes) -> PictureHeader:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise BadInput(name, data[:16], "give a whole PNG file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or colour not in (0, 2):
        raise BadInput(name, f"{depth} bits, PNG colour type {colour}", "save it as 8-bit RGB or grey, without alpha")
    return PictureHeader("PNG", height, width)


def _read_jpeg(name: str, data: bytes) -> PictureHeader:
    position = 2
    for _ in range(MAX_SEGMENTS):
        marker, length = data[position : position + 2], data[position + 2 : position + 4]
        if len(length) < 2 or marker[0] != 0xFF:
            break
        if marker[1] in START_OF_FRAME:
            return _read_frame(name, data, position)
        position += 2 + max(2, int.from_bytes(length, "big"))
    raise BadInput(name, f"{len(data)} bytes", "give a whole JPEG file: its size cannot be found")


def _read_frame(name: str, data: bytes, position: int) -> PictureHeader:
    if len(data) < position + 10:
        raise BadInput(name, f"{len(data)} bytes", "give a whole JPEG file")
    bits, height, width, components = struct.unpack(">BHHB", data[position + 4 : position + 10])
    if data[position + 1] not in DECODABLE_FRAMES or bits != 8 or components not in (1, 3):
        kind = f"frame type {data[position + 1]:#x}, {bits} bits, {components} channels"
        raise BadInput(name, kind, "save it as an ordinary 8-bit RGB or grey JPEG")
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise BadInput(name, f"more than {MAX_SCANS} scans", "save it as an ordinary JPEG")
    return PictureHeader("JPEG", height, width)
