"""Records demonstrations of a simulated task into a folder of raw episodes: successes of its expert, and failures.

    dopamine demos PickCube -n 50 --failures 50
    dopamine demos PickCube --trajectories trajectory.h5 -n 50
    dopamine demos StackCube -n 0 --failures 20 --kind near_miss --kind drop --out raw/misses --seed 5000
    dopamine demos PegInsertionSide -n 16 --env laptop --look light

Every episode belongs to a seed: the same command records the same episodes, whatever the number of workers, and with another
--look the same again in other pictures. Failures are of
the task's kinds in turn, half of them near misses. What is in the folder already is kept, so that the same command goes on
where it was interrupted, and a larger -n adds to it. Beside the pictures every episode holds the simulator's true progress.

--trajectories shows again what ManiSkill's RecordEpisode wrote, FILE.h5 with FILE.json beside it, up to each one's first success:
the simulator is put into every recorded state, so that any control mode will do. True progress tells two stages: until the
object is held, and from then on. Actions stay in the control mode of the recording, which demos.json names.
The last line is JSON: episodes, successes, failures by kind, seconds, and episodes a second of those recorded now.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from experiments.job.demonstrations import INTERRUPTED, DemosArguments, record
from experiments.runtime.arguments import parse
from experiments.runtime.ending import command, interruptible

Arguments = DemosArguments


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Record what is missing and say what there is."""
    arguments = parse(Arguments, argv, "dopamine demos", __doc__)
    with interruptible(INTERRUPTED):
        print(json.dumps(record(arguments)))


if __name__ == "__main__":
    main()
