"""Request and reply bodies of the HTTP ingress. Every size is checked before memory is allocated for it.

msgpack is the protocol of `dopamine_rl.wire`. JSON has the same fields as one flat object, without the envelope; arrays
hold their bytes as base64, and fields with a default may be left out. In both, a picture field may hold PNG or JPEG
files instead of an array: one file for [H, W, 3], a list of files for [V, H, W, 3], a list of lists for
[T, V, H, W, 3].
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, WireError
from dopamine_rl.types import FusionConfig, ScoreReply, ScoreRequest
from dopamine_rl.wire import WireLimits, brief, check_reply, encode_reply, open_message, read_request
from reward_service.pictures import PictureHeader, decode_picture, read_header
from reward_service.statuses import BodyTooLarge, Encoding, Media, encode

PICTURE_AXES = {"reference_start": 3, "reference_end": 3, "init": 4, "goal": 4, "previous": 4, "frames": 5}
"""The picture fields and their number of axes."""
JSON_FIELDS = (
    *("episode_id", "instruction", *PICTURE_AXES, "model_version", "times", "remaining_ms"),
    *("start_progress", "start_perspectives", "fusion"),
)
DEFAULT_REMAINING_MS = 10_000.0

GZIP, ZLIB, BARE = 31, 15, -15
"""zlib's `wbits` for the gzip header, the zlib header, and raw deflate (which some clients send as deflate)."""
INFLATED_BYTES = 1 << 20
"""Bodies are decompressed in pieces of this size, each reserved before the next."""

Reserve = Callable[[int], None]
"""Called with a number of bytes before they are allocated; raises if the memory limit is reached."""


def read_body(body: bytes | bytearray, media: Media, limits: WireLimits, reserve: Reserve) -> ScoreRequest:
    """Parse a request body.

    Args:
        reserve: called before pictures are decoded.
    Raises:
        WireError: the body is not a message of the protocol.
        BadInput: a field is invalid or exceeds `limits`.
        DopamineError: raised by `reserve`.
    """
    values = read_json(body, limits) if media == "json" else open_message(body, "request", limits, _containers(limits))
    return read_request(_with_pixels(values, limits, reserve), limits)


def decompress(body: bytes | bytearray, encoding: Encoding, limits: WireLimits, reserve: Reserve) -> bytes | bytearray:
    """Decompress a body.

    Args:
        reserve: called with the size of each piece before the next one is decompressed.
    Raises:
        BodyTooLarge: the decompressed body exceeds `limits.max_bytes`; raised before it is held in memory.
        WireError: the body is not exactly one complete stream of that encoding.
        DopamineError: raised by `reserve`.
    """
    if encoding == "identity":
        return body
    zlib_header = len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    stream = zlib.decompressobj(GZIP if encoding == "gzip" else ZLIB if zlib_header else BARE)
    plain, rest = bytearray(), bytes(body)
    try:
        while rest and not stream.eof:
            piece = stream.decompress(rest, INFLATED_BYTES)
            if len(plain) + len(piece) > limits.max_bytes:
                raise BodyTooLarge(f"the decompressed body exceeds {limits.max_bytes} bytes")
            reserve(len(piece))
            plain += piece
            rest = stream.unconsumed_tail
    except zlib.error as error:
        raise WireError(f"the body is not {encoding}, unlike its Content-Encoding: {error}") from None
    if not stream.eof or stream.unused_data:
        fault = "is truncated" if not stream.eof else "is followed by more data"
        raise WireError(f"the body's {encoding} stream {fault}: send one complete stream")
    return plain


def write_reply(reply: ScoreReply, media: Media) -> bytes:
    """Encode a reply; in JSON, missing numbers are null.

    Raises:
        BadInput: a value marked as valid is not finite or out of range.
    """
    if media == "msgpack":
        return encode_reply(reply)
    check_reply(reply)
    values: dict[str, Any] = {
        **{name: _numbers(getattr(reply, name)) for name in ("gain", "loss", "entropy", "hops")},
        "valid": reply.valid.tolist(),
        "reasons": list(reply.reasons),
        "anchor_times": [int(time) for time in reply.anchor_times],
        "model_version": reply.model_version,
        "queue_ms": float(reply.queue_ms),
        "model_ms": float(reply.model_ms),
        "folded": None,
    }
    if reply.folded is not None:
        values["folded"] = {
            **{name: _numbers(getattr(reply.folded, name)) for name in ("progress", "perspectives", "weight")},
            "valid": reply.folded.valid.tolist(),
        }
    return encode(values, "json")


