"""The progress reward for a vector of environments: frames due at the same step go out together, under one deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from actors.step_labels import MEAN, ScoredViews, StepLabels, ViewsOf
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.shaping import FULL, Shaping
from dopamine_rl.types import FusionConfig, LabelCounts, TaskReference, Views


class VectorProgressReward(VectorWrapper):
    """`ProgressReward` for a gymnasium.vector.VectorEnv, in any autoreset mode: rewards and infos are those of a vector
    of environments that are each in a ProgressReward.

    The frames of all environments that are due at a step are sent before anything waits, and all wait under one
    deadline. With NEXT_STEP the step that resets pays nothing; with SAME_STEP the last frame is found in
    `infos["final_obs"]` and `infos["final_info"]`, and what the last step's info holds goes into the latter.

    Args:
        env: environments whose observations and infos are numpy arrays, or torch tensors on any device. Rewards are
            returned as numpy, all else as the environment gives it.
        client, reference, gamma, stride, fusion, shaping, deadline_s, clock: as for ProgressReward.
        views: as for ProgressReward. A callable is called for each environment that is due, with the vector environment
            and the observation and info of that one alone.
    Raises:
        BadInput: as for ProgressReward; the environment does not say how it resets.
    Source: arXiv:2512.23703, Eq. 14.
    """

    def __init__(
        self,
        env: VectorEnv,
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
        super().__init__(env)
        self._mode = autoreset_mode(env)
        self._labels = StepLabels(client, reference, gamma, stride, fusion, shaping, deadline_s, clock)
        self._pictures = ScoredViews(views, reference.goal.shape)
        self._ended = np.zeros(env.num_envs, bool)

    @property
    def counts(self) -> LabelCounts:
        """Outcomes of all environments' frames since the wrapper was made."""
        return self._labels.counts

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment, or in those of `options["reset_mask"]` (bool [N])."""
        mask = (options or {}).get("reset_mask")  # the environment takes it out of the options
        fresh = np.ones(self.num_envs, bool) if mask is None else np.array(mask, bool)
        observations, infos = self.env.reset(seed=seed, options=options)
        self._ended[fresh] = False
        self._begin(fresh, observations, infos, None)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Act in all environments. It waits for the frames that are due, `deadline_s` at most for all together."""
        observations, task_rewards, terminated, truncated, infos = self.env.step(actions)
        rewards, ended = np.array(host(task_rewards), np.float64), np.array(host(terminated | truncated), bool)
        same_step = self._mode is AutoresetMode.SAME_STEP
        # What this step reset, and with SAME_STEP only after it had ended.
        fresh = ended if same_step else self._ended & (self._mode is AutoresetMode.NEXT_STEP)
        stepped = np.flatnonzero(np.ones_like(ended) if same_step else ~fresh)
        for i in stepped:
            final = same_step and bool(ended[i])
            self._observe(int(i), bool(ended[i]), final, observations, infos)
        deadline = self._labels.deadline()
        indices = [int(i) for i in stepped]
        paid, added, labels = self._labels.pay_all(
            indices, rewards[stepped], terminated[stepped], truncated[stepped], deadline
        )
        rewards[stepped] = paid
        self._add(infos, added, labels, stepped, ended if same_step else np.zeros_like(ended))
        self._begin(fresh, observations, infos, deadline)
        self._ended = ended.copy()
        return observations, rewards, terminated, truncated, infos

    def _add(
        self,
        infos: dict[str, Any],
        added: Mapping[str, NDArray[Any]],
        labels: Mapping[int, dict[str, int]],
        stepped: NDArray[np.intp],
        final: NDArray[np.bool_],
    ) -> None:
        """Add to the infos what the environments get that stepped, to `final_info` where their last info is there."""
        rows = ~final[stepped]
        if rows.any():
            for name, values in added.items():
                of_all, mask = np.zeros(self.num_envs, values.dtype), np.zeros(self.num_envs, bool)
                of_all[stepped[rows]], mask[stepped[rows]] = values[rows], True
                infos[name], infos[f"_{name}"] = of_all, mask
        for row in np.flatnonzero(~rows):
            last = {name: values[row].item() for name, values in added.items()}
            self._add_info(infos, {"final_info": last | {"labels": labels[int(stepped[row])]}}, int(stepped[row]))
        for i, counts in labels.items():
            if not final[i]:
                self._add_info(infos, {"labels": counts}, i)

    def _observe(self, i: int, ended: bool, final: bool, observations: Any, infos: dict[str, Any]) -> None:
        def read() -> Views | None:
            of, about = (infos.get("final_obs"), infos.get("final_info", {})) if final else (observations, infos)
            return self._pictures.of(self.env, _observation(of, i), info_of(about, i))

        self._labels.observe(i, ended, read)

    def _begin(
        self, fresh: NDArray[np.bool_], observations: Any, infos: dict[str, Any], deadline: float | None
    ) -> None:
        if not fresh.any():
            return
        indices: Iterable[int] = map(int, np.flatnonzero(fresh))
        first = {i: self._pictures.first(self.env, _observation(observations, i), info_of(infos, i)) for i in indices}
        begun = self._labels.begin(first, deadline)
        for i in first:
            self._add_info(infos, begun, i)


def autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """How a vector environment resets. Raises BadInput if it does not say it."""
    # Environments of one class may share their metadata, in which the one that was made last has its mode.
    mode = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise BadInput("env.metadata['autoreset_mode']", mode, f"the environment must say one of {modes}") from None


def host(values: Any) -> Any:
    """A torch tensor, on any device, as a numpy array; anything else as it is."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _observation(observations: Any, i: int) -> Any:
    """The observation of one environment out of all."""
    if isinstance(observations, Mapping):
        return {name: _observation(values, i) for name, values in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_observation(values, i) for values in observations)
    return None if observations is None else host(observations[i])


def info_of(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The info of one environment out of all: what the masks say it has."""
    info = {}
    for name, values in infos.items():
        if name.startswith("_") and name[1:] in infos:
            continue
        if f"_{name}" not in infos or infos[f"_{name}"][i]:
            info[name] = info_of(values, i) if isinstance(values, Mapping) else host(values[i])
    return info
