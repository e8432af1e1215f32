"""Writes recorded episodes as a LeRobotDataset v3, the format that LeRobot and most tools around it read.

    dopamine convert raw dataset
    dopamine convert raw dataset --encode

RAW is a folder of raw episodes, one raw episode, or another LeRobotDataset v3. All episodes need the same cameras, picture sizes
and rate. The dataset holds their pictures, their task, their sub-tasks where every episode is annotated, whether they succeeded
where that is known, and LeRobot's statistics; no actions, no states, no true progress. Video streams are copied as they are;
only an episode whose stream cannot be taken out of its file, or has another format than the others, is encoded anew. OUT appears
complete or not at all, and one that is there is not touched. The last line is JSON: where the dataset is, episodes, frames,
cameras and seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from dopamine_rl.episodes.lerobot import read_info
from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.source import check_instructions, open_source
from dopamine_rl.errors import BadInput, require
from experiments.runtime.arguments import AllCameras, ResultPath, option, parse
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible


@dataclass(frozen=True)
class Arguments:
    """What becomes a dataset, and where."""

    raw: Annotated[Positional[Path], option("RAW")]
    """A folder of episodes."""
    out: Annotated[Positional[ResultPath], option("OUT")]
    """The dataset's folder, which must not be there yet."""
    encode: bool = False
    """Encode every picture anew, as H.264 that every player shows, instead of copying streams."""
    lossless: bool = False
    """Keep pictures that are encoded bit for bit; takes more room, and some players do not show it."""
    cameras: AllCameras = None
    """Cameras to use, by commas, the front view first."""
    episodes_per_file: Annotated[int, option("N")] = 100
    """Episodes in one data and video file."""

    def __post_init__(self) -> None:
        require("", self, ("episodes_per_file", self.episodes_per_file >= 1, "give at least 1"))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Write the dataset and say what is in it."""
    arguments = parse(Arguments, argv, "dopamine convert", __doc__)
    with interruptible("Interrupted. Nothing was written."):
        print(json.dumps(convert(arguments)))


def convert(arguments: Arguments) -> dict[str, Any]:
    """Write the dataset, and return what the last line says.

    Raises:
        BadInput: OUT is there, there is no episode, an episode is malformed, or they do not fit together.
    """
    out: Path = arguments.out.resolve()
    if out.exists():
        raise BadInput("OUT", str(out), "name a folder that is not there yet")
    console = Console()
    console.say_passed_over([arguments.raw])
    source = open_source(arguments.raw, arguments.cameras)
    check_instructions(source.episodes())
    for note in source.notes:
        console.say(note)

    def say(done: int, total: int) -> None:
        console.progress(f"{done} of {total} frames", done == total)

    write_dataset(out, source, arguments.episodes_per_file, arguments.lossless, not arguments.encode, say)
    info = read_info(out)
    return {
        "out": str(out),
        "episodes": info["total_episodes"],
        "frames": info["total_frames"],
        "cameras": [name for name, feature in info["features"].items() if feature["dtype"] == "video"],
        "seconds": round(console.elapsed_s, 1),
    }


if __name__ == "__main__":
    main()
