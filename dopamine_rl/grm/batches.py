"""Training batches: images of a few frames, each encoded once, and many prompts that compare them.

A model trained only on balanced pairs within one demonstration has never seen two kinds of prompts that occur at run
time: neighbouring frames, and the goal of another episode. So every batch contains all kinds.

A batch depends only on the seed and its number, not on who draws it, in which order, or after which interruption.
Planning a batch needs no images; they are fetched afterwards.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.mismatch import draw_mismatched, mismatched_hop, other_wordings, wordings_of_tasks
from dopamine_rl.episodes.pairs import EPISODES_PER_BLOCK, sample_blocks
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.augment import Look, augmented, draw_looks, flickered
from dopamine_rl.grm.config import TrainConfig
from dopamine_rl.grm.labels import EpisodeLabels, LabelledEpisode
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import hop

POOL_PER_EPISODE = 2000
"""Balanced pairs drawn in advance per demonstration; a batch uses those whose two frames it contains."""

POOL_STATES = 100
"""Evenly spaced states of a demonstration whose pairs are enumerated for its pool."""

AHEAD = 4
"""Batches that each preparing thread may be ahead of training."""

Picture = tuple[int, int, int]
"""Identifies an image: episode, frame, view."""

BLANK: Picture = (-1, 0, 0)
"""The blank image."""

Fetch = Callable[[Sequence[Picture]], NDArray[np.uint8]]
"""Loads images, uint8 [M, H, W, 3]."""

Batches = Callable[[Iterable[int]], Iterator["Batch"]]
"""Iterates over the batches with given numbers, in their order, as they are consumed."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Prompts with their true hops.

    Args:
        images: uint8 [M, H, W, 3], each image once.
        prompts: N prompts about them.
        hops: float32 [N], true hops.
    """

    images: NDArray[np.uint8]
    prompts: tuple[Prompt, ...]
    hops: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Questions:
    """A batch without its images.

    Args:
        pictures: M images.
        looks: M, augmentation of each; every combination of image and look is listed once.
        prompts: N prompts about them, by index.
        hops: float32 [N], true hops.
    """

    pictures: tuple[Picture, ...]
    looks: tuple[Look | None, ...]
    prompts: tuple[Prompt, ...]
    hops: NDArray[np.float32]

    def with_images(self, images: NDArray[np.uint8]) -> Batch:
        """The batch, given its images as recorded, uint8 [M, H, W, 3]."""
        return Batch(augmented(images, self.looks), self.prompts, self.hops)


class _Question(NamedTuple):
    """Frame of BEFORE (None: the goal), frame of AFTER, and whether the two are a moment of rest apart."""

    before: int | None
    after: int
    paused: bool = False


class _Table:
    """Numbers the distinct combinations of image and look."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Picture, Look | None], int] = {}

    def row(self, episode: int, frame: int, view: int, look: Look | None = None, blank: bool = False) -> int:
        key = (BLANK, None) if blank else ((episode, frame, view), look)
        return self.rows.setdefault(key, len(self.rows))


