"""A RewardClient over HTTP, for programs outside the cluster."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import requests

from dopamine_rl.addresses import is_loopback
from dopamine_rl.errors import BadInput, DopamineError, Overloaded, ScoringTimeout, ServiceUnavailable, WireError
from dopamine_rl.types import ScoreReply, ScoreRequest
from dopamine_rl.wire import DEFAULT_LIMITS, decode_reply, encode_request
from reward_service.statuses import MEDIA_TYPES, error_from

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Exponential backoff between retries."""


@dataclass(frozen=True)
class HttpClientConfig:
    """Settings of the HTTP client.

    Args:
        connect_s: time limit for connecting.
        max_retries: retries of a request if the service is unreachable or has no replica. Overloaded services are not
            retried: that would make it worse.
        max_pending: most requests in progress; further ones fail immediately as Overloaded.
        workers: most requests on the network at once.
        ca_file: PEM file of the CA certificates that verify the service; None for the system's.
        insecure: allow sending the token over plain http to another machine, where it can be intercepted.
    """

    connect_s: float = 2.0
    max_retries: int = 5
    max_pending: int = 64
    workers: int = 8
    ca_file: Path | None = None
    insecure: bool = False


class HttpRewardClient:
    """A RewardClient over HTTP. Picklable; connects on first use.

    The pictures of a request must not be changed after `submit`: they are encoded in the background. Proxies and
    passwords from the environment (.netrc) are ignored, so the token is sent only to `url`.

    Args:
        url: of the service, such as "http://127.0.0.1:8000" or "https://robots.example:8000".
        token: the service's token, if it has one.
    Raises:
        BadInput: the address is invalid, the CA file cannot be read, or the token would be sent unencrypted.
    """

    def __init__(self, url: str, token: str | None = None, config: HttpClientConfig | None = None) -> None:
        self.url, self.config = url.rstrip("/"), config or HttpClientConfig()
        check_address(self.url, token, self.config)
        self._token = token
        self._connect()

    def __getstate__(self) -> dict[str, object]:
        return {"url": self.url, "config": self.config, "_token": self._token}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._connect()

    def submit(self, request: ScoreRequest) -> HttpPendingScore:
        """Send a request in the background."""
        if not self._places.acquire(blocking=False):
            return HttpPendingScore(_failed(Overloaded(f"{self.config.max_pending} requests are pending already")))
        attempts = _Attempts(self.config.max_retries, time.monotonic() + request.remaining_ms / 1e3)
        future = self._workers.submit(attempts.run, lambda left_s: self._score(request, left_s))
        future.add_done_callback(lambda _: self._places.release())
        return HttpPendingScore(future, attempts)

    def model_version(self, timeout_s: float) -> str:
        """The model version currently served. Raises ScoringTimeout or ServiceUnavailable."""
        attempts = _Attempts(self.config.max_retries, time.monotonic() + timeout_s)
        return attempts.run(self._version)

    def _connect(self) -> None:
        self._places = threading.BoundedSemaphore(self.config.max_pending)
        self._workers = ThreadPoolExecutor(self.config.workers, "http-reward")
        self._sessions = threading.local()

    def _score(self, request: ScoreRequest, left_s: float) -> ScoreReply:
        body = encode_request(replace(request, remaining_ms=left_s * 1e3))
        answer = self._ask("POST", "/v1/score", left_s, body)
        try:
            return decode_reply(answer)
        except (WireError, BadInput) as error:
            raise ServiceUnavailable(f"the service's answer cannot be read: {error}") from error

    def _version(self, left_s: float) -> str:
        answer = self._ask("GET", "/v1/version", left_s)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(answer)["model_version"])
        raise ServiceUnavailable("the service's answer cannot be read; is this address a reward service?")

    def _ask(self, method: str, path: str, left_s: float, body: bytes | None = None) -> bytes:
        """Send a request once and return the body of its response. Raises the error of an error response."""
        deadline = time.monotonic() + left_s
        headers = {"Content-Type": MEDIA_TYPES["msgpack"]} if body is not None else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            with self._session().request(
                method,
                self.url + path,
                data=body,
                headers=headers,
                allow_redirects=False,
                stream=True,
                timeout=(min(left_s, self.config.connect_s), left_s),
            ) as response:
                answer = _read(response, deadline)
        except requests.exceptions.SSLError as error:
            raise ServiceUnavailable(
                f"the certificate of {self.url} could not be verified: give its CA certificate (--ca-file FILE), "
                f"and use the host name in the certificate: {_innermost(error)}"
            ) from error
        except requests.RequestException as error:
            if time.monotonic() >= deadline:
                raise ScoringTimeout("no answer in time") from error
            raise ServiceUnavailable(
                f"{self.url} cannot be reached ({type(error).__name__}): start the service with `dopamine serve`, or "
                "correct the address"
            ) from error
        if response.status_code != 200:
            raise error_from(response.status_code, answer, response.headers.get("content-type", ""))
        return answer

    def _session(self) -> requests.Session:
        """One session per thread, for persistent connections."""
        if not hasattr(self._sessions, "session"):
            self._sessions.session = requests.Session()
            self._sessions.session.trust_env = False
            self._sessions.session.verify = True if self.config.ca_file is None else str(self.config.ca_file)
        session: requests.Session = self._sessions.session
        return session


