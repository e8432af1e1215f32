"""Adapts a reward model to a new task from one demonstration. Takes some minutes on two CPU cores.

    dopamine grm adapt raw --out grm
    dopamine grm adapt raw --out grm --shots 10 --start-from my_model

DATA is a folder of raw episodes or a LeRobotDataset v3. The first success of each task is the demonstration; its
keyframes define the progress of its frames. Training starts from the model shipped with the project (grm-mini)
and uses image augmentation: shifts, rotations, lighting and colour changes. The model is evaluated on the
remaining episodes, which are held out.

An interrupted command resumes when you run it again. The last line is JSON: version, folder, the fit on the
demonstration, and the metrics on held-out episodes. All options are those of `dopamine grm train`, with other
defaults.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.job.reward_model import AdaptationArguments, GRMTrainingConfig, read_command, run_command
from experiments.runtime.ending import command

PROG = "dopamine grm adapt"
Arguments, Settings = AdaptationArguments, GRMTrainingConfig


def parse(argv: Sequence[str] | None) -> tuple[AdaptationArguments, GRMTrainingConfig, str]:
    """Return the arguments, the settings, and the command for the model card. Raises BadInput, CheckpointError."""
    return read_command(Arguments, argv, PROG, __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Adapt the model and print the metrics."""
    run_command(*parse(argv))


if __name__ == "__main__":
    main()
