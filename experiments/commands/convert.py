"""Writes recorded episodes as a LeRobotDataset v3, the format that LeRobot and most tools around it read.

    dopamine convert raw dataset
    dopamine convert raw dataset --lossless

RAW is a folder of raw episodes, one raw episode, or another LeRobotDataset v3. All episodes need the same cameras, picture sizes
and rate. The dataset holds their pictures, their task, their sub-tasks where every episode is annotated, and whether they
succeeded where that is known; no actions, no states, no true progress. OUT appears complete or not at all, and one that is there
is not touched. The last line is JSON: where the dataset is, episodes, frames, cameras and seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.source import check_instructions, open_source
from dopamine_rl.errors import BadInput, require
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.types import EpisodeInfo
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
    lossless: bool = False
    """Keep every picture bit for bit; takes more room, and some players do not show it."""
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
    opened = open_source(arguments.raw, arguments.cameras)
    source = _Watched(opened, console)
    check_instructions(source.episodes())
    for note in opened.notes:
        console.say(note)
    write_dataset(out, source, arguments.episodes_per_file, arguments.lossless)
    episodes = source.episodes()
    return {
        "out": str(out),
        "episodes": len(episodes),
        "frames": sum(info.frame_count for info in episodes),
        "cameras": list(episodes[0].cameras),
        "seconds": round(console.elapsed_s, 1),
    }


class _Watched:
    """A source, listed once, that says how many of its frames have been asked for."""

    def __init__(self, source: EpisodeSource, console: Console) -> None:
        self._source, self._console = source, console
        self._episodes = list(source.episodes())
        self._asked, self._frames = 0, sum(info.frame_count for info in self._episodes)

    def episodes(self) -> list[EpisodeInfo]:
        """See EpisodeSource."""
        return self._episodes

    def frames(
        self, episode_id: str, frame_ids: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """See EpisodeSource."""
        pictures = self._source.frames(episode_id, frame_ids, size)
        self._asked += len(frame_ids)
        self._console.progress(f"{self._asked} of {self._frames} frames", self._asked == self._frames)
        return pictures


if __name__ == "__main__":
    main()
