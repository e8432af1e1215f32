"""The callback in RLlib's own env runner, in this process: what the learner would receive."""

import functools
from collections import Counter

import gymnasium
import numpy as np
import pytest

pytest.importorskip("ray")
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from actors.callbacks import LabellingCallback
from actors.labeller import LabellerConfig
from dopamine_rl.errors import ServiceUnavailable
from dopamine_rl.telemetry import METRICS
from dopamine_rl.types import TaskReference
from learner.algorithms.common import TrainingSetup, configure
from learner.config import LearnerConfig
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, frame, tokens

GAMMA, STRIDE, HORIZON = 0.9, 3, 10


class Walk(gymnasium.Env):
    """A point that walks to 1; its picture shows how far it is. `poison` changes everything else that is known."""

    observation_space = gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, config):
        self.poison = config.get("poison", False)

    def reset(self, *, seed=None, options=None):
        self.t, self.x = 0, 0.0
        return self._see()

    def step(self, action):
        self.t += 1
        self.x = min(1.0, self.x + 0.04 + 0.04 * float(np.clip(action[0], 0, 1)))
        observation, info = self._see()
        reward = float(np.random.default_rng().normal()) if self.poison else 0.0
        return observation, reward, False, self.t >= HORIZON, info

    def _see(self):
        info = {"success": self.poison and self.t % 2 == 0, "state": -7.0 if self.poison else self.x}
        if self.t % STRIDE == 0 or self.t == HORIZON:
            info["scored_views"] = frame(self.x)
        return np.array([self.x], np.float32), info


class Encoding(Walk):
    """Also encodes its scored frames."""

    def _see(self):
        observation, info = super()._see()
        return observation, info | ({"scored_tokens": tokens(self.x, "a")} if "scored_views" in info and self.t else {})


class Broken(LocalRewardClient):
    def submit(self, request):
        raise RuntimeError("a bug nobody thought of")


class Dies(Walk):
    """Its simulator crashes in its second episode, at the fifth environment step; RLlib makes and resets it anew."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        Dies.episodes += 1
        return super().reset(seed=seed, options=options)

    def step(self, action):
        if Dies.episodes == 2 and self.t == 4:
            raise RuntimeError("on purpose")
        return super().step(action)


class Lost(LocalRewardClient):
    """A service that is lost after `answers` requests and never comes back."""

    answers = 4

    def submit(self, request):
        self.answers -= 1
        if self.answers < 0:
            raise ServiceUnavailable("gone")
        return super().submit(request)


def make_runner(make_client, mode="grm", poison=False, num_envs=1, hold_back=False, env=Walk):
    """An env runner in the configuration that is shipped."""
    reference = TaskReference("walk", frame(0.0)[0], frame(1.0)[0], frame(1.0))
    callback = functools.partial(
        LabellingCallback,
        LabellerConfig(mode, GAMMA, STRIDE, deadline_s=60.0),
        make_client,
        reference.context,
        hold_back=hold_back,
    )
    config = PPOConfig()
    learner = LearnerConfig(num_env_runners=0, num_envs_per_env_runner=num_envs)
    configure(config, TrainingSetup(env, {"poison": poison}, callback, GAMMA, seed=3), learner)
    return config.env_runner_cls(config=config, worker_index=0)


def healthy():
    return LocalRewardClient(Scorer(FakeEngine()))


def sample(runner, steps, calls):
    return [chunk for _ in range(calls) for chunk in runner.sample(num_timesteps=steps, explore=False)]


def labels_of(chunks):
    return [chunk.custom_data[f"labels/{chunk.t_started}"] for chunk in chunks]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_every_chunk_carries_its_labels_and_no_pictures(num_envs):
    chunks = sample(make_runner(healthy, num_envs=num_envs), 4 * num_envs, 9)
    first = [chunk for chunk in chunks if chunk.id_ == chunks[0].id_]
    assert [(c.t_started, len(c)) for c in first] == [(0, 4), (4, 4), (8, 2)]
    joined = np.concatenate(
        [label.potential for label in labels_of(first)] + [labels_of(first)[-1].next_potential[-1:]]
    )
    assert np.all(np.diff(joined) >= 0)
    assert len(np.unique(joined)) == 5
    for chunk, label in zip(chunks, labels_of(chunks), strict=True):
        np.testing.assert_allclose(
            chunk.get_rewards(), GAMMA * label.next_potential - label.potential, rtol=0, atol=1e-7
        )
        assert all("scored_views" not in info for info in chunk.get_infos())
        assert label.model_version == "fake-1"


class Limited(Walk):
    """A robot that executes something else, and says so."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "executed": np.array([self.t / 100], np.float32)}


