"""Converts recorded episodes to a LeRobotDataset v3.

    dopamine convert raw dataset
    dopamine convert raw dataset --encode

DATA is a folder of raw episodes, one raw episode, or another LeRobotDataset v3. All episodes need the same
cameras, image sizes and frame rate. --instruction gives the task of episodes that name none.

The dataset contains the videos, the task, success labels where known, subtasks if every episode is annotated,
and LeRobot's statistics; states and actions too where DATA is raw and every frame has them, as in recordings of
a robot (an action is what was done after its frame; the last is 0). It contains no ground-truth progress.

Video streams are copied without re-encoding where possible; --encode re-encodes them all. OUT is written
completely or not at all, and an existing folder is never changed. The last line is JSON: out, episodes, frames,
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
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.errors import require
from experiments.runtime.arguments import AllCameras, ResultPath, option, parse
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import check_new_folder


@dataclass(frozen=True)
class Arguments:
    """The episodes to convert, and where to write them."""

    data: Annotated[Positional[Path], option("DATA")]
    """A folder of episodes."""
    out: Annotated[Positional[ResultPath], option("OUT")]
    """The dataset's folder. It must not exist yet."""
    encode: bool = False
    """Re-encode all videos as H.264, which every player supports, instead of copying the streams."""
    lossless: bool = False
    """Re-encode losslessly. Files are larger, and some players cannot show them."""
    cameras: AllCameras = None
    """Cameras to use, separated by commas, the front view first."""
    instruction: Annotated[str, option("TEXT", "")] = ""
    """Task of the episodes that name none; the others keep theirs."""
    episodes_per_file: Annotated[int, option("N")] = 100
    """Episodes per data and video file."""

    def __post_init__(self) -> None:
        require("", self, ("episodes_per_file", self.episodes_per_file >= 1, "give at least 1"))


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Write the dataset and print a summary."""
    arguments = parse(Arguments, argv, "dopamine convert", __doc__)
    with interruptible("Interrupted. Nothing was written."):
        print(json.dumps(convert(arguments)))


def convert(arguments: Arguments) -> dict[str, Any]:
    """Write the dataset and return its summary.

    Raises:
        BadInput: OUT exists, there are no episodes, an episode is malformed, or the episodes do not match.
    """
    out: Path = arguments.out.resolve()
    check_new_folder(out, "OUT", arguments.data)
    console = Console()
    console.say_passed_over([arguments.data])
    source = open_source(arguments.data, arguments.cameras)
    for note in source.notes:
        console.say(note)
    write_dataset(
        out,
        source,
        arguments.episodes_per_file,
        arguments.lossless,
        not arguments.encode,
        console.progress,
        arguments.instruction,
    )
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
