"""Results of a sweep: rows, console lines and the Markdown page. No ray import."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.reports.tables import grid
from experiments.sweeps.space import Point, flags

LOST = ("invalid", "late", "rejected")
"""Outcomes of a frame without a label."""


def row(number: int, point: Point, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
    """A trial's row in sweep.json.

    Args:
        last: its last report; empty if it made none.
        error: the traceback of a failed trial.
    """
    final = last.get("success_final")
    labels = {name: int(last.get(name, 0)) for name in ("asked", "answered", *LOST)}
    return {
        "trial": number,
        "point": point,
        "outcome": "failed" if error is not None else "stopped early" if final is None else "finished",
        "stopped_early": error is None and final is None,
        "success_final": final,
        "success": last.get("success"),
        "success_episodes": last.get("success_episodes", 0),
        "environment_steps": int(last.get("environment_steps", 0)),
        "updates": int(last.get("updates") or 0),
        "seconds": round(float(last.get("time_total_s", 0.0)), 1),
        "labels": {**labels, "closed": labels["asked"] == sum(labels.values()) - labels["asked"]},
        "demonstration_frames": int(last.get("demonstration_frames", 0)),
        "error": None if error is None else last_line(error),
    }


def last_line(text: str) -> str:
    """The last non-empty line; in a traceback this is the error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a message")


def merit(row: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
    """Sort key, larger is better: finished trials, then those stopped early, then failed ones, each by success."""
    final = row["success_final"]
    return row["error"] is None, final is not None, final or 0.0, row["success"] or 0.0


def progress_line(row: Mapping[str, Any]) -> str:
    """The console line of a report."""
    labels = row["labels"]
    return (
        f"trial {row['trial']}: {row['environment_steps']:>6} environment steps | success {row['success']:.2f} "
        f"in the last {row['success_episodes']} episodes | labels {labels['answered']}/{labels['asked']}{lost(labels)}"
    )


def end_line(row: Mapping[str, Any]) -> str:
    """The console line of a trial's end."""
    finished = row["success_final"] is not None
    success = f"success {row['success_final']:.2f} on held-out seeds" if finished else ""
    reason = success or row["error"] or "other trials were better"
    return f"trial {row['trial']} {row['outcome']} after {row['environment_steps']} environment steps: {reason}"


def brief(row: Mapping[str, Any]) -> str:
    """The start of a failed trial's error. The whole line is in sweep.json, the traceback in Tune's folder."""
    return textwrap.shorten(row["error"] or "", 100, placeholder=" …")


def lost(labels: Mapping[str, int]) -> str:
    """Counts of frames without a label, to append to those with one."""
    return "".join(f", {labels[name]} {name}" for name in LOST if labels[name])


HEADER = [
    "trial", "fusion", "stride", "gamma", "updates/step", "held-out", "training", "env. steps", "labels", "outcome",
]  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text cells, in the order of HEADER."""
    point, labels = row["point"], row["labels"]
    searched = (point.get(name, "–") for name in ("fusion.kind", "env.stride", "gamma", "learner.updates_per_step"))
    final, while_training = ("–" if row[n] is None else f"{row[n]:.2f}" for n in ("success_final", "success"))
    return [
        str(row["trial"]),
        *(f"{value:g}" if isinstance(value, float) else str(value) for value in searched),
        final,
        f"{while_training} of {row['success_episodes']}",
        str(row["environment_steps"]),
        f"{labels['answered']}/{labels['asked']}{lost(labels)}",
        f"{row['outcome']}: {brief(row)}" if row["error"] else row["outcome"],
    ]


def page(report: Mapping[str, Any]) -> str:
    """The sweep as a Markdown page."""
    rows, seeds = report["trials"], report["seeds"]
    (first, last), clone = seeds["held_out"], report["clone_success"]
    count = last - first + 1
    improved = any((row["success_final"] or 0.0) > clone for row in rows)
    comparison = "" if improved else "; **no trial did better**"
    gate = "passed" if report["gate_passed"] else "NOT passed: --force was given"
    return f"""# Sweep: {report["name"]}

{grid([HEADER, *map(cells, rows)])}

*held-out*: success rate of the trained policy on {count} development episodes. Trials that ASHA stopped early have
none; they are listed below the others, by success during *training* (with exploration) in their latest episodes.
Trial 0 is the preset. All trials start from a cloned policy with success rate {clone:.2f} on the same {count}
episodes{comparison}.

- Shared by all trials: demonstrations, cloned policy, and reward model {report["model_version"]}, served once as
  `{report["application"]}`. Its gate was {gate}.
- Labels: answered / requested frames in training; the others were invalid, late or rejected.
- Seeds: {first} to {last} for held-out episodes, which were also used to choose the size of the cloned policy
  (`dopamine train` evaluates on other seeds); {seeds["training"]} for training, the same in every trial;
  {seeds["search"]} for the search.

The best of several trials on {count} episodes is partly luck. To measure it on unseen episodes, with a reward model
that is trained and evaluated with this stride and fusion, run:

    dopamine train {flags(rows[0]["point"])}
"""
