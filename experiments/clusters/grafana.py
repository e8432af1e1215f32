"""Builds the Grafana dashboard of our metrics (dopamine_rl/telemetry.py) and of Ray's Serve.

python -m experiments.clusters.grafana >experiments/clusters/grafana.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, COLUMNS = 12, 8, 24
"""Size of a panel, and width of a dashboard, in Grafana's units."""
RUN, APPLICATION = '{run=~"$run"}', '{application=~"$application"}'


@dataclass(frozen=True)
class Query:
    """A line of a panel, or several: a PromQL expression, and how its series are named."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A panel: title, unit (one of Grafana's), queries, and a sentence about it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""


def _rate(name: str, select: str) -> str:
    return f"rate(ray_{name}{select}[$__rate_interval])"


def _per(tags: str, expression: str, how: str = "sum") -> str:
    return f"{how} by ({tags}) ({expression})"


def _quantile(share: float) -> Query:
    buckets = _per("run, le", _rate("dopamine_label_latency_seconds_bucket", RUN))
    return Query(f"histogram_quantile({share}, {buckets})", f"{{{{run}}}} p{100 * share:.0f}")


def _gauge(name: str, tags: str, legend: str) -> Query:
    return Query(_per(tags, f"ray_{name}{RUN}", "max"), legend)


_STEPS = _rate("dopamine_environment_steps_total", RUN)
_SUCCESSES = _rate("dopamine_episodes_total", '{run=~"$run", outcome="success"}')
_EPISODES = _rate("dopamine_episodes_total", RUN)
_FRAMES, _BATCHES, _BUSY, _REQUESTS = (
    _rate(f"dopamine_service_{name}_total", APPLICATION) for name in ("frames", "batches", "model_seconds", "requests")
)
_ACTOR = "{{run}} actor {{runner}}"

PANELS = (
    Panel(
        "Environment steps per second",
        "short",
        (
            Query(_per("run, runner", _STEPS), _ACTOR),
            _gauge("dopamine_environment_steps_per_second", "run", "{{run}} all"),
        ),
        "Of every actor; and of all together, as the learner reports it once an iteration.",
    ),
    Panel("Updates per second", "short", (_gauge("dopamine_updates_per_second", "run", "{{run}}"),)),
    Panel(
        "Success",
        "percentunit",
        (
            _gauge("dopamine_success_ratio", "run", "{{run}}, last 50 episodes"),
            Query(f"{_per('run, runner', _SUCCESSES)} / {_per('run, runner', _EPISODES)}", _ACTOR),
        ),
    ),
    Panel(
        "Potential at the end of episodes",
        "percentunit",
        (
            _gauge("dopamine_final_potential", "run, runner", _ACTOR),
            _gauge("dopamine_final_potential_mean", "run", "{{run}} mean"),
        ),
        "High potential with low success: the reward model overvalues failures.",
    ),
    Panel(
        "Staleness of the actors' weights",
        "short",
        (_gauge("dopamine_staleness_updates", "run, runner", _ACTOR),),
        "Updates between the weights that sampled a fragment and its arrival.",
    ),
    Panel("Actors that are late or lost", "short", (_gauge("dopamine_late_runners", "run", "{{run}}"),)),
    Panel(
        "Latency of labels",
        "s",
        (_quantile(0.5), _quantile(0.99)),
        "Time in the service's queue and in the model.",
    ),
    Panel(
        "Labels per second by outcome",
        "short",
        (Query(_per("run, outcome", _rate("dopamine_labels_total", RUN)), "{{run}} {{outcome}}"),),
        "Every frame asked about is answered, invalid, late or rejected.",
    ),
    Panel(
        "Reward service: frames per second",
        "short",
        (Query(_per("application", _FRAMES), "{{application}}"),),
    ),
    Panel(
        "Reward service: requests per second by outcome",
        "short",
        (Query(_per("application, outcome", _REQUESTS), "{{application}} {{outcome}}"),),
    ),
    Panel(
        "Reward service: frames per batch",
        "short",
        (Query(f"{_per('application', _FRAMES)} / {_per('application', _BATCHES)}", "{{application}}"),),
    ),
    Panel(
        "Reward service: replicas' time in the model, and requests waiting",
        "short",
        (
            Query(_per("application", _BUSY), "{{application}} busy replicas"),
            Query(
                _per("application", f"ray_dopamine_service_waiting_requests{APPLICATION}"), "{{application}} waiting"
            ),
        ),
        "As many busy replicas as there are: add some, or let max_replicas follow the load.",
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard, for Grafana from version 9 on."""
    return {
        "uid": "dopamine-rl",
        "title": "dopamine-rl",
        "tags": ["ray"],
        "schemaVersion": 37,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2},
                _variable("run", "ray_dopamine_environment_steps_total"),
                _variable("application", "ray_dopamine_service_waiting_requests"),
            ]
        },
        "panels": [_panel(panel, index) for index, panel in enumerate(PANELS)],
    }


def _variable(tag: str, metric: str) -> dict[str, Any]:
    query = f"label_values({metric}, {tag})"
    return {
        "name": tag,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": tag},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _panel(panel: Panel, index: int) -> dict[str, Any]:
    per_row = COLUMNS // WIDTH
    return {
        "id": index + 1,
        "title": panel.title,
        "description": panel.about,
        "type": "timeseries",
        "datasource": _SOURCE,
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": index % per_row * WIDTH, "y": index // per_row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": _SOURCE, "expr": query.expression, "legendFormat": query.legend}
            for i, query in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """The dashboard as it stands in grafana.json."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
