"""HTTP for clients outside the cluster: robots, and programs in other languages.

A plain web application in front of any RewardClient. It runs in a process of its own, not in the Serve application: it
can be restarted, limited and secured without touching the replicas, works on clusters with Serve's proxies disabled,
and can be tested without a cluster.

    POST /v1/score     one frame or a whole fragment, msgpack or JSON (see `bodies`), also compressed by gzip or
    deflate;
                       answers in the same media type, never compressed
    GET  /v1/version   {"model_version", "tower_version"} currently served
    GET  /healthz      200 if a replica answers, else 503; needs no token
    GET  /metrics      Prometheus text
    GET  /openapi.json, /docs

Checks run in this order, cheapest first: the client's rate, token, media type, declared size, total rate, capacity,
size while receiving; then counts, shapes and picture headers before pixels (`bodies`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from dopamine_rl.errors import DopamineError, ScoringTimeout
from dopamine_rl.interfaces import RewardClient, TokenRewardClient
from reward_service.bodies import decompress, read_body, write_reply
from reward_service.guards import (
    Capacity,
    IngressConfig,
    RateLimiter,
    Reservation,
    TokenBucket,
    TokenCheck,
    client_name,
)
from reward_service.meters import Meters
from reward_service.openapi import document, page
from reward_service.statuses import (
    ENCODINGS,
    MEDIA_TYPES,
    AmbiguousLength,
    BodyTooLarge,
    Encoding,
    HeadTooLarge,
    Media,
    MethodNotAllowed,
    NotFound,
    SlowBody,
    UnsupportedEncoding,
    UnsupportedMedia,
    describe_error,
    encode,
    retry_after_s,
    status_of,
)

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]

COST: dict[Media, int] = {"msgpack": 2, "json": 5}
"""Memory per byte of a body while it is parsed: the body, its parts, and for JSON its text and base64."""
HEAD_BYTES = 16 << 10
"""Size limit of a request's head."""
DRAIN_BYTES, DRAIN_S = 128 << 20, 2.0
"""How much of a refused body is read and discarded, so that its sender reads the response."""
VERSION_S = 2.0
"""Time limit for asking the service for its version."""


def make_app(client: RewardClient, config: IngressConfig, token: str | None = None) -> Starlette:
    """The web application.

    Args:
        client: carries requests to the model.
        token: required in every request except `/healthz` and the documentation; None accepts all requests.
    """
    ingress = Ingress(client, config, token)
    return Starlette(
        routes=[
            Route("/v1/score", ingress.guarded(ingress.score), methods=["POST"]),
            Route("/v1/version", ingress.guarded(ingress.version)),
            Route("/metrics", ingress.guarded(ingress.metrics)),
            Route("/healthz", ingress.guarded(ingress.health, open_to_all=True)),
            Route("/openapi.json", ingress.guarded(_openapi, open_to_all=True)),
            Route("/docs", ingress.guarded(_docs, open_to_all=True)),
        ],
        exception_handlers={HTTPException: _no_such_address},
    )


