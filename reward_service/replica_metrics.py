"""What a replica has counted, as metrics."""

from __future__ import annotations

from dataclasses import replace

from dopamine_rl.telemetry import record
from reward_service.service import ScoringService, ServiceCounts

OUTCOMES = {
    "answered": "requests",
    **{name: name for name in ("expired", "cancelled", "wrong_version", "wrong_tower", "failed")},
}
"""Outcomes of requests in the metrics, and the counters that they show."""


def record_counts(application: str, service: ScoringService, recorded: ServiceCounts) -> ServiceCounts:
    """Record what a replica has counted since the counts `recorded`; returns the counts that are recorded now."""
    counts = replace(service.counts)

    def grown(name: str) -> float:
        return float(getattr(counts, name) - getattr(recorded, name))

    for outcome, name in OUTCOMES.items():
        record("dopamine_service_requests_total", grown(name), application=application, outcome=outcome)
    for name, metric in (("frames", "frames"), ("batches", "batches"), ("model_s", "model_seconds")):
        record(f"dopamine_service_{metric}_total", grown(name), application=application)
    record("dopamine_service_waiting_requests", service.waiting, application=application)
    return counts
