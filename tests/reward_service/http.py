"""A reward service over HTTP within the test's own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dopamine_rl.interfaces import RewardClient
from reward_service.guards import IngressConfig
from reward_service.web import make_server
from tests.waiting import wait_until


@contextmanager
def serving(client: RewardClient, token: str | None = None, config: IngressConfig | None = None) -> Iterator[str]:
    """The address of an ingress in front of `client`."""
    server, sockets = make_server(client, config or IngressConfig(port=0), token)
    thread = threading.Thread(target=server.run, args=(sockets,), daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="the start of the server")
    try:
        scheme = "https" if config and config.tls_cert else "http"
        yield f"{scheme}://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
