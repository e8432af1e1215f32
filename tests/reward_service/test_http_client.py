"""The HTTP client against a real server; the model is a fake."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.errors import Overloaded, ScoringTimeout, ServiceUnavailable
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates
from reward_service.guards import IngressConfig
from reward_service.http_client import HttpClientConfig, HttpRewardClient
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, make_request, seeded_request, sometimes
from tests.reward_service.http import serving
from tests.waiting import wait_until

TOKEN = "a-token-for-the-tests"


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_contract(rate: float) -> None:
    scorer = Scorer(FakeEngine(unreadable=sometimes(rate)))
    with serving(LocalRewardClient(scorer), TOKEN) as url:
        client = HttpRewardClient(url, TOKEN)
        check_reward_client(pickle.loads(pickle.dumps(client)), seeded_request, scorer)


def test_the_contract_can_fail() -> None:
    other = Scorer(FakeEngine(unreadable=sometimes(0.5)))
    with serving(LocalRewardClient(other)) as url, pytest.raises(AssertionError):
        check_reward_client(HttpRewardClient(url), seeded_request, Scorer(FakeEngine()))


class Shut(FakeEngine):
    """Answers nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        assert self.open.wait(20)
        return super().estimate(images, prompts)


def test_submit_does_not_wait_and_what_is_late_stays_late() -> None:
    engine = Shut()
    with serving(LocalRewardClient(Scorer(engine))) as url:
        client = HttpRewardClient(url)
        pending = client.submit(make_request())  # Returns before there can be an answer.
        with pytest.raises(ScoringTimeout):
            pending.result(0.05)
        with pytest.raises(ScoringTimeout):
            client.submit(make_request(remaining_ms=100.0)).result(5.0)
        engine.open.set()
        assert client.submit(make_request()).result(5.0).valid.all()
        with pytest.raises(ScoringTimeout):
            pending.result(5.0)


def test_requests_beyond_the_bound_are_refused_at_once() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine(base_s=0.3)))) as url:
        client = HttpRewardClient(url, config=HttpClientConfig(max_pending=2))
        pending = [client.submit(seeded_request(1, seed)) for seed in range(3)]
        with pytest.raises(Overloaded):
            pending[2].result(5.0)
        assert all(waiting.result(5.0).valid.all() for waiting in pending[:2])
        assert client.submit(make_request()).result(5.0).valid.all()


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_a_service_that_is_not_there(dead_port: int) -> None:
    client = HttpRewardClient(f"http://127.0.0.1:{dead_port}", config=HttpClientConfig(max_retries=2))
    pending = client.submit(make_request())
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        pending.result(5.0)
    assert pending.retries == 2
    stubborn = HttpRewardClient(client.url, config=HttpClientConfig(max_retries=10**6))
    with pytest.raises((ServiceUnavailable, ScoringTimeout)):
        stubborn.model_version(0.3)


def test_a_service_that_comes_back_loses_nothing(dead_port: int) -> None:
    pending = HttpRewardClient(f"http://127.0.0.1:{dead_port}").submit(make_request())
    wait_until(lambda: pending.retries, what="a first try again")
    with serving(LocalRewardClient(Scorer(FakeEngine())), config=IngressConfig(port=dead_port)):
        assert pending.result(10.0).valid.all()
    assert pending.retries >= 1


def test_the_token_is_needed_and_not_shown() -> None:
    with serving(LocalRewardClient(Scorer(FakeEngine())), TOKEN) as url:
        with pytest.raises(ServiceUnavailable, match="token") as caught:
            HttpRewardClient(url, "another-token", HttpClientConfig(max_retries=0)).model_version(5.0)
        assert "another-token" not in str(caught.value)
    assert TOKEN not in repr(HttpRewardClient(url, TOKEN))


@pytest.fixture
def odd_server() -> Iterator[tuple[str, list[bytes]]]:
    """Answers every connection with the bytes in the list, and leaves it open."""
    answer: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            kept.append(connection)
            connection.recv(1 << 16)
            connection.sendall(answer[0])

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", answer
    listening.close()
    for connection in kept:
        connection.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", ServiceUnavailable),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", ServiceUnavailable),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>", ServiceUnavailable),
        (b"rubbish\r\n\r\n", ServiceUnavailable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nab", ScoringTimeout),
        (b"", ScoringTimeout),
    ],
)
def test_answers_that_are_none(odd_server: tuple[str, list[bytes]], answer: bytes, error: type) -> None:
    url, answers = odd_server
    answers.append(answer)
    pending = HttpRewardClient(url, config=HttpClientConfig(max_retries=0)).submit(make_request(remaining_ms=500.0))
    with pytest.raises(error):
        pending.result(5.0)
