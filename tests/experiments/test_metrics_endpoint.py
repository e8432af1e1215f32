"""The dashboard asks for what is recorded, and Ray's endpoint really shows it."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from dopamine_rl.telemetry import METRICS, record
from experiments.clusters.grafana import COLUMNS, dashboard, text

FILE = Path(__file__).parents[2] / "experiments" / "clusters" / "grafana.json"
SERIES = re.compile(r"ray_(dopamine_\w+)")


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def base(name: str) -> str:
    """The metric of a series: a histogram's has a suffix."""
    return name.removesuffix("_bucket")


def test_the_dashboards_file_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run python -m experiments.clusters.grafana >FILE"


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    assert {base(name) for name in SERIES.findall(" ".join(expressions()))} == METRICS.keys()


def test_the_page_describes_every_metric() -> None:
    page = (FILE.parents[2] / "docs" / "clusters.md").read_text(encoding="utf-8")
    rows = [
        f"| `{name}` | {metric.kind} | {', '.join(f'`{tag}`' for tag in metric.tags)} | {metric.about} |"
        for name, metric in METRICS.items()
    ]
    assert re.findall(r"^\| `dopamine_.*$", page, re.M) == rows


def test_the_dashboard_asks_for_tags_that_the_metrics_have() -> None:
    for expression in expressions():
        metrics = [METRICS[base(name)] for name in SERIES.findall(expression)]
        grouped = {tag.strip() for tags in re.findall(r" by \(([^)]*)\)", expression) for tag in tags.split(",")}
        selected = set(re.findall(r"(\w+)=~?\"", expression))
        for metric in metrics:
            assert grouped | selected <= {*metric.tags} | ({"le"} if metric.kind == "histogram" else set())
            assert ("rate(" in expression) == (metric.kind != "gauge")


def test_the_dashboard_has_what_grafana_needs() -> None:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in content["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(content)))
    assert used == variables
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    for panel in content["panels"]:
        assert panel["type"] == "timeseries"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= COLUMNS
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in content["panels"]], 2):
        assert any(
            first[at] + first[size] <= second[at]
            for at, size in (("x", "w"), ("y", "h"))
            for first, second in ((one, other), (other, one))
        )


class Recorder:
    """Records a value of every metric, in a process of its own."""

    def record_all(self) -> str:
        """The file of this process's log."""
        import logging

        for name, metric in METRICS.items():
            record(name, 0.25, **dict.fromkeys(metric.tags, "tried"))
        logging.getLogger("actors.tried").info("recorded")
        return os.readlink("/proc/self/fd/2")


@pytest.mark.ray
def test_rays_endpoint_shows_every_metric_and_workers_write_structured_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    with ray_cluster(ClusterConfig(object_store_mb=100), run="peg"):
        recorder: Any = ray.remote(num_cpus=0)(Recorder).remote()
        log = Path(ray.get(recorder.record_all.remote()))
        time.sleep(4.0)  # after two exports Ray has forgotten a gauge that is not set again
        shown = _scraped(f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics")
        events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    for name, metric in METRICS.items():
        assert f"# TYPE ray_{name} {metric.kind}" in shown
        series = f"ray_{name}_bucket" if metric.kind == "histogram" else f"ray_{name}"
        bucket = 'le="0.5"' if metric.kind == "histogram" else ""
        [line] = [line for line in shown.splitlines() if line.startswith(series + "{") and bucket in line]
        assert all(f'{tag}="tried"' in line for tag in metric.tags)
        assert line.endswith(" 1.0" if metric.kind == "histogram" else " 0.25")
    assert [(event["run"], event["message"], event["role"]) for event in events] == [("peg", "recorded", "worker")]


def _scraped(address: str) -> str:
    """The endpoint's text, once all metrics are there; what there is after a minute."""
    deadline = time.monotonic() + 60.0
    while True:
        with urllib.request.urlopen(address, timeout=10) as answer:
            shown: str = answer.read().decode()
        if all(f" ray_{name} " in shown for name in METRICS) or time.monotonic() > deadline:
            return shown
        time.sleep(0.2)
