"""Rescores a run's recorded episodes offline and compares them with the progress used in training.

    dopamine audit runs/peg_insert

The last line is JSON: episodes, frames, answered, max_abs_difference, doubled (environment steps that were
scored twice), and wrong_version (episodes scored by a model other than the run's checkpoint).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from actors.label_records import LabelRecord
from actors.rescoring import audit
from dopamine_rl.errors import BadInput, require
from dopamine_rl.grm.folder import usable_model
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments:
    """The episodes to rescore."""

    run: Annotated[Positional[Path], option("RUN")]
    """The run's folder, as printed at the end of training."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Rescore only the first N episodes."""

    def __post_init__(self) -> None:
        require("", self, ("episodes", self.episodes is None or self.episodes >= 1, "give at least 1, or leave it out"))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Audit a run folder."""
    arguments = parse(Arguments, argv, "dopamine audit", __doc__)
    print(json.dumps(audit_run(arguments.run, arguments.episodes)))


def audit_run(run: Path, episodes: int | None = None) -> dict[str, float | int]:
    """Audit the first `episodes` records of a run folder; None audits all. Raises BadInput if there are none."""
    if not run.is_dir():
        raise BadInput("RUN", str(run), "there is no such folder: give the folder of a run")
    paths = sorted((run / "records").glob("*.npz"))[:episodes]
    if not paths:
        raise BadInput("RUN", str(run), "give a run folder with episodes in records/ (labels.keep_frames)")
    model = usable_model(run / "grm", "RUN")
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer

    engine = TransformersEngine(model)
    return audit(map(LabelRecord.load, paths), Scorer(engine), engine.model_version)


if __name__ == "__main__":
    main()
