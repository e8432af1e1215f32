"""RLlib callbacks: pass the pictures of running episodes to a Labeller and write its rewards into the fragments.

The callbacks never raise: an exception in an env runner would cost the actor and a minute for its restart. Errors are
logged and counted, and the fragment's potential is held and marked invalid.

The last frame of a fragment is scored when the fragment ends, so an actor that returns it immediately waits for the
model every time. With `hold_back`, the next `sample()` returns the fragment instead: its frames are sent in one request
when it ends, and the answers arrive in the meantime. This suits off-policy learners; an on-policy learner needs the
fragment before it changes the policy.

With a success rule frames are sent at once, and success is claimed from the answers that have arrived: the environment,
an EndsOnClaim, ends the episode on its next step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.callbacks.callbacks import RLlibCallback

from actors.claims import TRUE_SUCCESS, ClaimWatch
from actors.foreign import EXECUTED
from actors.label_record_writer import LabelRecordWriter
from actors.label_records import EpisodeEnding
from actors.labeller import Labeller, LabellerConfig
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.process_log import identify
from dopamine_rl.success import ClaimOutcome, SuccessRule
from dopamine_rl.telemetry import record
from dopamine_rl.tokens import FrameTokens
from dopamine_rl.types import UNSHAPED, EpisodeContext, LabelColumns, Views

logger = logging.getLogger(__name__)

ContextOf = Callable[[str, Views], EpisodeContext]
"""Makes an episode's context from its id and first frame; instruction, references and goal come from demonstrations."""


