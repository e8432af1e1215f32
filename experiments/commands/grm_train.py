"""Trains a reward model on recorded episodes, with Ray Train or (--local) without Ray.

    dopamine grm train raw --out grm
    dopamine grm train raw/pick raw/stack lerobot/pull --out grm --held-out 2 --sft.train.updates 1000
    dopamine grm train raw --out adapted --start-from grm --sft.train.loss hops
    torchrun --nproc-per-node 8 -m experiments.cli grm train raw --out grm --local --preset grm-3b \\
        --start-from models/grm-3b

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3. Give several to train on several tasks.
The progress label comes from the keyframes for successes and from the simulator for failures. The last N
successes and failures of each task are held out for evaluation.

An interrupted command resumes when you run it again. The last line is JSON: version, folder and held-out metrics.
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
    """Return the arguments, the settings, and the command for the model card. Raises BadInput, CheckpointError."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, config = parse_settings(Arguments, Settings, words, PROG, __doc__, PRESETS)
    return arguments, resolve(arguments, config), f"{PROG} {shlex.join(words)}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train the model and print the metrics."""
    training = parse(argv)
    with interruptible("Interrupted. Run the same command again to resume from the last checkpoint."):
        figures = run(*training)
    if figures is not None:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
