"""Scores a run's recorded episodes again, offline, and compares with the progress that was used in training.

    python -m experiments.commands.audit RUN

The last line is JSON: episodes, frames, answered, max_abs_difference, doubled (an environment step of an episode scored
twice), wrong_version (episodes that name another model than the run's checkpoint).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from actors.records import EpisodeRecord
from actors.rescoring import audit
from dopamine_rl.errors import BadInput, DopamineError


def main(argv: list[str] | None = None) -> None:
    """Audit a run folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, as printed at its end")
    parser.add_argument("--episodes", type=int, default=None, help="audit only the first so many episodes")
    args = parser.parse_args(argv)
    try:
        print(json.dumps(audit_run(args.run, args.episodes)))
    except DopamineError as error:
        raise SystemExit(f"error: {error}") from error


def audit_run(run: Path, episodes: int | None = None) -> dict[str, float | int]:
    """Audit the first `episodes` records of a run folder, or all. Raises BadInput where there are none."""
    paths = sorted((run / "records").glob("*.npz"))[:episodes]
    if not paths:
        raise BadInput("run", str(run), "give a run folder whose records/ holds episodes (labels.keep_frames)")
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer

    engine = TransformersEngine(run / "grm")
    return audit(map(EpisodeRecord.load, paths), Scorer(engine), engine.model_version)


if __name__ == "__main__":
    main()
