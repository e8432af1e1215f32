"""Protection of the HTTP ingress: authentication token, TLS, rate limits, and limits on requests and memory."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dopamine_rl.addresses import is_loopback
from dopamine_rl.errors import BadInput, Overloaded, require
from dopamine_rl.wire import DEFAULT_LIMITS, WireLimits
from reward_service.statuses import RateLimited, Unauthorized

TOKEN_VARIABLE = "DOPAMINE_TOKEN"
SHORTEST_TOKEN = 16
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.S)
_TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
_VALIDITY = re.compile(rb"\x30[\x1e-\x22]" + 2 * _TIME)


@dataclass(frozen=True)
class IngressConfig:
    """What the HTTP ingress takes.

    Args:
        host, port: where it listens; off loopback only with a token, and with TLS or `insecure`. Port 0 takes a free
            one.
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


def client_name(address: str) -> str:
    """The client that an address counts as: an IPv4 address, or an IPv6 /64 network (one host can use all of it)."""
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
    """The server's TLS context; None for plain HTTP.

    Raises:
        BadInput: a file is missing or unreadable, certificate and key do not match, or the host is public without TLS
            and without `insecure`.
    """
    cert, key = config.tls_cert, config.tls_key
    if cert is None:
        if key is not None:
            raise BadInput("--tls-key", str(key), "give --tls-cert FILE with it")
        if not config.insecure and not is_loopback(config.host):
            raise BadInput(
                "--host",
                config.host,
                "give --tls-cert FILE and --tls-key FILE, listen on 127.0.0.1 only, or "
                "say --insecure: then the token and all pictures can be read on the way",
            )
        return None
    if config.insecure:
        raise BadInput("--insecure", True, "leave it out: --tls-cert is given")
    content = {}
    for option, file in (("--tls-cert", cert), ("--tls-key", cert if key is None else key)):
        try:
            content[option] = file.read_bytes()
        except OSError as error:
            raise BadInput(option, str(file), f"give a readable PEM file: {error.strerror}") from None
    if b"BEGIN CERTIFICATE" not in content["--tls-cert"]:
        raise BadInput("--tls-cert", str(cert), "give a PEM file with the server's certificate")
    if b"PRIVATE KEY" not in content["--tls-key"]:
        if key is not None:
            raise BadInput("--tls-key", str(key), "give a PEM file with the certificate's private key")
        raise BadInput("--tls-cert", str(cert), "give --tls-key FILE with its key, or a file that holds both")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(
            cert, key, password=lambda: ""
        )  # A key with a password must not prompt on the terminal.
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", None) or "they cannot be read"
        raise BadInput(
            "--tls-cert, --tls-key",
            (str(cert), None if key is None else str(key)),
            f"give PEM files of a certificate and of its own key, without a password: {why}",
        ) from None
    _check_dates(cert)
    return context


def _read_time(digits: bytes) -> datetime:
    text = digits.decode()
    if len(text) == 12:
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)


def _check_dates(cert: Path) -> None:
    """Raise BadInput if a certificate has expired or is not valid yet: every client would refuse it.

    Source: RFC 5280, 4.1.2.5: validity is a sequence of two times, with two digits of the year up to 2049.
    """
    first = _CERTIFICATE.search(cert.read_text("latin-1"))
    validity = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(first[0])) if first else None
    if validity is None:
        return
    begin, end = (_read_time(validity[i] or validity[i + 1]) for i in (1, 3))
    now = datetime.now(UTC)
    if not begin <= now <= end:
        when = f"expired on {end:%Y-%m-%d}" if now > end else f"is not valid before {begin:%Y-%m-%d}"
        raise BadInput("--tls-cert", str(cert), f"renew it: it {when}, and clients refuse it")


