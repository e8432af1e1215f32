"""Encoding of requests and replies for clients outside the cluster: msgpack, versioned, bounded, never pickle.

A message is a map {"protocol", "version", "kind", "body"}; an array is a map {"dtype", "shape", "data"} with its bytes
in C order, little-endian. Decoding any bytes gives a value, a WireError (not a valid message) or a BadInput (a field
has an unusable value). Sizes are checked before an array is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, WireError
from dopamine_rl.progress import check_interval
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import (
    FUSIONS,
    PERSPECTIVES,
    EpisodeContext,
    FoldedProgress,
    FusionConfig,
    ScoreReply,
    ScoreRequest,
)

PROTOCOL, VERSION = "dopamine-reward", 1

MAX_CONTAINERS = 64
"""Most lists and maps in a message: an empty one takes one byte on the wire, but sixty in memory."""


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Upper limits of a message.

    Args:
        max_bytes: of the whole message.
        max_frames: T of a request or reply.
        max_views: V of a request.
        max_pixels: H × W of one picture.
        max_text: characters of one string.
    """

    max_bytes: int = 64 << 20
    max_frames: int = 256
    max_views: int = 16
    max_pixels: int = 1 << 21
    max_text: int = 10_000


DEFAULT_LIMITS = WireLimits()


def encode_request(request: ScoreRequest) -> bytes:
    """Encode a request; `decode_request` is the inverse."""
    context = request.context
    body: dict[str, Any] = {
        "episode_id": context.episode_id,
        "instruction": context.instruction,
        "reference_start": _pack(context.reference_start),
        "reference_end": _pack(context.reference_end),
        "init": _pack(context.init),
        "goal": _pack(context.goal),
        "model_version": context.model_version,
        "previous": _pack(request.previous),
        "frames": _pack(request.frames),
        "times": [int(time) for time in request.times],
        "remaining_ms": float(request.remaining_ms),
        "start_progress": None if request.start_progress is None else float(request.start_progress),
        "fusion": {
            "kind": request.fusion.kind,
            "alpha": float(request.fusion.alpha),
            "epsilon": float(request.fusion.epsilon),
            "chain": request.fusion.chain,
        },
    }
    if request.start_perspectives is not None:  # Omitted if unused, as older services expect.
        body["start_perspectives"] = [float(value) for value in request.start_perspectives]
    for name, tokens in (("previous_tokens", request.previous_tokens), ("frame_tokens", request.frame_tokens)):
        if tokens is not None:  # An older service refuses `previous` or `frames`, which then have no views.
            body[name] = {"tower": tokens.tower, "values": _pack(tokens.values)}
    return _encode("request", body)


def decode_request(data: bytes, limits: WireLimits = DEFAULT_LIMITS) -> ScoreRequest:
    """Decode a request. Its arrays are read-only.

    Raises:
        WireError: not a request of this protocol version, or larger than `limits.max_bytes`.
        BadInput: a field has an unusable value, or exceeds `limits`.
    """
    return read_request(open_message(data, "request", limits), limits)


def read_request(values: Mapping[str, Any], limits: WireLimits = DEFAULT_LIMITS) -> ScoreRequest:
    """Build a request from a message's body. Its arrays are read-only.

    Args:
        values: the fields as `encode_request` writes them.
    Raises:
        WireError: a field is missing or of the wrong type.
        BadInput: a field has an unusable value, or exceeds `limits`.
    """
    body = _Fields(values, limits)
    fusion = _Fields(body.take("fusion", dict), limits)
    context = EpisodeContext(
        episode_id=body.text("episode_id"),
        instruction=body.text("instruction"),
        reference_start=body.pictures("reference_start", 3),
        reference_end=body.pictures("reference_end", 3),
        init=body.pictures("init", 4),
        goal=body.pictures("goal", 4),
        model_version=None if body.take("model_version", str, type(None)) is None else body.text("model_version"),
    )
    return ScoreRequest(
        context=context,
        previous=body.pictures("previous", 4),
        frames=body.pictures("frames", 5),
        times=body.times("times", 0),
        remaining_ms=body.number("remaining_ms"),
        start_progress=None
        if body.take("start_progress", int, float, type(None)) is None
        else body.number("start_progress"),
        fusion=FusionConfig(
            kind=fusion.choice("kind", FUSIONS),
            alpha=fusion.number("alpha"),
            epsilon=fusion.number("epsilon"),
            chain=fusion.choice("chain", ("fused", "own")),
        ),
        start_perspectives=body.perspectives("start_perspectives"),
        previous_tokens=body.tokens("previous_tokens"),
        frame_tokens=body.tokens("frame_tokens"),
    )


