"""Trains a policy with an RLlib algorithm, adds up what its actors report, and remembers how far it has come.

An interrupted training goes on from its last checkpoint, which holds the networks, the replay and the counts. The
learning curve and the finished episodes only grow: they lie in files of JSON lines beside the checkpoint, and are cut to
its point when the training goes on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dopamine_rl.files import JsonLines, write_folder_atomically
from dopamine_rl.policy import save_policy
from learner.config import TrainingConfig

OUTCOMES = ("asked", "answered", "invalid", "late", "rejected", "retried", "errors")
RECORDS = ("written", "removed", "dropped", "failed")
"""What became of the records of finished episodes (actors.record_writer.COUNTS)."""
CHECKPOINT, PROGRESS = "checkpoint", "progress.json"
CURVE, EPISODES = "curve.jsonl", "episodes.jsonl"
"""Beside the policy: one line an iteration, and one line a finished episode."""
RECENT = 50
"""Episodes behind the success rate that is shown while training."""


class Monitor(Protocol):
    """Watches the reward model during training (dopamine_rl's or an experiment's ShadowMonitor)."""

    def add(self, final_progress: float, success: bool) -> None:
        """Take a finished episode."""

    def warning(self) -> str | None:
        """What has changed since the last call."""

    def summary(self) -> dict[str, Any]:
        """Figures; ready for JSON."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers; ready for JSON."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""


class LatencyHistogram:
    """Latencies in bins, each 2 % wider than the one before: quantiles are right within 1 %, and the size has a bound.

    Args:
        bins: count of each bin that is not empty. Bin i begins at 0.01 ms · 1.02^i; what is outside 0.01 ms … 10⁸ ms
            counts in the first or the last one.
    """

    _LEAST_MS, _GROWTH, _LAST = 0.01, math.log(1.02), 1162

    def __init__(self, bins: Mapping[int, int] | None = None) -> None:
        self.bins = dict(bins or {})

    def add(self, latency_ms: float) -> None:
        """Count a latency."""
        index = int(math.log(max(latency_ms, self._LEAST_MS) / self._LEAST_MS) / self._GROWTH)
        index = min(index, self._LAST)
        self.bins[index] = self.bins.get(index, 0) + 1

    def quantile(self, share: float) -> float | None:
        """The latency in ms that a share in (0, 1] of all does not exceed; None where there is none."""
        rank, reached = share * sum(self.bins.values()), 0
        for index, count in sorted(self.bins.items()):
            reached += count
            if reached >= rank:
                return self._LEAST_MS * math.exp((index + 0.5) * self._GROWTH)
        return None


class LabelLedger:
    """Adds up what became of every frame that the actors asked for."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.latencies = LatencyHistogram()

    def add(self, labels: Mapping[str, Any]) -> None:
        """Take one iteration's `env_runners/labels`."""
        for name in OUTCOMES:
            self.counts[name] += int(np.nan_to_num(labels.get(name, 0)))
        for latency in series(labels.get("latencies_ms")):
            if math.isfinite(latency):
                self.latencies.add(latency)

    def summary(self) -> dict[str, float | int | None]:
        """Counts and the service's latency; None where nothing was asked."""
        quantiles = {f"p{share}_ms": self.latencies.quantile(share / 100) for share in (50, 99)}
        rounded = {name: None if value is None else round(value, 2) for name, value in quantiles.items()}
        outcomes = sum(self.counts[name] for name in ("answered", "invalid", "late", "rejected"))
        return {**self.counts, "closed": self.counts["asked"] == outcomes, **rounded}

    def state_dict(self) -> dict[str, Any]:
        """Everything it remembers; ready for JSON."""
        return {"counts": self.counts, "latencies": {str(index): n for index, n in self.latencies.bins.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LabelLedger:
        """What `state_dict` returned, as a ledger."""
        ledger = cls()
        ledger.counts |= state["counts"]
        ledger.latencies = LatencyHistogram({int(index): n for index, n in state["latencies"].items()})
        return ledger


@dataclass
class Progress:
    """How far a training has come; kept with its checkpoint. Its size does not grow with the training.

    Args:
        environment_steps: over all actors.
        seconds: of training, all sittings together.
        sittings: how often it was started.
        episodes, successes: finished episodes, and how many of them succeeded.
        recent: success of the last `RECENT` of them.
        last: the latest point of the learning curve.
        curve_bytes, episodes_bytes: how far the two files of lines had been written.
        records: what became of the episodes' records.
        ledger: the labels' accounts.
        monitor: what the monitor of the reward model remembers.
    """

    environment_steps: int = 0
    seconds: float = 0.0
    sittings: int = 1
    episodes: int = 0
    successes: int = 0
    recent: list[bool] = field(default_factory=list)
    last: dict[str, Any] | None = None
    curve_bytes: int = 0
    episodes_bytes: int = 0
    records: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECORDS, 0))
    ledger: LabelLedger = field(default_factory=LabelLedger)
    monitor: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path, key: str, about: Mapping[str, Any]) -> None:
        """Write to a JSON file that also names what the training depends on, and what code made it."""
        state = {name: value for name, value in vars(self).items() if name != "ledger"}
        content = {"key": key, "about": about, **state, "ledger": self.ledger.state_dict()}
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, key: str) -> Progress | None:
        """Read what `save` wrote; None where there is no checkpoint of the same training."""
        try:
            stored = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if stored.pop("key") != key:
            return None
        stored.pop("about")
        ledger = LabelLedger.from_state(stored.pop("ledger"))
        return cls(**{**stored, "sittings": stored["sittings"] + 1}, ledger=ledger)

    def add_records(self, counts: Mapping[str, Any]) -> None:
        """Add what became of some records."""
        for name in RECORDS:
            self.records[name] += int(np.nan_to_num(counts.get(name, 0)))


