"""The training loop: runs an RLlib algorithm, aggregates its actors' metrics, and writes checkpoints.

An interrupted training resumes from its last checkpoint, which holds the networks, the replay buffer and the counters.
The learning curve and the finished episodes are append-only JSON-lines files beside the policy; on resuming they are
truncated to their length at the checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dopamine_rl.encoders.eyes import Eyes
from dopamine_rl.errors import BadInput
from dopamine_rl.files import JsonLines, write_folder_atomically
from dopamine_rl.interfaces import OnProgress
from dopamine_rl.policy import save_policy
from dopamine_rl.success import ClaimOutcome
from dopamine_rl.texts import counted
from learner.config import TrainingConfig

OUTCOMES = ("asked", "answered", "invalid", "late", "rejected", "retried", "errors")
RECORDS = ("written", "removed", "dropped", "failed")
"""Outcomes of the label records of finished episodes (actors.label_record_writer.COUNTS)."""
CHECKPOINT, PROGRESS = "checkpoint", "progress.json"
CURVE, EPISODES = "curve.jsonl", "episodes.jsonl"
"""Files beside the policy: one line per iteration, and one line per finished episode."""
SNAPSHOTS = "policies"
"""Folder beside the policy: its copies during training, by environment steps (`snapshots`)."""
RECENT = 50
"""Window of the success rate shown during training, in episodes."""


class Monitor(Protocol):
    """Monitors the reward model during training (such as dopamine_rl.evaluation's ShadowMonitor)."""

    def add(self, final_progress: float, success: bool, claim: ClaimOutcome | None = None) -> None:
        """Add a finished episode; `claim` says how it ended where success is claimed from progress."""

    def warning(self) -> str | None:
        """A warning if the model's quality changed since the last call, else None."""

    def summary(self) -> dict[str, Any]:
        """Metrics so far; JSON-serialisable."""

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint; JSON-serialisable."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""


class LatencyHistogram:
    """A histogram of latencies with logarithmic bins: bounded memory, quantiles accurate to 1 %.

    Args:
        bins: counts of the non-empty bins. Bin i starts at 0.01 ms · 1.02^i; latencies outside 0.01 ms … 10⁸ ms are
            counted in the first or last bin.
    """

    _LEAST_MS, _GROWTH, _LAST = 0.01, math.log(1.02), 1162

    def __init__(self, bins: Mapping[int, int] | None = None) -> None:
        self.bins = dict(bins or {})

    def add(self, latency_ms: float) -> None:
        """Add one latency."""
        index = int(math.log(max(latency_ms, self._LEAST_MS) / self._LEAST_MS) / self._GROWTH)
        index = min(index, self._LAST)
        self.bins[index] = self.bins.get(index, 0) + 1

    def quantile(self, share: float) -> float | None:
        """The quantile of a share in (0, 1], in ms; None if the histogram is empty."""
        rank, cumulative = share * sum(self.bins.values()), 0
        for index, count in sorted(self.bins.items()):
            cumulative += count
            if cumulative >= rank:
                return self._LEAST_MS * math.exp((index + 0.5) * self._GROWTH)
        return None


class LabelLedger:
    """Counts the outcomes of all label requests, one per frame, over a whole training."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(OUTCOMES, 0)
        self.latencies = LatencyHistogram()

    def add(self, labels: Mapping[str, Any]) -> None:
        """Add one iteration's `env_runners/labels`."""
        for name in OUTCOMES:
            self.counts[name] += int(np.nan_to_num(labels.get(name, 0)))
        for latency in series(labels.get("latencies_ms")):
            if math.isfinite(latency):
                self.latencies.add(latency)

    def summary(self) -> dict[str, float | int | None]:
        """Counts, whether they add up (`closed`), and latency quantiles in ms (None without latencies)."""
        quantiles = {f"p{share}_ms": self.latencies.quantile(share / 100) for share in (50, 99)}
        rounded = {name: None if value is None else round(value, 2) for name, value in quantiles.items()}
        outcomes = sum(self.counts[name] for name in ("answered", "invalid", "late", "rejected"))
        return {**self.counts, "closed": self.counts["asked"] == outcomes, **rounded}

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint; JSON-serialisable."""
        return {"counts": self.counts, "latencies": {str(index): n for index, n in self.latencies.bins.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LabelLedger:
        """Restore a state from `state_dict`."""
        ledger = cls()
        ledger.counts |= state["counts"]
        ledger.latencies = LatencyHistogram({int(index): n for index, n in state["latencies"].items()})
        return ledger


@dataclass
class Progress:
    """Progress of a training, saved with its checkpoint. Its size is bounded.

    Args:
        environment_steps: over all actors.
        seconds: training time, summed over all sittings.
        sittings: how often the training was started or resumed.
        episodes, successes: finished episodes, and how many of them succeeded.
        recent: success of the last `RECENT` episodes.
        last: the latest point of the learning curve.
        curve_bytes, episodes_bytes: lengths of the two JSON-lines files at the checkpoint.
        records: outcomes of the episodes' label records.
        ledger: outcomes of the label requests.
        monitor: state of the reward model's monitor.
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
        """Write a JSON file, with the training's key and the provenance `about` (see `train`)."""
        state = {name: value for name, value in vars(self).items() if name != "ledger"}
        content = {"key": key, "about": about, **state, "ledger": self.ledger.state_dict()}
        path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, key: str) -> Progress | None:
        """Read a file of `save`; None if there is none, or it belongs to another training (another key).

        Raises:
            BadInput: it is damaged, or other code wrote it: training silently from the start would lose hours.
        """
        path = folder / PROGRESS
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["key"] != key:
                return None
            state = {name: value for name, value in stored.items() if name not in ("key", "about", "ledger")}
            ledger = LabelLedger.from_state(stored["ledger"])
            return cls(**{**state, "sittings": state["sittings"] + 1}, ledger=ledger)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            fix = f"resume with the code that wrote this checkpoint, or give --fresh to start over ({error})"
            raise BadInput(str(path), type(error).__name__, fix) from error

    def add_records(self, counts: Mapping[str, Any]) -> None:
        """Add outcomes of label records."""
        for name in RECORDS:
            self.records[name] += int(np.nan_to_num(counts.get(name, 0)))


