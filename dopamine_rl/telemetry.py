"""The metrics that stand in Ray's Prometheus endpoint: their names, units and tags, and how a process records them.

Ray puts `ray_` before every name and adds tags of its own, such as WorkerId and NodeAddress. A process without Ray
records nothing. Metrics are recorded once a fragment, an iteration or a second, never in a step of an environment.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

LATENCY_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram's buckets."""


REFRESH_S = 1.0
"""Interval at which gauges are set again: Ray exports what is set once, and forgets it after two exports."""


@dataclass(frozen=True)
class Metric:
    """A metric of Prometheus.

    Args:
        kind: a counter only grows, a gauge holds its last value, a histogram counts values by LATENCY_BUCKETS_S.
        tags: all of them are given with every value.
        about: what it is, with its unit.
    """

    kind: Literal["counter", "gauge", "histogram"]
    tags: tuple[str, ...]
    about: str


_ACTOR, _LEARNER, _SERVICE = ("run", "runner"), ("run",), ("application",)

METRICS: Mapping[str, Metric] = {
    # of every actor
    "dopamine_environment_steps_total": Metric("counter", _ACTOR, "Environment steps taken."),
    "dopamine_episodes_total": Metric("counter", (*_ACTOR, "outcome"), "Finished episodes: success or failure."),
    "dopamine_labels_total": Metric(
        "counter", (*_ACTOR, "outcome"), "Frames asked about: answered, invalid, late or rejected."
    ),
    "dopamine_label_latency_seconds": Metric("histogram", _ACTOR, "Queue and model time of a label request."),
    "dopamine_final_potential": Metric("gauge", _ACTOR, "Potential at the end of the last finished episode, 0 to 1."),
    # of the learner
    "dopamine_environment_steps_per_second": Metric("gauge", _LEARNER, "Environment steps per second, all actors."),
    "dopamine_updates_per_second": Metric(
        "gauge", _LEARNER, "Gradient updates per second; 0 with PPO, APPO and IMPALA."
    ),
    "dopamine_staleness_updates": Metric(
        "gauge", _ACTOR, "Updates between the weights that sampled an actor's last fragment and its arrival."
    ),
    "dopamine_success_ratio": Metric("gauge", _LEARNER, "Success rate of the last 50 finished episodes, 0 to 1."),
    "dopamine_final_potential_mean": Metric("gauge", _LEARNER, "Mean final potential of recent episodes, 0 to 1."),
    "dopamine_late_runners": Metric("gauge", _LEARNER, "Actors that are late or lost."),
    # of every replica of a reward service
    "dopamine_service_requests_total": Metric(
        "counter",
        (*_SERVICE, "outcome"),
        "Requests: answered, expired, cancelled, wrong_version, wrong_tower or failed.",
    ),
    "dopamine_service_frames_total": Metric("counter", _SERVICE, "Frames scored."),
    "dopamine_service_batches_total": Metric("counter", _SERVICE, "Batches scored."),
    "dopamine_service_model_seconds_total": Metric("counter", _SERVICE, "Seconds spent in the model."),
    "dopamine_service_waiting_requests": Metric("gauge", _SERVICE, "Requests queued for the model."),
}
"""By name, without Ray's prefix."""


def record(name: str, value: float | None, **tags: str) -> None:
    """Record a value: add it to a counter, set a gauge, or count it in a histogram.

    Args:
        name: of METRICS.
        value: in the metric's unit; None, NaN, infinite values, and no growth of a counter, are left out.
        tags: exactly the metric's.
    Raises:
        ValueError: the tags are others.
    """
    metric = METRICS[name]
    if tags.keys() != set(metric.tags):
        raise ValueError(f"{name} has the tags {', '.join(metric.tags)}, not {', '.join(tags) or 'none'}")
    if value is None or not math.isfinite(value) or (metric.kind == "counter" and value <= 0) or not _in_ray():
        return
    instrument = _instrument(name)
    match metric.kind:
        case "counter":
            instrument.inc(float(value), tags=tags)
        case "gauge":
            instrument.set(float(value), tags=tags)
            _gauges[name, frozenset(tags.items())] = float(value)
            _keep_gauges()
        case "histogram":
            instrument.observe(float(value), tags=tags)


def forget(**tags: str) -> None:
    """Let the gauges with these tags, and any others beside them, end: what they showed is over."""
    for name, given in list(_gauges):
        if tags.items() <= given:
            _gauges.pop((name, given), None)


_gauges: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
"""The last values, by name and tags."""


@functools.cache
def _keep_gauges() -> None:
    """Start the thread that sets them again, once a process."""
    threading.Thread(target=_refresh_for_ever, name="gauges", daemon=True).start()


def _refresh_for_ever() -> None:
    while True:
        time.sleep(REFRESH_S)
        with contextlib.suppress(Exception):  # Ray may be ending; the thread must outlive that.
            _refresh()


def _refresh() -> None:
    """Set all gauges again; where the cluster is gone, so are they."""
    if not _in_ray():
        _gauges.clear()
    for (name, tags), value in list(_gauges.items()):
        _instrument(name).set(value, tags=dict(tags))


def _in_ray() -> bool:
    """Whether this process is part of a Ray cluster; does not import Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


@functools.cache
def _instrument(name: str) -> Any:
    """Ray's own object, one a process."""
    from ray.util import metrics

    metric = METRICS[name]
    if metric.kind == "histogram":
        return metrics.Histogram(name, metric.about, list(LATENCY_BUCKETS_S), metric.tags)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[metric.kind](name, metric.about, metric.tags)
