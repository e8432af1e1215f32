"""Turns the pictures of running episodes into shaped rewards: pending requests, deadlines, held potential.

Uses a RewardClient, not Ray. One `Labeller` serves all episodes of an actor; the state of each episode is in an
`EpisodeLabels`. Requests are sent as frames appear, or together if nothing waits for them, and collected before a
deadline when a fragment is closed; the episode may have continued by then. If a frame's answer is late, unreadable or
refused, the potential is held and the frame is counted; it never becomes a number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from actors.label_records import LabelRecord, ScoredFrame
from actors.label_requests import Frame, PendingFrame, Question, RequestSender
from dopamine_rl.errors import BadInput, ScoringError, ScoringTimeout
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.progress import FoldState, fold, fold_frames
from dopamine_rl.shaping import FULL, Shaping, held_potential, next_potentials, phase, shaped_reward
from dopamine_rl.targets import ProgressMap
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import (
    UNSHAPED,
    EpisodeContext,
    FusionConfig,
    LabelColumns,
    LabelCounts,
    RewardMode,
    Views,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabellerConfig:
    """How progress becomes reward.

    Args:
        mode: source of the potential, and form of the reward.
        gamma: discount of learner and shaping.
        shaping: how the potential is paid; scale 0 records potentials without paying them.
        target: map from the simulator's geometric progress to the target that mode oracle reports; None reports it as
            it is.
        stride: environment steps between two scored frames.
        fusion: how the three perspectives are fused into one progress.
        deadline_s: how long to wait for a fragment's answers when it is closed; also the time limit of each request.
        records_dir: folder of the label records of finished episodes, for audits and relabelling; None writes none.
        records_mb: size limit of the folder in 10⁶ bytes; the oldest records are removed first.
    """

    mode: RewardMode
    gamma: float
    stride: int
    fusion: FusionConfig = field(default_factory=FusionConfig)
    deadline_s: float = 10.0
    records_dir: Path | None = None
    records_mb: float = 500.0
    shaping: Shaping = FULL
    target: ProgressMap | None = None

    @property
    def asks_model(self) -> bool:
        """True if the potential comes from the reward model."""
        return self.mode in ("grm", "naive")


@dataclass
class EpisodeLabels:
    """Labelling state of an episode: the requested frames, their outcomes, and the potential held between them."""

    context: EpisodeContext | None
    version: str = ""
    state: FoldState = field(default_factory=lambda: FoldState(0.0, 0.0))
    last_sent: Frame = field(default_factory=lambda: Frame(0, None))
    last_valid: Frame = field(default_factory=lambda: Frame(0, None))
    unsent: list[Frame] = field(default_factory=list)
    pending: list[PendingFrame] = field(default_factory=list)
    scored: list[ScoredFrame] = field(default_factory=list)
    taken: int = 0
    """How many of the scored frames `arrived` has returned."""
    end: int = 0
    """Environment step at which the last fragment ended, collected or held."""
    level: float = 0.0
    """Potential at the end of the last fragment; the next one starts from it, so that shaping telescopes."""

    def potential(self, end: int) -> NDArray[np.float32]:
        """Held potential at environment steps 0 … `end`, float32 [end + 1]."""
        answered = [f for f in self.scored if f.outcome == "answered" and f.time <= end]
        times = np.array([f.time for f in answered], np.int64)
        return held_potential(times, np.array([f.progress for f in answered], np.float32), end, 0.0)

    def validity(self, end: int) -> NDArray[np.bool_]:
        """bool [end + 1]: whether the latest requested frame at or before each environment step was answered."""
        times = np.array([0] + [f.time for f in self.scored])
        answered = np.array([True] + [f.outcome == "answered" for f in self.scored])
        return answered[np.searchsorted(times, np.arange(end + 1), side="right") - 1]


class Labeller:
    """Labels the episodes of one actor.

    Args:
        config: mode, discount, deadline.
        client: the reward service; None for modes without a reward model.
        clock: monotonic, seconds (tests pass their own).
    """

    def __init__(
        self, config: LabellerConfig, client: RewardClient | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config, self.client, self.counts = config, client, LabelCounts()
        self._clock = clock
        self._sender = RequestSender(client, clock) if client is not None else None
        self._version: str | None = None
        self._episodes: dict[str, EpisodeLabels] = {}

    @property
    def asks_model(self) -> bool:
        """True if the potential comes from the reward model."""
        return self.config.asks_model

    def begin(self, episode_id: str, context: EpisodeContext | None) -> None:
        """Start an episode; its potential is 0 until a frame after the first one is scored.

        This fixes the model version for the whole episode: the one currently served, or, if the service does not answer
        in time, the last known one.
        """
        if not self.asks_model:
            self._episodes[episode_id] = EpisodeLabels(None)
            return
        assert context is not None
        self.begin_all([replace(context, episode_id=episode_id)])

    def begin_all(self, contexts: Sequence[EpisodeContext], deadline: float | None = None) -> None:
        """Start episodes that a model scores, known by their contexts' ids; the service names its version once for all.

        Args:
            deadline: on this labeller's clock, to wait no longer for that; by default `deadline_s` from now.
        """
        assert self.client is not None
        # With a known version, a service in trouble must not delay every episode.
        patience_s = self.config.deadline_s if self._version is None else min(0.5, self.config.deadline_s)
        if deadline is not None:
            patience_s = max(0.0, min(patience_s, deadline - self._clock()))
        try:
            self._version = self.client.model_version(timeout_s=patience_s)
        except ScoringError as error:
            logger.warning("The reward service did not name its model version: %s", error)
        for context in contexts:
            start = Frame(0, context.init)
            self._episodes[context.episode_id] = EpisodeLabels(
                replace(context, model_version=self._version), self._version or "", last_sent=start, last_valid=start
            )

    def knows(self, episode_id: str) -> bool:
        """True between `begin` and the fragment that ends the episode."""
        return episode_id in self._episodes

    def version(self, episode_id: str) -> str:
        """The model version of an episode; "" if unknown."""
        episode = self._episodes.get(episode_id)
        return episode.version if episode else ""

    def observe(
        self, episode_id: str, time: int, views: Views, at_once: bool = True, tokens: FrameTokens | None = None
    ) -> None:
        """Request the progress at environment step `time`, without waiting for the answer.

        Args:
            at_once: send the request now; else `send` does, together with the episode's other frames.
            tokens: of the views, if the actor has encoded them, to be sent in place of the pictures where the service
                can use them.
        """
        self.counts.asked += 1
        self._episodes[episode_id].unsent.append(Frame(time, views, tokens))
        if at_once:
            self._ask(self._episodes[episode_id])

    def send(self) -> None:
        """Send all unsent frames, one request per episode, which is far cheaper for the actor than one per frame."""
        self._ask(*self._episodes.values())

    def arrived(self, episode_id: str) -> list[ScoredFrame]:
        """The outcomes, in time order, of frames since the last call. Never waits: others stay pending."""
        episode = self._episodes[episode_id]
        while episode.pending and episode.pending[0].ready:
            self._settle(episode, self._clock() + self.config.deadline_s)
        new, episode.taken = episode.scored[episode.taken :], len(episode.scored)
        return new

    def observe_truth(self, episode_id: str, time: int, progress: float) -> None:
        """Use the simulator's true progress, in the config's target, as potential (mode oracle, for diagnosis)."""
        target = self.config.target
        value = float(progress if target is None else target(progress))
        frame = ScoredFrame(time=time, outcome="answered", progress=value)
        self._episodes[episode_id].scored.append(frame)

    def collect(
        self,
        episode_id: str,
        start: int,
        task_rewards: NDArray[np.float32],
        terminated: bool,
        deadline: float | None = None,
    ) -> tuple[NDArray[np.float32], LabelColumns]:
        """Close a fragment of T environment steps that started at step `start`, and collect its labels.

        Args:
            task_rewards: float32 [T].
            terminated: the fragment's last step ended the task (not: truncated it).
            deadline: on this labeller's clock; by default `deadline_s` from now. Frames without an answer by then
                stay late.
        Returns:
            Shaped rewards float32 [T], and the label columns.
        """
        episode = self._episodes[episode_id]
        self._ask(episode)
        steps = len(task_rewards)
        self._resolve(episode, start + steps, self._clock() + self.config.deadline_s if deadline is None else deadline)
        potential = episode.potential(start + steps)[start:]
        if start == episode.end:  # After a held fragment, its frames may have been answered since.
            potential[0] = episode.level
        age = self._phase(episode, start + steps)[start:]
        columns = LabelColumns(
            task_reward=np.asarray(task_rewards, np.float32),
            potential=potential[:-1],
            next_potential=next_potentials(potential, terminated),
            valid=episode.validity(start + steps)[start + 1 :],
            phase=age[:-1],
            next_phase=age[1:],
            model_version=episode.version,
        )
        rewards = self._rewards(columns)
        # Last: if collecting fails, `hold` needs the old values.
        episode.end, episode.level = start + steps, float(potential[-1])
        return rewards, columns

    def collect_step(
        self,
        episode_ids: Sequence[str],
        task_rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        deadline: float,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Close one environment step of N episodes, all of which are collected step by step: rewards and potentials are
        those of `collect`, bit for bit, but computed together.

        Args:
            task_rewards: float32 [N].
            terminated: bool [N], the step ended the episode's task (not: truncated it).
            deadline: as for `collect`; for all together.
        Returns:
            Shaped rewards float32 [N]; the potential after the step, float32 [N], also where it terminated; and whether
            the episode's latest requested frame was answered, bool [N].
        """
        episodes = [self._episodes[episode_id] for episode_id in episode_ids]
        before = np.array([episode.level for episode in episodes], np.float32)
        self._ask(*episodes)
        for episode in episodes:
            episode.end += 1
        due = [episode for episode in episodes if episode.pending]
        if all(len(episode.pending) == 1 for episode in due):
            self._fold_together(due, deadline)
        else:
            for episode in due:
                self._resolve(episode, episode.end, deadline)
        for episode in due:
            answered = (frame.progress for frame in reversed(episode.scored) if frame.outcome == "answered")
            episode.level = float(np.float32(next(answered, 0.0)))
        after = np.array([episode.level for episode in episodes], np.float32)
        valid = [not episode.scored or episode.scored[-1].outcome == "answered" for episode in episodes]
        config, paid = self.config, np.where(terminated, np.float32(0.0), after)
        rewards = shaped_reward(task_rewards, before, paid, config.gamma, config.mode, config.shaping)
        return rewards, after, np.array(valid, bool)

    def hold(
        self, episode_id: str, task_rewards: NDArray[np.float32], terminated: bool
    ) -> tuple[NDArray[np.float32], LabelColumns]:
        """Labels of an episode's next fragment, if it could not be collected.

        The potential at the end of the previous fragment is held, and all frames are marked invalid.
        """
        steps = len(task_rewards)
        potential = np.full(steps + 1, self.level(episode_id), np.float32)
        age = self._age(episode_id, steps)
        columns = LabelColumns(
            task_reward=np.asarray(task_rewards, np.float32),
            potential=potential[:-1],
            next_potential=next_potentials(potential, terminated),
            valid=np.zeros(steps, bool),
            phase=age[:-1],
            next_phase=age[1:],
            model_version=self.version(episode_id),
        )
        rewards = self._rewards(columns)
        if episode_id in self._episodes:
            self._episodes[episode_id].end += steps
        return rewards, columns

    def _rewards(self, columns: LabelColumns) -> NDArray[np.float32]:
        config = self.config
        return shaped_reward(
            columns.task_reward, columns.potential, columns.next_potential, config.gamma, config.mode, config.shaping
        )

    def level(self, episode_id: str) -> float:
        """The potential at the end of an episode's last fragment; 0 for an unknown episode."""
        episode = self._episodes.get(episode_id)
        return episode.level if episode else 0.0

    def finish(self, episode_id: str) -> LabelRecord | None:
        """Finish an episode after its last fragment was collected; returns its label record, if a model scored it."""
        episode = self._episodes.pop(episode_id)
        self._abandon(episode)
        if episode.context is None:
            return None
        return LabelRecord(episode.context, tuple(episode.scored), self.config.fusion)

    def drop(self, episode_id: str) -> None:
        """Drop an episode that will never be collected (its environment failed); its pending frames count as late."""
        episode = self._episodes.pop(episode_id, None)
        if episode is not None:
            self._abandon(episode)

    def take_counts(self) -> LabelCounts:
        """The counts since the last call. Pending frames are counted once they have an outcome."""
        under_way = sum(len(episode.pending) + len(episode.unsent) for episode in self._episodes.values())
        counts, self.counts = self.counts, LabelCounts(asked=under_way)
        counts.asked -= under_way
        return counts

    def _age(self, episode_id: str, steps: int) -> NDArray[np.float32]:
        """`_phase` of an episode's next fragment, from its requested frames; float32 [steps + 1]."""
        episode = self._episodes.get(episode_id)
        if episode is None or self.config.mode in UNSHAPED:
            return np.zeros(steps + 1, np.float32)
        sent = [frame.time for frame in episode.scored] + [frame.time for frame in episode.pending]
        frame_times = np.array(sorted({0, *sent, *(frame.time for frame in episode.unsent)}))
        times = np.arange(episode.end, episode.end + steps + 1)
        age = times - frame_times[np.searchsorted(frame_times, times, side="right") - 1]
        return (np.minimum(age, self.config.stride - 1) / self.config.stride).astype(np.float32)

    def _phase(self, episode: EpisodeLabels, end: int) -> NDArray[np.float32]:
        if self.config.mode in UNSHAPED:
            return np.zeros(end + 1, np.float32)
        return phase(np.array([f.time for f in episode.scored if f.time <= end], np.int64), end, self.config.stride)

    def _ask(self, *episodes: EpisodeLabels) -> None:
        """Send the unsent frames of episodes, one request each."""
        due = [episode for episode in episodes if episode.unsent]
        if not due:
            return
        questions = [Question(e.context, e.version, tuple(e.unsent), e.last_sent) for e in due]
        for episode, pending in zip(due, self._send(questions, self.config.deadline_s), strict=True):
            episode.pending += pending
            episode.last_sent, episode.unsent = episode.unsent[-1], []

    def _send(self, questions: Sequence[Question], remaining_s: float) -> list[list[PendingFrame]]:
        assert self._sender is not None
        return self._sender.send(questions, remaining_s)

    def _resolve(self, episode: EpisodeLabels, end: int, deadline: float) -> None:
        """Await the outcome of every frame up to environment step `end`."""
        while episode.pending and episode.pending[0].time <= end:
            self._settle(episode, deadline)

    def _settle(self, episode: EpisodeLabels, deadline: float) -> None:
        """Give the oldest pending frame its outcome, or ask about it again."""
        pending = episode.pending.pop(0)
        frame = self._wait(episode, pending, deadline)
        again = self._asked_again(episode, pending, frame, deadline)
        if again is None:
            self._keep(episode, pending, self._folded(episode, frame))
        else:
            episode.pending.insert(0, again)

    def _fold_together(self, episodes: Sequence[EpisodeLabels], deadline: float) -> None:
        """Await the outcome of the one pending frame of each episode."""
        pending = [episode.pending.pop() for episode in episodes]
        frames = [self._answer(episode, one, deadline) for episode, one in zip(episodes, pending, strict=True)]
        answered = [i for i, frame in enumerate(frames) if frame.outcome == "answered"]
        try:
            progress, perspectives, states = fold_frames(
                [episodes[i].state for i in answered],
                np.array([frames[i].gain for i in answered]).reshape(-1, 3),
                np.array([frames[i].loss for i in answered]).reshape(-1, 3),
                self.config.fusion,
            )
        except (BadInput, ValueError):  # at least one is unusable; alone, each gets its own outcome
            folded = [self._folded(episode, frame) for episode, frame in zip(episodes, frames, strict=True)]
        else:
            folded = [
                replace(frame, progress=episode.state.progress) for episode, frame in zip(episodes, frames, strict=True)
            ]
            for row, i in enumerate(answered):
                episodes[i].state = states[row]
                folded[i] = replace(frames[i], progress=float(progress[row]), perspectives=perspectives[row])
        for episode, one, frame in zip(episodes, pending, folded, strict=True):
            self._keep(episode, one, frame)

    def _keep(self, episode: EpisodeLabels, pending: PendingFrame, frame: ScoredFrame) -> None:
        """Count and remember a frame's outcome."""
        if frame.outcome == "answered":
            episode.last_valid = pending.frame
        setattr(self.counts, frame.outcome, getattr(self.counts, frame.outcome) + 1)
        episode.scored.append(replace(frame, views=pending.frame.views if self.config.records_dir else None))

    def _answer(self, episode: EpisodeLabels, pending: PendingFrame, deadline: float) -> ScoredFrame:
        """Await the answer about a frame, compared with the last valid one."""
        frame = self._wait(episode, pending, deadline)
        again = self._asked_again(episode, pending, frame, deadline)
        return frame if again is None else self._wait(episode, again, deadline)

    def _asked_again(
        self, episode: EpisodeLabels, pending: PendingFrame, frame: ScoredFrame, deadline: float
    ) -> PendingFrame | None:
        """A second request about a frame that was compared with an invalid one: that hop does not fit the held
        progress. None where the answer stands.
        """
        mismatched = frame.anchor_time != episode.last_valid.time and frame.outcome in ("answered", "invalid")
        if pending.again or not mismatched:
            return None
        question = Question(episode.context, episode.version, (pending.frame,), episode.last_valid)
        [[again]] = self._send([question], deadline - self._clock())
        self.counts.retried += 1
        return replace(again, again=True)

    def _folded(self, episode: EpisodeLabels, frame: ScoredFrame) -> ScoredFrame:
        """The frame with the progress that its answer gives; without one it holds the last."""
        if frame.outcome != "answered":
            return replace(frame, progress=episode.state.progress)
        try:
            folded, episode.state = fold(
                episode.state, frame.gain[None], frame.loss[None], np.array([True]), self.config.fusion
            )
        except BadInput as error:
            return ScoredFrame(frame.time, "invalid", str(error), progress=episode.state.progress)
        return replace(frame, progress=float(folded.progress[0]), perspectives=folded.perspectives[0])

    def _wait(self, episode: EpisodeLabels, pending: PendingFrame, deadline: float) -> ScoredFrame:
        remaining = max(0.0, deadline - self._clock())
        try:
            if pending.error is not None:
                raise pending.error
            assert pending.score is not None
            reply = pending.score.result(remaining)
        except ScoringTimeout as error:
            return ScoredFrame(pending.time, "late", reason=str(error))
        except Exception as error:
            if not isinstance(error, ScoringError):
                logger.exception("A label request failed; the frame counts as rejected.")
                self.counts.errors += 1
            return ScoredFrame(pending.time, "rejected", reason=f"{type(error).__name__}: {error}")
        finally:
            if pending.index == 0 and pending.score is not None:
                self.counts.retried += pending.score.retries
        if reply.model_version != episode.version:
            return ScoredFrame(pending.time, "rejected", reason=f"answered by version {reply.model_version}")
        i = pending.index
        if i == 0:
            self.counts.latencies_ms.append(reply.queue_ms + reply.model_ms)
        anchor_time = reply.anchor_times[i]
        return ScoredFrame(
            pending.time,
            "answered" if reply.valid[i] else "invalid",
            reply.reasons[i],
            pending.previous_time if anchor_time < 0 else anchor_time,
            reply.gain[i],
            reply.loss[i],
            reply.entropy[i],
        )

    def _abandon(self, episode: EpisodeLabels) -> None:
        times = [pending.time for pending in episode.pending] + [frame.time for frame in episode.unsent]
        self.counts.late += len(times)
        episode.scored += [ScoredFrame(time, "late", reason="abandoned") for time in times]
        episode.pending, episode.unsent = [], []