class BatchSampler:
    """Plans batches of prompts about labelled episodes.

    Args:
        episodes: at least one success of every task; all with the same number of views. Tasks are sampled equally
            often.
        config: the plan of a batch, augmentation, and the random seed.
    Raises:
        BadInput: a task has no success, or the numbers of views differ; questions are to be asked under another task's
            instruction, and there is none.
    """

    def __init__(self, episodes: Sequence[EpisodeLabels], config: TrainConfig) -> None:
        if not any(episode.success for episode in episodes):
            raise BadInput("episodes", len(episodes), "give at least one successful demonstration")
        views = {episode.views for episode in episodes}
        if len(views) > 1:
            raise BadInput("episodes", sorted(views), "give episodes with the same number of views")
        self._episodes, self._plan = list(episodes), config.plan
        self._augment, self._seed = config.augment, config.seed
        self._tasks = self._episodes_of_tasks()
        self._goals = self._goals_of_tasks()
        self._wordings = wordings_of_tasks(episode.instructions for episode in episodes)
        plan = config.plan
        self._others = other_wordings(self._wordings, plan.other_instructions) if plan.mismatched else {}
        self._pools = self._balanced_pools()

    def _episodes_of_tasks(self) -> list[list[int]]:
        tasks: dict[str, list[int]] = {}
        for index, episode in enumerate(self._episodes):
            tasks.setdefault(episode.instructions[0], []).append(index)
        return list(tasks.values())

    def _goals_of_tasks(self) -> dict[str, list[int]]:
        """Indices of the successes of every task."""
        goals: dict[str, list[int]] = {episode.instructions[0]: [] for episode in self._episodes}
        for index, episode in enumerate(self._episodes):
            if episode.success:
                goals[episode.instructions[0]].append(index)
        for task, successes in goals.items():
            if not successes:
                raise BadInput("episodes", task, "give a successful demonstration of every task")
        return goals

    def _balanced_pools(self) -> list[NDArray[np.int32]]:
        """For each episode int32 [n, 2], balanced (before, after) frames; for a failure any two frames."""
        rng = np.random.default_rng(self._seed)
        pools = [
            np.zeros((0, 2), np.int32)
            if episode.success
            else rng.integers(len(episode.progress), size=(POOL_PER_EPISODE, 2), dtype=np.int32)
            for episode in self._episodes
        ]
        successes = [index for index, episode in enumerate(self._episodes) if episode.success]
        states = [_spread_states(self._episodes[index].states) for index in successes]
        for pairs in sample_blocks(states, POOL_PER_EPISODE * len(successes), self._seed):
            first = pairs.episode_index.min() // EPISODES_PER_BLOCK * EPISODES_PER_BLOCK
            columns = np.stack([pairs.before_index, pairs.after_index], axis=1).astype(np.int32)
            for index in range(first, min(first + EPISODES_PER_BLOCK, len(successes))):
                pools[successes[index]] = columns[pairs.episode_index == index]
        return pools

    def plan(self, number: int) -> Questions:
        """The prompts of batch `number`, counted from 0."""
        rng = np.random.default_rng([self._seed, number])
        table = _Table()
        prompts: list[Prompt] = []
        hops: list[float] = []
        # One wording per task, because prompts with the same instruction share a prefix.
        instructions = {task: str(rng.choice(wordings)) for task, wordings in self._wordings.items()}
        others = {task: str(rng.choice(wordings)) for task, wordings in self._others.items()}
        for index in self._choose(rng):
            task, first = self._episodes[index].instructions[0], len(hops)
            at_goal = self._add_prompts(index, instructions[task], rng, table, prompts, hops)
            if others:
                drawn = draw_mismatched(hops[first:], self._plan.mismatched, rng)
                prompts += [replace(prompts[first + i], instruction=others[task]) for i in drawn]
                hops += mismatched_hop(at_goal[drawn]).tolist()
        pictures, looks = zip(*table.rows, strict=True)
        return Questions(pictures, looks, tuple(prompts), np.array(hops, np.float32))

    def _choose(self, rng: np.random.Generator) -> list[int]:
        """Choose the episodes of a batch: tasks in turn, no episode twice while its task has others."""
        first = int(rng.integers(len(self._tasks)))
        task_sequence = [(first + turn) % len(self._tasks) for turn in range(self._plan.episodes)]
        chosen = []
        for task, count in Counter(task_sequence).items():
            for members, number in self._shared_out(self._tasks[task], count, rng):
                draws = rng.choice(len(members), number, replace=number > len(members))
                chosen += [members[draw] for draw in draws]
        return chosen

    def _shared_out(self, members: list[int], count: int, rng: np.random.Generator) -> list[tuple[Sequence[int], int]]:
        """Groups of a task's episodes to draw from, and how many of each: all together, or failures apart."""
        failed = [index for index in members if not self._episodes[index].success]
        if not self._plan.failures or not failed:
            return [(members, count)]
        failures = int(rng.binomial(count, self._plan.failures))
        return [(self._goals[self._episodes[members[0]].instructions[0]], count - failures), (failed, failures)]

    def batches(self, fetch: Fetch, threads: int = 1) -> Batches:
        """All batches; threads fetch and augment their images a bounded number of batches ahead of training."""

        def prepare(number: int) -> Batch:
            questions = self.plan(number)
            return questions.with_images(fetch(questions.pictures))

        def draw(numbers: Iterable[int]) -> Iterator[Batch]:
            pending: deque[Future[Batch]] = deque()
            pool = ThreadPoolExecutor(threads, "batches")
            try:
                for number in numbers:
                    pending.append(pool.submit(prepare, number))
                    if len(pending) > AHEAD * threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        return draw

    def _add_prompts(
        self,
        index: int,
        instruction: str,
        rng: np.random.Generator,
        table: _Table,
        prompts: list[Prompt],
        hops: list[float],
    ) -> NDArray[np.bool_]:
        """Add the prompts about one episode; returns for each whether BEFORE shows the goal."""
        episode, plan = self._episodes[index], self._plan
        goals = self._goals[episode.instructions[0]]
        goal, reference = _other(goals, index, rng), goals[int(rng.integers(len(goals)))]
        views = episode.views
        hidden = int(rng.integers(views)) if views > 1 and rng.random() < plan.blank_view else -1
        # Goal and references usually come from another recording, so they get other looks, even if they do not.
        own_looks, goal_looks, reference_looks = draw_looks(self._augment, (3, views), rng)
        last = len(self._episodes[reference].progress) - 1
        references = (
            table.row(reference, 0, 0, reference_looks[0], bool(rng.random() < plan.blank_reference)),
            table.row(reference, last, 0, reference_looks[0], bool(rng.random() < plan.blank_reference)),
        )

        def rows(episode_index: int, frame: int, looks: Sequence[Look | None]) -> tuple[int, ...]:
            return tuple(table.row(episode_index, frame, view, looks[view], view == hidden) for view in range(views))

        end = len(self._episodes[goal].progress) - 1
        at_goal = []
        for before, after, paused in self._questions(index, rng):
            if before is None:
                before_rows, start = rows(goal, end, goal_looks), self._episodes[goal].progress[end]
            else:
                before_rows, start = rows(index, before, own_looks), episode.progress[before]
            after_rows = rows(index, after, flickered(own_looks, rng) if paused else own_looks)
            prompts.append(Prompt(instruction, references, before_rows, after_rows))
            hops.append(float(hop(start, episode.progress[after])))
            at_goal.append(before is None or start >= 1.0)
        return np.array(at_goal)

    def _questions(self, index: int, rng: np.random.Generator) -> list[_Question]:
        """All questions about one episode."""
        plan = self._plan
        count = len(self._episodes[index].progress)
        gap = _spacing(int(count * plan.spread), rng)
        length = min(plan.run_length, 1 + (count - 1) // gap)
        starts = self._starts(index, count - (length - 1) * gap, gap, rng)
        frames = np.unique((starts[:, None] + gap * np.arange(length)).ravel())
        questions = [_Question(0, int(frame)) for frame in frames]
        questions += [_Question(None, int(frame)) for frame in frames]
        apart = np.abs(frames[None, :] - frames[:, None])
        near = np.argwhere((apart != 0) & (apart <= 3 * gap))
        for before, after in near[rng.permutation(len(near))[: plan.neighbours]]:
            questions.append(_Question(int(frames[before]), int(frames[after])))
        for frame in frames[rng.permutation(len(frames))[: plan.still]]:
            questions.append(_Question(int(frame), int(frame)))
        pool = self._pools[index]
        within = pool[np.isin(pool, frames).all(axis=1)]
        for before, after in within[rng.permutation(len(within))[: plan.balanced]]:
            questions.append(_Question(int(before), int(after)))
        if plan.paused:
            resting = rng.choice(frames, plan.paused, replace=plan.paused > len(frames))
            questions += [_Question(int(frame), int(frame), paused=True) for frame in resting]
        return questions

    def _starts(self, index: int, room: int, gap: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """First frames of the runs, 0 … room − 1: evenly spaced in time, or around evenly spaced values of progress."""
        plan, episode = self._plan, self._episodes[index]
        starts = _spread(room, plan.runs, rng)
        if not episode.success or not plan.by_progress:
            return starts
        progress = (np.arange(plan.runs) + rng.random(plan.runs)) / plan.runs
        by_progress = np.searchsorted(episode.progress, progress) - gap * rng.integers(plan.run_length, size=plan.runs)
        return np.where(rng.random(plan.runs) < plan.by_progress, by_progress.clip(0, room - 1), starts)


def _spacing(most: int, rng: np.random.Generator) -> int:
    """A random spacing from 1 to `most` (or 1); log-uniform."""
    return int(np.exp(rng.uniform(0.0, np.log(most + 1.0)))) if most > 1 else 1


def _other(goals: Sequence[int], index: int, rng: np.random.Generator) -> int:
    """Choose a goal other than `index` if there is one. The list may be long, so it is not copied."""
    if len(goals) == 1:
        return goals[0]
    while (goal := goals[int(rng.integers(len(goals)))]) == index:
        pass
    return goal


def _spread_states(states: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most POOL_STATES of an episode's states, evenly spaced."""
    return states[np.linspace(0, len(states) - 1, min(len(states), POOL_STATES)).astype(np.int64)]


def _spread(count: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n stratified random numbers of 0 … count − 1, one per n-th of the range."""
    edges = np.linspace(0, count, n + 1)
    return np.minimum((edges[:-1] + rng.random(n) * np.diff(edges)).astype(np.int64), count - 1)


def from_memory(frames: Sequence[NDArray[np.uint8]]) -> Fetch:
    """Fetch from episodes in memory, uint8 [F, V, H, W, 3] each. Raises BadInput if image sizes differ."""
    sizes = {episode.shape[2:] for episode in frames}
    if len(sizes) > 1:
        raise BadInput("episodes", sorted(sizes), "give episodes with images of the same size")
    blank = np.zeros_like(frames[0][0, 0])
    return lambda pictures: np.stack(
        [blank if picture == BLANK else frames[picture[0]][picture[1:]] for picture in pictures]
    )


def in_memory(episodes: Sequence[LabelledEpisode], config: TrainConfig) -> Batches:
    """The batches of episodes in memory. Raises as `BatchSampler` and `from_memory` do."""
    sampler = BatchSampler([episode.labels for episode in episodes], config)
    return sampler.batches(from_memory([episode.frames for episode in episodes]))
