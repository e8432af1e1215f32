"""HTTP for clients outside the cluster: robots, and programs in other languages.

A plain web application in front of any RewardClient. It is a process of its own rather than a part of the Serve
application: it can be restarted, limited and secured without touching the replicas, a cluster whose Serve proxies are
switched off can have it, and all of it is tested without a cluster.

    POST /v1/score     one frame or a whole fragment, msgpack or JSON (see `bodies`), also compressed by gzip or deflate;
                       answers in the same media type, never compressed
    GET  /v1/version   {"model_version"} now served
    GET  /healthz      200 where a replica answers, else 503; never asks for a token
    GET  /metrics      Prometheus text
    GET  /openapi.json, /docs

Checked in this order, each before the next costs anything: rate of the client, token, media type, declared size, rate of
all, room, size as it arrives; then counts, shapes and picture headers before pixels (`bodies`).
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
from dopamine_rl.interfaces import RewardClient
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
"""Bytes of memory for each byte of a body while it is read: the body, its parts, and for JSON its text and base64."""
HEAD_BYTES = 16 << 10
"""What the head of a request may hold."""
DRAIN_BYTES, DRAIN_S = 128 << 20, 2.0
"""How much of a refused body is thrown away, so that its sender gets to read the answer."""
VERSION_S = 2.0
"""Time for asking which version is served."""


def make_app(client: RewardClient, config: IngressConfig, token: str | None = None) -> Starlette:
    """The web application.

    Args:
        client: carries requests to the model.
        token: what every request must carry, `/healthz` and the description apart; None lets everybody in.
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
    """The endpoints and what they share."""

    def __init__(self, client: RewardClient, config: IngressConfig, token: str | None) -> None:
        self._client, self._config = client, config
        self._token = TokenCheck(token)
        self._room = Capacity(config.max_requests, config.memory_mb * 2**20)
        self._per_client = RateLimiter(config.rate_hz, config.burst)
        self._in_all = TokenBucket(config.total_rate_hz, config.total_burst)
        self._workers = ThreadPoolExecutor(config.max_requests, "ingress")
        self._asker = ThreadPoolExecutor(1, "version")
        self._known_version: tuple[float, str | DopamineError] | None = None
        self._asking = asyncio.Lock()
        self._meters = Meters(self._room)

    def guarded(self, endpoint: Endpoint, open_to_all: bool = False) -> Endpoint:
        """Let only good requests through to an endpoint, and turn its errors into answers."""

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
        with self._room.place() as place:
            place.reserve(COST[media] * size)
            body = await self._receive(request, size)
            loop = asyncio.get_running_loop()
            reply = await loop.run_in_executor(self._workers, self._answer, body, media, encoding, place, arrived)
        return Response(reply, media_type=MEDIA_TYPES[media])

    async def version(self, request: Request) -> Response:
        """The model version now served."""
        return JSONResponse({"model_version": await self._model_version()})

    async def health(self, request: Request) -> Response:
        """Whether a replica answers."""
        await self._model_version()
        return JSONResponse({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(self._meters.text(), media_type="text/plain; version=0.0.4")

    def _answer(self, body: bytearray, media: Media, encoding: Encoding, place: Reservation, arrived: float) -> bytes:
        """Decode, ask, encode: on a worker thread, since pictures take time to decode and answers to arrive."""
        limits = self._config.limits
        plain = decompress(body, encoding, limits, lambda count: place.reserve(COST[media] * count))
        request = read_body(plain, media, limits, place.reserve)
        self._meters.frames.inc(len(request.frames))
        left_s = min(request.remaining_ms / 1e3, self._config.longest_wait_s) - (time.monotonic() - arrived)
        if left_s <= 0:
            raise ScoringTimeout("no time was left when the request had been read")
        reply = self._client.submit(replace(request, remaining_ms=left_s * 1e3)).result(left_s)
        return write_reply(reply, media)

    async def _model_version(self) -> str:
        """The version now served, asked for at most once a second, by one at a time."""
        async with self._asking:
            if self._known_version is None or time.monotonic() - self._known_version[0] > 1.0:
                loop = asyncio.get_running_loop()
                version = await loop.run_in_executor(self._asker, self._ask_version)
                self._known_version = (time.monotonic(), version)
            version = self._known_version[1]
        if isinstance(version, DopamineError):
            raise version
        return version

    def _ask_version(self) -> str | DopamineError:
        try:
            return self._client.model_version(VERSION_S)
        except DopamineError as error:
            return error.with_traceback(None)

    def _declared_size(self, request: Request) -> int:
        """The size that a request announces; the largest there may be where it announces none."""
        declared, most = request.headers.get("content-length"), self._config.limits.max_bytes
        if declared is None:
            return most
        if not declared.isascii() or not declared.isdigit() or len(declared) > 15 or int(declared) > most:
            raise BodyTooLarge(f"a body of {declared[:20]} bytes: at most {most} are taken")
        return int(declared)

    async def _receive(self, request: Request, size: int) -> bytearray:
        """The whole body. Raises BodyTooLarge as soon as it is longer than `size`, SlowBody where it does not arrive."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > size:
                        raise BodyTooLarge(f"a body of more than {size} bytes")
                    body += chunk
        except TimeoutError:
            raise SlowBody(f"the body was not there after {self._config.body_s:g} s") from None
        return body


def _check_head(request: Request) -> None:
    """Raise where a head is longer than any request needs, or says in two ways where the body ends."""
    if sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + len(request.url.path) > HEAD_BYTES:
        raise HeadTooLarge(f"a head of more than {HEAD_BYTES} bytes")
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        # A proxy in front may go by the other one, and take the rest of this body for a request of somebody else.
        raise AmbiguousLength("both Content-Length and Transfer-Encoding: send one of them")


def media_of(request: Request) -> Media:
    """How a request's body is written. Raises UnsupportedMedia."""
    named = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    for media, media_type in MEDIA_TYPES.items():
        if named == media_type:
            return media
    if named == "application/x-msgpack":
        return "msgpack"
    raise UnsupportedMedia(f"content type {named[:100]!r}: send application/msgpack or application/json")


def encoding_of(request: Request) -> Encoding:
    """How a request's body is compressed. Raises UnsupportedEncoding."""
    named = ", ".join(request.headers.getlist("content-encoding")).strip().lower() or "identity"
    for encoding in ENCODINGS:
        if named in (encoding, f"x-{encoding}"):
            return encoding
    raise UnsupportedEncoding(f"content encoding {named[:100]!r}: send one of {', '.join(ENCODINGS)}")


async def _refuse(request: Request, error: Exception) -> Response:
    """The answer to a request that failed, in its own media type."""
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
    """Throw away what is left of a body. False where it is too long or too slow for that."""
    if "expect" in request.headers:
        return False  # The sender waits for a word before it sends any; this answer is that word.
    seen = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            async for chunk in request.stream():
                seen += len(chunk)
                if seen > DRAIN_BYTES:
                    return False
    except (TimeoutError, ClientDisconnect):
        return False
    except RuntimeError:  # It was read to its end before.
        return True
    return True


async def _no_such_address(request: Request, error: Exception) -> Response:
    missing = isinstance(error, HTTPException) and error.status_code == 405
    return await _refuse(request, MethodNotAllowed(request.method) if missing else NotFound("see /docs"))


async def _openapi(request: Request) -> Response:
    return JSONResponse(document())


async def _docs(request: Request) -> Response:
    return HTMLResponse(page())
