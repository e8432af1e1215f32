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

from collections.abc import Sequence

from experiments.commands import grm_train
from experiments.runtime.ending import command

ADAPT = grm_train.Command("dopamine grm adapt", __doc__ or "", "adapt", "grm-mini", shots=1, held_out=10)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Adapt, and print what came of it."""
    grm_train.main(argv, ADAPT)


if __name__ == "__main__":
    main()
