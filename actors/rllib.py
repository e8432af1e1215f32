"""Progress as a reward for any RLlib configuration of the new API stack, with its own algorithm and environment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from actors.callbacks import LabellingCallback
from actors.labeller import LabellerConfig
from actors.step_labels import MEAN, ScoredViews, ViewsOf, checked_config
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.shaping import FULL, Shaping
from dopamine_rl.types import FusionConfig, LabelColumns, TaskReference, Views

ASK_S = 10.0
"""Seconds to wait for the env runners' account of pictures that they could not use."""


def with_progress_reward(
    config: AlgorithmConfig,
    make_client: Callable[[], RewardClient],
    reference: TaskReference,
    *,
    gamma: float | None = None,
    stride: int = 4,
    fusion: FusionConfig = MEAN,
    shaping: Shaping = FULL,
    deadline_s: float = 10.0,
    views: Sequence[str] | ViewsOf | None = None,
) -> AlgorithmConfig:
    """A copy of an RLlib configuration whose training rewards are task + γΦ' − Φ; Φ is what the reward model sees.

    Pictures, held potential, ends and failures are those of `ProgressReward`. Unlike it, no step waits for the model:
    answers are collected when a fragment is complete. With a replay buffer (SAC, DQN) env runners return every fragment
    one `sample()` later, when its answers are in; with other algorithms they wait for the last answer, `deadline_s` at
    most. Env runners of evaluation are left alone. The configuration's own callbacks are kept, and run after this one.

    Results have `env_runners/labels` (asked, answered, invalid, late, rejected, errors), `task_return_mean` and
    `shaped_return_mean`; RLlib's `episode_return_mean` mixes both rewards.

    Args:
        config: of the new API stack, with one agent. γ is its discount, as it is when the training starts.
        make_client: makes the reward client inside each env runner, such as
            `functools.partial(embedded_client, "grm-mini")`, `lambda: ServeRewardClient("reward")` or
            `lambda: HttpRewardClient("http://127.0.0.1:8000")`.
        reference: of the task, such as TaskReference.of(demonstration).
        gamma: the discount, only to be compared with the configuration's.
        stride: environment steps between two scored frames.
        fusion, shaping: as for ProgressReward.
        deadline_s: most seconds that an env runner waits for the answers about its fragments.
        views: pictures to be scored, as for ProgressReward; a callable gets the sub-environment (None where it runs in
            another process), the observation and the info.
    Raises:
        BadInput: a setting is out of range, or the configuration cannot be labelled. Pictures that cannot be used end
            the first `train()`.
    """
    _check_config(config)
    if not callable(make_client) or isinstance(make_client, RewardClient):
        fix = "give a function that makes the client in each env runner: functools.partial(embedded_client, MODEL)"
        raise BadInput("make_client", make_client, fix)
    discount = config.gamma if isinstance(config.gamma, int | float) else gamma or 1.0  # else Tune's to choose
    if gamma is not None and gamma != discount:
        raise BadInput("gamma", gamma, f"give the configuration's, {discount}, or leave it out")
    settings = checked_config(reference, discount, stride, fusion, shaping, deadline_s)
    ScoredViews(views, reference.goal.shape)
    hold_back = hasattr(config, "replay_buffer_config")
    ours = functools.partial(ProgressRewardCallback, settings, make_client, reference, views, hold_back)
    given = config.callbacks_class if isinstance(config.callbacks_class, list) else [config.callbacks_class]
    theirs = [each for each in given if each is not RLlibCallback]
    if any(getattr(each, "func", None) is ProgressRewardCallback for each in theirs):
        raise BadInput("config", type(config).__name__, "label it once: it already has a progress reward")
    return config.copy(copy_frozen=False).callbacks(callbacks_class=[ours, *theirs])  # type: ignore[list-item]


