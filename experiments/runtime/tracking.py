"""Experiment tracking: TensorBoard files in the run's folder and, optionally, Weights & Biases."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from dopamine_rl.config import dump_toml
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

TENSORBOARD = "tensorboard"


class Tracker:
    """Logs a run's numbers by environment step. Close it when the run ends.

    Args:
        folder: the run's.
        config: its settings; the section `tracking` says where to log.
    """

    def __init__(self, folder: RunFolder, config: ExperimentConfig) -> None:
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(folder.path / TENSORBOARD))
        self._wandb: Any = None
        if config.tracking.wandb:
            self._wandb = _start_wandb(folder, config)

    def log(self, environment_steps: int, values: Mapping[str, Any]) -> None:
        """Log the finite numbers among the values; other values are left out."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        for name, value in numbers.items():
            self._board.add_scalar(name, value, environment_steps)
        self._board.flush()
        if self._wandb is not None:
            self._wandb.log({**numbers, "environment_steps": environment_steps})

    def close(self) -> None:
        """Write out what is buffered."""
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


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
