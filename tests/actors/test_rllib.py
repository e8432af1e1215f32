"""Progress as a reward for RLlib's stock algorithms: a real env runner in this process, then whole trainings."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune import register_env, uniform

from actors.rllib import with_progress_reward
from dopamine_rl.errors import BadInput
from dopamine_rl.types import TaskReference
from reward_service.local import LocalRewardClient, embedded_client
from reward_service.scorer import Scorer
from tests.actors.reaching import NAMES, REFERENCE, Reaching, enlarged
from tests.fakes import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
GAMMA, STRIDE, LARGER = 0.9, 4, 5


class Seen(RLlibCallback):
    """A user's own callback: keeps the fragments that the learner gets."""

    fragments: list[Any] = []  # noqa: RUF012

    def on_sample_end(self, *, samples: list[Any], **_: Any) -> None:
        Seen.fragments += samples


class Blind(TorchRLModule):
    """A policy for Dict observations that leaves their pictures alone."""

    def setup(self) -> None:
        self.layer = torch.nn.Linear(1, 2)

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.layer(batch[Columns.OBS]["proprioception"])}


def client() -> LocalRewardClient:
    return LocalRewardClient(Scorer(FakeEngine()))


def configured(config: Any, gives: str = "observation", runners: int = 0, **env: Any) -> Any:
    """A user's configuration."""
    settings = {"gives": gives, "horizon": 10, "stride": STRIDE, **env}
    register_env("reaching", lambda env_config: Reaching(**env_config))
    config.environment("reaching", env_config=settings)
    config.env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5, rollout_fragment_length=7)
    config.training(gamma=GAMMA).callbacks(Seen).debugging(seed=1)
    if gives == "observation":  # RLlib's own networks cannot see them
        config.rl_module(rl_module_spec=RLModuleSpec(Blind))
    return config


def drawn(env: Any, observation: Any, info: dict[str, Any]) -> Any:
    """The pictures, from the sub-environment."""
    return env.unwrapped._frame()


def labelled(config: Any, **options: Any) -> Any:
    return with_progress_reward(config, client, REFERENCE, **{"stride": STRIDE, **options})


def runner_of(config: Any, **options: Any) -> Any:
    return SingleAgentEnvRunner(config=config.copy(copy_frozen=False), worker_index=0, **options)


def expected_rewards(episode: list[Any]) -> Any:
    """By the definition, task + γΦ' − Φ: the pictures show the progress x, and Φ is held between scored frames."""
    rewards, held, t = [], 0.0, 0
    for fragment in episode:
        observations = fragment.get_observations()
        positions = observations["proprioception"] if isinstance(observations, dict) else observations
        for index in range(len(fragment)):
            t, x = t + 1, round(float(positions[index + 1][0]) * 250) / 250
            last = index == len(fragment) - 1
            after = x if t % STRIDE == 0 or (fragment.is_done and last) else held
            paid = 0.0 if fragment.is_terminated and last else after
            task = float(fragment.is_terminated and last)
            rewards.append(task + GAMMA * paid - held)
            held = after
    return np.array(rewards)


@pytest.mark.parametrize(
    ("config", "gives", "views"),
    [
        (PPOConfig, "observation", NAMES),
        (PPOConfig, "nowhere", drawn),
        (SACConfig, "infos", None),
    ],
)
def test_every_step_is_paid_by_the_definition_and_no_picture_is_left(config: type, gives: str, views: Any) -> None:
    runner = runner_of(labelled(configured(config(), gives).env_runners(num_envs_per_env_runner=2), views=views))
    Seen.fragments = []
    for _ in range(9):
        runner.sample(num_timesteps=14, explore=True)
    episodes: dict[str, list[Any]] = {}
    for fragment in Seen.fragments:
        episodes.setdefault(fragment.id_, []).append(fragment)
        assert all("scored_views" not in info for info in fragment.get_infos())
        assert not fragment.custom_data
    assert sum(map(len, Seen.fragments)) >= 9 * 14 - 14 * (config is SACConfig)  # a replay's are one call late
    whole = [each for each in episodes.values() if each[0].t_started == 0]
    assert len(whole) >= 8
    for episode in whole:
        paid = np.concatenate([fragment.get_rewards() for fragment in episode])
        np.testing.assert_allclose(paid, expected_rewards(episode), atol=1e-5)
    labels = runner.get_metrics()["labels"]
    assert labels["asked"].peek() == labels["answered"].peek() > 20


def test_the_configuration_and_its_evaluation_are_left_alone() -> None:
    config = configured(PPOConfig(), "infos")
    config.freeze()
    whole = labelled(config)
    assert config.callbacks_class is Seen
    assert whole.callbacks_class[1:] == [Seen]
    runner = runner_of(whole.copy(copy_frozen=False).update_from_dict({"in_evaluation": True}))
    [fragment, *_] = runner.sample(num_episodes=1, explore=False)
    assert set(np.asarray(fragment.get_rewards()).tolist()) <= {0.0, 1.0}


