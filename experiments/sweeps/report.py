"""What came of a sweep: rows, the lines said of them, and the page. No ray import."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.sweeps.space import Point, flags

LOST = ("invalid", "late", "rejected")
"""What may become of a frame that is not answered."""


def row(number: int, point: Point, last: Mapping[str, Any], error: str | None = None) -> dict[str, Any]:
    """What sweep.json holds of a trial.

    Args:
        last: its last report; empty where it made none.
        error: text of what it failed with.
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
    """The last line that says anything; a traceback ends with its error."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a message")


def merit(row: Mapping[str, Any]) -> tuple[bool, bool, float, float]:
    """Larger for better trials: finished before stopped early before failed ones, each kind by success."""
    final = row["success_final"]
    return row["error"] is None, final is not None, final or 0.0, row["success"] or 0.0


def progress_line(row: Mapping[str, Any]) -> str:
    """What is said of a report."""
    labels = row["labels"]
    return (
        f"trial {row['trial']}: {row['environment_steps']:>6} environment steps | success {row['success']:.2f} of the last "
        f"{row['success_episodes']} | labels {labels['answered']}/{labels['asked']}{lost(labels)}"
    )


def end_line(row: Mapping[str, Any]) -> str:
    """What is said of a trial's end."""
    finished = row["success_final"] is not None
    what = (
        f"success {row['success_final']:.2f} on held-out seeds" if finished else row["error"] or "others were further"
    )
    return f"trial {row['trial']} {row['outcome']} after {row['environment_steps']} environment steps: {what}"


def brief(row: Mapping[str, Any]) -> str:
    """The beginning of a failed trial's error; sweep.json has all of it, and Tune's folder the traceback."""
    return textwrap.shorten(row["error"] or "", 100, placeholder=" …")


def lost(labels: Mapping[str, int]) -> str:
    """The frames that were not answered, as a continuation of those that were."""
    return "".join(f", {labels[name]} {name}" for name in LOST if labels[name])


HEADER = [
    "trial", "fusion", "stride", "gamma", "updates/step", "held-out", "training", "env. steps", "labels", "outcome",
]  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as text, in the order of HEADER."""
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


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines whose columns stand below one another."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]


def page(report: Mapping[str, Any]) -> str:
    """The sweep as a page."""
    rows, seeds = report["trials"], report["seeds"]
    table = [HEADER, ["---"] * len(HEADER), *map(cells, rows)]
    lines = "\n".join("| " + " | ".join(text.replace("|", "/") for text in line) + " |" for line in table)
    (first, last), clone = seeds["held_out"], report["clone_success"]
    count = last - first + 1
    better = any((row["success_final"] or 0.0) > clone for row in rows)
    beaten = "" if better else "; **no trial did better**"
    return f"""# Sweep: {report["name"]}

{lines}

*held-out*: success of the trained policy on {
        count
    } development episodes; a trial that ASHA stopped early has none and is
sorted below the others by its success while *training*, exploration included, over its latest episodes. Trial 0 is the
preset. The cloned policy that all begin with succeeds in {clone:.2f} of the same {count} episodes{beaten}.

- Shared by all trials: demonstrations, cloned policy, and reward model {report["model_version"]}, served once as
  `{report["application"]}`. Its gate was {"passed" if report["gate_passed"] else "NOT passed: --force was given"}.
- Labels: answered of asked frames of the training; every other one was invalid, late or rejected.
- Seeds: held-out episodes {first} to {
        last
    }, on which the size of the cloned policy was chosen too (the main job evaluates on
  others); training {seeds["training"]}, the same in every trial; the points were drawn from {seeds["search"]}.

The best of several trials on {
        count
    } episodes is partly the luckiest. The main job measures it on unseen ones, after it has
recorded, trained and judged with this stride and fusion:

    dopamine train {flags(rows[0]["point"])}
"""