def train(
    algorithm: Any,
    config: TrainingConfig,
    out: Path,
    say: Callable[[str], object],
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    about: Mapping[str, Any] | None = None,
    monitor: Monitor | None = None,
    on_point: Callable[[dict[str, Any]], object] = lambda point: None,
    finish_records: Callable[[], Iterable[Mapping[str, int]]] = lambda: (),
) -> dict[str, Any]:
    """Train for the configured environment steps and save the policy.

    Args:
        out: the policy's file; the curve's and the episodes' files lie beside it.
        say: is told how it goes, a line an iteration.
        progress: how far an earlier sitting came; None begins.
        checkpoint: folder to go on from after an interruption; None keeps none.
        key: what the training depends on; a checkpoint of another training is not gone on from.
        about: what made the checkpoints: code, packages, seed (JSON values).
        monitor: watches the reward model, where the reward comes from one.
        on_point: is given every point of the learning curve.
        finish_records: called at the end; lets the actors write what they still hold, and returns their counts.
    Returns:
        environment_steps, seconds, updates, sittings; labels (LabelLedger.summary), records and shadow
        (Monitor.summary), None where no model is asked; and the learning curve.
    Raises:
        BadInput: a file of lines is shorter than when the checkpoint was written.
    """
    progress = progress or Progress()
    if monitor is not None and progress.monitor:
        monitor.load_state_dict(progress.monitor)
    curve = JsonLines(out.with_name(CURVE), progress.curve_bytes)
    episodes = JsonLines(out.with_name(EPISODES), progress.episodes_bytes)
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    algorithm.acting.tell = lambda text: say(f"  {text}")
    with curve, episodes:
        while progress.environment_steps < config.environment_steps:
            result = algorithm.train()
            progress.seconds = time.monotonic() - began
            point = take(result, progress, monitor, episodes)
            curve.add(point)
            say("  " + line(point, monitor is not None))
            if monitor is not None and (warning := monitor.warning()):
                say(f"  WARNING: {warning}")
            _say_lost(_records_of(result), progress.records, say)
            on_point(point)
            if checkpoint is not None and time.monotonic() - saved >= config.checkpoint_s:
                progress.monitor = monitor.state_dict() if monitor is not None else {}
                progress.curve_bytes, progress.episodes_bytes = curve.sync(), episodes.sync()
                save_checkpoint(checkpoint, algorithm, progress, key, about or {})
                saved = time.monotonic()
        for counts in finish_records():
            progress.add_records(counts)
            _say_lost(counts, progress.records, say)
        points = curve.read()
    save_policy(out, algorithm.policy_state())
    updates = progress.last["updates"] if progress.last else None
    return {
        "environment_steps": progress.environment_steps,
        "seconds": progress.seconds,
        "sittings": progress.sittings,
        "updates": None if updates is None else int(updates),
        "labels": progress.ledger.summary() if monitor is not None else None,
        "records": progress.records if monitor is not None else None,
        "shadow": monitor.summary() if monitor is not None else None,
        "curve": points,
    }


def save_checkpoint(folder: Path, algorithm: Any, progress: Progress, key: str, about: Mapping[str, Any]) -> None:
    """Write everything a training needs to go on; the old checkpoint stays until the new one is whole."""

    def fill(partial: Path) -> None:
        algorithm.save_to_path(str(partial / "algorithm"))
        progress.save(partial / PROGRESS, key, about)

    write_folder_atomically(folder, fill)