class HttpPendingScore:
    """A request in flight (a PendingScore)."""

    def __init__(self, future: Future[ScoreReply], attempts: _Attempts | None = None) -> None:
        self._future, self._attempts = future, attempts
        self._late = False

    @property
    def retries(self) -> int:
        """How often the request was resent because the service could not be reached."""
        return self._attempts.retries if self._attempts is not None else 0

    def ready(self) -> bool:
        """Whether the reply or an error is there."""
        return self._late or self._future.done()

    def result(self, timeout_s: float) -> ScoreReply:
        """Wait for the reply. A late request is given up and stays late.

        Raises:
            ScoringTimeout, Overloaded, VersionUnavailable, ServiceUnavailable; BadInput or WireError if the service
            refuses the request.
        """
        if self._late:
            raise ScoringTimeout("no answer in time")
        try:
            if timeout_s >= 0:
                return self._future.result(timeout_s)
        except ScoringTimeout:
            raise
        except TimeoutError:
            pass
        self._give_up()

    def _give_up(self) -> NoReturn:
        self._late = True
        if self._attempts is not None:
            self._attempts.given_up.set()
        self._future.cancel()
        raise ScoringTimeout("no answer in time")


class _Attempts:
    """Sends a request until it is answered, refused, or out of time or retries. Safe, because scoring is idempotent."""

    def __init__(self, max_retries: int, deadline: float) -> None:
        self._max_retries, self._deadline = max_retries, deadline
        self.retries, self.given_up = 0, threading.Event()

    def run(self, send: Callable[[float], T]) -> T:
        pause_s = FIRST_PAUSE_S
        while True:
            left_s = self._deadline - time.monotonic()
            if left_s <= 0:
                raise ScoringTimeout("no time was left to send the request")
            try:
                return send(left_s)
            except ServiceUnavailable:
                if self.retries >= self._max_retries or time.monotonic() + pause_s >= self._deadline:
                    raise
            if self.given_up.wait(pause_s):
                raise ScoringTimeout("the request was given up")
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.retries += 1


def check_address(url: str, token: str | None, config: HttpClientConfig) -> None:
    """Raise BadInput if the address is invalid, or the token must not be sent there."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise BadInput("--url", url, "write http://HOST:PORT or https://HOST:PORT")
    if "@" in parts.netloc:
        raise BadInput("--url", f"{parts.scheme}://…@{host}", "leave out user and password: the service uses a token")
    if config.ca_file is not None:
        try:
            ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:
            why = getattr(error, "reason", None) or type(error).__name__
            raise BadInput("--ca-file", str(config.ca_file), f"give a PEM file with certificates: {why}") from None
    if token is not None and parts.scheme == "http" and not is_loopback(host) and not config.insecure:
        raise BadInput("--url", url, "use https://, or give --insecure to send the token unencrypted")


def _innermost(error: BaseException) -> str:
    """The message of the original error in a chain of causes."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error)[:200]


def _read(response: requests.Response, deadline: float) -> bytes:
    """Read the body of a response, within limits of size and time."""
    answer = bytearray()
    for chunk in response.iter_content(1 << 16):
        answer += chunk
        if len(answer) > DEFAULT_LIMITS.max_bytes:
            raise ServiceUnavailable(f"the service's answer is longer than {DEFAULT_LIMITS.max_bytes} bytes")
        if time.monotonic() > deadline:
            raise ScoringTimeout("no answer in time")
    return bytes(answer)


def _failed(error: DopamineError) -> Future[ScoreReply]:
    future: Future[ScoreReply] = Future()
    future.set_exception(error)
    return future
