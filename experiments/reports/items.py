"""Statistics of a file of training items: count, tasks, and distribution of hops."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.episodes.balance import CENTRAL
from dopamine_rl.episodes.items import read_items
from dopamine_rl.errors import BadInput
from dopamine_rl.progress import HOP_BINS, hop_bin
from dopamine_rl.texts import one_line

TASKS_SHOWN = 20
"""Maximum number of tasks to list, the most frequent first."""


def describe_items(path: Path) -> dict[str, Any]:
    """Print and return the number of items in a file, their tasks, and the distribution of their hops.

    Raises:
        BadInput: the file does not exist or has no item.
        EpisodeError: an item is malformed; names file, item and field.
    """
    if not path.is_file():
        raise BadInput("DATA", str(path), "no such file: name a file of training items, or a folder of episodes")
    tasks: Counter[str] = Counter()
    counts, zeros = np.zeros(HOP_BINS, np.int64), 0
    for item in read_items(path):
        tasks[item.task] += 1
        counts[hop_bin(item.hop)] += 1
        zeros += item.hop == 0.0
    if not tasks:
        raise BadInput("DATA", str(path), "give a file with at least one item")
    filled = counts[counts > 0]
    figures: dict[str, Any] = {
        "items": tasks.total(),
        "tasks": dict(tasks.most_common()),
        "hop_counts": counts.tolist(),
        "zero_hops": zeros,
        "max_deviation": round(float(np.abs(filled / filled.mean() - 1.0).max()), 4),
        "central_share": round(float(counts[CENTRAL].sum() / counts.sum()), 4),
    }
    print("\n".join([f"{tasks.total()} items", *_task_lines(tasks), *_hop_lines(counts)]))
    print(f"zero hops, in the middle bin: {zeros}")
    print(f"largest deviation of a non-empty hop bin from their mean: {100 * figures['max_deviation']:.1f} %")
    print(f"share in the 3 central hop bins: {100 * figures['central_share']:.1f} % (uniform: {300 / HOP_BINS:.1f} %)")
    print(json.dumps(figures, ensure_ascii=False))
    return figures


def _task_lines(tasks: Counter[str]) -> list[str]:
    lines = [f"{count:>9}  {one_line(task)}" for task, count in tasks.most_common(TASKS_SHOWN)]
    return lines + ([f"           and {len(tasks) - TASKS_SHOWN} more tasks"] if len(tasks) > TASKS_SHOWN else [])


def _hop_lines(counts: np.ndarray) -> list[str]:
    edges = np.linspace(-100, 100, HOP_BINS + 1)
    rows = [f"{edges[i]:+6.0f} … {edges[i + 1]:+4.0f} %    {count:>9}" for i, count in enumerate(counts)]
    return ["hop bin                items", *rows]