def test_the_discount_is_the_one_that_is_run() -> None:
    whole = labelled(configured(PPOConfig(), "infos").training(gamma=uniform(0.9, 0.99)))
    runner = runner_of(whole.training(gamma=0.5))
    [callback, _] = runner._callbacks
    assert callback._config.gamma == 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda: with_progress_reward(configured(PPOConfig()), client(), REFERENCE), "make_client = .*function"),
        (lambda: labelled(configured(PPOConfig()), gamma=0.99), r"gamma = 0\.99: give the configuration's, 0\.9"),
        (lambda: labelled(configured(PPOConfig()), stride=0), "stride = 0"),
        (lambda: labelled(configured(PPOConfig()), views=()), "views"),
        (lambda: labelled(configured(PPOConfig()), deadline_s=0.0), "deadline_s"),
        (lambda: labelled(configured(PPOConfig()).training(gamma=1.5)), "gamma"),
        (lambda: labelled(labelled(configured(PPOConfig()))), "label it once"),
        (lambda: labelled(configured(PPOConfig()).multi_agent(policies={"a", "b"})), "one agent"),
        (lambda: with_progress_reward(configured(PPOConfig()), client, "reach"), "reference"),  # type: ignore[arg-type]
        (
            lambda: labelled(
                configured(PPOConfig()).api_stack(
                    enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
                )
            ),
            "new API stack",
        ),
        (lambda: labelled(configured(BCConfig()).offline_data(input_=["/nowhere"])), "let it act"),
    ],
)
def test_what_cannot_be_labelled_is_named_at_once(change: Any, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        change()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.ray
def test_ppo_of_rllib_learns_from_progress(cluster: None) -> None:
    """Pictures that are drawn on demand, and a model stand-in."""
    config = configured(PPOConfig(), "nowhere", runners=1).training(
        lr=3e-3, train_batch_size_per_learner=140, minibatch_size=70, num_epochs=4
    )
    algorithm = labelled(config, views=drawn).build_algo()
    try:
        result = algorithm.train()
        labels, sampling = result["env_runners"]["labels"], result["env_runners"]
        assert labels["asked"] == labels["answered"] >= 140 // STRIDE
        assert labels["errors"] == 0
        assert sampling["shaped_return_mean"] != pytest.approx(sampling["task_return_mean"], abs=0.01)
    finally:
        algorithm.stop()


@pytest.mark.ray
def test_sac_of_rllib_replays_what_the_shipped_model_pays(cluster: None) -> None:
    """Pictures in the infos, and the real model in the env runner's process."""
    pictures = (REFERENCE.reference_start, REFERENCE.reference_end, REFERENCE.goal)
    reference = TaskReference("reach", *(enlarged(each, LARGER) for each in pictures))
    config = configured(SACConfig(), "infos", runners=1, larger=LARGER).training(
        train_batch_size_per_learner=16, num_steps_sampled_before_learning_starts=20
    )
    config.reporting(min_sample_timesteps_per_iteration=42, min_time_s_per_iteration=0)
    make_client = functools.partial(embedded_client, "grm-mini", threads=1)
    algorithm = with_progress_reward(config, make_client, reference, stride=STRIDE, deadline_s=60.0).build_algo()
    try:
        result = algorithm.train()
        labels = result["env_runners"]["labels"]
        assert labels["asked"] == labels["answered"] >= 5
        replayed = np.concatenate([each.get_rewards() for each in algorithm.local_replay_buffer.episodes])
        assert len(replayed) >= 21
        assert len(np.unique(replayed.round(6))) > 5  # the task alone pays 0 or 1
    finally:
        algorithm.stop()


@pytest.mark.ray
def test_an_environment_without_pictures_ends_the_first_training(cluster: None) -> None:
    config = configured(PPOConfig(), "nowhere", runners=1).training(train_batch_size_per_learner=70, minibatch_size=35)
    algorithm = labelled(config).build_algo()
    try:
        with pytest.raises(BadInput, match="views = None: there are no pictures: name pictures"):
            algorithm.train()
    finally:
        algorithm.stop()


@pytest.mark.ray
@pytest.mark.render
@pytest.mark.long
def test_the_documented_example_runs(cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Word for word, but with one iteration."""
    text = (ROOT / "docs/only_the_reward.md").read_text(encoding="utf-8")
    [example] = [block.split("```")[0] for block in text.split("```python\n")[1:] if "SACConfig" in block]
    assert "range(100)" in example
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(example.replace("range(100)", "range(1)"), "only_the_reward.md", "exec"), names)
    labels = names["results"]["labels"]
    assert labels["asked"] == labels["answered"] > 0
