"""Records demonstrations that a person gives on a robot, as raw episodes.

    dopamine robot record 192.168.0.7:5601 --out raw --instruction "insert the plug" --views front wrist

Drive the robot in a second terminal, with `dopamine robot drive`, and say there with keys how each episode ended. What
was really executed is recorded. The episodes serve `dopamine grm adapt` and `--demonstrations.folder` (docs/robots.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import require
from experiments.runtime.arguments import ResultPath, option, parse
from experiments.runtime.ending import command, interruptible


@dataclass(frozen=True)
class Arguments:
    """The robot, and what is recorded."""

    address: Annotated[Positional[str], option("HOST:PORT")]
    """The robot's server."""
    out: ResultPath
    """Folder of raw episodes; new ones are added."""
    instruction: Annotated[str, option("TEXT")]
    """The task in words."""
    views: Annotated[tuple[str, ...], option("NAME …")]
    """Cameras, the front view first."""
    episodes: Annotated[int, option("N", aliases=("-n",))] = 1
    """Episodes to record; discarded ones do not count."""
    periods: Annotated[int, option("N")] = 600
    """Control periods after which an episode is cut off."""
    reset: Annotated[str, option("HOW")] = "person"
    """person, driver, none, or MODULE:CALLABLE, a script that gets the robot."""
    success: Annotated[str, option("HOW")] = "key"
    """key, or sensor:NAME."""
    image_size: Annotated[int, option("N")] = 112
    """Height and width of the pictures in pixels."""
    token_file: Annotated[Path | None, option("FILE", "the environment variable DOPAMINE_TOKEN")] = None
    """File with the server's token."""
    tls_ca: Annotated[Path | None, option("FILE", "")] = None
    """PEM file of the server's certificate; turns on TLS."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("episodes", self.episodes >= 1, "give at least 1"),
            ("periods", self.periods >= 2, "give at least 2"),
            ("image_size", 16 <= self.image_size <= 1024, "give 16 to 1024"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Record until enough episodes are there."""
    arguments = parse(Arguments, argv, "dopamine robot record", __doc__)
    from actors.robot_env import make
    from actors.robot_record import check_recording, record_episode
    from dopamine_rl.episodes.raw import list_episodes

    files = {name: str(file) for name in ("token_file", "tls_ca") if (file := getattr(arguments, name)) is not None}
    env = make(arguments.address, arguments.success, arguments.reset, image_size=arguments.image_size, **files)
    check_recording(env, arguments.views)
    print(f"Drive the robot in another terminal:  dopamine robot drive {arguments.address}", flush=True)
    number = len(list_episodes(arguments.out)) if arguments.out.exists() else 0
    kept = 0
    with interruptible("Interrupted; the episodes so far are kept."):
        while kept < arguments.episodes:
            name = f"robot_{number:06d}"
            print(f"{name}: waiting for the start, then recording …", flush=True)
            views, text = arguments.views, arguments.instruction
            outcome = record_episode(env, arguments.out, name, text, views, arguments.periods, number)
            print(f"{name}: {outcome}", flush=True)
            number, kept = number + (outcome != "discarded"), kept + (outcome != "discarded")
    env.close()


if __name__ == "__main__":
    main()
