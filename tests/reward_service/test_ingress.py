"""The ingress over real HTTP: routes, token, limits before decoding, errors. No Ray."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import msgpack
import pytest
import requests

from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout, ServiceUnavailable, VersionUnavailable
from dopamine_rl.interfaces import PendingScore
from dopamine_rl.types import ScoreReply, ScoreRequest
from dopamine_rl.wire import WireLimits, decode_reply, encode_request
from reward_service.bodies import decompress
from reward_service.guards import IngressConfig
from reward_service.local import LocalRewardClient
from reward_service.openapi import document
from reward_service.scorer import Scorer
from reward_service.statuses import BodyTooLarge
from reward_service.web import make_server
from tests.contracts import assert_same_answer
from tests.fakes import FakeEngine, make_request
from tests.reward_service.bodies import json_fields, msgpack_message
from tests.reward_service.http import serving

TOKEN = "a-token-for-the-tests"
MSGPACK, JSON = {"Content-Type": "application/msgpack"}, {"Content-Type": "application/json"}


class Failing:
    """A RewardClient whose every answer is an error."""

    def __init__(self, error: Exception) -> None:
        self._error, self.asked = error, 0

    def model_version(self, timeout_s: float) -> str:
        self.asked += 1
        raise self._error

    def submit(self, request: ScoreRequest) -> PendingScore:
        raise self._error


class Blocked:
    """A RewardClient whose answers come when it is opened."""

    def __init__(self) -> None:
        self.open, self._scorer = threading.Event(), Scorer(FakeEngine())

    def model_version(self, timeout_s: float) -> str:
        return "v"

    def submit(self, request: ScoreRequest) -> Blocked:
        self._request, self.retries = request, 0
        return self

    def result(self, timeout_s: float) -> ScoreReply:
        assert self.open.wait(10)
        return self._scorer.score([self._request])[0]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=_config()) as address:
        yield address


def _config(**changes: object) -> IngressConfig:
    return IngressConfig(**{"port": 0, "rate_hz": 1e6, "burst": 1e6, **changes})  # type: ignore[arg-type]


def _post(url: str, data: object, headers: dict[str, str] = MSGPACK) -> requests.Response:
    return requests.post(url + "/v1/score", data=data, headers=headers, timeout=20)  # type: ignore[arg-type]


def _error(answer: requests.Response) -> dict[str, str]:
    described = msgpack.unpackb(answer.content) if "msgpack" in answer.headers["content-type"] else answer.json()
    error: dict[str, str] = described["error"]
    assert "Traceback" not in str(error)
    return error


def test_both_routes_answer_as_the_model_does(url: str) -> None:
    request = make_request(start_progress=0.1)
    [offline] = Scorer(FakeEngine()).score([request])
    assert_same_answer(decode_reply(_post(url, encode_request(request)).content), offline)
    assert_same_answer(decode_reply(_post(url, msgpack.packb(msgpack_message(request, "PNG"))).content), offline)
    answer = _post(url, json.dumps(json_fields(request)), {"Content-Type": "application/json; charset=utf-8"}).json()
    assert offline.folded is not None
    assert answer["folded"]["progress"] == pytest.approx(offline.folded.progress.tolist())


def test_a_single_pair(url: str) -> None:
    answer = _post(url, json.dumps(json_fields(make_request((0.5,)))), JSON).json()
    assert answer["hops"][0][0] == pytest.approx(0.5, abs=0.01)
    assert answer["folded"] is None


@pytest.mark.parametrize(
    ("data", "headers", "status", "kind"),
    [
        (b"", MSGPACK, 400, "WireError"),
        (b"", JSON, 400, "WireError"),
        (encode_request(make_request())[:-9], MSGPACK, 400, "WireError"),
        (b"\x91" * 50_000, MSGPACK, 400, "WireError"),
        (b"[" * 50_000, JSON, 400, "WireError"),
        (b'{"remaining_ms": NaN}', JSON, 400, "WireError"),
        (b"{}", {}, 415, "UnsupportedMedia"),
        (b"{}", {"Content-Type": "text/html"}, 415, "UnsupportedMedia"),
        (json.dumps({**json_fields(make_request()), "times": [1]}), JSON, 422, "BadInput"),
        (encode_request(make_request(remaining_ms=0.0)), MSGPACK, 504, "ScoringTimeout"),
        (encode_request(make_request(model_version="v9")), MSGPACK, 409, "VersionUnavailable"),
    ],
)
def test_refusals(url: str, data: bytes, headers: dict[str, str], status: int, kind: str) -> None:
    answer = _post(url, data, headers)
    assert (answer.status_code, _error(answer)["type"]) == (status, kind)
    if kind == "BadInput":
        assert _error(answer)["field"] == "times"
        assert _error(answer)["fix"]


def test_other_addresses(url: str) -> None:
    assert requests.get(url + "/healthz", timeout=5).json() == {"status": "ok"}
    assert requests.get(url + "/v1/version", timeout=5).json() == {
        "model_version": "fake-1",
        "tower_version": "",
    }
    assert requests.get(url + "/openapi.json", timeout=5).json() == document()
    assert "<code>POST /v1/score</code>" in requests.get(url + "/docs", timeout=5).text
    assert _error(requests.get(url + "/nothing", timeout=5))["type"] == "NotFound"
    assert _error(requests.get(url + "/v1/score", timeout=5))["type"] == "MethodNotAllowed"
    metrics = requests.get(url + "/metrics", timeout=5).text
    assert 'dopamine_http_requests_total{path="/healthz",status="200"}' in metrics
    assert "/nothing" not in metrics


def test_too_large_is_refused_before_it_is_read() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=_config(limits=WireLimits(max_bytes=5000))) as url:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=5) as connection:
            head = "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n".encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 413")
        answer = _post(url, (b"x" * 1000 for _ in range(10)), JSON)  # No declared length.
        assert (answer.status_code, _error(answer)["type"]) == (413, "BodyTooLarge")
        assert _post(url, b"x" * 6000).status_code == 413
        assert _post(url, b"x" * 4000).status_code == 400


def test_token() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine())), TOKEN, _config()) as url:
        data = encode_request(make_request())
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = _post(url, data, MSGPACK | headers)
            assert (answer.status_code, _error(answer)["type"]) == (401, "Unauthorized")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert requests.get(url + "/metrics", headers=headers, timeout=5).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert _post(url, data, MSGPACK | right).status_code == 200
        assert requests.get(url + "/metrics", headers=right, timeout=5).status_code == 200
        assert requests.get(url + "/healthz", timeout=5).status_code == 200


def test_off_loopback_without_a_token_it_does_not_start() -> None:
    with pytest.raises(BadInput, match="token"):
        make_server(LocalRewardClient(Scorer(FakeEngine())), IngressConfig(host="0.0.0.0", port=0), None)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BadInput, match="free"):
            make_server(Failing(Overloaded("")), IngressConfig(port=taken.getsockname()[1]), None)


def test_rates() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=_config(rate_hz=0.01, burst=3)) as url:
        answers = [requests.get(url + "/healthz", timeout=5) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["Retry-After"]) > 50
    with serving(Failing(Overloaded("")), config=_config(total_rate_hz=0.01, total_burst=1)) as url:
        answers = [_post(url, encode_request(make_request())) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 429]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("full"), 503),
        (ServiceUnavailable("no replica"), 503),
        (ScoringTimeout("late"), 504),
        (VersionUnavailable("v9"), 409),
        (KeyError("a secret of the service"), 500),
    ],
)
def test_failures_of_the_service(error: Exception, status: int, caplog: pytest.LogCaptureFixture) -> None:
    with serving(Failing(error), config=_config()) as url, caplog.at_level(logging.CRITICAL):
        for data, headers in (
            (encode_request(make_request()), MSGPACK),
            (json.dumps(json_fields(make_request())), JSON),
        ):
            answer = _post(url, data, headers)
            assert answer.status_code == status
            assert "secret" not in str(_error(answer))
            assert ("Retry-After" in answer.headers) == (status == 503)


def test_health_asks_at_most_once_a_second() -> None:
    service = Failing(ServiceUnavailable("no replica"))
    with serving(service, config=_config()) as url:
        assert {requests.get(url + "/healthz", timeout=5).status_code for _ in range(20)} == {503}
    assert service.asked <= 3


def test_requests_beyond_the_room_are_refused_and_the_others_answered() -> None:
    service = Blocked()
    with serving(service, config=_config(max_requests=1)) as url:
        answers: list[requests.Response] = []
        first = threading.Thread(target=lambda: answers.append(_post(url, encode_request(make_request()))))
        first.start()
        deadline = time.monotonic() + 10
        while "dopamine_http_under_way 1" not in requests.get(url + "/metrics", timeout=5).text:
            assert time.monotonic() < deadline
        refused = _post(url, encode_request(make_request()))
        assert (refused.status_code, _error(refused)["type"]) == (503, "Overloaded")
        service.open.set()
        first.join(10)
        assert answers[0].status_code == 200
    with serving(service, config=_config(memory_mb=0.001)) as url:
        assert _error(_post(url, encode_request(make_request())))["type"] == "Overloaded"


def test_a_body_that_does_not_arrive() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=_config(body_s=0.3)) as url:
        port = int(url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            head = (
                "POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
            )
            connection.sendall(head.encode())
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:  # Its sender goes away.
            connection.sendall(head.encode())
        assert requests.get(url + "/healthz", timeout=5).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "bare", "identity", ""])
def test_compressed_bodies_are_answered_as_the_plain_ones(url: str, encoding: str) -> None:
    request = make_request(start_progress=0.1)
    [offline] = Scorer(FakeEngine()).score([request])
    for data, headers in ((encode_request(request), MSGPACK), (json.dumps(json_fields(request)).encode(), JSON)):
        packed = {"gzip": gzip.compress(data), "deflate": zlib.compress(data), "bare": zlib.compress(data, wbits=-15)}
        body = packed.get(encoding.lower().removeprefix("x-"), data)
        answer = _post(url, body, headers | {"Content-Encoding": encoding.replace("bare", "deflate")})
        assert answer.status_code == 200
        assert "Content-Encoding" not in answer.headers
        if headers is MSGPACK:
            assert_same_answer(decode_reply(answer.content), offline)


@pytest.mark.parametrize(
    ("data", "encoding", "status", "kind"),
    [
        (b"", "br", 415, "UnsupportedEncoding"),
        (b"", "gzip, gzip", 415, "UnsupportedEncoding"),
        (b"", "gzip", 400, "WireError"),
        (b"{}", "gzip", 400, "WireError"),
        (b"\x78\x9crubbish", "deflate", 400, "WireError"),
        (gzip.compress(b"x" * 3000)[:-9], "gzip", 400, "WireError"),
        (gzip.compress(b"{}") + gzip.compress(b"{}"), "gzip", 400, "WireError"),
        (gzip.compress(b"{}") + b"x", "gzip", 400, "WireError"),
        (gzip.compress(bytes(66 << 20)), "gzip", 413, "BodyTooLarge"),
        (zlib.compress(bytes(66 << 20)), "deflate", 413, "BodyTooLarge"),
    ],
    ids=range(10),
)
def test_what_cannot_be_decompressed(url: str, data: bytes, encoding: str, status: int, kind: str) -> None:
    answer = _post(url, data, JSON | {"Content-Encoding": encoding})
    assert (answer.status_code, _error(answer)["type"]) == (status, kind)
    if status == 415:
        assert answer.headers["Accept-Encoding"] == "gzip, deflate, identity"
        assert "gzip" in _error(answer)["message"]


def test_a_decompressed_body_takes_the_room_that_it_needs() -> None:
    body = gzip.compress(bytes(20 << 20))
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=_config(memory_mb=16)) as url:
        answer = _post(url, body, MSGPACK | {"Content-Encoding": "gzip"})
        assert (answer.status_code, _error(answer)["type"]) == (503, "Overloaded")
        assert "dopamine_http_under_way 0" in requests.get(url + "/metrics", timeout=5).text


def test_a_small_bomb_is_never_held() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    tracemalloc.start()
    with pytest.raises(BodyTooLarge):
        decompress(bomb, "gzip", WireLimits(max_bytes=4 << 20), lambda count: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
