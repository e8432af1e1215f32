"""Hot swaps of a running Serve application: no request lost, versions kept, bad models refused."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.errors import CheckpointError, ScoringError, ServiceUnavailable, VersionUnavailable
from dopamine_rl.types import ScoreReply
from reward_service import ledger_store
from reward_service.client import ServeRewardClient
from reward_service.deployment import deploy, shutdown
from reward_service.scorer import Scorer
from reward_service.service import ServiceConfig
from reward_service.swap import SwapConfig, swap
from tests.contracts import assert_same_answer
from tests.fakes import FakeEngine, frame, make_request, tokens, write_checkpoint
from tests.waiting import wait_until

pytestmark = pytest.mark.ray

FORCED = SwapConfig(timeout_s=60.0, force=True)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def checkpoints(tmp_path: Path) -> dict[str, Path]:
    return {name: write_checkpoint(tmp_path / name, name, base_s=0.02) for name in ("v1", "v2", "v3")}


@contextmanager
def _service(name: str, checkpoint: Path, replicas: int = 2) -> Iterator[ServeRewardClient]:
    deploy(checkpoint, name, ServiceConfig(num_cpus=0.1, replicas=replicas, engine="tests.fakes:engine_from_folder"))
    try:
        yield ServeRewardClient(name)
    finally:
        shutdown(name)


def _check(client: ServeRewardClient, *pairs: tuple[str | None, str]) -> None:
    """Every replica answers requests that want a version with that version."""
    for seed in range(8):
        for wanted, answering in pairs:
            request = make_request(model_version=wanted, episode_id=f"episode {seed}")
            reply = client.submit(request).result(30.0)
            assert reply.model_version == answering
            assert_same_answer(reply, Scorer(FakeEngine(answering)).score([request])[0])


def test_under_load_no_request_fails_and_running_episodes_keep_their_version(checkpoints: dict[str, Path]) -> None:
    replies: list[ScoreReply] = []
    errors: list[ScoringError] = []
    done = threading.Event()
    acting_with: dict[int, str] = {}

    def act(client: ServeRewardClient, actor: int) -> None:
        """Episodes one after another, each with the version that was served at its beginning."""
        episode = 0
        while not done.is_set():
            episode += 1
            version = acting_with[actor] = client.model_version(10.0)
            for step in range(10):
                name = f"{actor}/{episode}"
                request = make_request((step / 10,), episode_id=name, model_version=version)
                try:
                    replies.append(client.submit(request).result(20.0))
                    assert replies[-1].model_version == version
                except ScoringError as error:
                    errors.append(error)

    with _service("loaded", checkpoints["v1"]) as client:
        actors = [threading.Thread(target=act, args=(client, actor)) for actor in range(4)]
        for actor in actors:
            actor.start()
        for name, after in (("v1", "v2"), ("v2", "v3"), ("v3", "v1")):
            # A replica keeps the version before; a forced swap ends the one before that, whoever still acts with it.
            wait_until(lambda n=name: errors or list(acting_with.values()) == 4 * [n])  # type: ignore[misc]
            done_swap = swap("loaded", checkpoints[after], FORCED)
            assert (done_swap.version, done_swap.replicas) == (after, 2)
        answered = len(replies)
        wait_until(lambda: errors or len(replies) >= answered + 40, what="traffic after the last swap")
        done.set()
        for actor in actors:
            actor.join(30.0)
        assert not errors
        assert {reply.model_version for reply in replies} == {"v1", "v2", "v3"}
        _check(client, (None, "v1"), ("v3", "v3"))
        with pytest.raises(VersionUnavailable):
            client.submit(make_request(model_version="v2")).result(10.0)


def test_a_model_with_another_tower_loses_no_label_of_an_actor_that_encodes(tmp_path: Path) -> None:
    first, second = (write_checkpoint(tmp_path / tower, f"with {tower}", tower=tower) for tower in ("a", "b"))
    context = make_request().context
    with _service("towers", first, replicas=1) as client:
        assert client.tower_version(10.0) == "a"
        labeller = Labeller(LabellerConfig("grm", 0.9, 1, deadline_s=30.0), client)
        for episode in range(3):
            labeller.begin(f"{episode}", context)
            for time in range(1, 7):
                labeller.observe(f"{episode}", time, frame(time / 10), True, tokens(time / 10, "a"))
                if (episode, time) == (0, 3):
                    swap("towers", second, FORCED)
            assert labeller.collect(f"{episode}", 0, np.zeros(6, np.float32), True)[1].valid.all()
            assert labeller.version(f"{episode}") == ("with b" if episode else "with a")
        assert (labeller.counts.asked, labeller.counts.answered) == (18, 18)
        counts = client.describe(10.0).counts
        assert (counts.encoded, counts.frames) == (6, 18)
        assert 1 <= counts.wrong_tower == labeller.counts.retried <= 6
        assert client.describe(10.0).towers == ("b", "a")


def test_a_swap_survives_lost_replicas_and_a_lost_controller(checkpoints: dict[str, Path]) -> None:
    with _service("survives", checkpoints["v1"], replicas=1) as client:
        swap("survives", checkpoints["v2"], FORCED)
        lost = client.describe(10.0).process_id
        os.kill(lost, signal.SIGKILL)
        _check(client, (None, "v2"), ("v1", "v1"))
        assert client.describe(30.0).process_id != lost
        ray.kill(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE), no_restart=False)
        _check(client, (None, "v2"), ("v1", "v1"))
        os.kill(client.describe(10.0).process_id, signal.SIGKILL)
        _check(client, (None, "v2"), ("v1", "v1"))


def test_a_bad_checkpoint_is_refused_and_the_old_one_stays(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with _service("refusing", checkpoints["v1"]) as client:
        (tmp_path / "bad").mkdir()
        with pytest.raises(CheckpointError, match=r"fake.json"):
            swap("refusing", tmp_path / "bad", FORCED)
        _check(client, (None, "v1"))
        assert swap("refusing", checkpoints["v1"], FORCED).before == "v1"  # Nothing to do is not an error.
        assert ledger_store.read("refusing").staged is None


def test_what_would_lose_episodes_or_meets_another_swap_is_refused(checkpoints: dict[str, Path]) -> None:
    with _service("careful", checkpoints["v1"], replicas=1) as client:
        _check(client, ("v1", "v1"))
        with pytest.raises(ServiceUnavailable, match=r"v1 would be dropped"):
            swap("careful", checkpoints["v2"], SwapConfig(keep=0, timeout_s=60.0))
        _check(client, (None, "v1"))
        with ledger_store.claim("careful", 60.0), pytest.raises(ServiceUnavailable, match="under way"):
            swap("careful", checkpoints["v2"])
        with ledger_store.claim("careful", -1.0):  # Its holder died long ago.
            assert swap("careful", checkpoints["v2"], SwapConfig(timeout_s=60.0)).version == "v2"
    with pytest.raises(ServiceUnavailable, match=r"no reward service named careful .* \(running: none\)"):
        swap("careful", checkpoints["v2"])
