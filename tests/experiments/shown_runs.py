"""Small run folders like those that trainings leave, for the pages that show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.label_records import EpisodeEnding, LabelRecord, ScoredFrame
from dopamine_rl.types import EpisodeContext, FusionConfig

CONFIG = """
name = "{name}"
reward = "grm"
success = "progress"
seed = {seed}
encoder = "grm"
[env]
task = "PegInsertionSide-v1"
views = ["front", "wrist"]
observation = "state"
make = ""
[gate]
success_threshold = 0.8
[learner]
algorithm = "rlpd"
[training]
environment_steps = 400
"""
RATE = {"mean": 0.5, "low": 0.3, "high": 0.7, "n": 20}
GATE = {
    "voc_plus": 0.97, "voc_minus": 0.96, "kendall": 0.9, "progress_mae": 0.05, "false_success": 0.0, "auc": 1.0,
    "success_end": 0.95, "failure_end": 0.2, "near_misses": 3, "near_miss_false_success": 0.0, "invalid": 0,
    "successes": 30, "failures": 60, "cut_off": 0, "stride": 4,
}  # fmt: skip


def episode_id(number: int) -> str:
    """An id as RLlib gives them."""
    return f"{number:032x}"


def record(
    number: int,
    frames: int = 4,
    size: int = 8,
    final: float = 0.9,
    ending: tuple[bool, bool, bool | None] | None = (True, True, True),
    instruction: str = "insert the peg",
) -> LabelRecord:
    """A record whose pictures grow brighter.

    Args:
        final: Φ* of its last frame.
        ending: success, reached, claimed.
    """
    shades = np.linspace(20, 200, frames + 1).astype(np.uint8)
    pictures = [np.full((2, size, size, 3), shade, np.uint8) for shade in shades]
    scored = tuple(
        ScoredFrame(
            4 * i, "answered" if i != 2 else "late", "" if i != 2 else "too <late>", 4 * (i - 1),
            np.full(3, 0.2, np.float32), np.full(3, 0.05, np.float32), np.full(3, 0.1, np.float32),
            final * i / frames, np.array([0.2, 0.3, 0.4], np.float32), pictures[i],
        )
        for i in range(1, frames + 1)
    )  # fmt: skip
    context = EpisodeContext(
        episode_id(number), instruction, pictures[0][0], pictures[-1][0], pictures[0], pictures[-1], "v1"
    )
    paid = np.linspace(-0.1, 0.2, 4 * frames + 1).astype(np.float32)
    paying = None if ending is None else EpisodeEnding(*ending, (paid > 0.19).astype(np.float32), paid)
    return LabelRecord(context, scored, FusionConfig(), paying)


def point(index: int) -> dict[str, object]:
    """A point of a learning curve."""
    asked = 25 * (index + 1)
    return {
        "environment_steps": 100 * (index + 1), "seconds": 10.0 * (index + 1), "episodes": 8 * (index + 1),
        "successes": 3 * index, "success": 0.1 * index,
        "return_mean": 0.05 * index, "final_potential_mean": 0.2 * index,
        "environment_steps_per_s": 10.0, "updates_per_s": 20.0, "label_p50_ms": 30.0 + index,
        "asked": asked, "answered": asked - 1, "invalid": 0, "late": 1, "rejected": 0,
        "late_env_runners_s": {"2": 7.5} if index == 2 else {}, "replaced_env_runners": 0,
        "env_runner_steps": {"1": 60, "2": 40},
    }  # fmt: skip


def write_run(
    folder: Path, name: str = "one", seed: int = 0, records: Sequence[LabelRecord] | None = None, finished: bool = True
) -> Path:
    """A run's folder; returns it.

    Args:
        records: by default a true claim, a false claim, a missed success, a failure, and a demonstration.
        finished: with a result.
    """
    (folder / "phases").mkdir(parents=True)
    (folder / "run.json").write_text('{"project": "dopamine-rl", "format": 4, "code": []}')
    (folder / ".lock").touch()
    (folder / "config.toml").write_text(CONFIG.format(name=name, seed=seed))
    rule = {"rule": {"threshold": 0.85, "frames": 2}, "figures": GATE}
    for phase, value in (("gate", GATE), ("claims", rule), ("demonstrations", 8)):
        (folder / "phases" / f"{phase}.json").write_text(json.dumps({"key": "0" * 16, "value": value}))
    lines = [point(index) for index in range(3)]
    (folder / "curve.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ends = [(100 * (1 + i // 8), i % 3 == 0, 0.95 if i % 3 == 0 else 0.1 + 0.01 * i) for i in range(24)]
    rows = [
        {"environment_steps": at, "success": ok, "final_progress": end, "claimed": ok, "reached": ok}
        for at, ok, end in ends
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for item in episodes() if records is None else records:
        item.save(folder / "records")
    if finished:
        result = {
            "name": name, "environment": "PegInsertionSide-v1", "observation": "state", "model_version": "v1",
            "policy_success": RATE | {"mean": 0.6}, "bc_success": RATE, "gate_forced": False,
            "phase_seconds": {"train": 30.0},
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def episodes() -> list[LabelRecord]:
    """One episode of each kind."""
    demonstration = record(5, ending=None)
    named = replace(demonstration, context=replace(demonstration.context, episode_id="expert_000001"))
    return [
        record(1),
        record(2, final=0.9, ending=(False, False, True)),
        record(3, final=0.4, ending=(False, True, False)),
        record(4, final=0.7, ending=(False, False, False)),
        named,
    ]
