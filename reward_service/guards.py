"""What stands between a stranger's request and the work it would cause: token, rates, room."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dopamine_rl.errors import BadInput, Overloaded, require
from dopamine_rl.wire import DEFAULT_LIMITS, WireLimits
from reward_service.statuses import RateLimited, Unauthorized

TOKEN_VARIABLE = "DOPAMINE_TOKEN"
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class IngressConfig:
    """What the HTTP ingress takes.

    Args:
        host, port: where it listens; off loopback only with a token, and with TLS or `insecure`. Port 0 takes a free one.
        limits: what one request may hold.
        max_requests: requests under way at once; more are refused as Overloaded.
        memory_mb: MiB for the bodies and pictures of all requests under way; more are refused as Overloaded.
        rate_hz, burst: requests a second of one client address, and how many it may send at once.
        total_rate_hz, total_burst: the same for all clients together.
        body_s: time that a body may take to arrive.
        longest_wait_s: a request waits at most this long for its answer, whatever it allows itself.
        max_connections: open connections; more are refused.
        max_connections_per_client: the same of one client address; behind a proxy all clients have the proxy's address.
        head_s: time for a TLS handshake, and again for the head of each request, from its first byte on.
        idle_s: a connection that was answered and asks nothing more is closed after this.
        write_s: time that an answer may take to be read.
        tls_cert, tls_key: PEM files of the server's certificate (with those that vouch for it) and its key; with a
            certificate only https is spoken. The key may also stand in the file of the certificate.
        insecure: listen off loopback without TLS: whoever is on the way reads the token and the pictures.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    limits: WireLimits = DEFAULT_LIMITS
    max_requests: int = 64
    memory_mb: float = 512.0
    rate_hz: float = 200.0
    burst: float = 400.0
    total_rate_hz: float = 1000.0
    total_burst: float = 2000.0
    body_s: float = 10.0
    longest_wait_s: float = 60.0
    max_connections: int = 256
    max_connections_per_client: int = 64
    head_s: float = 10.0
    idle_s: float = 30.0
    write_s: float = 30.0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        rates = ("rate_hz", "burst", "total_rate_hz", "total_burst", "memory_mb")
        times = ("body_s", "longest_wait_s", "head_s", "idle_s", "write_s")
        counts = ("max_requests", "max_connections", "max_connections_per_client")
        require(
            "ingress",
            self,
            ("port", 0 <= self.port < 1 << 16, "give a port from 0 to 65535"),
            *((name, getattr(self, name) >= 1, "give at least 1") for name in counts),
            *((name, 0.0 < getattr(self, name) < 1e9, "give a finite number above 0") for name in rates + times),
        )


def is_loopback(host: str) -> bool:
    """True where only this machine can reach what listens there; a name other than localhost could be any."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def client_name(address: str) -> str:
    """Whose limits an address counts towards: an IPv4 address, or the /64 network that one IPv6 host can choose within."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def load_tls(config: IngressConfig) -> ssl.SSLContext | None:
    """Return what the server speaks TLS with; None where it speaks plain HTTP.

    Raises:
        BadInput: a file is missing, unreadable or does not fit the other, or others can reach the host without TLS and
            nobody said that this is meant.
    """
    cert, key = config.tls_cert, config.tls_key
    if cert is None:
        if key is not None:
            raise BadInput("--tls-key", str(key), "give --tls-cert FILE with it")
        if not config.insecure and not is_loopback(config.host):
            raise BadInput("--host", config.host, "give --tls-cert FILE and --tls-key FILE, listen on 127.0.0.1 only, or "
                           "say --insecure: then the token and all pictures can be read on the way")  # fmt: skip
        return None
    if config.insecure:
        raise BadInput("--insecure", True, "leave it out: --tls-cert is given")
    for option, file in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise BadInput(option, str(file), f"give a readable PEM file: {type(error).__name__}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(
            cert, key, password=lambda: ""
        )  # A key with a password shall not ask a terminal for it.
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or type(error).__name__
        raise BadInput("--tls-cert, --tls-key", (str(cert), None if key is None else str(key)), "give PEM files of a "
                       f"certificate and of its own key, without a password: {why}") from None  # fmt: skip
    return context


