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

from collections.abc import Sequence

from experiments.job.reward_model import GRMTrainingConfig, TrainingArguments, read_command, run_command
from experiments.runtime.ending import command

PROG = "dopamine grm train"
Arguments, Settings = TrainingArguments, GRMTrainingConfig


def parse(argv: Sequence[str] | None) -> tuple[TrainingArguments, GRMTrainingConfig, str]:
    """Return the arguments, the settings, and the command for the model card. Raises BadInput, CheckpointError."""
    return read_command(Arguments, argv, PROG, __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train the model and print the metrics."""
    run_command(*parse(argv))


if __name__ == "__main__":
    main()
