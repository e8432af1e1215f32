"""Messages between a robot's server and its clients: msgpack maps over TCP, each after its length (4 bytes).

    server → client   {"protocol": 1, "nonce": bytes}
    client → server   {"kind": "hello", "n": 1, "proof": HMAC-SHA256(token, nonce), "rank", "name"}
    client → server   {"kind", "n", …}        n is one more in every message; anything else ends the connection
    server → client   {"n", "ok": true, …}    or {"n", "ok": false, "reason"}

The token itself is never sent, and a recorded hello fits no other nonce. Sizes are checked before anything is built.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from dopamine_rl.errors import BadInput, RobotLost, WireError

PROTOCOL = 1
REQUEST_BYTES = 1 << 16
"""Largest message to a server."""
REPLY_BYTES = 1 << 26
"""Largest message to a client: an observation with its pictures."""
MOST_ENTRIES = 1024
"""Of one map or list."""
MOST_DEPTH = 4
LENGTH = struct.Struct(">I")


def pack(message: Mapping[str, Any]) -> bytes:
    """A message with its length before it."""
    data = msgpack.packb(message)
    return LENGTH.pack(len(data)) + data


def unpack(data: bytes) -> dict[str, Any]:
    """The map that bytes hold. Raises WireError if they hold anything else, or too much of it."""
    size = len(data)
    try:
        message = msgpack.unpackb(
            data,
            strict_map_key=True,
            max_map_len=MOST_ENTRIES,
            max_array_len=MOST_ENTRIES,
            max_str_len=min(size, REQUEST_BYTES),
            max_bin_len=size,
            max_ext_len=0,
        )
    except Exception as error:  # msgpack has many for what is no msgpack
        raise WireError(f"not a message: {type(error).__name__}") from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise WireError("not a map with names")
    if _depth(message) > MOST_DEPTH:
        raise WireError("too deep")
    return message


def _depth(value: Any) -> int:
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max((_depth(part) for part in (value.values() if isinstance(value, dict) else value)), default=0)


def receive(connection: socket.socket, most_bytes: int) -> dict[str, Any]:
    """The next message. Raises RobotLost at the end of the connection, WireError for what is no message."""
    (size,) = LENGTH.unpack(_read(connection, LENGTH.size))
    if size > most_bytes:
        raise WireError(f"a message of {size} bytes: at most {most_bytes} are read")
    return unpack(_read(connection, size))


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 18))
        if not part:
            raise RobotLost("the connection was closed")
        data += part
    return bytes(data)


def proof(token: str, nonce: bytes) -> bytes:
    """What shows that a client knows the token."""
    return hmac.new(token.encode(), nonce, hashlib.sha256).digest()


def pack_observation(observation: Mapping[str, Any]) -> dict[str, Any]:
    """An observation as a part of a message: numbers, and pictures raw or as the JPEG that the driver gave."""
    numbers: dict[str, float] = {}
    pictures: dict[str, dict[str, Any]] = {}
    for name, value in observation.items():
        if isinstance(value, (bytes, bytearray)):
            pictures[name] = {"jpeg": bytes(value)}
        elif np.ndim(value) == 3:
            pixels = np.ascontiguousarray(value, np.uint8)
            pictures[name] = {"shape": list(pixels.shape), "data": pixels.tobytes()}
        else:
            numbers[name] = float(value)
    return {"numbers": numbers, "pictures": pictures}


def unpack_observation(message: Any) -> dict[str, Any]:
    """The observation that `pack_observation` wrote; its pictures are read-only. Raises WireError."""
    try:
        pictures = {name: _picture(part) for name, part in message["pictures"].items()}
        return {**{name: float(value) for name, value in message["numbers"].items()}, **pictures}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WireError(f"not an observation: {error}") from None


def _picture(part: Mapping[str, Any]) -> Any:
    if "jpeg" in part:
        return _decoded(part["jpeg"])
    return np.frombuffer(part["data"], np.uint8).reshape(part["shape"])


def _decoded(jpeg: bytes) -> Any:
    import io

    try:
        from PIL import Image
    except ImportError:
        raise BadInput("pictures", "JPEG", "pip install pillow on the client's side") from None
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def split_address(field: str, address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises BadInput."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 1 << 16:
        raise BadInput(field, address, "write HOST:PORT")
    return host.strip("[]"), int(port)