def read_json(body: bytes | bytearray, limits: WireLimits) -> dict[str, Any]:
    """Parse a JSON request into the fields of `read_request`; picture files stay encoded.

    Raises:
        WireError: not JSON, or not within the limits.
        BadInput: a field is unknown, or a text cannot be encoded.
    """
    if len(body) > limits.max_bytes:
        raise WireError(f"message of {len(body)} bytes: send at most {limits.max_bytes}")
    # Counted before parsing: a parsed list or number takes up to sixty times its size on the wire.
    containers, commas = body.count(b"[") + body.count(b"{"), body.count(b",")
    most_commas = _containers(limits) + limits.max_text + limits.max_frames * limits.max_views
    if containers > _containers(limits) or commas > most_commas:
        raise WireError(f"{containers} lists and objects, {commas} commas: more than any valid request has")
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {str(error)[:200]}") from None
    if not isinstance(values, dict):
        raise WireError(f"not a JSON object but a {type(values).__name__}")
    for name in values:
        if name not in JSON_FIELDS:
            raise BadInput(brief(name), "(unknown)", f"remove it, or use one of {', '.join(JSON_FIELDS)}")
    return _fill_defaults({name: _decode_value(name, value) for name, value in values.items()})


def _containers(limits: WireLimits) -> int:
    """Upper bound of lists and maps in a valid request: two per frame, and some more."""
    return 2 * limits.max_frames + 64


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _decode_value(name: str, value: Any) -> Any:
    """Decode an array's base64; check that text can be encoded as UTF-8."""
    if isinstance(value, str) and name not in PICTURE_AXES:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise BadInput(name, "half a surrogate pair", "give complete characters") from None
    if name in PICTURE_AXES and isinstance(value, dict):
        return {"dtype": "|u1", **value, "data": _from_base64(name, value.get("data"))}
    return value


def _fill_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults of fields that were left out."""
    frames = values.get("frames")
    if "times" not in values and frames is not None:
        shape = frames.get("shape") if isinstance(frames, dict) else [len(frames)] if isinstance(frames, list) else None
        count = shape[0] if isinstance(shape, list) and shape else 0
        values["times"] = list(range(1, 1 + min(count, 1 << 16))) if type(count) is int else []
    fusion = values.pop("fusion", None) or {}
    default_fusion = asdict(FusionConfig())
    if not isinstance(fusion, dict) or set(fusion) - set(default_fusion):
        raise BadInput("fusion", brief(fusion), f"give an object with any of {', '.join(default_fusion)}")
    defaults = {"model_version": None, "start_progress": None, "remaining_ms": DEFAULT_REMAINING_MS}
    return {**defaults, **values, "fusion": {**default_fusion, **fusion}}


def _from_base64(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise BadInput(name, brief(text), "give bytes as base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise BadInput(name, brief(text), "give bytes as base64 text") from None


def _numbers(values: NDArray[np.float32]) -> list[Any]:
    """A float array as nested lists; NaN and infinity become None."""
    plain = np.asarray(values, np.float64).astype(object)
    plain[~np.isfinite(values)] = None
    return plain.tolist()


def _with_pixels(values: Mapping[str, Any], limits: WireLimits, reserve: Reserve) -> dict[str, Any]:
    """Replace picture files by raw pixels. All headers are read before the first file is decoded."""
    plans = {
        name: _plan(name, values[name], axes, limits)
        for name, axes in PICTURE_AXES.items()
        if isinstance(values.get(name), (bytes, str, list))
    }
    total = sum(math.prod(shape) for _, shape in plans.values())
    if total > limits.max_bytes:
        raise BadInput("pictures", f"{total} bytes of pixels", f"give at most {limits.max_bytes} in one request")
    reserve(2 * total)
    decoded = dict(values)
    for name, (files, shape) in plans.items():
        pixels = b"".join(decode_picture(name, data, header).tobytes() for data, header in files)
        decoded[name] = {"dtype": "|u1", "shape": list(shape), "data": pixels}
    return decoded


def _plan(
    name: str, value: Any, axes: int, limits: WireLimits
) -> tuple[list[tuple[bytes, PictureHeader]], tuple[int, ...]]:
    """A field's files with their headers, and the shape of the decoded array."""
    files, outer_shape = _flatten(name, value, axes - 3, limits)
    headers = [read_header(name, data) for data in files]
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) != 1:
        raise BadInput(name, f"pictures of {len(sizes)} sizes", "give pictures of the same size")
    [(height, width)] = sizes
    if height * width > limits.max_pixels:
        raise BadInput(name, (height, width), f"give pictures of at most {limits.max_pixels} pixels")
    return list(zip(files, headers, strict=True)), (*outer_shape, height, width, 3)


def _flatten(name: str, value: Any, levels: int, limits: WireLimits) -> tuple[list[bytes], tuple[int, ...]]:
    """Flatten `levels` nested lists of files; the lists of a level must have the same length."""
    if levels == 0:
        if isinstance(value, str):
            value = _from_base64(name, value)
        if not isinstance(value, bytes):
            raise BadInput(name, brief(value), "give a PNG or JPEG file here")
        return [value], ()
    most = limits.max_frames if levels == 2 else limits.max_views
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise BadInput(name, brief(value), f"give a list of 1 to {most} {'frames' if levels == 2 else 'views'}")
    parts = [_flatten(name, part, levels - 1, limits) for part in value]
    shapes = {shape for _, shape in parts}
    if len(shapes) != 1:
        raise BadInput(name, f"frames of {len(shapes)} shapes", "give the same number of views in every frame")
    return [data for files, _ in parts for data in files], (len(value), *shapes.pop())
