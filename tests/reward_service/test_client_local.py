"""The client without a cluster."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput, Overloaded, ScoringTimeout, ServiceUnavailable
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates
from reward_service.local import BackgroundRewardClient, LocalRewardClient
from reward_service.scorer import Scorer
from tests.contracts import assert_same_answer, check_reward_client
from tests.fakes import FakeEngine, make_request, seeded_request, sometimes


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_contract(rate: float) -> None:
    scorer = Scorer(FakeEngine(unreadable=sometimes(rate)))
    check_reward_client(LocalRewardClient(scorer), seeded_request, scorer)
    check_reward_client(BackgroundRewardClient(scorer), seeded_request, scorer)


def test_the_contract_can_fail() -> None:
    other = Scorer(FakeEngine(unreadable=sometimes(0.5)))
    with pytest.raises(AssertionError):
        check_reward_client(LocalRewardClient(other), seeded_request, Scorer(FakeEngine()))


def test_submit_does_not_run_the_model_and_a_late_request_never_does() -> None:
    engine = FakeEngine()
    client = LocalRewardClient(Scorer(engine))
    pending = client.submit(make_request())
    with pytest.raises(ScoringTimeout):
        pending.result(0.0)
    assert not engine.calls
    pending.result(1.0)
    pending.result(1.0)
    assert len(engine.calls) == 1


class Stuck(FakeEngine):
    """An engine whose calls wait until they may go on; `busy` is set while one waits."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.go_on = threading.Event(), threading.Event()

    def estimate(self, images: list[NDArray[np.uint8]], prompts: list[Prompt]) -> HopEstimates:  # type: ignore[override]
        self.busy.set()
        assert self.go_on.wait(60.0)
        return super().estimate(images, prompts)


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    engine = Stuck()
    yield engine
    engine.go_on.set()


def test_a_background_client_gives_up_a_model_that_is_too_slow_and_refuses_more_than_its_bound(stuck: Stuck) -> None:
    client = BackgroundRewardClient(Scorer(stuck), max_pending=2)
    first = client.submit(make_request())
    assert stuck.busy.wait(60.0)
    second = client.submit(make_request())
    with pytest.raises(Overloaded, match="2 requests are pending"):
        client.submit(make_request()).result(60.0)
    with pytest.raises(ScoringTimeout):
        second.result(0.01)
    stuck.go_on.set()
    assert len(first.result(60.0).reasons) == 4
    with pytest.raises(ScoringTimeout):
        second.result(60.0)
    assert len(stuck.calls) == 1  # nobody waits for the second any more
    assert client.submit(make_request()).result(60.0).valid.all()


def test_a_background_client_scores_together_what_came_while_the_model_was_busy(stuck: Stuck) -> None:
    client = BackgroundRewardClient(Scorer(stuck))
    first = client.submit(seeded_request(1, 0))
    assert stuck.busy.wait(60.0)
    others = [client.submit(seeded_request(1, seed)) for seed in range(1, 6)]
    stuck.go_on.set()
    assert all(pending.result(60.0).valid.all() for pending in [first, *others])
    assert len(stuck.calls) == 2


def test_a_bundle_is_scored_together_and_each_request_has_its_own_outcome(stuck: Stuck) -> None:
    client = BackgroundRewardClient(Scorer(stuck), max_pending=4)
    first = client.submit(seeded_request(1, 0))
    assert stuck.busy.wait(60.0)
    a, b, c, refused = client.submit_all([seeded_request(1, seed) for seed in range(1, 5)])
    with pytest.raises(Overloaded, match="4 requests are pending"):
        refused.result(60.0)
    with pytest.raises(ScoringTimeout):
        b.result(0.0)
    stuck.go_on.set()
    for seed, pending in ((0, first), (1, a), (3, c)):
        [alone] = Scorer(FakeEngine()).score([seeded_request(1, seed)])
        assert_same_answer(pending.result(60.0), alone)
    with pytest.raises(ScoringTimeout):
        b.result(60.0)
    assert len(stuck.calls) == 2
    assert all(pending.result(60.0) for pending in client.submit_all([seeded_request(1, seed) for seed in range(4)]))
    assert client.submit_all([]) == []


def test_a_background_client_survives_an_engine_that_fails() -> None:
    broken = FakeEngine(unreadable=lambda before, after: [][0])  # type: ignore[arg-type]
    client = BackgroundRewardClient(Scorer(broken))
    for _ in range(2):
        with pytest.raises(ServiceUnavailable, match="IndexError"):
            client.submit(make_request()).result(60.0)
    with pytest.raises(BadInput, match="max_pending = 0: give at least 1"):
        BackgroundRewardClient(Scorer(broken), max_pending=0)


def test_a_background_client_ends_with_its_last_user_and_with_the_program() -> None:
    code = """
import threading
from reward_service.local import BackgroundRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, make_request
clients = [BackgroundRewardClient(Scorer(FakeEngine())) for _ in range(2)]
for client in clients:
    assert client.submit(make_request()).result(60.0).valid.all()
threads = [thread for thread in threading.enumerate() if thread.name == "background-reward"]
assert len(threads) == 2
del clients[0], client
threads[0].join(60.0)
assert [thread.is_alive() for thread in threads] == [False, True]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_needs_neither_ray_nor_torch() -> None:
    code = "import sys, reward_service.local, reward_service.scorer, reward_service.service;"
    code += "sys.exit(len({'ray', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
