"""The Serve application on a local cluster: batching, versions, overload, deadlines, lost replicas, the lease."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
import torch
from ray import serve

from dopamine_rl.errors import BadInput, Overloaded, ScoringError, ScoringTimeout, ServiceUnavailable
from dopamine_rl.types import ScoreReply, ScoreRequest
from reward_service import lease, ledger_store
from reward_service.client import ServePendingScore, ServeRewardClient
from reward_service.deployment import deploy, make_engine, shutdown
from reward_service.scorer import Scorer
from reward_service.service import ServiceConfig, ServiceCounts
from tests.contracts import assert_same_answer, check_reward_client
from tests.fakes import FakeEngine, engine_from_folder, make_request, seeded_request, sometimes, write_checkpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

RATE = 0.2
"""Share of unreadable answers, so that every test also goes through asking again."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def client(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeRewardClient]:
    """One replica that takes 100 ms for a batch."""
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("grm"), "v1", RATE, base_s=0.1)
    deploy(checkpoint, "shared", _config())
    yield ServeRewardClient("shared")
    shutdown("shared")


def _config(**changes: object) -> ServiceConfig:
    return ServiceConfig(**{"num_cpus": 0.1, "engine": "tests.fakes:engine_from_folder", **changes})  # type: ignore[arg-type]


def _offline(version: str = "v1") -> Scorer:
    return Scorer(FakeEngine(version, sometimes(RATE)))


def _outcomes(requests: list[ScoreRequest], pending: list[ServePendingScore], timeout_s: float) -> Counter[str]:
    """Each request's one outcome; answers are compared with offline scoring."""
    outcomes: Counter[str] = Counter()
    for request, waiting in zip(requests, pending, strict=True):
        try:
            reply = waiting.result(timeout_s)
        except ScoringError as error:
            outcomes[type(error).__name__] += 1
        else:
            assert_same_answer(reply, _offline(reply.model_version).score([request])[0])
            outcomes["answered"] += 1
    return outcomes


def _wait_until_in_the_model(service: ServeRewardClient, sent: float, replica: int | None = None) -> None:
    """Wait until a replica has a request sent at `sent`, or later, for longer than it waits for more."""

    def is_in_the_model() -> bool:
        age_s = time.monotonic() - sent
        return any(
            2 * ServiceConfig().batch_wait_ms * 1e-3 < description.idle_s.get("v1", age_s) < age_s
            for description in service.describe_all(10.0)
            if replica in (None, description.process_id)
        )

    wait_until(is_in_the_model, what="the request in the model")


def _settled_counts(client: ServeRewardClient) -> ServiceCounts:
    """The replica's counts once what earlier callers gave up on is through: batches are answered in order."""
    client.submit(make_request()).result(10.0)
    return client.describe(10.0).counts


def test_contract(client: ServeRewardClient) -> None:
    check_reward_client(pickle.loads(pickle.dumps(client)), seeded_request, _offline())


def test_concurrent_callers_share_batches(client: ServeRewardClient) -> None:
    before = _settled_counts(client)

    def call(caller: int) -> list[ScoreReply]:
        requests = [seeded_request(2, 100 * caller + i) for i in range(5)]
        replies = [client.submit(request).result(30.0) for request in requests]
        for request, reply in zip(requests, replies, strict=True):
            assert_same_answer(reply, _offline().score([request])[0])
        return replies

    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(call, range(4)))) == 4
    after = client.describe(10.0).counts
    assert after.requests - before.requests == 20
    assert after.batches - before.batches <= 12  # 5 if the callers stayed in step, 20 without batching.


def test_expired_request_costs_nothing(client: ServeRewardClient) -> None:
    before = _settled_counts(client)
    sent, first = time.monotonic(), client.submit(make_request())
    _wait_until_in_the_model(client, sent)
    expired = client.submit(make_request((0.5,), remaining_ms=20.0))
    with pytest.raises(ScoringTimeout):
        expired.result(10.0)
    first.result(10.0)
    after = client.describe(10.0).counts
    assert (after.requests - before.requests, after.expired - before.expired) == (1, 1)