def _check_config(config: AlgorithmConfig) -> None:
    """Raise BadInput for a configuration that cannot be labelled."""
    if not isinstance(config, AlgorithmConfig):
        raise BadInput("config", type(config), "give an AlgorithmConfig, such as PPOConfig().environment(...)")
    name = type(config).__name__
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise BadInput("config", name, "use the new API stack: call .api_stack() with both of its options True")
    if config.is_multi_agent:
        raise BadInput("config", name, "give one agent: episodes of several are not labelled")
    if config.is_offline:
        raise BadInput("config", name, "let it act: recorded data is labelled by `dopamine grm score`")


class ProgressRewardCallback(LabellingCallback):
    """Labels the fragments of any environment; pictures that cannot be used end the training, in the driver.

    Args:
        config, make_client, hold_back: as for LabellingCallback; γ is that of the env runner's configuration.
        reference: of the task.
        views: as for `with_progress_reward`.
    """

    def __init__(
        self,
        config: LabellerConfig,
        make_client: Callable[[], RewardClient],
        reference: TaskReference,
        views: Sequence[str] | ViewsOf | None,
        hold_back: bool,
    ) -> None:
        super().__init__(config, make_client, reference.context, hold_back)
        self._pictures = ScoredViews(views, reference.goal.shape)
        self.refused: BadInput | None = None
        """Why the pictures cannot be used."""

    def on_environment_created(self, *, env_runner: Any, **_: Any) -> None:
        """Take the discount from the configuration that is run."""
        super().on_environment_created(env_runner=env_runner)
        self._config = replace(self._config, gamma=env_runner.config.gamma)

    def on_sample_end(self, *, env_runner: Any, metrics_logger: Any, samples: list[Any], **_: Any) -> None:  # type: ignore[override]
        """Label the fragments, or tell the driver that they cannot be labelled."""
        super().on_sample_end(env_runner=env_runner, metrics_logger=metrics_logger, samples=samples)
        if self.refused is not None:
            metrics_logger.log_value(("labels", "refused"), 1, reduce="sum")

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **_: Any) -> None:
        """In the driver: raise what an env runner has against its pictures."""
        if result.get("env_runners", {}).get("labels", {}).get("refused", 0) > 0:
            refused = algorithm.env_runner_group.foreach_env_runner(_refused, timeout_seconds=ASK_S)
            raise next(filter(None, refused), BadInput("views", None, "see the env runners' log"))

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        if self.refused is None:
            super()._guard(action, *args)

    def _views(self, episode: Any, env_runner: Any, env_index: int) -> Views | None:
        info = episode.get_infos(-1)
        try:
            return self._read(episode, info, _environment(env_runner, env_index))
        except BadInput as error:
            self.refused = error
            raise
        finally:
            info.pop("scored_views", None)

    def _read(self, episode: Any, info: dict[str, Any], env: Any) -> Views | None:
        observation, stride = episode.get_observations(-1), self._config.stride
        if episode.t == 0:
            return self._pictures.first(env, observation, info)
        on_stride = episode.t % stride == 0
        views = self._pictures.of(env, observation, info) if on_stride or episode.is_done else None
        if on_stride and views is None:
            fix = f"there are no pictures at step {episode.t}: give a multiple of the environment's own stride"
            raise BadInput("stride", stride, fix)
        return views

    def _attach(self, chunk: Any, columns: LabelColumns) -> None:
        """Nothing: RLlib's learners need the rewards alone, and its replay buffers would copy the labels."""


def _environment(env_runner: Any, env_index: int) -> Any:
    """A sub-environment, without RLlib's vector around it; None where it runs in another process."""
    environments = getattr(env_runner.env.unwrapped, "envs", None)
    return environments[env_index] if environments is not None else None


def _refused(env_runner: Any) -> BadInput | None:
    """Runs in an env runner: what its callback has against the pictures."""
    callbacks = (each for each in env_runner._callbacks if isinstance(each, ProgressRewardCallback))
    return next((each.refused for each in callbacks), None)