def encode_reply(reply: ScoreReply) -> bytes:
    """Encode a reply; `decode_reply` is the inverse.

    Raises:
        BadInput: a value marked valid is not finite or out of range.
    """
    check_reply(reply)
    folded = reply.folded
    body = {
        "gain": _pack(np.asarray(reply.gain, np.float32)),
        "loss": _pack(np.asarray(reply.loss, np.float32)),
        "entropy": _pack(np.asarray(reply.entropy, np.float32)),
        "reasons": list(reply.reasons),
        "anchor_times": [int(time) for time in reply.anchor_times],
        "model_version": reply.model_version,
        "queue_ms": float(reply.queue_ms),
        "model_ms": float(reply.model_ms),
        "folded": None
        if folded is None
        else {
            "progress": _pack(np.asarray(folded.progress, np.float32)),
            "perspectives": _pack(np.asarray(folded.perspectives, np.float32)),
            "valid": _pack(np.asarray(folded.valid, np.uint8)),
            "weight": _pack(np.asarray(folded.weight, np.float32)),
        },
    }
    return _encode("reply", body)


def decode_reply(data: bytes, limits: WireLimits = DEFAULT_LIMITS) -> ScoreReply:
    """Decode a reply. Its arrays are read-only.

    Raises:
        WireError: not a reply of this protocol version, or larger than `limits.max_bytes`.
        BadInput: a field has an unusable value, or exceeds `limits`.
    """
    body = _Fields(open_message(data, "reply", limits), limits)
    reasons = body.take("reasons", list)
    if len(reasons) > limits.max_frames or not all(isinstance(r, str) and len(r) <= limits.max_text for r in reasons):
        raise BadInput("reasons", len(reasons), f"give at most {limits.max_frames} strings, one for each frame")
    T = len(reasons)
    reply = ScoreReply(
        gain=body.floats("gain", (T, len(PERSPECTIVES))),
        loss=body.floats("loss", (T, len(PERSPECTIVES))),
        entropy=body.floats("entropy", (T, len(PERSPECTIVES))),
        reasons=tuple(reasons),
        anchor_times=body.times("anchor_times", -1),
        model_version=body.text("model_version"),
        queue_ms=body.number("queue_ms"),
        model_ms=body.number("model_ms"),
        folded=_decode_folded(body.take("folded", dict, type(None)), T, limits),
    )
    check_reply(reply)
    return reply


def _decode_folded(values: Any, T: int, limits: WireLimits) -> FoldedProgress | None:
    if values is None:
        return None
    body = _Fields(values, limits)
    valid = body.array("valid", np.dtype(np.uint8), (T,))
    if np.any(valid > 1):
        raise BadInput("folded.valid", valid, "give 0 or 1 for each frame")
    return FoldedProgress(
        progress=body.floats("progress", (T,)),
        perspectives=body.floats("perspectives", (T, len(PERSPECTIVES))),
        valid=valid.astype(bool),
        weight=body.floats("weight", (T,)),
    )