def test_a_late_request_is_cancelled_and_stays_late(client: ServeRewardClient) -> None:
    before = _settled_counts(client)
    sent, first = time.monotonic(), client.submit(make_request())
    _wait_until_in_the_model(client, sent)
    late = client.submit(make_request((0.5,)))
    for timeout_s in (0.01, 10.0):
        with pytest.raises(ScoringTimeout):
            late.result(timeout_s)
    first.result(10.0)
    wait_until(lambda: client.describe(10.0).counts.cancelled > before.cancelled, 5.0)
    assert client.describe(10.0).counts.requests - before.requests == 1


def test_overload_is_refused_and_nothing_is_lost(cluster: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path, "v1", RATE, base_s=0.3)
    deploy(checkpoint, "small", _config(max_ongoing_requests=2, max_queued_requests=2))
    small = ServeRewardClient("small")
    small.model_version(10.0)
    requests = [seeded_request(1, seed) for seed in range(12)]
    outcomes = _outcomes(requests, [small.submit(request) for request in requests], 30.0)
    assert set(outcomes) == {"answered", Overloaded.__name__}
    assert outcomes.total() == 12
    assert outcomes["answered"] >= 2
    shutdown("small")


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_replica_killed_during_requests_loses_none(cluster: str, tmp_path: Path, replicas: int) -> None:
    name = f"killed-{replicas}"
    checkpoint = write_checkpoint(tmp_path, "v1", RATE, base_s=0.3)
    deploy(checkpoint, name, _config(replicas=replicas, max_batch_frames=4))
    service = ServeRewardClient(name)
    victim = service.describe(10.0).process_id
    # As patient as the wait below: on a busy machine the replacement of the only replica takes its time.
    requests = [replace(seeded_request(2, seed), remaining_ms=60_000.0) for seed in range(10)]
    sent, pending = time.monotonic(), [service.submit(request) for request in requests]
    _wait_until_in_the_model(service, sent, victim)
    os.kill(victim, signal.SIGKILL)
    assert _outcomes(requests, pending, 60.0) == {"answered": 10}
    assert sum(waiting.retries for waiting in pending) >= 1
    shutdown(name)


def test_an_episode_keeps_to_one_replica_and_episodes_are_spread(cluster: str, tmp_path: Path) -> None:
    deploy(write_checkpoint(tmp_path, "v1"), "sticky", _config(replicas=2))
    service = ServeRewardClient("sticky")

    def frames() -> dict[int, int]:
        return {told.process_id: told.counts.frames for told in service.describe_all(10.0)}

    served: Counter[int] = Counter()
    for episode in range(10):
        before = frames()
        for step in range(4):
            service.submit(make_request((step / 10,), episode_id=f"episode {episode}")).result(10.0)
        after = frames()
        [(replica, count)] = [(pid, after[pid] - before[pid]) for pid in after if after[pid] > before[pid]]
        assert count == 4
        served[replica] += 1
    assert len(served) == 2
    shutdown("sticky")


def test_replicas_follow_the_load(cluster: str, tmp_path: Path) -> None:
    scaling = {"max_replicas": 2, "target_requests": 2.0, "scale_up_s": 1.0, "scale_down_s": 2.0}
    deploy(write_checkpoint(tmp_path, "v1", base_s=0.2), "elastic", _config(max_batch_frames=2, **scaling))
    service = ServeRewardClient("elastic")
    assert len(service.describe_all(10.0)) == 1
    done = threading.Event()

    def load(actor: int) -> int:
        answered = 0
        while not done.is_set():
            service.submit(make_request((0.5,), episode_id=f"{actor}-{answered}")).result(30.0)
            answered += 1
        return answered

    with ThreadPoolExecutor(10) as pool:
        actors = [pool.submit(load, actor) for actor in range(10)]
        try:
            wait_until(lambda: len(service.describe_all(10.0)) == 2, 60.0, "a second replica")
        finally:
            done.set()
        assert all(actor.result() > 0 for actor in actors)
    wait_until(lambda: len(service.describe_all(10.0)) == 1, 60.0, "the end of the second replica")
    service.close()
    shutdown("elastic")


