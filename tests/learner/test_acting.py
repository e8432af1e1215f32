"""Env runners that hang, crash or are lost: what it costs the others, the replay and the books of the labels."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import ray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from actors.callbacks import LabellingCallback
from actors.labeller import LabellerConfig
from dopamine_rl.errors import ActingTimeout
from dopamine_rl.types import TaskReference
from learner.algorithms import acting, env_runner
from learner.algorithms.common import TrainingSetup
from learner.algorithms.ppo import make_ppo_config
from learner.algorithms.rlpd import make_rlpd_config
from learner.config import LearnerConfig
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import FakeEngine, frame

GAMMA, STRIDE, HORIZON = 0.9, 3, 10
LEARNER = LearnerConfig(
    hidden=(16,),
    batch_size=16,
    critics=2,
    updates_per_step=0.25,
    learning_starts=20,
    num_env_runners=2,
    num_cpus_per_env_runner=0.2,
    rollout_fragment_length=4,
    steps_per_iteration=16,
    restart_delay_s=0.1,
    ppo_batch_size=16,
    ppo_minibatch_size=8,
    ppo_epochs=1,
)


class Walk(gymnasium.Env[Any, Any]):
    """A point that walks to 1, with pictures to score. Runner `runner` has the trouble `trouble`, at its 15th step."""

    observation_space = gymnasium.spaces.Box(-1.0, 2.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    steps = 0

    def __init__(self, config: Any) -> None:
        self.runner, self.mine = config.worker_index, config.worker_index == config["runner"]
        self.trouble, self.folder = config["trouble"], Path(config["folder"])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.t, self.x = 0, 0.0
        if seed is not None:
            with (self.folder / "seeds").open("a", encoding="utf-8") as file:
                file.write(f"{self.runner} {seed}\n")
        if Walk.steps >= 15:
            self._meet("reset")
        return self._see()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        Walk.steps, self.t = Walk.steps + 1, self.t + 1
        if Walk.steps >= 15:
            self._meet("step")
        self.x = min(1.0, self.x + 0.04 + 0.04 * float(np.clip(action[0], 0, 1)))
        observation, info = self._see()
        return observation, 0.0, False, self.t >= HORIZON, info

    def _meet(self, call: str) -> None:
        """Once: hang, die, or crash as programs do, with an exception that has no arguments."""
        if not self.mine or not self.trouble.endswith(call) or (self.folder / "met").exists():
            return
        (self.folder / "met").write_text(str(os.getpid()))
        if self.trouble.startswith("dies"):
            os._exit(1)
        while self.trouble.startswith("hangs"):
            time.sleep(0.1)
        raise AssertionError

    def _see(self) -> tuple[Any, dict[str, Any]]:
        info: dict[str, Any] = {"success": False}
        if self.t % STRIDE == 0 or self.t == HORIZON:
            info["scored_views"] = frame(self.x)
        return np.array([self.x], np.float32), info


def client() -> LocalRewardClient:
    return LocalRewardClient(Scorer(FakeEngine()))


class Callback(LabellingCallback):
    def __init__(self, hold_back: bool) -> None:
        reference = TaskReference("walk", frame(0.0)[0], frame(1.0)[0], frame(1.0))
        config = LabellerConfig("grm", GAMMA, STRIDE, deadline_s=60.0)
        super().__init__(config, client, reference.context, hold_back=hold_back)


def on_policy() -> Callback:
    return Callback(hold_back=False)


def off_policy() -> Callback:
    return Callback(hold_back=True)


@pytest.fixture(params=["rlpd", "ppo"])
def build(request: pytest.FixtureRequest, cluster: None, tmp_path: Path) -> Iterator[Any]:
    """Starts an algorithm in the configuration that is shipped."""
    started = []

    def start(trouble: str, **changes: Any) -> Any:
        env_config = {"trouble": trouble, "folder": str(tmp_path), "runner": 2}
        ppo = request.param == "ppo"
        task = TrainingSetup(Walk, env_config, on_policy if ppo else off_policy, GAMMA, seed=1)
        learner = replace(LEARNER, algorithm=request.param, **changes)
        config = make_ppo_config(task, learner) if ppo else make_rlpd_config(task, learner, "grm")
        started.append(config.build_algo())
        started[0].lines, started[0].met = [], tmp_path / "met"
        started[0].acting.on_event = started[0].lines.append
        return started[0]

    yield start
    for algorithm in started:
        algorithm.stop()


def pids(algorithm: Any) -> list[int]:
    return [ray.get(actor.apply.remote(_pid)) for actor in algorithm.env_runner_group._worker_manager.actors().values()]


def _pid(env_runner: Any) -> int:
    return os.getpid()


class Books:
    """What every report says of the labels, added up."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("asked", "answered", "invalid", "late", "rejected", "errors"), 0)

    def train(self, algorithm: Any) -> dict[str, Any]:
        report = algorithm.train()
        labels = MetricsLogger.peek_results(report["env_runners"].get("labels", {}))
        for name in self.counts:
            self.counts[name] += int(np.nan_to_num(labels.get(name, 0)))
        return report

    def check(self) -> None:
        outcomes = sum(self.counts[name] for name in ("answered", "invalid", "late", "rejected"))
        assert self.counts["asked"] == outcomes > 0
        assert self.counts["errors"] == 0


