"""Prometheus metrics of the HTTP ingress. Labels come from fixed sets, so clients cannot create new series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reward_service.guards import Capacity

PATHS = ("/v1/score", "/v1/version", "/healthz", "/metrics", "/openapi.json", "/docs")
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Meters:
    """The metrics of one ingress, in a registry of its own, so that a process can have several ingresses."""

    def __init__(self, capacity: Capacity) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dopamine_http_requests", "Answered requests.", ["path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "dopamine_http_seconds", "Time to the answer.", ["path"], registry=self._registry, buckets=SECONDS
        )
        self.frames = Counter("dopamine_http_frames", "Frames asked about.", registry=self._registry)
        under_way = Gauge("dopamine_http_under_way", "Scoring requests under way.", registry=self._registry)
        held = Gauge("dopamine_http_held_bytes", "Memory set aside for them.", registry=self._registry)
        under_way.set_function(lambda: capacity.requests)
        held.set_function(lambda: capacity.bytes)

    def count(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        path = path if path in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