def check_reply(reply: ScoreReply) -> None:
    """Raise BadInput unless shapes agree and all values of valid answers are finite and in range."""
    shape = (len(reply.reasons), len(PERSPECTIVES))
    for name, values in (("gain", reply.gain), ("loss", reply.loss), ("entropy", reply.entropy)):
        if np.shape(values) != shape:
            raise BadInput(name, np.shape(values), f"give one row of 3 for each of the {shape[0]} frames")
    if len(reply.anchor_times) != shape[0]:
        raise BadInput("anchor_times", len(reply.anchor_times), f"give one for each of the {shape[0]} frames")
    for name, values in (("gain", reply.gain), ("loss", reply.loss)):
        check_interval(name, values[reply.valid])
        check_interval(name, values[~np.isnan(values)])
    if np.any(np.isinf(reply.entropy)) or np.any(reply.entropy < 0):
        raise BadInput("entropy", reply.entropy, "give nats of at least 0, or NaN where unknown")
    folded = reply.folded
    if folded is None:
        return
    for name, values, size in (
        ("folded.progress", folded.progress, shape[:1]),
        ("folded.perspectives", folded.perspectives, shape),
        ("folded.weight", folded.weight, shape[:1]),
    ):
        if np.shape(values) != size:
            raise BadInput(name, np.shape(values), f"give {size}, as the reply has {shape[0]} frames")
        check_interval(name, values)
    if not np.array_equal(folded.valid, reply.valid):
        raise BadInput("folded.valid", folded.valid, "mark the frames invalid that have a reason, and no others")


def _encode(kind: str, body: dict[str, Any]) -> bytes:
    try:
        return msgpack.packb({"protocol": PROTOCOL, "version": VERSION, "kind": kind, "body": body})
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"the {kind} holds what cannot be sent: {error}") from error


