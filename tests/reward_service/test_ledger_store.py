"""The ledgers' actor: two who claim at once, claims that ended, a lost actor. Store alone, then on a cluster."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

from dopamine_rl.errors import ServiceUnavailable
from reward_service import lease, ledger_store
from reward_service.ledger_store import Store
from reward_service.releases import Ledger, Release

FIRST, SECOND = Ledger((Release(1, "/a", "v1"),)), Ledger((Release(2, "/b", "v2"),))


def test_a_claim_has_one_holder_and_only_that_one_ends_it() -> None:
    store = Store()
    assert store.claim("app", "one", 60.0)
    assert store.claim("app", "one", 60.0)  # Ray may ask twice.
    assert not store.claim("app", "two", 60.0)
    store.release("app", "two")
    assert not store.claim("app", "two", 60.0)
    assert not store.write("app", b"two's", "two")
    assert not store.write("app", b"nobody's", None)
    assert store.write("app", b"one's", "one")
    store.release("app", "one")
    assert store.claim("app", "two", 60.0)


def test_who_claimed_too_long_ago_writes_nothing_more() -> None:
    store = Store()
    assert store.claim("app", "slow", -1.0)
    assert store.claim("app", "next", 60.0)
    assert not store.write("app", b"slow's", "slow")
    store.release("app", "slow")
    assert store.write("app", b"next's", "next")


def test_a_lost_ledger_is_given_back_and_a_forgotten_one_is_not() -> None:
    store = Store()
    store.restore("app", b"followed")
    store.restore("app", b"older")
    assert store.read("app") == b"followed"
    store.forget("app")
    store.restore("app", b"followed")
    assert store.read("app") is None
    assert store.write("app", b"new", None)
    assert store.read("app") == b"new"


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
def test_of_many_who_claim_at_once_one_gets_it(cluster: None) -> None:
    together, inside, most = threading.Barrier(8), [], []

    def claim(number: int) -> bool:
        together.wait(20)
        try:
            with ledger_store.claim("raced", 60.0) as claim:
                inside.append(number)
                most.append(len(inside))
                ledger_store.write("raced", FIRST, claim)
                inside.remove(number)
            return True
        except ServiceUnavailable:
            return False

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            assert any(list(pool.map(claim, range(8))))
    assert max(most) == 1
    assert ledger_store.read("raced") == FIRST
    ledger_store.forget("raced")
    assert ledger_store.names() == []


@pytest.mark.ray
def test_another_process_sees_the_same_ledger_and_a_lost_actor_comes_back(cluster: None) -> None:
    @ray.remote(num_cpus=0.1)
    def elsewhere() -> tuple[Ledger, bool]:
        try:
            with ledger_store.claim("shared", 60.0):
                return ledger_store.read("shared"), True
        except ServiceUnavailable:
            return ledger_store.read("shared"), False

    ledger_store.write("shared", SECOND)
    with ledger_store.claim("shared", 60.0):
        assert ray.get(elsewhere.remote(), timeout=60) == (SECOND, False)
    assert ray.get(elsewhere.remote(), timeout=60) == (SECOND, True)
    ray.kill(ray.get_actor(ledger_store.STORE, namespace=ledger_store.NAMESPACE), no_restart=False)
    with pytest.raises(ServiceUnavailable, match="no reward service named shared"):
        ledger_store.read("shared")
    ledger_store.restore("shared", SECOND)
    assert ledger_store.read("shared") == SECOND


def test_an_application_whose_lease_is_gone_is_deleted_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([False, False, True])
    left: list[bool] = []
    monkeypatch.setattr(lease, "RETRY_S", 0.001)
    monkeypatch.setattr(lease, "_held_by_somebody", lambda name: False)
    monkeypatch.setattr(lease, "_deleted", lambda name: left.append(next(tries)) or left[-1])
    lease._watch("app", 0.01)
    assert left == [False, False, True]


def test_an_application_of_a_new_job_is_not_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([True, *[False] * 10_000])
    monkeypatch.setattr(lease, "RETRY_S", 0.001)
    monkeypatch.setattr(lease, "_held_by_somebody", lambda name: next(held) or bool(deleted))
    deleted: list[str] = []
    monkeypatch.setattr(lease, "_deleted", lambda name: bool(deleted.append(name)))
    lease._watch("app", 0.02)
    assert deleted == ["app"]