def train(
    algorithm: Any,
    config: TrainingConfig,
    out: Path,
    on_progress: OnProgress,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    about: Mapping[str, Any] | None = None,
    eyes: Eyes | None = None,
    monitor: Monitor | None = None,
    on_point: Callable[[dict[str, Any]], object] = lambda point: None,
    finish_records: Callable[[], Iterable[Mapping[str, int]]] = lambda: (),
) -> dict[str, Any]:
    """Train for the configured environment steps and save the policy.

    Args:
        out: the policy's file; the learning curve and the episodes are written beside it.
        on_progress: called with a line about every iteration.
        progress: progress of the sitting to resume; None starts from scratch.
        checkpoint: folder of the checkpoint; None writes none.
        key: identifies the training; checkpoints of other trainings are not resumed.
        about: provenance saved with each checkpoint and the policy: code, packages, seed (JSON values).
        eyes: what the cloned policy sees pictures with; saved with the policy, as it was learned if it is.
        monitor: monitors the reward model, if the reward comes from one.
        on_point: called with every point of the learning curve.
        finish_records: called at the end: makes the actors write their remaining label records and returns the counts.
    Returns:
        environment_steps, seconds, updates, sittings; labels (LabelLedger.summary), records and shadow
        (Monitor.summary), each None without a reward model; and the learning curve.
    Raises:
        BadInput: a JSON-lines file is shorter than at the checkpoint.
    """
    progress = progress or Progress()
    _remove_snapshots(out, progress.environment_steps)
    if monitor is not None and progress.monitor:
        monitor.load_state_dict(progress.monitor)
    curve = JsonLines(out.with_name(CURVE), progress.curve_bytes)
    episodes = JsonLines(out.with_name(EPISODES), progress.episodes_bytes)
    began, saved = time.monotonic() - progress.seconds, time.monotonic()
    algorithm.acting.on_event = lambda text: on_progress(text, True)
    with curve, episodes:
        while progress.environment_steps < config.environment_steps:
            before = progress.environment_steps
            result = algorithm.train()
            progress.seconds = time.monotonic() - began
            point = aggregate(result, progress, monitor, episodes)
            curve.add(point)
            _report(point, result, progress, monitor, on_progress)
            on_point(point)
            if config.snapshot_steps and crossed(point["environment_steps"], before, config.snapshot_steps):
                _save_snapshot(out, algorithm, point["environment_steps"], eyes)
            if checkpoint is not None and time.monotonic() - saved >= config.checkpoint_s:
                progress.monitor = monitor.state_dict() if monitor is not None else {}
                progress.curve_bytes, progress.episodes_bytes = curve.sync(), episodes.sync()
                save_checkpoint(checkpoint, algorithm, progress, key, about or {})
                saved = time.monotonic()
        for counts in finish_records():
            progress.add_records(counts)
            _report_lost_records(counts, progress.records, on_progress)
        points = curve.read()
    save_policy(out, algorithm.policy_state(), about, algorithm.sees_with(eyes))
    return {**_summary(progress, monitor), "curve": points}