def take(result: Mapping[str, Any], progress: Progress, monitor: Monitor | None, episodes: JsonLines) -> dict[str, Any]:
    """Add one iteration's report to the progress; returns its point of the learning curve."""
    acted = result.get("env_runners", {})
    learned = result.get("learners", {}).get("default_policy", {})
    lifetime = result.get("num_env_steps_sampled_lifetime") or acted.get("num_env_steps_sampled_lifetime") or 0
    labels = acted.get("labels", {})
    progress.environment_steps = int(lifetime)
    progress.ledger.add(labels)
    progress.add_records(_records_of(result))
    _take_episodes(acted.get("finished", {}), progress, monitor, episodes)
    latencies = series(labels.get("latencies_ms"))
    values = {
        "success": np.mean(progress.recent) if progress.recent else None,
        "task_return_mean": acted.get("task_return_mean"),
        "return_mean": acted.get("shaped_return_mean"),
        "episode_len_mean": acted.get("episode_len_mean"),
        "final_potential_mean": acted.get("final_potential_mean"),
        "critic_loss": learned.get("critic_loss"),
        "q_mean": learned.get("q_mean"),
        "entropy": learned.get("entropy"),
        "alpha": learned.get("alpha"),
        "updates": learned.get("updates"),
        "label_p50_ms": np.median(latencies) if latencies else None,
    }
    finite = {k: float(v) if v is not None and np.isfinite(v) else None for k, v in values.items()}
    last = progress.last or {"environment_steps": 0, "seconds": 0.0, "updates": 0.0}
    seconds = max(progress.seconds - last["seconds"], 1e-9)
    point = {
        "environment_steps": progress.environment_steps,
        "seconds": round(progress.seconds, 2),
        "episodes": progress.episodes,
        "successes": progress.successes,
        **finite,
        "environment_steps_per_s": (progress.environment_steps - last["environment_steps"]) / seconds,
        "updates_per_s": ((finite["updates"] or 0.0) - (last["updates"] or 0.0)) / seconds,
        **{name: progress.ledger.counts[name] for name in ("asked", "answered", "invalid", "late", "rejected")},
        "late_env_runners_s": result["acting"]["late_s"],
        "replaced_env_runners": result["acting"]["replaced"],
    }
    progress.last = point
    return point


def _take_episodes(
    finished: Mapping[str, Any], progress: Progress, monitor: Monitor | None, episodes: JsonLines
) -> None:
    """Add the episodes that finished in an iteration."""
    successes, potentials = series(finished.get("success")), series(finished.get("potential"))
    if len(successes) == 1 and not potentials:  # a lone potential that is NaN looks like none
        potentials = [math.nan]
    for success, potential in zip(successes, potentials, strict=True):
        if monitor is not None:
            monitor.add(potential, bool(success))
        known = monitor is not None and math.isfinite(potential)
        end = round(potential, 4) if known else None
        episodes.add({"environment_steps": progress.environment_steps, "success": bool(success), "final_progress": end})
    progress.episodes += len(successes)
    progress.successes += sum(map(bool, successes))
    progress.recent = [*progress.recent, *map(bool, successes)][-RECENT:]


def _records_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    records: Mapping[str, Any] = result.get("env_runners", {}).get("records", {})
    return records


def _say_lost(counts: Mapping[str, Any], totals: Mapping[str, int], say: Callable[[str], object]) -> None:
    """Say what records are not there any more, or never were."""
    reasons = {
        "removed": "the oldest were removed to keep labels.records_mb",
        "dropped": "the disk did not keep up",
        "failed": "they could not be written; the actors' log says why",
    }
    for name, reason in reasons.items():
        count = int(np.nan_to_num(counts.get(name, 0)))
        if count:
            say(f"  records of {count} episodes {name} ({totals[name]} in all): {reason}")


def series(values: Any) -> list[float]:
    """The items of RLlib's item series, which is a lone number where there is one item, and NaN where there is none."""
    if isinstance(values, (list, tuple, np.ndarray)) and np.ndim(values):
        return [float(value) for value in values]
    return [] if values is None or np.isnan(values) else [float(values)]


def line(point: Mapping[str, Any], labelled: bool) -> str:
    """A point of the learning curve as a line.

    Args:
        labelled: a reward model is asked.
    """

    def text(name: str, form: str) -> str:
        return "–" if point[name] is None else format(point[name], form)

    shaping = None
    if point["return_mean"] is not None and point["task_return_mean"] is not None:
        shaping = point["return_mean"] - point["task_return_mean"]
    labels = "no labels asked for"
    if labelled:
        labels = (
            f"labels {point['answered']}/{point['asked']}, {text('label_p50_ms', '.0f')} ms, "
            f"invalid {point['invalid']}, late {point['late']}, rejected {point['rejected']}"
        )
    return (
        f"{point['environment_steps']:>6} environment steps | success {text('success', '.2f')} of the last "
        f"{min(RECENT, point['episodes'])} | return: task {text('task_return_mean', '.2f')}, shaping "
        f"{'–' if shaping is None else format(shaping, '+.2f')} | final Φ {text('final_potential_mean', '.2f')} | "
        f"{point['environment_steps_per_s']:.0f} environment steps/s, {point['updates_per_s']:.0f} updates/s | {labels}"
        + "".join(f" | env runner {name} LATE, {late_s:.0f} s" for name, late_s in point["late_env_runners_s"].items())
    )
