"""Trains the reward model alone, from recorded episodes, as a Ray Train job.

    python experiments/grm_sft.py --data RAW --out MODEL [--held-out N] [--preset NAME] [--sft.train.budget-s 120 …]

RAW is a folder of raw episodes (successes, and failures whose true progress is recorded). The model is judged on the
last N of each kind (default 3), which it is not trained on; the last line is JSON: version, folder and those figures.
The sections [grm], [sft] and [cluster] of the preset hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from dopamine_rl.errors import BadInput, DopamineError
from experiments.arguments import parse_run
from experiments.settings import ExperimentConfig


def main(argv: list[str] | None = None) -> None:
    """Parse the command line, train, and print what came of it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--held-out", type=int, default=3)
    own, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    try:
        arguments, config = parse_run(ExperimentConfig, rest, "grm_sft", __doc__ or "")
        if own.data is None or arguments.out is None:
            raise BadInput("--data, --out", (own.data, arguments.out), "give the episodes' folder and the model's")
        print(json.dumps(run(own.data, Path(arguments.out), own.held_out, config)))
    except DopamineError as error:
        raise SystemExit(f"error: {error}") from error


def run(data: Path, out: Path, held_out: int, config: ExperimentConfig) -> dict[str, object]:
    """Train on the episodes in `data` but the last `held_out` of each kind, and write the model to `out`.

    Raises:
        BadInput: too few episodes, or one that cannot be used.
    """
    from experiments.cluster import ray_cluster
    from experiments.console import Console

    training, unseen = split(data, held_out)
    console = Console()
    with ray_cluster(config.cluster):
        from dopamine_rl.grm.model import load_grm, model_version
        from learner.grm_sft import train_grm

        card = {"data": str(data), "command": " ".join(sys.argv)}
        work = out.parent / f"{out.name}.train"
        train_grm(config.sft, config.grm, training, out, work, card, lambda now: console.progress(str(now)), unseen)
    figures = json.loads((out / "grm.json").read_text(encoding="utf-8"))["card"].get("held_out", {})
    return {"version": model_version(out), "parameters": load_grm(out).parameters, "folder": str(out), **figures}


def split(data: Path, held_out: int) -> tuple[list[Path], list[Path]]:
    """The episodes of a folder to train on, and the last `held_out` successes and failures. Raises BadInput."""
    from dopamine_rl.episodes.raw import list_episodes, read_demonstration

    if held_out < 0:
        raise BadInput("--held-out", held_out, "give a number of episodes, or 0")
    folders = list_episodes(data)
    success = {folder: read_demonstration(folder).success for folder in folders}
    unseen: list[Path] = []
    for wanted in (True, False):
        kind = [folder for folder in folders if success[folder] is wanted]
        unseen += kind[len(kind) - min(held_out, len(kind)) :]
    training = [folder for folder in folders if folder not in unseen]
    if not any(success[folder] for folder in training):
        raise BadInput("--data", str(data), f"give more than {held_out} successful episodes")
    return training, unseen


if __name__ == "__main__":
    main()