def load_token(file: Path | None, host: str) -> str | None:
    """The token that clients must send: from a file, else from the environment variable DOPAMINE_TOKEN.

    Raises:
        BadInput: the file cannot be read, the token is too short or malformed, or it is missing although `host` is
            public. No message contains a token.
    """
    source = TOKEN_VARIABLE if file is None else str(file)
    try:
        token = os.environ.get(TOKEN_VARIABLE) if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "it is no text")
        raise BadInput("--token-file", source, f"give a readable file with a token: {why}") from None
    token = (token or "").strip()
    if not token and (file is not None or not is_loopback(host)):
        raise BadInput(
            "--host" if file is None else "--token-file",
            host if file is None else source,
            "give a token: "
            f"--token-file FILE or the environment variable {TOKEN_VARIABLE}; without one only this machine "
            "may ask (--host 127.0.0.1)",
        )
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        fix = f"use a token of at least {SHORTEST_TOKEN} printable ASCII characters, without a space"
        field, value = (TOKEN_VARIABLE, "(not shown)") if file is None else ("--token-file", source)
        raise BadInput(field, value, fix)
    return token or None


class TokenCheck:
    """Compares tokens in constant time. Stores only a digest.

    Args:
        token: required in every request as `Authorization: Bearer TOKEN`; None accepts all requests.
    """

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else _digest(token.encode())

    def __call__(self, authorization: bytes) -> None:
        """Raise Unauthorized unless the header contains the token."""
        if self._expected is None:
            return
        scheme, _, token = authorization.partition(b" ")
        if not hmac.compare_digest(_digest(token.strip()), self._expected) or scheme.lower() != b"bearer":
            raise Unauthorized("send the header `Authorization: Bearer TOKEN` with this service's token")


class TokenBucket:
    """A token bucket: allows bursts of `burst` requests, and `rate_hz` requests per second on average. Not thread-safe.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, rate_hz: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate_hz, max(1.0, burst), clock
        self._left, self._at = self._burst, clock()

    def take(self) -> None:
        """Count a request. Raises RateLimited if the bucket is empty."""
        now = self._clock()
        self._left, self._at = min(self._burst, self._left + (now - self._at) * self._rate), now
        if self._left < 1.0:
            raise RateLimited(f"more than {self._rate:g} requests a second", (1.0 - self._left) / self._rate)
        self._left -= 1.0


class RateLimiter:
    """One token bucket per client. Beyond `max_clients`, the least recently used ones are dropped."""

    def __init__(
        self, rate_hz: float, burst: float, max_clients: int = 1024, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make = lambda: TokenBucket(rate_hz, burst, clock)
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._max_clients = max_clients

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, client: str) -> None:
        """Count a request of this client. Raises RateLimited if its bucket is empty."""
        bucket = self._buckets.setdefault(client, self._make())
        self._buckets.move_to_end(client)
        while len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        bucket.take()


class Capacity:
    """Limits the number of requests in progress and the memory they reserve. Thread-safe."""

    def __init__(self, max_requests: int, max_bytes: float) -> None:
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._lock = threading.Lock()
        self.requests, self.bytes = 0, 0

    @contextmanager
    def admit(self) -> Iterator[Reservation]:
        """Admit one request until the end of the block. Raises Overloaded if there are too many."""
        with self._lock:
            if self.requests >= self._max_requests:
                raise Overloaded(f"{self.requests} requests are in progress already")
            self.requests += 1
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            with self._lock:
                self.requests -= 1
                self.bytes -= reservation.bytes

    def reserve(self, reservation: Reservation, count: int) -> None:
        """Reserve more bytes for a request. Raises Overloaded if the memory limit is reached."""
        with self._lock:
            if self.bytes + count > self._max_bytes:
                raise Overloaded("the requests in progress use all the memory reserved for them")
            self.bytes += count
            reservation.bytes += count


class Reservation:
    """The memory reserved for one request."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity, self.bytes = capacity, 0

    def reserve(self, count: int) -> None:
        """Reserve `count` more bytes. Raises Overloaded if the memory limit is reached."""
        self._capacity.reserve(self, count)


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
