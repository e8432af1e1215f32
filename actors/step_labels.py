"""Labels episodes one environment step at a time, for environments whose rewards are needed at once.

`StepLabels` is what the gymnasium wrappers share: the first one labels one environment, the vector form many under one
deadline. Requests, deadlines and the held potential are the Labeller's.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.episodes.cameras import MAX_VIEWS
from dopamine_rl.errors import BadInput
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.shaping import Shaping, shaped_reward
from dopamine_rl.spelling import one_of
from dopamine_rl.types import FusionConfig, LabelCounts, Outcome, TaskReference, Views, check_views

MEAN = FusionConfig()
"""The mean of the three perspectives, Eq. 8."""
LATENCIES = 10_000
"""Most latencies that are kept in the counts."""

ViewsOf = Callable[[Any, Any, dict[str, Any]], Views | None]
"""(environment, observation, info) → the pictures to be scored, uint8 [V, H, W, 3]; None where there are none."""


WAYS = "name pictures of the observation Dict, or provide info['scored_views'], or give a callable"


class ScoredViews:
    """Finds the pictures to be scored.

    Args:
        views: names of pictures in an observation Dict, in the order of the reference's goal; or a callable; or None
            for `info["scored_views"]`, or else the only picture of the observation Dict.
        shape: (V, H, W, 3), of the reference's goal.
    """

    def __init__(self, views: Sequence[str] | ViewsOf | None, shape: tuple[int, ...]) -> None:
        self._names, self._shape = None if views is None or callable(views) else views, shape
        self._read: ViewsOf | None = views if callable(views) else None
        if self._names is not None:
            names = [self._names] if isinstance(self._names, str) else list(self._names)
            if not names:
                raise BadInput("views", views, "name at least one picture of the observation")
            self._read = lambda env, observation, info: _stacked(observation, names)

    def first(self, env: Any, observation: Any, info: dict[str, Any]) -> Views:
        """The pictures of an episode's first frame. Raises BadInput if there are none, or they are unlike the goal."""
        if self._read is None:
            self._read = _usual(observation, info)
        views = self.of(env, observation, info)
        if views is None:
            raise BadInput("views", self._names, "give the pictures of the episode's first frame: " + WAYS)
        return views

    def of(self, env: Any, observation: Any, info: dict[str, Any]) -> Views | None:
        """A copy of the pictures; None if there are none. Raises BadInput if they are unlike the goal."""
        assert self._read is not None
        views = self._read(env, observation, info)
        if views is None:
            return None
        check_views("views", views)
        if views.shape != self._shape:
            raise BadInput("views", views.shape, f"give the views of reference.goal, {self._shape}, in the same order")
        return views.copy()  # environments may draw the next picture into the same array


def _usual(observation: Any, info: dict[str, Any]) -> ViewsOf:
    """Where an environment that was not told otherwise has its pictures, by its first frame."""
    if "scored_views" in info:
        return lambda env, observation, info: info.get("scored_views")
    entries = observation.items() if isinstance(observation, Mapping) else ()
    pictures = [name for name, value in entries if getattr(value, "dtype", None) == np.uint8 and value.ndim == 3]
    if len(pictures) > 1:
        raise BadInput("views", None, f"name some of {', '.join(pictures)}, in the order of reference.goal")
    if not pictures:
        raise BadInput("views", None, f"there are no pictures: {WAYS}")
    return lambda env, observation, info: _stacked(observation, pictures)


def _stacked(observation: Any, names: Sequence[str]) -> Views:
    if not isinstance(observation, Mapping):
        raise BadInput("views", tuple(names), "the observation is no Dict: " + WAYS)
    for name in names:
        if name not in observation:
            raise BadInput("views", name, one_of(name, list(observation)))
        check_views(f"observation[{name!r}]", observation[name], 3)
        size = observation[names[0]].shape
        if observation[name].shape != size:
            raise BadInput(f"observation[{name!r}]", observation[name].shape, f"give {size}, as {names[0]} has it")
    return np.stack([observation[name] for name in names])


def _check_reference(reference: TaskReference) -> None:
    """Raise BadInput for what a reward model would call unreadable, frame after frame."""
    if not isinstance(reference.instruction, str) or not reference.instruction.strip():
        raise BadInput("reference.instruction", reference.instruction, "give the task in words")
    pictures = {"reference_start": reference.reference_start, "reference_end": reference.reference_end}
    for name, picture in pictures.items():
        check_views(f"reference.{name}", picture, 3)
    check_views("reference.goal", reference.goal)
    size = reference.goal.shape[1:]
    for name, picture in pictures.items():
        if picture.shape != size:
            raise BadInput(f"reference.{name}", picture.shape, f"give {size}, as reference.goal has it")
    if len(reference.goal) > MAX_VIEWS:
        raise BadInput("reference.goal", reference.goal.shape, f"give at most {MAX_VIEWS} views")


def checked_config(
    reference: TaskReference, gamma: float, stride: int, fusion: FusionConfig, shaping: Shaping, deadline_s: float
) -> LabellerConfig:
    """The labeller's settings for a user's own learner.

    Args:
        reference, gamma, stride, fusion, shaping, deadline_s: as for StepLabels.
    Raises:
        BadInput: a setting is out of range or of the wrong type.
    """
    if not isinstance(reference, TaskReference):
        raise BadInput("reference", type(reference), "give TaskReference.of(demonstration)")
    _check_reference(reference)
    if isinstance(stride, bool) or not isinstance(stride, int | np.integer) or stride < 1:
        raise BadInput("stride", stride, "give a number of environment steps, at least 1")
    if not 0.0 < deadline_s < math.inf:
        raise BadInput("deadline_s", deadline_s, "give seconds above 0")
    shaped_reward(0.0, 0.0, 0.0, gamma, "grm", shaping)  # raises BadInput for a discount out of range
    return LabellerConfig("grm", gamma, int(stride), fusion, deadline_s, shaping=shaping)


