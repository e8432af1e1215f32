"""Records demonstrations and failures of a simulated task as raw episodes.

    dopamine demos PickCube -n 50 --failures 50
    dopamine demos PickCube --trajectories trajectory.h5 -n 50
    dopamine demos StackCube -n 0 --failures 20 --kind near_miss --kind drop --out raw/misses --seed 5000
    dopamine demos PegInsertionSide -n 16 --env laptop --look light
    dopamine demos PegInsertionSide -n 8 --kind pause --kind retry --failures 8 --kind oscillate --kind beside
    dopamine demos LiftPegUpright --policy lift.safetensors -n 40 --views front,wrist
    dopamine demos PushCube-v1 --trajectories trajectory.h5

The task's scripted expert records the successes. Failures cycle through the task's kinds; half of them are near
misses. --kind chooses others, behaviour that fools rewards among them. Every episode also stores the simulator's
ground-truth progress.

Episodes are reproducible: each has its own seed, and the number of workers does not matter. With another --look
the same episodes are recorded with another appearance. Existing episodes are reused, so the same command resumes
an interrupted recording, and a larger -n adds episodes.

--trajectories replays a recording of ManiSkill's RecordEpisode (FILE.h5 with FILE.json beside it) up to the first
success of each trajectory. It restores every recorded state, so any control mode works; actions stay in the
control mode of the recording (see demos.json). Ground-truth progress then has two stages: before and after the
grasp.

Any other task of ManiSkill takes its demonstrations from such a file, or from a policy (--policy; docs/maniskill.md
says how one is trained). Both outcomes are kept, true progress is not known, and actions are those of --control-mode
in [-1, 1]. Each episode of a policy says in actor.json who acted and on what it was trained.

The last line is JSON: episodes, successes, failures by kind, seconds, and episodes recorded per second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from experiments.job.any_demonstrations import is_any, record_any
from experiments.job.demonstrations import INTERRUPTED, DemosArguments, record
from experiments.runtime.arguments import parse
from experiments.runtime.ending import command, interruptible

Arguments = DemosArguments


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Record the missing episodes and print a summary."""
    arguments = parse(Arguments, argv, "dopamine demos", __doc__)
    with interruptible(INTERRUPTED):
        print(json.dumps(record_any(arguments) if is_any(arguments) else record(arguments)))


if __name__ == "__main__":
    main()