def load_token(file: Path | None, host: str) -> str | None:
    """Return the token that clients must show: from a file, else from the environment variable DOPAMINE_TOKEN.

    Raises:
        BadInput: the file cannot be read, the token is unsuitable, or there is none although others can reach `host`.
            No message shows a token.
    """
    source = TOKEN_VARIABLE if file is None else str(file)
    try:
        token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("--token-file", source, f"give a readable file with a token: {type(error).__name__}") from None
    token = (token or "").strip()
    if not token and (file is not None or not is_loopback(host)):
        raise BadInput("host" if file is None else "--token-file", host if file is None else source, "give a token: "
                       f"--token-file FILE or the environment variable {TOKEN_VARIABLE}; without one only this machine "
                       "may ask (--host 127.0.0.1)")  # fmt: skip
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise BadInput(source, "(not shown)", f"use a token of at least {SHORTEST_TOKEN} printable ASCII characters")
    return token or None


class TokenCheck:
    """Compares tokens in a time that does not depend on where they differ. Keeps a digest only.

    Args:
        token: what every request must carry as `Authorization: Bearer TOKEN`; None lets everybody in.
    """

    def __init__(self, token: str | None) -> None:
        self._wanted = None if token is None else _digest(token.encode())

    def __call__(self, authorization: bytes) -> None:
        """Raise Unauthorized unless the header carries the token."""
        if self._wanted is None:
            return
        scheme, _, given = authorization.partition(b" ")
        if not hmac.compare_digest(_digest(given.strip()), self._wanted) or scheme.lower() != b"bearer":
            raise Unauthorized("send the header `Authorization: Bearer TOKEN` with this service's token")


class TokenBucket:
    """Lets `burst` requests through at once and `rate_hz` a second in the long run. Not for several threads.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, rate_hz: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate_hz, max(1.0, burst), clock
        self._left, self._at = self._burst, clock()

    def take(self) -> None:
        """Raise RateLimited where nothing is left."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left < 1.0:
            raise RateLimited(f"more than {self._rate:g} requests a second", (1.0 - self._left) / self._rate)
        self._left -= 1.0


class RateLimiter:
    """A bucket for each client address. Addresses beyond `max_clients` push out the ones seen longest ago."""

    def __init__(
        self, rate_hz: float, burst: float, max_clients: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = lambda: TokenBucket(rate_hz, burst, clock)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._max_clients = max_clients

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> None:
        """Raise RateLimited where this client has nothing left."""
        bucket = self._buckets.setdefault(client, self._make())
        self._buckets.move_to_end(client)
        while len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        bucket.take()


class Capacity:
    """Capacity for requests under way: their number, and the bytes they hold. For several threads."""

    def __init__(self, max_requests: int, max_bytes: float) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._lock = threading.Lock()
        self.requests, self.bytes = 0, 0

    @contextmanager
    def place(self) -> Iterator[Reservation]:
        """Hold one place until the end of the block. Raises Overloaded where all are taken."""
        with self._lock:
            if self.requests >= self._max_requests:
                raise Overloaded(f"{self.requests} requests are under way already")
            self.requests += 1
        place = Reservation(self)
        try:
            yield place
        finally:
            with self._lock:
                self.requests -= 1
                self.bytes -= place.bytes

    def reserve(self, place: Reservation, count: int) -> None:
        """Add bytes to what a request holds. Raises Overloaded where they do not fit."""
        with self._lock:
            if self.bytes + count > self._max_bytes:
                raise Overloaded("the requests under way hold all the memory that is set aside for them")
            self.bytes += count
            place.bytes += count


class Reservation:
    """What one request holds of a Capacity."""

    def __init__(self, room: Capacity) -> None:
        self._room, self.bytes = room, 0

    def reserve(self, count: int) -> None:
        """Hold `count` bytes more. Raises Overloaded where they do not fit."""
        self._room.reserve(self, count)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
