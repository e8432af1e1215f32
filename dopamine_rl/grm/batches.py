"""Training questions: pictures of a few moments, each encoded once, and the many comparisons that can be asked about them.

A model that is only asked balanced pairs within one demonstration meets two questions at run time that it has never
seen: neighbouring frames, and a goal that belongs to another episode. So every batch asks all kinds.

A batch is a function of the seed and its number alone: whoever draws it, in whatever order, and after whatever interruption,
draws the same one. No picture is needed for that; they are fetched once it is known which.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.pairs import EPISODES_PER_BLOCK, sample_blocks
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.augment import Look, augmented, draw_looks
from dopamine_rl.grm.config import TrainConfig
from dopamine_rl.grm.labels import EpisodeLabels, LabelledEpisode
from dopamine_rl.interfaces import Prompt
from dopamine_rl.progress import hop

POOL_PER_EPISODE = 2000
"""Balanced pairs drawn in advance for each demonstration; a batch uses those whose two frames it shows."""

POOL_STATES = 100
"""States of a demonstration, evenly spread, whose pairs are enumerated for its pool."""

AHEAD = 4
"""Batches that each thread which prepares them may be ahead of the training."""

Picture = tuple[int, int, int]
"""Where a picture lies: episode, frame, view."""

BLANK: Picture = (-1, 0, 0)
"""The picture that shows nothing."""

Fetch = Callable[[Sequence[Picture]], NDArray[np.uint8]]
"""Gets pictures, uint8 [M, H, W, 3]."""

Batches = Callable[[Iterable[int]], Iterator["Batch"]]
"""Gets the batches of some numbers, in their order, as they are consumed."""


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Questions with their answers.

    Args:
        images: uint8 [M, H, W, 3], each picture once.
        prompts: N questions about them.
        hops: float32 [N], the right answers.
    """

    images: NDArray[np.uint8]
    prompts: tuple[Prompt, ...]
    hops: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class Questions:
    """A batch without its pixels.

    Args:
        pictures: M places.
        looks: M, how each is shown; together with its place each is there once.
        prompts: N questions about them, by index.
        hops: float32 [N], the right answers.
    """

    pictures: tuple[Picture, ...]
    looks: tuple[Look | None, ...]
    prompts: tuple[Prompt, ...]
    hops: NDArray[np.float32]

    def shown(self, images: NDArray[np.uint8]) -> Batch:
        """The batch, given its pictures as they were recorded, uint8 [M, H, W, 3]."""
        return Batch(augmented(images, self.looks), self.prompts, self.hops)


