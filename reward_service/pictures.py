"""Decodes JPEG and PNG files. Size and format are checked in the header, before any pixel is decoded.

The EXIF orientation is applied, as image viewers do. Only 8-bit RGB or grey images are accepted, so that nothing is
silently lost, such as alpha or 16-bit depth.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dopamine_rl.errors import BadInput

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAX_SCANS = 24
"""Limit of scans per JPEG. Each scan costs a pass over all pixels, however small it is; progressive files have ten."""
MAX_SEGMENTS = 64
"""Limit of marker segments before a JPEG's size; cameras write about ten."""
MAX_CHUNKS = 4096
"""Limit of chunks per PNG; encoders write one for every 8 KiB or more."""
REFUSED_CHUNKS = {b"tRNS": "without transparency", b"acTL": "as one picture, not as an animation"}
EXIF_PREFIX = b"Exif\0\0"
ORIENTATION_TAG, SHORT = 0x0112, 3
MAX_TAGS = 256
"""Limit of entries read from an EXIF directory; cameras write about fifteen."""
START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
DECODABLE_FRAMES = {0xC0, 0xC1, 0xC2}
"""Baseline, extended and progressive; the others are lossless or use arithmetic coding."""


@dataclass(frozen=True, slots=True)
class PictureHeader:
    """The header of an image file.

    Args:
        kind: "PNG" or "JPEG".
        height, width: pixels, after the orientation is applied.
        orientation: EXIF orientation of the stored pixels, 1 to 8.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1


def read_header(name: str, data: bytes) -> PictureHeader:
    """Read the header of an image file; decodes no pixels.

    Args:
        name: of the field, for error messages.
    Raises:
        BadInput: it is neither PNG nor JPEG, truncated, or in an unsupported format.
    """
    if data.startswith(PNG_MAGIC):
        header = _read_png(name, data)
    elif data.startswith(JPEG_MAGIC):
        header = _read_jpeg(name, data)
    else:
        raise BadInput(name, data[:12], "give the bytes of a PNG or JPEG file, or an array of raw pixels")
    if header.height == 0 or header.width == 0:
        raise BadInput(name, (header.height, header.width), "give a picture with at least one pixel")
    if header.orientation > 4:  # rotated by 90 degrees
        header = replace(header, height=header.width, width=header.height)
    return header


def decode_picture(name: str, data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Decode an image file with an accepted header to uint8 [H, W, 3], RGB, upright.

    Raises:
        BadInput: it cannot be decoded, or does not match its header.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[header.kind]) as image:
            stored = (header.width, header.height) if header.orientation <= 4 else (header.height, header.width)
            if image.size != stored or image.mode not in ("RGB", "L"):
                raise ValueError(f"{image.mode} of {image.size}")
            pixels = _upright(np.asarray(image.convert("RGB")), header.orientation)
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise BadInput(name, f"{type(error).__name__}: {error}"[:100], "give a whole, undamaged picture file") from None
    return pixels


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation.

    Source: Exif 2.32, tag 0x0112: the sides of the image that the stored row 0 and column 0 belong to.
    """
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF data; 1 if it is missing or invalid, as in image viewers."""
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"

    def number(position: int, size: int) -> int:
        return int.from_bytes(exif[position : position + size], order)

    if exif[:4] not in (b"II*\0", b"MM\0*"):
        return 1
    directory = number(4, 4)
    for index in range(min(number(directory, 2), MAX_TAGS)):
        entry = directory + 2 + 12 * index
        if number(entry, 2) == ORIENTATION_TAG and number(entry + 2, 2) == SHORT:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _read_png(name: str, data: bytes) -> PictureHeader:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise BadInput(name, data[:16], "give a whole PNG file")
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or colour not in (0, 2):
        raise BadInput(name, f"{depth} bits, PNG colour type {colour}", "save it as 8-bit RGB or grey, without alpha")
    return PictureHeader("PNG", height, width, _read_chunks(name, data))


def _read_chunks(name: str, data: bytes) -> int:
    """The orientation in a PNG's chunks. Raises BadInput for transparency and animation."""
    position, orientation = len(PNG_MAGIC), 1
    for _ in range(MAX_CHUNKS):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if kind in REFUSED_CHUNKS:
            raise BadInput(name, f"PNG with {kind.decode()}", f"save it {REFUSED_CHUNKS[kind]}")
        if kind == b"eXIf":
            orientation = _orientation(data[position + 8 : position + 8 + length])
        position += 12 + length
        if position >= len(data) or kind == b"IEND":
            return orientation
    raise BadInput(name, f"more than {MAX_CHUNKS} chunks", "save it as an ordinary PNG")


def _read_jpeg(name: str, data: bytes) -> PictureHeader:
    position, orientation = 2, None
    for _ in range(MAX_SEGMENTS):
        marker, length = data[position : position + 2], data[position + 2 : position + 4]
        if len(length) < 2 or marker[0] != 0xFF:
            break
        if marker[1] in START_OF_FRAME:
            return replace(_read_frame(name, data, position), orientation=orientation or 1)
        end = position + 2 + max(2, int.from_bytes(length, "big"))
        if marker[1] == 0xE1 and orientation is None and data.startswith(EXIF_PREFIX, position + 4):
            orientation = _orientation(data[position + 4 + len(EXIF_PREFIX) : end])
        position = end
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
