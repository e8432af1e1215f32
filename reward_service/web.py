"""The HTTP server that runs the ingress: sockets, connections and their bounds."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from reward_service.guards import IngressConfig, is_loopback
from reward_service.ingress import make_app

HEAD_BYTES = 16 << 10
HEAD_S = 10.0
"""What the head of a request may take: bytes, and time from the opening of its connection."""


class _Protocol(H11Protocol):
    """HTTP/1.1 that closes a connection which was opened and sends no request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle = self.loop.call_later(HEAD_S, self._close_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.cancel()
        super().connection_lost(exc)

    def _close_idle(self) -> None:
        if self.scope is None and not self.transport.is_closing():
            self.transport.close()


def make_server(
    client: RewardClient, config: IngressConfig, token: str | None
) -> tuple[uvicorn.Server, list[socket.socket]]:
    """A server and the sockets it is to run on, which listen already: `server.run(sockets)` answers until interrupted.

    Raises:
        BadInput: others could reach it and there is no token, or the address cannot be taken.
    """
    if token is None and not is_loopback(config.host):
        raise BadInput("host", config.host, "give a token, or listen on 127.0.0.1 only")
    settings = uvicorn.Config(
        make_app(client, config, token),
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        # The sender's address is that of its connection: a header that names another would get it a rate of its own.
        proxy_headers=False,
        limit_concurrency=config.max_connections,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        workers=1,
    )
    return uvicorn.Server(settings), [_listen(config)]


def _listen(config: IngressConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host.strip("[]"), config.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise BadInput("host, port", (config.host, config.port), f"give an address that is free: {error}") from None
    return listening
