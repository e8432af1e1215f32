"""Adapts a reward model to a new task from one demonstration of it, in some minutes on two cores.

    dopamine grm adapt raw --out grm
    dopamine grm adapt raw --out grm --shots 10 --start-from my_model

DATA is a folder of raw episodes, or a LeRobotDataset v3. The first success of every task in it is the demonstration: its keyframes
say how far along each of its frames is. The model that the project ships, grm-mini, is trained on it with changed pictures (moved,
turned, lit and coloured otherwise), and judged on the episodes that come next, which it is not trained on. Interrupted or killed, the
same command goes on where it was. The last line is JSON: version, folder, how the model fits its demonstration, and the figures
on the other episodes. It is `dopamine grm train` with other defaults, and has the same options.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from experiments.job.reward_model import PRESETS, AdaptationArguments, GRMTrainingConfig, resolve, run
from experiments.runtime.arguments import parse_settings
from experiments.runtime.ending import command, interruptible

PROG = "dopamine grm adapt"
Arguments, Settings = AdaptationArguments, GRMTrainingConfig


def parse(argv: Sequence[str] | None) -> tuple[AdaptationArguments, GRMTrainingConfig, str]:
    """The arguments, the settings, and the command for the model's card. Raises BadInput, CheckpointError."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, config = parse_settings(Arguments, Settings, words, PROG, __doc__, PRESETS)
    return arguments, resolve(arguments, config), f"{PROG} {shlex.join(words)}"


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Adapt, and print what came of it."""
    training = parse(argv)
    with interruptible("Interrupted; the same command goes on from the last saved state."):
        figures = run(*training)
    if figures is not None:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
