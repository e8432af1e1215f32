"""The HTTP client against a real server; the model is a fake."""

from __future__ import annotations

import pickle

import pytest

from reward_service.http_client import HttpRewardClient
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.contracts import check_reward_client
from tests.fakes import FakeEngine, seeded_request, sometimes
from tests.reward_service.http import serving

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
