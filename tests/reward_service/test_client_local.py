"""The client without a cluster."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dopamine_rl.errors import ScoringTimeout
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, make_request, seeded_request, sometimes


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_contract(rate: float) -> None:
    scorer = Scorer(FakeEngine(unreadable=sometimes(rate)))
    check_reward_client(LocalRewardClient(scorer), seeded_request, scorer)


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


def test_needs_neither_ray_nor_torch() -> None:
    code = "import sys, reward_service.local, reward_service.scorer, reward_service.service;"
    code += "sys.exit(len({'ray', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
