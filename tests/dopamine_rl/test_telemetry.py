"""What is recorded, under which name and tags; that a process without Ray records nothing."""

from __future__ import annotations

from typing import Any

import pytest

from dopamine_rl import telemetry
from dopamine_rl.telemetry import LATENCY_BUCKETS_S, METRICS, record
from experiments.runtime.tracking import record_point
from reward_service.replica_metrics import record_counts
from reward_service.service import ScoringService, ServiceCounts

Recorded = dict[tuple[str, ...], list[float]]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """All values, by name and tags' values."""
    values: Recorded = {}

    class Instrument:
        def __init__(self, name: str) -> None:
            self.name = name

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert METRICS[self.name].kind == "counter"
            self._add(value, tags)

        def set(self, value: float, tags: dict[str, str]) -> None:
            assert METRICS[self.name].kind == "gauge"
            self._add(value, tags)

        def observe(self, value: float, tags: dict[str, str]) -> None:
            assert METRICS[self.name].kind == "histogram"
            self._add(value, tags)

        def _add(self, value: float, tags: dict[str, str]) -> None:
            values.setdefault((self.name, *(tags[tag] for tag in METRICS[self.name].tags)), []).append(value)

    monkeypatch.setattr(telemetry, "_in_ray", lambda: True)
    monkeypatch.setattr(telemetry, "_gauges", {})
    monkeypatch.setattr(telemetry, "_keep_gauges", lambda: None)
    monkeypatch.setattr(telemetry, "_instrument", Instrument)
    return values


def test_names_say_what_prometheus_wants_them_to() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("dopamine_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert name.endswith("_seconds") == (metric.kind == "histogram")
        assert metric.about.endswith(".")
    assert list(LATENCY_BUCKETS_S) == sorted(LATENCY_BUCKETS_S)


def test_without_ray_nothing_is_recorded_and_wrong_tags_are_an_error_all_the_same() -> None:
    record("dopamine_success_ratio", 0.5, run="peg")
    with pytest.raises(ValueError, match=r"dopamine_success_ratio has the tags run, not run, runner"):
        record("dopamine_success_ratio", 0.5, run="peg", runner="1")
    with pytest.raises(KeyError):
        record("dopamine_typo", 0.5, run="peg")


def test_values_that_say_nothing_are_left_out(recorded: Recorded) -> None:
    for value in (None, float("nan"), float("inf")):
        record("dopamine_success_ratio", value, run="peg")
    record("dopamine_service_frames_total", 0.0, application="a")
    assert not recorded
    record("dopamine_success_ratio", 0.0, run="peg")
    assert recorded == {("dopamine_success_ratio", "peg"): [0.0]}


def test_gauges_are_set_again_until_they_are_forgotten_and_counters_are_not(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, runner in (("peg", "1"), ("peg", "2"), ("plug", "1")):
        record("dopamine_staleness_updates", 3.0, run=run, runner=runner)
    record("dopamine_success_ratio", 0.5, run="peg")
    record("dopamine_service_frames_total", 7.0, application="a")
    telemetry._refresh()
    telemetry.forget(run="peg")
    telemetry._refresh()
    assert {key: len(values) for key, values in recorded.items()} == {
        ("dopamine_staleness_updates", "peg", "1"): 2,
        ("dopamine_staleness_updates", "peg", "2"): 2,
        ("dopamine_staleness_updates", "plug", "1"): 3,
        ("dopamine_success_ratio", "peg"): 2,
        ("dopamine_service_frames_total", "a"): 1,
    }
    monkeypatch.setattr(telemetry, "_in_ray", lambda: False)
    telemetry._refresh()
    assert not telemetry._gauges


def test_a_point_of_the_learning_curve_sets_the_learners_gauges(recorded: Recorded) -> None:
    point: dict[str, Any] = {
        "environment_steps_per_s": 30.0,
        "updates_per_s": 60.0,
        "success": 0.5,
        "final_potential_mean": None,
        "late_env_runners_s": {"2": 7.0},
        "staleness_updates": {"1": 32, "2": 64},
    }
    record_point("peg", point)
    assert recorded == {
        ("dopamine_environment_steps_per_second", "peg"): [30.0],
        ("dopamine_updates_per_second", "peg"): [60.0],
        ("dopamine_success_ratio", "peg"): [0.5],
        ("dopamine_late_runners", "peg"): [1.0],
        ("dopamine_staleness_updates", "peg", "1"): [32.0],
        ("dopamine_staleness_updates", "peg", "2"): [64.0],
    }


def test_a_replica_records_what_it_has_counted_since(recorded: Recorded) -> None:
    service = ScoringService([], 8, 0.0, 60.0)
    before = record_counts("a", service, ServiceCounts())
    service.counts.requests, service.counts.frames, service.counts.batches = 3, 12, 2
    service.counts.expired, service.counts.model_s = 1, 0.25
    between = record_counts("a", service, before)
    service.counts.frames = 20
    record_counts("a", service, between)
    assert recorded == {
        ("dopamine_service_waiting_requests", "a"): [0.0, 0.0, 0.0],
        ("dopamine_service_requests_total", "a", "answered"): [3.0],
        ("dopamine_service_requests_total", "a", "expired"): [1.0],
        ("dopamine_service_frames_total", "a"): [12.0, 8.0],
        ("dopamine_service_batches_total", "a"): [2.0],
        ("dopamine_service_model_seconds_total", "a"): [0.25],
    }
