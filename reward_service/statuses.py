"""Maps errors to HTTP responses and back: one table, used by the ingress and by its client.

An error's body is {"error": {"type", "message", "field", "value", "fix"}} in the media type of the request; the last
three only for errors about a field.

status  type                                       when
400     WireError, AmbiguousLength                 not a message of this protocol: magic, truncation, nesting, NaN
401     Unauthorized                               no token, or another one
404/405 NotFound, MethodNotAllowed                 no such address
408     SlowBody                                   the body did not arrive in time
409     VersionUnavailable, TowerUnavailable       the wanted model version is not served; send pictures, not tokens
413     BodyTooLarge                               more bytes than are taken
415     UnsupportedMedia, UnsupportedEncoding      neither msgpack nor JSON; compressed in a way that is not taken
422     BadInput                                   a field holds a value that cannot be used
431     HeadTooLarge                               more headers than any request needs
429     RateLimited (an Overloaded)                too many requests a second; Retry-After says when
500     InternalError                              a fault of the service
503     Overloaded, ServiceUnavailable             the queue is full; no replica answers. Retry-After says when
504     ScoringTimeout                             the request's own time passed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgpack

from dopamine_rl.errors import (
    BadInput,
    DopamineError,
    Overloaded,
    ScoringTimeout,
    ServiceUnavailable,
    TowerUnavailable,
    VersionUnavailable,
    WireError,
)

Media = Literal["msgpack", "json"]
MEDIA_TYPES: dict[Media, str] = {"msgpack": "application/msgpack", "json": "application/json"}

Encoding = Literal["identity", "gzip", "deflate"]
ENCODINGS: tuple[Encoding, ...] = ("gzip", "deflate", "identity")
"""Accepted encodings of a body; `identity` is uncompressed."""

MAX_ERROR_TEXT = 500
"""Characters of an error message in a response; a message may quote megabytes of the request."""


class Unauthorized(DopamineError):
    """No token, or another one."""


class NotFound(DopamineError):
    """No such address."""


class MethodNotAllowed(DopamineError):
    """The address takes another method."""


class BodyTooLarge(WireError):
    """More bytes than are taken."""


class HeadTooLarge(WireError):
    """More headers than any request needs."""


class AmbiguousLength(WireError):
    """A body whose end is said in two ways."""


class UnsupportedMedia(WireError):
    """A body that is neither msgpack nor JSON."""


class UnsupportedEncoding(WireError):
    """A body that is compressed in a way that is not taken."""


class SlowBody(ScoringTimeout):
    """The body did not arrive in time."""


class RateLimited(Overloaded):
    """Too many requests a second.

    Args:
        retry_after_s: when the next one will be taken.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


STATUSES: tuple[tuple[type[DopamineError], int], ...] = (
    (Unauthorized, 401),
    (NotFound, 404),
    (MethodNotAllowed, 405),
    (SlowBody, 408),
    (VersionUnavailable, 409),
    (TowerUnavailable, 409),
    (BodyTooLarge, 413),
    (UnsupportedMedia, 415),
    (UnsupportedEncoding, 415),
    (HeadTooLarge, 431),
    (AmbiguousLength, 400),
    (WireError, 400),
    (BadInput, 422),
    (RateLimited, 429),
    (Overloaded, 503),
    (ServiceUnavailable, 503),
    (ScoringTimeout, 504),
)
"""The first matching class decides, so subclasses come before their bases."""

_TYPES = {error.__name__: error for error, _ in STATUSES}


def status_of(error: Exception) -> int:
    """The HTTP status of an error; 500 if it is not in the table."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def retry_after_s(error: Exception) -> int | None:
    """Seconds after which a retry makes sense, for the Retry-After header; None if it does not."""
    if isinstance(error, RateLimited):
        return max(1, math.ceil(error.retry_after_s))
    return 1 if isinstance(error, (Overloaded, ServiceUnavailable)) else None


def describe_error(error: Exception) -> dict[str, Any]:
    """The body of an error response. Unknown errors are reported without details."""
    name = next((kind.__name__ for kind, _ in STATUSES if isinstance(error, kind)), None)
    if name is None:
        return {"error": {"type": "InternalError", "message": "the service failed on this request; its log says why"}}
    described = {"type": name, "message": _cut(str(error))}
    if isinstance(error, BadInput):
        described |= {"field": _cut(error.field), "value": _cut(repr(error.value)), "fix": _cut(error.fix)}
    return {"error": described}


def encode(value: Mapping[str, Any], media: Media) -> bytes:
    """Encode a plain value."""
    if media == "msgpack":
        packed: bytes = msgpack.packb(value)
        return packed
    return json.dumps(value, allow_nan=False).encode()


def error_from(status: int, body: bytes, media_type: str) -> DopamineError:
    """The error of a response; a response that cannot be parsed is a ServiceUnavailable with its status."""
    described = _read_error(body, media_type)
    message = str(described.get("message", ""))
    kind = _TYPES.get(str(described.get("type")))
    if kind is None:
        return ServiceUnavailable(f"the service answered with status {status}. {message}".strip())
    if kind is BadInput:
        field, value, fix = (str(described.get(name, "")) for name in ("field", "value", "fix"))
        return BadInput(field, Verbatim(value), fix)
    if kind is Unauthorized:
        return ServiceUnavailable(f"the service refused the token: {message}")
    return kind(message)


class Verbatim(str):
    """A value of which only the `repr` is known."""

    __slots__ = ()
    __repr__ = str.__str__


def _read_error(body: bytes, media_type: str) -> Mapping[str, Any]:
    try:
        answer = msgpack.unpackb(body) if MEDIA_TYPES["msgpack"] in media_type else json.loads(body)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return {}
    described = answer.get("error") if isinstance(answer, dict) else None
    return described if isinstance(described, dict) else {}


def _cut(text: str) -> str:
    """Cut to MAX_ERROR_TEXT characters, and escape those that UTF-8 cannot encode."""
    return text[:MAX_ERROR_TEXT].encode("utf-8", "backslashreplace").decode()