class LabellingCallback(RLlibCallback):
    """Labels the fragments of one env runner.

    Args:
        config: mode, discount, deadline.
        make_client: makes the reward client inside the actor; None for modes without a reward model.
        context_of: builds an episode's context.
        hold_back: with a reward model, every `sample()` returns the fragments of the previous call; the first returns
            none. Fragments held when the actor ends are lost, like unfinished ones.
        rule: claims success from progress; None leaves success to the environment.
        run: name of the training, for metrics and logs.
    """

    def __init__(
        self,
        config: LabellerConfig,
        make_client: Callable[[], RewardClient] | None,
        context_of: ContextOf,
        hold_back: bool = False,
        rule: SuccessRule | None = None,
        run: str = "",
    ) -> None:
        super().__init__()
        self._run, self._runner = run, "0"
        self._config, self._make_client, self._context_of = config, make_client, context_of
        self._hold_back = hold_back and config.asks_model
        self._rule = rule
        self._labeller: Labeller | None = None
        self._watch: ClaimWatch | None = None
        self._writer: LabelRecordWriter | None = None
        self._held: list[Any] = []
        self._abandoned: list[str] = []
        self._success: dict[str, bool] = {}
        self._reached: set[str] = set()
        self._paid: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
        self._running: dict[int, str] = {}

    def on_environment_created(self, *, env_runner: Any, **_: Any) -> None:
        """Note the actor's number, for metrics and logs."""
        self._runner = str(env_runner.worker_index or 0)
        if env_runner.worker_index:  # 0 acts in the driver's process
            identify(run=self._run, role="env_runner", index=env_runner.worker_index)

    def on_episode_start(self, *, episode: Any, env_runner: Any, env_index: int, **_: Any) -> None:  # type: ignore[override]
        """Begin an episode with the pictures of its first frame."""
        if not env_runner.config.in_evaluation:
            self._guard(self._start, episode, env_runner, env_index)

    def on_episode_step(self, *, episode: Any, env_runner: Any, env_index: int, **_: Any) -> None:  # type: ignore[override]
        """Request a scored frame's labels; its pictures are removed from the episode and never reach the learner.

        Where the environment says what was really executed, that is the action that the learner is given.
        """
        if env_runner.config.in_evaluation:
            return
        self._guard(self._step, episode, env_runner, env_index)
        if self._rule is not None and not episode.is_done:
            self._guard(self._claim, episode.id_, env_runner.env, env_index)

    def on_episode_end(self, *, env_index: int, **_: Any) -> None:
        """Mark an episode as finished; its labels are collected with its last fragment."""
        self._running.pop(env_index, None)

    def on_sample_end(self, *, env_runner: Any, metrics_logger: Any, samples: list[Any], **_: Any) -> None:  # type: ignore[override]
        """Collect the labels of the returned fragments and write them back; `samples` is changed in place."""
        if env_runner.config.in_evaluation:
            return
        self._guard(self._record, "dopamine_environment_steps_total", sum(map(len, samples)))
        if self._hold_back:
            self._guard(self._send)
            samples[:], self._held = self._held, samples[:]
        deadline = time.monotonic() + self._config.deadline_s
        for chunk in samples:
            self._guard(self._label, chunk, metrics_logger, deadline)
        while self._abandoned:
            self._guard(self._drop, self._abandoned.pop())
        self._guard(self._log_counts, metrics_logger)

    def _get(self) -> Labeller:
        if self._labeller is None:
            client = self._make_client() if self._make_client is not None else None
            self._labeller = Labeller(self._config, client)
            if self._rule is not None:
                self._watch = ClaimWatch(self._labeller, self._rule)
        return self._labeller

    def _guard(self, action: Callable[..., None], *args: Any) -> None:
        try:
            action(*args)
        except Exception:
            logger.exception("Labelling failed; the potential of the fragment concerned is held.")
            if self._labeller is not None:
                self._labeller.counts.errors += 1

    def _views(self, episode: Any, env_runner: Any, env_index: int) -> Views | None:
        """The pictures of an episode's last frame if it is to be scored; they are removed from the episode."""
        views: Views | None = episode.get_infos(-1).pop("scored_views", None)
        return views

    def _attach(self, chunk: Any, columns: LabelColumns) -> None:
        """Send a fragment's labels along with it."""
        chunk.custom_data[f"labels/{chunk.t_started}"] = columns

    def _start(self, episode: Any, env_runner: Any, env_index: int) -> None:
        views = self._views(episode, env_runner, env_index)
        episode.get_infos(-1).pop(TRUE_SUCCESS, None)
        labeller = self._get()
        if env_index in self._running:  # Its environment failed; a held fragment may still belong to it.
            self._abandoned.append(self._running[env_index])
        self._running[env_index] = episode.id_
        context = self._context_of(episode.id_, views) if labeller.asks_model else None  # type: ignore[arg-type]
        labeller.begin(episode.id_, context)

    def _step(self, episode: Any, env_runner: Any, env_index: int) -> None:
        infos = episode.get_infos(-1)
        views = self._views(episode, env_runner, env_index)
        tokens: FrameTokens | None = infos.pop("scored_tokens", None)
        if (executed := infos.pop(EXECUTED, None)) is not None:
            episode.set_actions(new_data=executed[None], at_indices=[-1])
        self._note_success(episode.id_, infos)
        labeller = self._get()
        if not labeller.knows(episode.id_):
            return
        if labeller.asks_model and views is not None:
            at_once = self._rule is not None or not self._hold_back
            labeller.observe(episode.id_, episode.t, views, at_once, tokens)
        elif labeller.config.mode == "oracle" and (episode.is_done or episode.t % self._config.stride == 0):
            labeller.observe_truth(episode.id_, episode.t, infos["oracle_progress"])

    def _note_success(self, episode_id: str, infos: dict[str, Any]) -> None:
        """Note the simulator's verdict, for metrics alone. With claims it leaves the episode."""
        success = bool(infos.get("success", False) if self._rule is None else infos.pop(TRUE_SUCCESS, False))
        self._success[episode_id] = success
        if success:
            self._reached.add(episode_id)

    def _claim(self, episode_id: str, envs: Any, env_index: int) -> None:
        """Tell the environment if success is claimed by the answers that are in."""
        if self._watch is not None and self._get().knows(episode_id) and self._watch.claims(episode_id):
            envs.unwrapped.envs[env_index].get_wrapper_attr("claim")()

    def _send(self) -> None:
        self._get().send()

    def _label(self, chunk: Any, metrics_logger: Any, deadline: float) -> None:
        task_rewards = np.asarray(chunk.get_rewards(), np.float32)
        labels: list[tuple[np.ndarray, LabelColumns]] = []
        self._guard(lambda: labels.append(self._collect(chunk, task_rewards, deadline)))
        rewards, columns = labels[0] if labels else self._get().hold(chunk.id_, task_rewards, chunk.is_terminated)
        chunk.set_rewards(new_data=rewards)
        self._attach(chunk, columns)
        self._paid.setdefault(chunk.id_, []).append((task_rewards, rewards))
        if chunk.is_done:
            self._end(chunk, metrics_logger)

    def _drop(self, episode_id: str) -> None:
        self._get().drop(episode_id)
        self._success.pop(episode_id, None)
        self._paid.pop(episode_id, None)
        self._forget(episode_id)

    def _forget(self, episode_id: str) -> None:
        self._reached.discard(episode_id)
        if self._watch is not None:
            self._watch.forget(episode_id)

    def _collect(self, chunk: Any, task_rewards: np.ndarray, deadline: float) -> tuple[np.ndarray, LabelColumns]:
        labeller = self._get()
        if not labeller.knows(chunk.id_):
            raise LookupError(f"episode {chunk.id_} was never begun")
        return labeller.collect(chunk.id_, chunk.t_started, task_rewards, chunk.is_terminated, deadline)

    def _end(self, chunk: Any, metrics_logger: Any) -> None:
        success = self._success.pop(chunk.id_, False)
        outcome = ClaimOutcome(bool(chunk.is_terminated), success, chunk.id_ in self._reached)
        self._forget(chunk.id_)
        metrics_logger.log_value("task_success_rate", float(success), reduce="mean", window=100)
        task_rewards, rewards = map(np.concatenate, zip(*self._paid.pop(chunk.id_), strict=True))
        metrics_logger.log_value("task_return_mean", float(task_rewards.sum()), reduce="mean", window=100)
        # RLlib's own episode_return_mean is taken before the fragments that are held have their labels.
        metrics_logger.log_value("shaped_return_mean", float(rewards.sum()), reduce="mean", window=100)
        labeller = self._get()
        # Two series in step: what the model makes of each finished episode, and what the simulator says.
        metrics_logger.log_value(("finished", "success"), float(success), reduce="item_series", window=10_000)
        potential = labeller.level(chunk.id_) if labeller.knows(chunk.id_) else float("nan")
        metrics_logger.log_value(("finished", "potential"), potential, reduce="item_series", window=10_000)
        self._record("dopamine_episodes_total", 1, outcome="success" if success else "failure")
        shaped = potential if labeller.config.mode not in UNSHAPED else float("nan")
        self._record("dopamine_final_potential", shaped)
        logger.info("An episode ended.", extra={"episode": chunk.id_, "success": success, "potential": shaped})
        if self._rule is not None:
            for name in ("claimed", "reached"):
                value = float(getattr(outcome, name))
                metrics_logger.log_value(("finished", name), value, reduce="item_series", window=10_000)
        if not labeller.knows(chunk.id_):
            return
        if labeller.config.mode not in UNSHAPED:
            metrics_logger.log_value("final_potential_mean", labeller.level(chunk.id_), reduce="mean", window=100)
        finished = labeller.finish(chunk.id_)
        if finished is not None and self._config.records_dir is not None:
            if self._writer is None:
                self._writer = LabelRecordWriter(self._config.records_dir, self._config.records_mb)
            claimed = None if self._rule is None else outcome.claimed
            ending = EpisodeEnding(success, outcome.reached, claimed, task_rewards, rewards)
            self._writer.put(replace(finished, ending=ending))

    def _log_counts(self, metrics_logger: Any) -> None:
        counts = self._get().take_counts()
        for name in ("asked", "answered", "invalid", "late", "rejected", "retried", "errors"):
            metrics_logger.log_value(("labels", name), getattr(counts, name), reduce="sum")
        for latency in counts.latencies_ms:
            metrics_logger.log_value(("labels", "latencies_ms"), latency, reduce="item_series", window=10_000)
            self._record("dopamine_label_latency_seconds", latency / 1e3)
        for outcome in ("answered", "invalid", "late", "rejected"):
            self._record("dopamine_labels_total", getattr(counts, outcome), outcome=outcome)
        if self._writer is not None:
            for name, count in self._writer.take_counts().items():
                metrics_logger.log_value(("records", name), count, reduce="sum")

    def _record(self, name: str, value: float, **tags: str) -> None:
        record(name, value, run=self._run, runner=self._runner, **tags)

    def finish_records(self, timeout_s: float) -> dict[str, int]:
        """Wait until the label records of finished episodes are written; returns the outcomes not yet reported.

        Records not written in time count as dropped.
        """
        if self._writer is None:
            return {}
        in_time = self._writer.flush(timeout_s)
        counts = self._writer.take_counts()
        if not in_time:
            counts["dropped"] += self._writer.waiting
        return counts


def finish_records(algorithm: Any, timeout_s: float = 60.0) -> list[dict[str, int]]:
    """Make every actor write the label records of its finished episodes; returns their outcomes by actor.

    Actors that do not answer are left out.
    """

    def finish(env_runner: Any) -> dict[str, int]:
        totals: dict[str, int] = {}
        for callback in env_runner._callbacks:
            if isinstance(callback, LabellingCallback):
                for name, count in callback.finish_records(0.8 * timeout_s).items():
                    totals[name] = totals.get(name, 0) + count
        return totals

    group = algorithm.env_runner_group
    counts = group.foreach_env_runner(finish, local_env_runner=True, timeout_seconds=timeout_s)
    return [count for count in counts if isinstance(count, dict)]