@dataclass
class _Episode:
    name: str
    time: int = 0


class StepLabels:
    """Labels running episodes, known by the index of their environment, step by step.

    Args:
        client: the reward service.
        reference: of the task.
        gamma: discount of learner and shaping.
        stride: environment steps between two scored frames.
        fusion, shaping: as in LabellerConfig.
        deadline_s: most seconds to wait for the answers about a step's frames.
        clock: monotonic, seconds (tests pass their own).
    Raises:
        BadInput: a setting is out of range or of the wrong type.
    """

    def __init__(
        self,
        client: RewardClient,
        reference: TaskReference,
        gamma: float,
        stride: int,
        fusion: FusionConfig,
        shaping: Shaping,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(client, RewardClient):
            raise BadInput("client", client, "give a RewardClient, such as reward_service.local.embedded_client(MODEL)")
        config = checked_config(reference, gamma, stride, fusion, shaping, deadline_s)
        self._labeller, self._reference, self._clock = Labeller(config, client, clock), reference, clock
        self._run, self._begun = uuid.uuid4().hex, 0  # a service may know many programs' episodes
        self._episodes: dict[int, _Episode] = {}

    @property
    def counts(self) -> LabelCounts:
        """Outcomes of all frames so far."""
        return self._labeller.counts

    def deadline(self) -> float:
        """On the clock, for what is asked now."""
        return self._clock() + self._labeller.config.deadline_s

    def begin(self, first: Mapping[int, Views], deadline: float | None = None) -> dict[str, Any]:
        """Begin episodes with their first frames, and forget those that ran in the same environments.

        Returns:
            What the environments' infos get.
        """
        for index in first:
            if index in self._episodes:
                self._labeller.drop(self._episodes.pop(index).name)
        contexts = []
        for index, views in first.items():
            self._episodes[index] = _Episode(f"{self._run}-{self._begun}")
            self._begun += 1
            contexts.append(self._reference.context(self._episodes[index].name, views))
        self._labeller.begin_all(contexts, deadline)
        return {"progress": 0.0, "progress_valid": True}

    def observe(self, index: int, ended: bool, read: Callable[[], Views | None]) -> None:
        """Note the pictures after an environment's step, if they are due; `pay_all` sends those of all environments.

        Args:
            ended: the episode ended with this step; its last frame is scored, if there are pictures.
            read: the pictures.
        Raises:
            BadInput: there are no pictures where the stride needs them, or they are unlike the goal.
            ResetNeeded: no episode runs in the environment.
        """
        if index not in self._episodes:
            raise ResetNeeded("No episode is running: call reset() before step().")
        episode, stride = self._episodes[index], self._labeller.config.stride
        episode.time += 1
        on_stride = episode.time % stride == 0
        views = read() if on_stride or ended else None
        if views is not None:
            self._labeller.observe(episode.name, episode.time, views, at_once=False)
        elif on_stride:
            fix = f"there are no pictures at step {episode.time}: give a multiple of the environment's own stride"
            raise BadInput("stride", stride, fix)

    def pay(
        self, index: int, task_reward: float, terminated: bool, truncated: bool, deadline: float
    ) -> tuple[float, dict[str, Any]]:
        """The shaped reward of an environment's step, with the answers that come before the deadline.

        Returns:
            The reward, and what the environment's info gets.
        """
        step = np.array([task_reward]), np.array([terminated]), np.array([truncated])
        rewards, infos, labels = self.pay_all([index], *step, deadline)
        info = {name: values[0].item() for name, values in infos.items()}
        return float(rewards[0]), info | ({"labels": labels[index]} if index in labels else {})

    def pay_all(
        self,
        indices: Sequence[int],
        task_rewards: NDArray[np.floating],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        deadline: float,
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[Any]], dict[int, dict[str, int]]]:
        """The shaped rewards of a step of N environments, with the answers that come before the deadline.

        Args:
            indices: of the environments; the other arguments are [N] in this order.
        Returns:
            Rewards [N]; what the environments' infos get, arrays [N] by name; and the counts of the episodes that
            ended, by index.
        """
        task = np.asarray(task_rewards, np.float32)
        names = [self._episodes[index].name for index in indices]
        rewards, progress, valid = self._labeller.collect_step(names, task, terminated, deadline)
        infos: dict[str, NDArray[Any]] = {
            "progress": progress.astype(np.float64),
            "progress_valid": valid,
            "task_reward": task.astype(np.float64),
            "shaping": rewards.astype(np.float64) - task.astype(np.float64),
        }
        ended = np.flatnonzero(np.asarray(terminated) | np.asarray(truncated))
        labels = {index: self._finish(index) for index in (indices[int(i)] for i in ended)}
        del self.counts.latencies_ms[:-LATENCIES]
        return rewards.astype(np.float64), infos, labels

    def _finish(self, index: int) -> dict[str, int]:
        record = self._labeller.finish(self._episodes.pop(index).name)
        assert record is not None
        outcomes = Counter(frame.outcome for frame in record.frames)
        return {"asked": len(record.frames)} | {outcome: outcomes[outcome] for outcome in get_args(Outcome)}