class _Table:
    """A table of pictures that names each one in each of its looks once."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Picture, Look | None], int] = {}

    def row(self, episode: int, frame: int, view: int, look: Look | None = None, blank: bool = False) -> int:
        shown = (BLANK, None) if blank else ((episode, frame, view), look)
        return self.rows.setdefault(shown, len(self.rows))


class BatchSampler:
    """Plans batches of questions about labelled episodes.

    Args:
        episodes: at least one success of every task; all with the same number of views. Every task is asked about equally often.
        config: what a batch asks, how its pictures are changed, and the seed of all randomness.
    Raises:
        BadInput: no success of some failure's task, or views that differ.
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
        self._wordings = self._wordings_of_tasks()
        self._pools = self._balanced_pools()

    def _episodes_of_tasks(self) -> list[list[int]]:
        tasks: dict[str, list[int]] = {}
        for index, episode in enumerate(self._episodes):
            tasks.setdefault(episode.instructions[0], []).append(index)
        return list(tasks.values())

    def _goals_of_tasks(self) -> dict[str, list[int]]:
        """The successes of every task."""
        goals: dict[str, list[int]] = {episode.instructions[0]: [] for episode in self._episodes}
        for index, episode in enumerate(self._episodes):
            if episode.success:
                goals[episode.instructions[0]].append(index)
        for task, found in goals.items():
            if not found:
                raise BadInput("episodes", task, "give a successful demonstration of every task")
        return goals

    def _wordings_of_tasks(self) -> dict[str, list[str]]:
        """All instructions of every task's episodes."""
        wordings: dict[str, dict[str, None]] = {}
        for episode in self._episodes:
            wordings.setdefault(episode.instructions[0], {}).update(dict.fromkeys(episode.instructions))
        return {task: list(known) for task, known in wordings.items()}

    def _balanced_pools(self) -> list[NDArray[np.int32]]:
        """For each episode int32 [n, 2], balanced (before, after) frames; any two frames of a failure."""
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
            for place in range(first, min(first + EPISODES_PER_BLOCK, len(successes))):
                pools[successes[place]] = columns[pairs.episode_index == place]
        return pools

    def plan(self, number: int) -> Questions:
        """The questions of batch `number`, from 0."""
        rng = np.random.default_rng([self._seed, number])
        table = _Table()
        prompts: list[Prompt] = []
        hops: list[float] = []
        # One wording for each task: questions in the same words are answered together.
        words = {task: str(rng.choice(known)) for task, known in self._wordings.items()}
        for index in self._choose(rng):
            self._ask(index, words[self._episodes[index].instructions[0]], rng, table, prompts, hops)
        pictures, looks = zip(*table.rows, strict=True)
        return Questions(pictures, looks, tuple(prompts), np.array(hops, np.float32))

    def _choose(self, rng: np.random.Generator) -> list[int]:
        """Episodes of a batch: from the tasks in turn, none twice while there is another of its task."""
        first = int(rng.integers(len(self._tasks)))
        turns = [(first + turn) % len(self._tasks) for turn in range(self._plan.episodes)]
        chosen = []
        for task, wanted in Counter(turns).items():
            members = self._tasks[task]
            places = rng.choice(len(members), wanted, replace=wanted > len(members))
            chosen += [members[place] for place in places]
        return chosen

    def batches(self, fetch: Fetch, threads: int = 1) -> Batches:
        """All batches, their pictures fetched and changed by threads a bounded number of batches ahead of the training."""

        def prepare(number: int) -> Batch:
            questions = self.plan(number)
            return questions.shown(fetch(questions.pictures))

        def draw(numbers: Iterable[int]) -> Iterator[Batch]:
            coming: deque[Future[Batch]] = deque()
            pool = ThreadPoolExecutor(threads, "batches")
            try:
                for number in numbers:
                    coming.append(pool.submit(prepare, number))
                    if len(coming) > AHEAD * threads:
                        yield coming.popleft().result()
                while coming:
                    yield coming.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

        return draw

    def _ask(
        self,
        index: int,
        instruction: str,
        rng: np.random.Generator,
        table: _Table,
        prompts: list[Prompt],
        hops: list[float],
    ) -> None:
        """Add the questions about one episode."""
        episode, plan = self._episodes[index], self._plan
        goals = self._goals[episode.instructions[0]]
        goal, reference = _other(goals, index, rng), goals[int(rng.integers(len(goals)))]
        views = episode.views
        hidden = int(rng.integers(views)) if views > 1 and rng.random() < plan.blank_view else -1
        # The goal and the references are another recording's, so they look another way, also where it is this episode's.
        own, others, references = draw_looks(self._augment, (3, views), rng)
        last = len(self._episodes[reference].progress) - 1
        shown_references = (
            table.row(reference, 0, 0, references[0], bool(rng.random() < plan.blank_reference)),
            table.row(reference, last, 0, references[0], bool(rng.random() < plan.blank_reference)),
        )

        def shown(of: int, frame: int, looks: Sequence[Look | None]) -> tuple[int, ...]:
            return tuple(table.row(of, frame, view, looks[view], view == hidden) for view in range(views))

        end = len(self._episodes[goal].progress) - 1
        for before, after in self._questions(index, rng):
            if before is None:
                prompts.append(
                    Prompt(instruction, shown_references, shown(goal, end, others), shown(index, after, own))
                )
                start = self._episodes[goal].progress[end]
            else:
                prompts.append(
                    Prompt(instruction, shown_references, shown(index, before, own), shown(index, after, own))
                )
                start = episode.progress[before]
            hops.append(float(hop(start, episode.progress[after])))

    def _questions(self, index: int, rng: np.random.Generator) -> list[tuple[int | None, int]]:
        """(frame of BEFORE, or None for the goal; frame of AFTER) of all questions about one episode."""
        plan = self._plan
        count = len(self._episodes[index].progress)
        gap = _spacing(int(count * plan.spread), rng)
        length = min(plan.run_length, 1 + (count - 1) // gap)
        starts = self._starts(index, count - (length - 1) * gap, gap, rng)
        frames = np.unique((starts[:, None] + gap * np.arange(length)).ravel())
        questions: list[tuple[int | None, int]] = [(0, int(frame)) for frame in frames]
        questions += [(None, int(frame)) for frame in frames]
        apart = np.abs(frames[None, :] - frames[:, None])
        near = np.argwhere((apart != 0) & (apart <= 3 * gap))
        for before, after in near[rng.permutation(len(near))[: plan.neighbours]]:
            questions.append((int(frames[before]), int(frames[after])))
        for frame in frames[rng.permutation(len(frames))[: plan.still]]:
            questions.append((int(frame), int(frame)))
        pool = self._pools[index]
        within = pool[np.isin(pool, frames).all(axis=1)]
        for before, after in within[rng.permutation(len(within))[: plan.balanced]]:
            questions.append((int(before), int(after)))
        return questions

    def _starts(self, index: int, room: int, gap: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """First frames of the runs, 0 … room − 1: evenly spread over time, or around places evenly spread over progress."""
        plan, episode = self._plan, self._episodes[index]
        starts = _spread(room, plan.runs, rng)
        if not episode.success or not plan.by_progress:
            return starts
        progress = (np.arange(plan.runs) + rng.random(plan.runs)) / plan.runs
        places = np.searchsorted(episode.progress, progress) - gap * rng.integers(plan.run_length, size=plan.runs)
        return np.where(rng.random(plan.runs) < plan.by_progress, places.clip(0, room - 1), starts)


def _spacing(most: int, rng: np.random.Generator) -> int:
    """A number from 1 to `most`, or 1; small ones are likelier."""
    return int(np.exp(rng.uniform(0.0, np.log(most + 1.0)))) if most > 1 else 1


def _other(goals: Sequence[int], index: int, rng: np.random.Generator) -> int:
    """One of the goals, not `index` unless there is no other. Its list may be long: no copy is made."""
    if len(goals) == 1:
        return goals[0]
    while (goal := goals[int(rng.integers(len(goals)))]) == index:
        pass
    return goal


def _spread_states(states: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most POOL_STATES of an episode's states, evenly spread."""
    return states[np.linspace(0, len(states) - 1, min(len(states), POOL_STATES)).astype(np.int64)]


def _spread(count: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n numbers of 0 … count − 1, one from each n-th of the range."""
    edges = np.linspace(0, count, n + 1)
    return np.minimum((edges[:-1] + rng.random(n) * np.diff(edges)).astype(np.int64), count - 1)


def from_memory(frames: Sequence[NDArray[np.uint8]]) -> Fetch:
    """Pictures of episodes that are in memory, uint8 [F, V, H, W, 3] each. Raises BadInput where they differ in size."""
    sizes = {episode.shape[2:] for episode in frames}
    if len(sizes) > 1:
        raise BadInput("episodes", sorted(sizes), "give episodes with pictures of the same size")
    blank = np.zeros_like(frames[0][0, 0])
    return lambda pictures: np.stack([blank if at == BLANK else frames[at[0]][at[1:]] for at in pictures])


def in_memory(episodes: Sequence[LabelledEpisode], config: TrainConfig) -> Batches:
    """The batches of episodes whose pictures are in memory. Raises what `BatchSampler` and `from_memory` raise."""
    sampler = BatchSampler([episode.labels for episode in episodes], config)
    return sampler.batches(from_memory([episode.frames for episode in episodes]))