def test_the_learner_is_given_what_was_really_executed():
    chunks = sample(make_runner(healthy, env=Limited), 4, 4)
    for chunk in chunks:
        steps = np.arange(chunk.t_started + 1, chunk.t_started + len(chunk) + 1)
        np.testing.assert_allclose(np.ravel(chunk.get_actions()), steps / 100)
        assert all("executed" not in info for info in chunk.get_infos()[1:])


def test_poisoned_truth_leaves_the_labels_bit_equal():
    """No ground truth in the shaping path: success, state and reward may say anything."""
    clean, poisoned = (sample(make_runner(healthy, poison=poison), 4, 9) for poison in (False, True))
    assert any(np.abs(chunk.get_rewards()).max() > 1e-3 for chunk in poisoned)
    for a, b in zip(labels_of(clean), labels_of(poisoned), strict=True):
        for name in ("potential", "next_potential", "valid", "phase", "next_phase"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_bug_in_the_client_neither_stops_sampling_nor_becomes_a_number():
    runner = make_runner(lambda: Broken(Scorer(FakeEngine())))
    chunks = sample(runner, 4, 5)
    assert sum(map(len, chunks)) == 20
    for chunk, label in zip(chunks, labels_of(chunks), strict=True):
        assert not chunk.get_rewards().any()
        assert np.isfinite(label.potential).all()
    labels = runner.get_metrics()["labels"]
    assert labels["errors"] == labels["rejected"] == labels["asked"] > 0
    asked = [chunk for chunk in chunks if chunk.t_started + len(chunk) >= STRIDE]
    assert not any(label.valid[-1] for label in labels_of(asked))


def test_the_books_close():
    runner = make_runner(healthy)
    sample(runner, 4, 10)
    labels = runner.get_metrics()["labels"]
    assert labels["asked"] == labels["answered"] > 0
    assert labels["invalid"] == labels["late"] == labels["rejected"] == labels["errors"] == 0
    assert len(labels["latencies_ms"]) == labels["asked"]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_held_back_chunks_come_one_call_later_with_the_same_labels_in_order(num_envs):
    steps = 4 * num_envs
    at_once = sample(make_runner(healthy, num_envs=num_envs), steps, 8)
    runner = make_runner(healthy, num_envs=num_envs, hold_back=True)
    assert runner.sample(num_timesteps=steps, explore=False) == []
    later = sample(runner, steps, 8)
    assert len(later) == len(at_once) > 8
    for chunk, twin in zip(later, at_once, strict=True):
        assert (chunk.t_started, len(chunk), chunk.is_done) == (twin.t_started, len(twin), twin.is_done)
        np.testing.assert_array_equal(chunk.get_observations(), twin.get_observations())
        np.testing.assert_array_equal(chunk.get_rewards(), twin.get_rewards())
    for chunk_id in {chunk.id_ for chunk in later}:
        own = [chunk for chunk in later if chunk.id_ == chunk_id]
        assert [chunk.t_started for chunk in own] == np.cumsum([0, *map(len, own)])[:-1].tolist()


def test_an_actor_that_holds_back_never_waits_for_what_it_acted_last():
    """An answer is awaited only when the fragment after its own is over."""
    waited = []

    class Watched(LocalRewardClient):
        def submit(self, request):
            pending = super().submit(request)
            result, time = pending.result, request.times[0]
            pending.result = lambda timeout_s: waited.append(time) or result(timeout_s)
            return pending

    runner = make_runner(lambda: Watched(Scorer(FakeEngine())), hold_back=True)
    sample(runner, 4, 1)
    assert waited == []
    sample(runner, 4, 1)
    assert waited == [3]
    sample(runner, 4, 1)
    assert waited == [3, 6]


def test_acting_no_further_hands_over_what_is_held():
    runner = make_runner(healthy, hold_back=True)
    acted = sample(runner, 4, 3)
    rest = runner.sample(num_timesteps=0, explore=False)
    assert sum(map(len, acted + rest)) == 12
    assert all(len(labels.potential) == len(chunk) for chunk, labels in zip(rest, labels_of(rest), strict=True))


@pytest.mark.parametrize("hold_back", [False, True])
def test_the_books_close_at_every_report(hold_back):
    runner = make_runner(lambda: Lost(Scorer(FakeEngine())), hold_back=hold_back)
    asked = 0
    for _ in range(8):
        sample(runner, 4, 1)
        labels = MetricsLogger.peek_results(runner.get_metrics()["labels"])
        assert labels["asked"] == labels["answered"] + labels["rejected"]
        asked += labels["asked"]
    assert asked >= 8


def test_a_service_that_is_lost_holds_the_potential_of_what_is_held_back():
    runner = make_runner(lambda: Lost(Scorer(FakeEngine())), hold_back=True)
    chunks = sample(runner, 4, 8)
    labels = labels_of(chunks)
    assert labels[0].valid.all()
    second = [label for chunk, label in zip(chunks, labels, strict=True) if chunk.id_ != chunks[0].id_][:3]
    assert second[-1].valid.tolist() == [True, True, False, False]
    assert len(set(second[-1].potential)) == 1


@pytest.mark.parametrize("hold_back", [False, True])
def test_a_crashed_environment_loses_its_open_fragment_and_nothing_else(hold_back, monkeypatch):
    monkeypatch.setattr(Dies, "episodes", 0)
    runner = make_runner(healthy, hold_back=hold_back, env=Dies)
    chunks = sample(runner, 4, 8) + runner.sample(num_timesteps=0, explore=False)
    episodes = {}
    for chunk in chunks:
        assert episodes.get(chunk.id_, 0) == chunk.t_started
        episodes[chunk.id_] = chunk.t_started + len(chunk)
    assert list(episodes.values())[:3] == [HORIZON, 2, HORIZON]
    crashed = [label for chunk, label in zip(chunks, labels_of(chunks), strict=True) if chunk.id_ == list(episodes)[1]]
    assert all(label.valid.all() for label in crashed)
    counts = MetricsLogger.peek_results(runner.get_metrics()["labels"])
    assert counts["asked"] == counts["answered"] + counts["late"]
    assert (counts["late"], counts["errors"]) == (1, 0)


@pytest.mark.parametrize("num_envs", [1, 2])
def test_tokens_go_to_the_service_and_never_to_the_learner(num_envs):
    counts = {"encoded": 0, "pictures": 0}

    class Service(LocalRewardClient):
        def submit(self, request):
            counts["pictures" if request.frame_tokens is None else "encoded"] += len(request.frames)
            return super().submit(request)

    runner = make_runner(lambda: Service(Scorer(FakeEngine(tower="a"))), num_envs=num_envs, env=Encoding)
    chunks = sample(runner, 2 * HORIZON * num_envs, 1)
    assert counts["encoded"] >= 6 * num_envs
    assert counts["pictures"] == 0
    assert all(labels.valid.all() for labels in labels_of(chunks))
    assert not any("scored_tokens" in infos or "scored_views" in infos for c in chunks for infos in c.get_infos())


def test_an_actor_records_what_it_did(monkeypatch):
    values = Counter()

    def note(name, value, **tags):
        assert tags.keys() == set(METRICS[name].tags)
        assert tags["runner"] == "0"
        if METRICS[name].kind == "counter":
            values[name, tags.get("outcome")] += value

    monkeypatch.setattr("actors.callbacks.record", note)
    runner = make_runner(healthy)
    chunks = sample(runner, HORIZON // 2, 4)
    frames = sum(bool(chunk.is_done) for chunk in chunks) * 4  # at steps 3, 6, 9 and 10
    expected = {
        ("dopamine_environment_steps_total", None): 2 * HORIZON,
        ("dopamine_episodes_total", "failure"): 2,
        ("dopamine_labels_total", "answered"): frames,
    }
    assert {key: value for key, value in values.items() if value} == expected
    assert frames == 8