def test_without_a_replica_in_time_a_lost_request_is_refused(cluster: str, tmp_path: Path) -> None:
    deploy(write_checkpoint(tmp_path, "v1", base_s=0.5), "alone", _config())
    service = ServeRewardClient("alone")
    victim = service.describe(10.0).process_id
    sent, pending = time.monotonic(), service.submit(make_request())
    _wait_until_in_the_model(service, sent)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(ServiceUnavailable, match="replica was lost"):
        pending.result(0.3)
    shutdown("alone")
    with pytest.raises(ServiceUnavailable):
        service.submit(make_request()).result(5.0)


class PlacedEngine(FakeEngine):
    """Remembers the device it was given."""

    def __init__(self, folder: Path, threads: int, device: str = "cpu") -> None:
        super().__init__(folder.name)
        self.device = device


def test_a_replica_with_a_gpu_runs_its_engine_there(tmp_path: Path) -> None:
    placed = _config(engine=f"{__name__}:PlacedEngine")
    assert make_engine(tmp_path, placed).device == "cpu"  # type: ignore[attr-defined]
    assert make_engine(tmp_path, replace(placed, num_gpus=0.5)).device == "cuda"  # type: ignore[attr-defined]
    checkpoint = write_checkpoint(tmp_path / "any", "v1", RATE)
    assert make_engine(checkpoint, _config(num_gpus=1.0)).model_version == "v1"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a replica can have a GPU here")
def test_a_replica_does_not_fall_back_on_the_cpu(tmp_path: Path) -> None:
    embedded = ServiceConfig(num_gpus=1.0)
    with pytest.raises(BadInput, match=r"engine\.device = 'cuda': give one that torch can use here"):
        make_engine(tmp_path, embedded)


def test_a_checkpoint_that_cannot_be_loaded_is_reported(cluster: str, tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="No such file") as error:
        deploy(tmp_path / "missing", "broken", _config())
    assert "Traceback" not in str(error.value)
    assert "broken" not in serve.status().applications
    with pytest.raises(ServiceUnavailable, match="does not exist"):
        ServeRewardClient("broken").submit(make_request())


DRIVER = """
import sys, time, ray
from pathlib import Path
from reward_service.deployment import deploy
from reward_service.service import ServiceConfig
ray.init(address=sys.argv[1], log_to_driver=False)
deploy(Path(sys.argv[2]), "leased", ServiceConfig(num_cpus=0.1, lease_s=2.0, engine="tests.fakes:engine_from_folder"))
print("deployed", flush=True)
time.sleep(600)
"""


def test_the_application_goes_when_its_driver_is_killed(cluster: str, tmp_path: Path) -> None:
    assert engine_from_folder(write_checkpoint(tmp_path, "v1"), 1).model_version == "v1"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", DRIVER, cluster, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        assert driver.stdout is not None
        assert any("deployed" in line for line in driver.stdout)
        assert ServeRewardClient("leased").model_version(10.0) == "v1"
        time.sleep(3.0)  # Longer than the lease: it is kept while the driver lives.
        assert "leased" in serve.status().applications
        driver.kill()
    wait_until(lambda: "leased" not in serve.status().applications, what="the end of the application")


def test_a_deletion_that_failed_is_tried_again(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ledgers' actor stands still while the application is to be deleted."""
    monkeypatch.setattr(ledger_store, "CALL_S", 0.5)
    monkeypatch.setattr(lease, "RETRY_S", 0.1)
    deploy(write_checkpoint(tmp_path, "v1"), "orphan", _config(lease_s=600.0))  # Its replica would act much later.
    lease.release("orphan")
    store = ray.get_actor(ledger_store.STORE, namespace=ledger_store.NAMESPACE)
    process = ray.get(store.__ray_call__.remote(lambda self: os.getpid()), timeout=20)
    os.kill(process, signal.SIGSTOP)
    try:
        lease.watch("orphan", 0.1)
        wait_until(lambda: "orphan could not be deleted yet" in caplog.text)
        assert "orphan" in serve.status().applications
    finally:
        os.kill(process, signal.SIGCONT)
    wait_until(lambda: "orphan" not in serve.status().applications, what="the end of the application")