def assert_in_order(algorithm: Any) -> None:
    """Each env runner's fragments lie in the replay one after the other; PPO has none."""
    if hasattr(algorithm, "feed"):
        online = algorithm.feed.online
        assert len(online)
        for name in online.episodes:
            np.testing.assert_array_equal(online.times(name), np.arange(len(online.times(name))))


@pytest.mark.ray
def test_a_hung_env_runner_is_named_and_replaced_while_the_other_goes_on(build: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(acting, "LATE_S", 0.5)
    algorithm, books = build("hangs at step", sample_timeout_s=3.0), Books()
    while not algorithm.met.exists():
        books.train(algorithm)
    hung, steps, late = int(algorithm.met.read_text()), [], False
    while not any("back" in line for line in algorithm.lines):
        report = books.train(algorithm)
        steps.append(report["env_runners"]["num_env_steps_sampled_lifetime"])
        late |= "2" in report["acting"]["late_s"]
    assert hung not in pids(algorithm)
    assert steps[-1] > steps[0]
    assert late
    assert [line.split(":")[0].split(",")[0] for line in algorithm.lines][:2] == [
        "env runner 2 is late",
        "env runner 2 is lost",
    ]
    assert books.train(algorithm)["acting"]["replaced"] == 1
    assert not algorithm.acting.late()
    books.check()
    assert_in_order(algorithm)


@pytest.mark.ray
@pytest.mark.parametrize("call", ["step", "reset"])
def test_a_crashed_environment_costs_neither_its_env_runner_nor_what_was_held_back(build: Any, call: str) -> None:
    algorithm, books = build(f"crashes at {call}"), Books()
    before = pids(algorithm)
    while not algorithm.met.exists():
        books.train(algorithm)
    for _ in range(4):
        books.train(algorithm)
    cut_short = unfinished(algorithm)
    for _ in range(6):  # enough for episodes that were running to end
        books.train(algorithm)
    assert pids(algorithm) == before
    assert algorithm.lines == []
    books.check()
    assert_in_order(algorithm)
    if hasattr(algorithm, "feed") and call == "step":
        assert cut_short & unfinished(algorithm)  # the crashed episode: its first fragment had been held back


def unfinished(algorithm: Any) -> set[str]:
    """Episodes in the replay that have not reached the horizon."""
    if not hasattr(algorithm, "feed"):
        return set()
    online = algorithm.feed.online
    return {name for name in online.episodes if len(online.times(name)) < HORIZON}


@pytest.mark.ray
@pytest.mark.parametrize("build", ["rlpd"], indirect=True)
def test_a_restarted_env_runner_begins_with_other_seeds(build: Any, tmp_path: Path) -> None:
    algorithm = build("dies at step", num_envs_per_env_runner=2)

    def seeds() -> list[tuple[int, int]]:
        lines = (tmp_path / "seeds").read_text().splitlines()
        return [(int(runner), int(seed)) for runner, seed in map(str.split, lines)]

    while len(seeds()) < 6 if (tmp_path / "seeds").exists() else True:
        algorithm.train()
    assert {seed for runner, seed in seeds() if runner == 1} == {2, 3}
    again = env_runner.environment_seed(1, runner=2, environments=2, restarts=1)
    assert [seed for runner, seed in seeds() if runner == 2] == [4, 5, again, again + 1]
    algorithm.train()


@pytest.mark.ray
@pytest.mark.parametrize("build", ["rlpd"], indirect=True)
def test_an_env_runner_that_was_restarted_while_idle_does_not_act_with_initial_weights(build: Any) -> None:
    algorithm = build("none")
    algorithm.train()
    algorithm.acting.take(everyone=True)
    before = pids(algorithm)
    os.kill(before[1], signal.SIGKILL)
    while True:
        try:
            if pids(algorithm)[1] != before[1]:
                break
        except ray.exceptions.RayError:
            time.sleep(0.1)
    algorithm.acting.request()
    assert len(algorithm.acting.take(everyone=True)) == 1
    assert any(line.endswith(": its process was restarted while it was idle") for line in algorithm.lines)
    while not any("back" in line for line in algorithm.lines):
        algorithm.train()
    algorithm.train()


def test_no_two_environments_have_the_same_seed() -> None:
    seeds = [
        env_runner.environment_seed(7, runner, 3, restarts, recreated) + environment
        for runner in range(1, 5)
        for restarts in range(3)
        for recreated in range(3)
        for environment in range(3)
    ]
    assert len(set(seeds)) == len(seeds)
    assert [env_runner.environment_seed(7, runner, 1) for runner in range(3)] == [7, 8, 9]
    assert max(seeds) < 2**31


@pytest.mark.ray
def test_an_algorithm_stops_though_an_env_runner_hangs(build: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(acting, "STOP_S", 0.5)
    algorithm = build("hangs at step", sample_timeout_s=60.0)
    while not algorithm.met.exists():  # Training on-policy would wait for the hung one.
        algorithm.acting.request()
        algorithm.acting.take()
    algorithm.stop()
    assert not algorithm.env_runner_group._worker_manager.actors()


@pytest.mark.ray
def test_where_nothing_comes_for_too_long_the_training_ends(build: Any) -> None:
    algorithm = build("hangs at step", num_env_runners=1, patience_s=1.0)
    with pytest.raises(ActingTimeout, match=r"learner\.patience_s"):
        hang_all(algorithm)


def hang_all(algorithm: Any) -> None:
    for actor in algorithm.env_runner_group._worker_manager.actors().values():
        actor.apply.remote(_sleep)
    while True:
        algorithm.train()


def _sleep(env_runner: Any) -> None:
    time.sleep(60)


@pytest.mark.ray
def test_a_training_goes_on_from_a_checkpoint_made_while_fragments_were_under_way(build: Any, tmp_path: Path) -> None:
    algorithm, books = build("none"), Books()
    for _ in range(3):
        books.train(algorithm)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.train()
    algorithm.restore_from_path(str(tmp_path / "checkpoint"))
    steps = [algorithm.train()["env_runners"]["num_env_steps_sampled_lifetime"] for _ in range(2)]
    assert steps[1] > steps[0]
    books.check()


def test_an_environment_that_always_fails_is_given_up() -> None:
    class Runner(env_runner.ActingEnvRunner):
        def __init__(self) -> None:
            self.made = 0

        def make_env(self) -> None:
            self.made += 1
            self._seed = self.made

    class Fails:
        def reset(self, seed: int | None, options: Any) -> None:
            raise AssertionError

    runner = Runner()
    runner.env, runner.config = Fails(), LearnerConfig()
    object.__setattr__(runner.config, "restart_failed_sub_environments", True)
    with pytest.raises(RuntimeError, match="failed 10 times in a row"):
        runner._try_env_reset(seed=0)
    assert runner.made == 9


def test_staleness_is_that_of_the_weights_which_sampled_a_fragment() -> None:
    """A fragment that was held back is older than its call."""

    class Learners:
        number = 0

        def get_state(self, **_: Any) -> Any:
            return {COMPONENT_LEARNER: {COMPONENT_RL_MODULE: {}, WEIGHTS_SEQ_NO: self.number}}

    class Runner:
        weights = 0

        def set_state(self, state: Any) -> None:
            """The fragments say which weights they are of."""

        def sample(self) -> list[Any]:
            episode = SingleAgentEpisode(observations=[0, 1], actions=[0], rewards=[0.0], len_lookback_buffer=0)
            episode.extra_model_outputs[WEIGHTS_SEQ_NO] = InfiniteLookbackBuffer([self.weights])
            return [episode]

        def get_metrics(self) -> dict[str, Any]:
            return {}

    class Group:
        local_env_runner = Runner()

        def num_remote_workers(self) -> int:
            return 0

    learners = Learners()
    waiting = acting.Acting(Group(), learners, 10.0, 10.0)
    measured = []
    for learners.number, Group.local_env_runner.weights in ((0, 0), (1, 0), (2, 1), (3, 99), (4, 4)):
        waiting.publish()
        waiting.take()
        measured.append(waiting.staleness[0])
        waiting.updates += 32
    assert measured == [0, 32, 32, 32, 0]