def open_message(
    data: bytes | bytearray, kind: str, limits: WireLimits, max_containers: int = MAX_CONTAINERS
) -> dict[str, Any]:
    """Return the body of a message of this protocol, version and kind.

    Raises:
        WireError: not such a message, larger than `limits.max_bytes`, or with more than `max_containers` lists and
            maps.
    """
    if not isinstance(data, (bytes, bytearray)):
        raise WireError(f"give the message as bytes, not as {type(data).__name__}")
    if len(data) > limits.max_bytes:
        raise WireError(f"message of {len(data)} bytes: at most {limits.max_bytes} are taken")
    containers = 0

    def count(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > max_containers:
            raise ValueError(f"more than {max_containers} lists and maps")
        return container

    try:
        message = msgpack.unpackb(
            data,
            list_hook=count,
            object_hook=count,
            raw=False,
            max_map_len=64,
            max_array_len=max(limits.max_frames, 8),
            max_str_len=4 * max(limits.max_text, 64),
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise WireError(f"not a msgpack message within the limits: {reason}") from error
    if not isinstance(message, dict) or message.get("protocol") != PROTOCOL:
        raise WireError(f"not a {PROTOCOL} message")
    if type(message.get("version")) is not int or message["version"] != VERSION:
        raise WireError(f"protocol version {brief(message.get('version'))!r}: this side speaks version {VERSION}")
    if message.get("kind") != kind or not isinstance(message.get("body"), dict):
        raise WireError(f"a message of kind {brief(message.get('kind'))!r} where a {kind} is expected")
    return message["body"]


def brief(value: Any) -> Any:
    """Shorten a value for an error message: a client may send megabytes, and the repr is longer still."""
    if isinstance(value, (str, bytes)):
        return value[:100]
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, (list, dict)) else value


def _pack(array: NDArray[Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": little.data}


class _Fields:
    """Typed access to a decoded map. A missing or mistyped field raises WireError, an unusable value BadInput."""

    def __init__(self, values: Mapping[str, Any], limits: WireLimits) -> None:
        self._values, self._limits = values, limits

    def take(self, name: str, *kinds: type) -> Any:
        if name not in self._values:
            raise WireError(f"field {name!r} is missing")
        value = self._values[name]
        if type(value) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise WireError(f"field {name!r} is of type {type(value).__name__}, not {expected}")
        return value

    def text(self, name: str) -> str:
        value = self.take(name, str)
        if len(value) > self._limits.max_text:
            raise BadInput(name, f"{len(value)} characters", f"give at most {self._limits.max_text} characters")
        return value

    def number(self, name: str) -> float:
        value = self.take(name, int, float)
        if not math.isfinite(value) if type(value) is float else abs(value) >= 2**64:
            raise BadInput(name, value, "give a finite number")
        return float(value)

    def choice(self, name: str, options: tuple[str, ...]) -> Any:
        value = self.text(name)
        if value not in options:
            raise BadInput(name, brief(value), f"give one of {', '.join(options)}")
        return value

    def perspectives(self, name: str) -> tuple[float, float, float] | None:
        """Read one number per perspective; None if the field is omitted."""
        if self._values.get(name) is None:
            return None
        values = self.take(name, list)
        if len(values) != len(PERSPECTIVES):
            raise BadInput(name, len(values), f"give {len(PERSPECTIVES)} numbers, one for each perspective")
        numbers = _Fields({f"{name}[{index}]": value for index, value in enumerate(values)}, self._limits)
        first, second, third = (numbers.number(f"{name}[{index}]") for index in range(len(values)))
        return first, second, third

    def tokens(self, name: str) -> FrameTokens | None:
        """Read the tokens of frames, within the limits; None if the field is omitted."""
        if self._values.get(name) is None:
            return None
        limits, fields = self._limits, _Fields(self.take(name, dict), self._limits)
        shape = fields.shape("values")
        if (len(shape) == 4 and shape[0] > limits.max_frames) or (len(shape) > 2 and shape[-3] > limits.max_views):
            fix = f"give at most {limits.max_frames} frames of {limits.max_views} views"
            raise BadInput(f"{name}.values", shape, fix)
        dtype = _Fields(fields.take("values", dict), limits).choice("dtype", ("<f4", "<f2"))
        return FrameTokens(fields.text("tower"), fields.array("values", np.dtype(dtype), shape))

    def times(self, name: str, low: int) -> tuple[int, ...]:
        values = self.take(name, list)
        if len(values) > self._limits.max_frames:
            raise BadInput(name, len(values), f"give at most {self._limits.max_frames} frames")
        if not all(type(value) is int and low <= value < 2**53 for value in values):
            raise BadInput(name, [brief(value) for value in values], f"give whole environment steps, at least {low}")
        return tuple(values)

    def pictures(self, name: str, ndim: int) -> NDArray[np.uint8]:
        """Read uint8 [..., H, W, 3] with `ndim` axes, within the limits."""
        limits = self._limits
        shape = self.shape(name)
        if len(shape) != ndim:
            raise BadInput(name, shape, f"give an array of {ndim} axes")
        if shape[-3] * shape[-2] > limits.max_pixels:
            raise BadInput(name, shape, f"give pictures of at most {limits.max_pixels} pixels")
        if ndim > 3 and shape[-4] > limits.max_views:
            raise BadInput(name, shape, f"give at most {limits.max_views} views")
        if ndim > 4 and shape[0] > limits.max_frames:
            raise BadInput(name, shape, f"give at most {limits.max_frames} frames")
        return self.array(name, np.dtype(np.uint8), shape)

    def floats(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self.array(name, np.dtype("<f4"), shape)

    def array(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> NDArray[Any]:
        """Read an array of exactly this dtype and shape."""
        fields = _Fields(self.take(name, dict), self._limits)
        if self.shape(name) != shape:
            raise BadInput(name, self.shape(name), f"give shape {shape}")
        if fields.take("dtype", str) != dtype.str:
            raise BadInput(name, brief(fields.take("dtype", str)), f"give dtype {dtype.str}")
        data = fields.take("data", bytes)
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise WireError(f"field {name!r}: {len(data)} bytes do not fill shape {shape} of {dtype.str}")
        return np.frombuffer(data, dtype).reshape(shape)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        values = _Fields(self.take(name, dict), self._limits).take("shape", list)
        if len(values) > 5 or not all(type(value) is int and 0 <= value < 2**31 for value in values):
            raise WireError(f"field {name!r}: {[brief(value) for value in values[:5]]!r:.200} is no shape")
        return tuple(values)