class Ingress:
    """The endpoints and their shared state."""

    def __init__(self, client: RewardClient, config: IngressConfig, token: str | None) -> None:
        self._client, self._config = client, config
        self._token = TokenCheck(token)
        self._capacity = Capacity(config.max_requests, config.memory_mb * 2**20)
        self._per_client = RateLimiter(config.rate_hz, config.burst)
        self._in_all = TokenBucket(config.total_rate_hz, config.total_burst)
        self._workers = ThreadPoolExecutor(config.max_requests, "ingress")
        self._asker = ThreadPoolExecutor(1, "version")
        self._known_version: tuple[float, tuple[str, str] | DopamineError] | None = None
        self._asking = asyncio.Lock()
        self._meters = Meters(self._capacity)

    def guarded(self, endpoint: Endpoint, open_to_all: bool = False) -> Endpoint:
        """Wrap an endpoint: check each request, and turn errors into responses."""

        async def answer(request: Request) -> Response:
            began = time.monotonic()
            try:
                self._per_client.take(client_name(request.client.host) if request.client else "")
                _check_head(request)
                if not open_to_all:
                    self._token(request.headers.get("authorization", "").encode("latin-1"))
                response = await endpoint(request)
            except ClientDisconnect:
                response = Response(status_code=400)  # Nobody reads it.
            except Exception as error:
                response = await _refuse(request, error)
            self._meters.count(request.url.path, response.status_code, time.monotonic() - began)
            return response

        return answer

    async def score(self, request: Request) -> Response:
        """Answer one ScoreRequest."""
        arrived = time.monotonic()
        media, encoding = media_of(request), encoding_of(request)
        size = self._declared_size(request)
        self._in_all.take()
        with self._capacity.admit() as reservation:
            reservation.reserve(COST[media] * size)
            body = await self._receive(request, size)
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(self._workers, self._answer, body, media, encoding, reservation, arrived)
        return Response(reply, media_type=MEDIA_TYPES[media])

    async def version(self, request: Request) -> Response:
        """The model version currently served, and the vision tower whose tokens it takes ("" if pictures alone)."""
        model, tower = await self._versions()
        return JSONResponse({"model_version": model, "tower_version": tower})

    async def health(self, request: Request) -> Response:
        """Whether a replica answers."""
        await self._versions()
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(self._meters.text(), media_type="text/plain; version=0.0.4")

    def _answer(
        self, body: bytearray, media: Media, encoding: Encoding, reservation: Reservation, arrived: float
    ) -> bytes:
        """Decode, score and encode, on a worker thread because all three take time."""
        limits = self._config.limits
        plain = decompress(body, encoding, limits, lambda count: reservation.reserve(COST[media] * count))
        request = read_body(plain, media, limits, reservation.reserve)
        self._meters.frames.inc(len(request.frames))
        left_s = min(request.remaining_ms / 1e3, self._config.longest_wait_s) - (time.monotonic() - arrived)
        if left_s <= 0:
            raise ScoringTimeout("no time was left after the request was read")
        reply = self._client.submit(replace(request, remaining_ms=left_s * 1e3)).result(left_s)
        return write_reply(reply, media)

    async def _versions(self) -> tuple[str, str]:
        """The versions of model and tower currently served, cached for a second; one query at a time."""
        async with self._asking:
            if self._known_version is None or time.monotonic() - self._known_version[0] > 1.0:
                loop = asyncio.get_running_loop()
                version = await loop.run_in_executor(self._asker, self._ask_version)
                self._known_version = (time.monotonic(), version)
            version = self._known_version[1]
        if isinstance(version, DopamineError):
            raise version
        return version

    def _ask_version(self) -> tuple[str, str] | DopamineError:
        try:
            client = self._client
            tower = client.tower_version(VERSION_S) if isinstance(client, TokenRewardClient) else ""
            return client.model_version(VERSION_S), tower
        except DopamineError as error:
            return error.with_traceback(None)

    def _declared_size(self, request: Request) -> int:
        """The declared size of a body; the size limit if none is declared."""
        declared, limit = request.headers.get("content-length"), self._config.limits.max_bytes
        if declared is None:
            return limit
        if not declared.isascii() or not declared.isdigit() or len(declared) > 15 or int(declared) > limit:
            raise BodyTooLarge(f"a body of {declared[:20]} bytes: the limit is {limit}")
        return int(declared)

    async def _receive(self, request: Request, size: int) -> bytearray:
        """Receive the body. Raises BodyTooLarge as soon as it exceeds `size`, SlowBody if it takes too long."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > size:
                        raise BodyTooLarge(f"a body of more than {size} bytes")
                    body += chunk
        except TimeoutError:
            raise SlowBody(f"the body did not arrive within {self._config.body_s:g} s") from None
        return body


def _check_head(request: Request) -> None:
    """Raise HeadTooLarge or AmbiguousLength for a head that is too long or declares the body's length twice."""
    if sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + len(request.url.path) > HEAD_BYTES:
        raise HeadTooLarge(f"a head of more than {HEAD_BYTES} bytes")
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # Request smuggling: a proxy in front may use the other header and take the rest for another client's request.
        raise AmbiguousLength("both Content-Length and Transfer-Encoding: send one of them")


def media_of(request: Request) -> Media:
    """The media type of a request's body. Raises UnsupportedMedia."""
    named = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    for media, media_type in MEDIA_TYPES.items():
        if named == media_type:
            return media
    if named == "application/x-msgpack":
        return "msgpack"
    raise UnsupportedMedia(f"content type {named[:100]!r}: send application/msgpack or application/json")


def encoding_of(request: Request) -> Encoding:
    """The compression of a request's body. Raises UnsupportedEncoding."""
    named = ", ".join(request.headers.getlist("content-encoding")).strip().lower() or "identity"
    for encoding in ENCODINGS:
        if named in (encoding, f"x-{encoding}"):
            return encoding
    raise UnsupportedEncoding(f"content encoding {named[:100]!r}: send one of {', '.join(ENCODINGS)}")


async def _refuse(request: Request, error: Exception) -> Response:
    """The response to a failed request, in its media type."""
    if not isinstance(error, DopamineError):
        logger.error("The ingress failed on a request.", exc_info=error)
    try:
        media = media_of(request)
    except UnsupportedMedia:
        media = "json"
    headers = {}
    if (seconds := retry_after_s(error)) is not None:
        headers["Retry-After"] = str(seconds)
    if status_of(error) == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = ", ".join(ENCODINGS)
    if isinstance(error, (SlowBody, HeadTooLarge, AmbiguousLength)) or not await _drained(request):
        headers["Connection"] = "close"
    return Response(encode(describe_error(error), media), status_of(error), headers, MEDIA_TYPES[media])


async def _drained(request: Request) -> bool:
    """Read and discard the rest of a body. False if it is too long or too slow."""
    if "expect" in request.headers:
        return False  # Expect: 100-continue: the client sends the body only after our response.
    drained_bytes = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            async for chunk in request.stream():
                drained_bytes += len(chunk)
                if drained_bytes > DRAIN_BYTES:
                    return False
    except (TimeoutError, ClientDisconnect):
        return False
    except RuntimeError:  # The body was already read to its end.
        return True
    return True


async def _no_such_address(request: Request, error: Exception) -> Response:
    missing = isinstance(error, HTTPException) and error.status_code == 405
    return await _refuse(request, MethodNotAllowed(request.method) if missing else NotFound("see /docs"))


async def _openapi(request: Request) -> Response:
    return JSONResponse(document())


async def _docs(request: Request) -> Response:
    return HTMLResponse(page())
