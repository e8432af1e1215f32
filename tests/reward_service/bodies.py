"""Good JSON and msgpack bodies of one request, for tests to damage."""

from __future__ import annotations

import base64
import io
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dopamine_rl.types import ScoreRequest
from dopamine_rl.wire import encode_request
from reward_service.bodies import PICTURE_AXES


def file_of(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """A picture file; lossless where it can be."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def arrays_of(request: ScoreRequest) -> dict[str, NDArray[np.uint8]]:
    """The request's fields of pictures."""
    return {name: getattr(request if hasattr(request, name) else request.context, name) for name in PICTURE_AXES}


def nested(pixels: NDArray[np.uint8], kind: str = "PNG", text: bool = True) -> Any:
    """Pictures as files in nested lists, in base64 or as bytes."""
    if pixels.ndim > 3:
        return [nested(part, kind, text) for part in pixels]
    data = file_of(pixels, kind)
    return base64.b64encode(data).decode() if text else data


def raw_array(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Pictures as an array with its bytes in base64."""
    return {"shape": list(pixels.shape), "data": base64.b64encode(pixels.tobytes()).decode()}


def json_fields(request: ScoreRequest, raw: bool = False, kind: str = "PNG") -> dict[str, Any]:
    """The fields of a JSON body."""
    context = request.context
    return {
        "episode_id": context.episode_id,
        "instruction": context.instruction,
        **{name: raw_array(p) if raw else nested(p, kind) for name, p in arrays_of(request).items()},
        "model_version": context.model_version,
        "times": list(request.times),
        "remaining_ms": request.remaining_ms,
        "start_progress": request.start_progress,
        "fusion": {"kind": "mean", "alpha": 20.0, "epsilon": 1e-6, "chain": "fused"},
    }


def msgpack_message(request: ScoreRequest, kind: str | None = None) -> dict[str, Any]:
    """A msgpack message as a plain value; with `kind` its pictures are files."""
    message: dict[str, Any] = msgpack.unpackb(encode_request(request))
    if kind is not None:
        message["body"] |= {name: nested(pixels, kind, text=False) for name, pixels in arrays_of(request).items()}
    return message
