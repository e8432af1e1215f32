"""Trains a reward model on recorded episodes, as a Ray Train job, or with torch and transformers alone.

    dopamine grm train raw --out grm
    dopamine grm train raw/pick raw/stack lerobot/pull --out grm --held-out 2 --sft.train.updates 1000
    dopamine grm train raw --out adapted --start-from grm --sft.train.loss hops
    torchrun --nproc-per-node 8 -m experiments.cli grm train raw --out grm --local --preset grm-3b --start-from models/grm-3b

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3; several hold several tasks. Successes teach with the
progress of their keyframes, failures with their simulator-true progress. The model is judged on the last N successes and failures
of every task, which it is not trained on. Interrupted or killed, the same command goes on where it was. The last line is JSON:
version, folder and the figures on those episodes.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from experiments.job.reward_model import PRESETS, GRMTrainingConfig, TrainingArguments, resolve, run
from experiments.runtime.arguments import parse_settings
from experiments.runtime.ending import command, interruptible

PROG = "dopamine grm train"
Arguments, Settings = TrainingArguments, GRMTrainingConfig


def parse(argv: Sequence[str] | None) -> tuple[TrainingArguments, GRMTrainingConfig, str]:
    """The arguments, the settings, and the command for the model's card. Raises BadInput, CheckpointError."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, config = parse_settings(Arguments, Settings, words, PROG, __doc__, PRESETS)
    return arguments, resolve(arguments, config), f"{PROG} {shlex.join(words)}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train, and print what came of it."""
    training = parse(argv)
    with interruptible("Interrupted; the same command goes on from the last saved state."):
        figures = run(*training)
    if figures is not None:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
