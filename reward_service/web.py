"""The HTTP server of the ingress: sockets, connections, TLS, and their limits."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from typing import Any, Literal

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from dopamine_rl.addresses import is_loopback
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from reward_service.guards import IngressConfig, client_name, load_tls
from reward_service.ingress import HEAD_BYTES, make_app

CLOSE_S = 2.0
"""Time limit for sending the last bytes of a connection that is being closed."""

REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
"""Response to a connection beyond the limit."""

Phase = Literal["handshake", "head", "idle", "rest", "answer", "closing"]
"""What a connection waits for: TLS, a request's head, the next request, an unread body, our response, its close."""


class _Connections:
    """Counts open connections, in total and per client. For one event loop."""

    def __init__(self, config: IngressConfig) -> None:
        self._most, self._most_per_client = config.max_connections, config.max_connections_per_client
        self._open: Counter[str] = Counter()

    def enter(self, client: str) -> bool:
        """Count a connection; False, without counting it, if it exceeds a limit."""
        if self._open.total() >= self._most or self._open[client] >= self._most_per_client:
            return False
        self._open[client] += 1
        return True

    def leave(self, client: str) -> None:
        """Uncount a connection."""
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]


class _Protocol(H11Protocol):
    """HTTP/1.1 with a fixed deadline for every phase that waits for the client; received data does not extend it.

    The transport is always accepted without TLS first, so a connection counts, and its deadline runs, from its first
    packet on, and not from the end of a TLS handshake that may never complete.
    """

    def __init__(
        self, limits: IngressConfig, tls: ssl.SSLContext | None, connections: _Connections, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._limits, self._tls, self._open = limits, tls, connections
        self._bare: asyncio.Transport
        self._client_name: str | None = None
        self._phase: Phase | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._handshake: asyncio.Task[None] | None = None
        self._early = bytearray()
        self._ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._bare = transport
        address = transport.get_extra_info("peername")
        client = client_name(str(address[0]) if address else "")
        if not self._open.enter(client):
            if self._tls is None:
                transport.write(REFUSAL)
            self._enter("closing")
            transport.close()
            return
        self._client_name = client
        if self._tls is None:
            self._begin(transport)
        else:
            self._enter("handshake")
            self._handshake = self.loop.create_task(self._secure(transport, self._tls))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._deadline, self._unread):
            if timer is not None:
                timer.cancel()
        if self._client_name is not None:
            self._open.leave(self._client_name)
            self._client_name = None
        if self.transport is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:  # The handshake's last packet may bring the first of the request.
            self._early += data
            return
        super().data_received(data)
        self._look()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. One that waits for its responses gets them; TLS has no half-open connections."""
        self._ended = True
        return self._tls is None and self._phase == "answer" and self.conn.their_state is h11.DONE

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.write_s, self._bare.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    async def _secure(self, bare: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Start TLS before HTTP; a handshake that fails or times out closes the connection."""
        try:
            secured = await self.loop.start_tls(
                bare,
                self,
                tls,
                server_side=True,
                ssl_handshake_timeout=self._limits.head_s,
                ssl_shutdown_timeout=CLOSE_S,
            )
        except (OSError, asyncio.CancelledError):
            secured = None
        if secured is None or secured.is_closing():
            bare.abort()
            self.connection_lost(None)
            return
        self._begin(secured)
        early, self._early = bytes(self._early), bytearray()
        if early:
            self.data_received(early)

    def _begin(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._enter("head")

    def _look(self) -> None:
        """Determine the connection's current phase."""
        if self._ended and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
        if self.transport.is_closing():
            self._enter("closing")
        elif self.cycle is not None and not self.cycle.response_complete:
            self._enter("answer")  # Receiving the body, scoring and sending the response have their own deadlines.
        elif self.conn.their_state is not h11.IDLE:
            self._enter("rest")
        elif self.conn.trailing_data[0] or self.cycle is None:
            self._enter("head")
        else:
            self._enter("idle")

    def _enter(self, phase: Phase) -> None:
        """Enter a phase and start its deadline; the deadline of an unchanged phase keeps running."""
        if phase == self._phase:
            return
        self._phase = phase
        if self._deadline is not None:
            self._deadline.cancel()
        head_s, idle_s = self._limits.head_s, self._limits.idle_s
        limits = {"head": head_s, "rest": head_s, "idle": idle_s, "closing": CLOSE_S}
        if phase in limits:
            self._deadline = self.loop.call_later(limits[phase], self._end)

    def _end(self) -> None:
        """Close the connection; abort it if closing takes too long because the client does not read."""
        if self._phase == "closing":
            self._bare.abort()
        else:
            self._enter("closing")
            self.transport.close()


def make_server(
    client: RewardClient, config: IngressConfig, token: str | None, bound: socket.socket | None = None
) -> tuple[uvicorn.Server, list[socket.socket]]:
    """Make a server of the ingress and its listening sockets; `server.run(sockets)` serves until interrupted.

    Args:
        client, config, token: as for `make_app`.
        bound: from `bind`; None binds now.
    Raises:
        BadInput: as `serve_app`.
    """
    return serve_app(make_app(client, config, token), config, token is not None, bound)


def serve_app(
    app: ASGIApp, config: IngressConfig, has_token: bool, bound: socket.socket | None = None
) -> tuple[uvicorn.Server, list[socket.socket]]:
    """Make a server of any web application, with the connections and TLS of a configuration; and its sockets.

    Args:
        has_token: the application asks for a token.
        bound: from `bind`; None binds now.
    Raises:
        BadInput: the host is public without a token or TLS, the certificate is invalid, or the address is in use.
    """
    if not has_token and not is_loopback(config.host):
        raise BadInput("--host", config.host, "give a token, or listen on 127.0.0.1 only")
    tls, connections = load_tls(config), _Connections(config)

    class Protocol(_Protocol):
        """The protocol with this server's limits; uvicorn makes one per connection."""

        def __init__(self, **arguments: Any) -> None:
            super().__init__(config, tls, connections, **arguments)

    settings = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        # Clients are identified by their connection's address: a forged header would get its own rate limit.
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=int(config.idle_s) + 1,
        timeout_graceful_shutdown=3,
        workers=1,
    )
    return uvicorn.Server(settings), [_listen(bound or bind(config), config)]


def bind(config: IngressConfig) -> socket.socket:
    """Take the address, without listening yet: clients are refused until the server runs.

    Raises:
        BadInput: it is in use, or not an address of this machine.
    """
    # The name's meaning is the system's to change, and `is_loopback` has promised loopback.
    host = "127.0.0.1" if config.host == "localhost" else config.host.strip("[]")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, config.port))
    except (OSError, UnicodeError) as error:
        bound.close()
        raise _address_error(config, error) from None
    return bound


def _listen(bound: socket.socket, config: IngressConfig) -> socket.socket:
    try:
        bound.listen(128)
    except OSError as error:  # another program that took the address, too, listens already
        bound.close()
        raise _address_error(config, error) from None
    return bound


def _address_error(config: IngressConfig, error: OSError | UnicodeError) -> BadInput:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return BadInput("--port", config.port, "another program listens there: give another port, or 0 for a free one")
    if code == errno.EACCES:
        return BadInput("--port", config.port, "give a port of at least 1024: lower ones need root")
    why = error.strerror if isinstance(error, OSError) else error
    return BadInput("--host", config.host, f"give an address of this machine, such as 127.0.0.1 or 0.0.0.0 ({why})")
