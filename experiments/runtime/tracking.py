"""Experiment tracking: TensorBoard files in the run's folder, Ray's metrics, and, optionally, Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from dopamine_rl.config import dump_toml
from dopamine_rl.telemetry import forget, record
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

TENSORBOARD = "tensorboard"
GAUGES = {
    "dopamine_environment_steps_per_second": "environment_steps_per_s",
    "dopamine_updates_per_second": "updates_per_s",
    "dopamine_success_ratio": "success",
    "dopamine_final_potential_mean": "final_potential_mean",
}
"""The learner's metrics in Ray, and the numbers of a point of the learning curve that they show."""


class Tracker:
    """Logs a run's numbers by environment step. Close it when the run ends.

    Args:
        folder: the run's.
        config: its settings; the section `tracking` says where to log.
    """

    def __init__(self, folder: RunFolder, config: ExperimentConfig) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(folder.path / TENSORBOARD))
        self._run = config.name
        self._wandb: Any = None
        if config.tracking.wandb:
            self._wandb = _start_wandb(folder, config)

    def log(self, environment_steps: int, values: Mapping[str, Any]) -> None:
        """Log the finite numbers among the values; other values are left out.

        Args:
            values: a point of the learning curve.
        """
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        for name, value in numbers.items():
            self._board.add_scalar(name, value, environment_steps)
        self._board.flush()
        record_point(self._run, values)
        if self._wandb is not None:
            self._wandb.log({**numbers, "environment_steps": environment_steps})

    def close(self) -> None:
        """Write out what is buffered, and end the run's metrics."""
        forget(run=self._run)
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def record_point(run: str, point: Mapping[str, Any]) -> None:
    """Show a point of a run's learning curve in Ray's metrics."""
    for name, entry in GAUGES.items():
        record(name, point.get(entry), run=run)
    record("dopamine_late_runners", len(point.get("late_env_runners_s", ())), run=run)
    for runner, updates in point.get("staleness_updates", {}).items():
        record("dopamine_staleness_updates", updates, run=run, runner=runner)


def _start_wandb(folder: RunFolder, config: ExperimentConfig) -> Any:
    import tomllib

    import wandb

    has_key = bool(os.environ.get("WANDB_API_KEY")) or wandb.api.api_key is not None
    return wandb.init(
        project=config.tracking.wandb_project,
        name=config.name,
        dir=str(folder.path),
        mode="online" if has_key else "offline",
        config=tomllib.loads(dump_toml(config)),
        settings=wandb.Settings(silent=True),
    )
