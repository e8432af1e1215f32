"""A gymnasium wrapper that shapes the reward by the progress that a reward model sees, for any learner."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from actors.step_labels import MEAN, ScoredViews, StepLabels, ViewsOf
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.shaping import FULL, Shaping
from dopamine_rl.types import FusionConfig, LabelCounts, TaskReference


class ProgressReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds γΦ' − Φ to every reward of an environment, where Φ is the progress that the reward model sees.

    A frame is scored every `stride` steps and at the end of an episode; in between Φ is held. `step` waits at scored
    frames only, and `deadline_s` at most: an answer that is late, unreadable or refused holds Φ and is counted. The
    first frame's Φ is 0, and so is Φ' of a step that terminates; a step that truncates keeps Φ', because the learner
    bootstraps. So the discounted sum of what is added is γᵀΦ_T − Φ_0 = γᵀΦ_T, or 0 after a termination.

    Every step's info holds `progress` (float, Φ held after the step, also where it terminates), `progress_valid` (bool,
    the last scored frame was answered), `task_reward` and `shaping` (floats, the parts of the reward); the last one's
    also `labels`: how many frames were asked, answered, invalid, late and rejected (ints; asked is the others' sum).

    A limit on episodes' length belongs inside of this wrapper (as gymnasium.make puts it), so that the last frame is
    scored.

    Args:
        env: gives pictures of its scored frames (see `views`).
        client: the reward service: one in this process (reward_service.local.embedded_client), a Serve application
            (reward_service.client.ServeRewardClient) or an address (reward_service.http_client.HttpRewardClient). An
            episode keeps the model version that is served when it begins. (A LocalRewardClient scores inside `step`:
            the deadline bounds when it may start, not how long it takes.)
        reference: of the task, such as TaskReference.of(demonstration).
        gamma: the learner's discount, in (0, 1].
        stride: environment steps between two scored frames.
        fusion: how the model's three perspectives become one progress.
        shaping: how much of the potential is paid.
        deadline_s: most seconds that a step waits for an answer.
        views: pictures to be scored, in the order of the reference's goal: names of pictures (uint8 [H, W, 3]) in the
            observation Dict, or a callable `(env, observation, info) -> views` (uint8 [V, H, W, 3]). By default
            `info["scored_views"]` where the environment gives them, else the only picture of the observation Dict.
        clock: monotonic, seconds (tests pass their own).
    Raises:
        BadInput: a setting is out of range; at `reset` or `step`, the pictures cannot be used.
    Source: arXiv:2512.23703, Eq. 14.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        client: RewardClient,
        reference: TaskReference,
        gamma: float,
        *,
        stride: int = 4,
        fusion: FusionConfig = MEAN,
        shaping: Shaping = FULL,
        deadline_s: float = 10.0,
        views: Sequence[str] | ViewsOf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = {"gamma": gamma, "stride": stride, "fusion": fusion, "shaping": shaping, "deadline_s": deadline_s}
        RecordConstructorArgs.__init__(
            self, _disable_deepcopy=True, client=client, reference=reference, views=views, clock=clock, **settings
        )
        gymnasium.Wrapper.__init__(self, env)
        self._labels = StepLabels(client, reference, gamma, stride, fusion, shaping, deadline_s, clock)
        self._pictures = ScoredViews(views, reference.goal.shape)

    @property
    def counts(self) -> LabelCounts:
        """Outcomes of all frames since the wrapper was made."""
        return self._labels.counts

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. It waits `deadline_s` at most for the name of the model version, later half a second."""
        observation, info = self.env.reset(seed=seed, options=options)
        begun = self._labels.begin({0: self._pictures.first(self.env, observation, info)})
        return observation, {**info, **begun}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act. At a scored frame it waits for the answer, `deadline_s` at most."""
        observation, task_reward, terminated, truncated, info = self.env.step(action)
        ended = bool(terminated or truncated)
        self._labels.observe(0, ended, lambda: self._pictures.of(self.env, observation, info))
        reward, paid = self._labels.pay(
            0, float(task_reward), bool(terminated), bool(truncated), self._labels.deadline()
        )
        return observation, reward, terminated, truncated, {**info, **paid}