def _report(
    point: Mapping[str, Any],
    result: Mapping[str, Any],
    progress: Progress,
    monitor: Monitor | None,
    on_progress: OnProgress,
) -> None:
    """Report one iteration, with the warnings of the monitor and of the label records."""
    on_progress(format_point(point, monitor is not None), True)
    if monitor is not None and (warning := monitor.warning()):
        on_progress(f"WARNING: {warning}", True)
    _report_lost_records(_records_of(result), progress.records, on_progress)


def _summary(progress: Progress, monitor: Monitor | None) -> dict[str, Any]:
    """The result of `train` without its curve."""
    updates = progress.last["updates"] if progress.last else None
    return {
        "environment_steps": progress.environment_steps,
        "seconds": progress.seconds,
        "sittings": progress.sittings,
        "updates": None if updates is None else int(updates),
        "labels": progress.ledger.summary() if monitor is not None else None,
        "records": progress.records if monitor is not None else None,
        "shadow": monitor.summary() if monitor is not None else None,
    }


def crossed(environment_steps: int, before: int, every: int) -> bool:
    """Whether a multiple of `every` lies in (before, environment_steps]."""
    return environment_steps // every > before // every


def _save_snapshot(policy: Path, algorithm: Any, environment_steps: int, eyes: Eyes | None) -> None:
    folder = policy.with_name(SNAPSHOTS)
    folder.mkdir(exist_ok=True)
    save_policy(
        folder / f"{environment_steps:09d}.safetensors", algorithm.policy_state(), eyes=algorithm.sees_with(eyes)
    )


def _remove_snapshots(policy: Path, after: int) -> None:
    """Remove copies from later than a checkpoint: other weights were trained since, or another training's."""
    for environment_steps, path in snapshots(policy).items():
        if environment_steps > after:
            path.unlink()


def snapshots(policy: Path) -> dict[int, Path]:
    """Copies of a policy during its training, by environment steps, in increasing order.

    Args:
        policy: the trained policy's file.
    """
    return {int(path.stem): path for path in sorted(policy.with_name(SNAPSHOTS).glob("*.safetensors"))}


def save_checkpoint(folder: Path, algorithm: Any, progress: Progress, key: str, about: Mapping[str, Any]) -> None:
    """Write a checkpoint of algorithm and progress; it replaces the old one atomically."""

    def fill(partial: Path) -> None:
        algorithm.save_to_path(str(partial / "algorithm"))
        progress.save(partial / PROGRESS, key, about)

    write_folder_atomically(folder, fill)


def aggregate(
    result: Mapping[str, Any], progress: Progress, monitor: Monitor | None, episodes: JsonLines
) -> dict[str, Any]:
    """Add one iteration's RLlib result to the progress; returns the new point of the learning curve."""
    sampling = result.get("env_runners", {})
    lifetime = result.get("num_env_steps_sampled_lifetime") or sampling.get("num_env_steps_sampled_lifetime") or 0
    labels = sampling.get("labels", {})
    progress.environment_steps = int(lifetime)
    progress.ledger.add(labels)
    progress.add_records(_records_of(result))
    _add_episodes(sampling.get("finished", {}), progress, monitor, episodes)
    finite = _metrics(sampling, result.get("learners", {}).get("default_policy", {}), progress)
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
        "env_runner_steps": result["acting"]["steps"],
        "staleness_updates": result["acting"]["staleness_updates"],
    }
    progress.last = point
    return point


