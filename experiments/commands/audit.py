"""Scores a run's recorded episodes again, offline, and compares with the progress that was used in training.

    dopamine audit RUN

The last line is JSON: episodes, frames, answered, max_abs_difference, doubled (an environment step of an episode scored
twice), wrong_version (episodes that name another model than the run's checkpoint).
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
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments:
    """Which episodes are scored again."""

    run: Annotated[Positional[Path], option("RUN")]
    """Folder of a run, as printed at its end."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Only the first so many episodes."""

    def __post_init__(self) -> None:
        require("", self, ("episodes", self.episodes is None or self.episodes >= 1, "give at least 1, or leave it out"))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Audit a run folder."""
    arguments = parse(Arguments, argv, "dopamine audit", __doc__)
    print(json.dumps(audit_run(arguments.run, arguments.episodes)))


def audit_run(run: Path, episodes: int | None = None) -> dict[str, float | int]:
    """Audit the first `episodes` records of a run folder, or all. Raises BadInput where there are none."""
    paths = sorted((run / "records").glob("*.npz"))[:episodes]
    if not paths:
        raise BadInput("run", str(run), "give a run folder whose records/ holds episodes (labels.keep_frames)")
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer

    engine = TransformersEngine(run / "grm")
    return audit(map(LabelRecord.load, paths), Scorer(engine), engine.model_version)


if __name__ == "__main__":
    main()