def _metrics(sampling: Mapping[str, Any], learning: Mapping[str, Any], progress: Progress) -> dict[str, float | None]:
    """One iteration's metrics from env runners and learner; None where a metric is missing or not finite."""
    latencies = series(sampling.get("labels", {}).get("latencies_ms"))
    values = {
        "success": np.mean(progress.recent) if progress.recent else None,
        "task_return_mean": sampling.get("task_return_mean"),
        "return_mean": sampling.get("shaped_return_mean"),
        "episode_len_mean": sampling.get("episode_len_mean"),
        "final_potential_mean": sampling.get("final_potential_mean"),
        "critic_loss": learning.get("critic_loss"),
        "q_mean": learning.get("q_mean"),
        "entropy": learning.get("entropy"),
        "alpha": learning.get("alpha"),
        "updates": learning.get("updates"),
        "label_p50_ms": np.median(latencies) if latencies else None,
    }
    return {name: float(v) if v is not None and np.isfinite(v) else None for name, v in values.items()}


def _add_episodes(
    finished: Mapping[str, Any], progress: Progress, monitor: Monitor | None, episodes: JsonLines
) -> None:
    """Add the episodes that finished in one iteration."""
    successes, potentials = series(finished.get("success")), series(finished.get("potential"))
    if len(successes) == 1 and not potentials:  # RLlib reports a single NaN like an empty series.
        potentials = [math.nan]
    for success, potential, claim in zip(successes, potentials, _claims(finished, successes), strict=True):
        if monitor is not None:
            monitor.add(potential, bool(success), claim)
        scored = monitor is not None and math.isfinite(potential)
        final = round(potential, 4) if scored else None
        episode = {"environment_steps": progress.environment_steps, "success": bool(success), "final_progress": final}
        episodes.add(episode if claim is None else episode | {"claimed": claim.claimed, "reached": claim.reached})
    progress.episodes += len(successes)
    progress.successes += sum(map(bool, successes))
    progress.recent = [*progress.recent, *map(bool, successes)][-RECENT:]


def _claims(finished: Mapping[str, Any], successes: Sequence[float]) -> Sequence[ClaimOutcome | None]:
    """How each finished episode ended, where success is claimed from progress."""
    claimed, reached = series(finished.get("claimed")), series(finished.get("reached"))
    if not claimed:
        return [None] * len(successes)
    return [ClaimOutcome(*map(bool, ended)) for ended in zip(claimed, successes, reached, strict=True)]


def _records_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    records: Mapping[str, Any] = result.get("env_runners", {}).get("records", {})
    return records


def _report_lost_records(counts: Mapping[str, Any], totals: Mapping[str, int], on_progress: OnProgress) -> None:
    """Report label records that were removed or never written."""
    reasons = {
        "removed": "the oldest were removed to stay within labels.records_mb",
        "dropped": "the disk was too slow",
        "failed": "writing failed; see the actors' log",
    }
    for name, reason in reasons.items():
        count = int(np.nan_to_num(counts.get(name, 0)))
        if count:
            episodes = counted(count, "episode")
            on_progress(f"label records of {episodes} {name} ({totals[name]} in total): {reason}", True)


def series(values: Any) -> list[float]:
    """The items of an RLlib item series, which RLlib reduces to a number for one item and to NaN for none."""
    if isinstance(values, (list, tuple, np.ndarray)) and np.ndim(values):
        return [float(value) for value in values]
    return [] if values is None or np.isnan(values) else [float(values)]


def format_point(point: Mapping[str, Any], labelled: bool) -> str:
    """A point of the learning curve as one line of text.

    Args:
        labelled: the reward comes from a reward model.
    """

    def text(name: str, form: str) -> str:
        return "–" if point[name] is None else format(point[name], form)

    shaping = None
    if point["return_mean"] is not None and point["task_return_mean"] is not None:
        shaping = point["return_mean"] - point["task_return_mean"]
    labels = "no labels requested"
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
