"""What the command lines of the experiments share: a preset, overrides, and where results go."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dopamine_rl.config import load_preset, parse_cli, preset_names
from dopamine_rl.errors import BadInput

Config = TypeVar("Config")
PRESETS = Path(__file__).resolve().parents[1] / "presets"
DEFAULT_PRESET = "laptop"


@dataclass(frozen=True)
class RunArguments:
    """Where a run's results go.

    Args:
        out: the run's own folder, a path or URI; None for `storage`/`name`.
        storage: the folder of all runs, a path or URI; None for the default.
        fresh: do again what an earlier run in the folder has done.
        force: train although the reward model failed its gate.
        preset: name or file that the settings were taken from.
    """

    out: str | None
    storage: str | None
    fresh: bool = False
    force: bool = False
    preset: str = DEFAULT_PRESET


def add_cameras(parser: argparse._ActionsContainer, most: int | None = 3) -> None:
    """Add --cameras to a command that takes recordings; `most` says how many it can use."""

    def names(text: str) -> tuple[str, ...]:
        given = tuple(name.strip() for name in text.split(","))
        if not all(given) or len(set(given)) < len(given) or (most is not None and len(given) > most):
            limit = "" if most is None else f", {most} at most"
            raise argparse.ArgumentTypeError(f"{text!r}: name each camera once, joined by commas{limit}")
        return given

    about = "cameras to use, by commas, the front view first: features of a dataset or unique parts of their names, "
    about += "videos of a folder without .mp4 (default: up to three, the front view told by its name)"
    parser.add_argument("--cameras", type=names, metavar="NAMES", help=about)


def read_preset(cls: type[Config], name: str, option: str) -> Config:
    """A preset's settings. Raises BadInput, naming the option, where there is no such preset."""
    names = preset_names(PRESETS)
    if name not in names:
        raise BadInput(option, name, f"name one of {', '.join(names)}")
    return load_preset(cls, PRESETS / f"{name}.toml")


def parse_run(cls: type[Config], argv: Sequence[str] | None, prog: str, about: str) -> tuple[RunArguments, Config]:
    """Parse a run's command line: --out, --storage, --preset, and an override for every setting.

    Args:
        cls: the settings' dataclass.
        argv: arguments without the program's name; None takes the process's own.
        prog: the program's name in help and errors.
        about: text that the help begins with.
    Raises:
        BadInput: as for dopamine_rl.config.parse_cli.
    """
    rest = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="this run's folder, a path or URI (default: STORAGE/NAME)")
    parser.add_argument(
        "--storage",
        metavar="DIR",
        help="folder of all runs, a path or URI (default: runs/ of the checkout, ~/dopamine_rl/runs in a submitted job, "
        "or the environment variable DOPAMINE_STORAGE)",
    )
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run in this folder has done")
    parser.add_argument(
        "--force", action="store_true", help="train although the reward model failed its gate; the result records it"
    )
    parser.add_argument(
        "--preset", metavar="NAME", default=DEFAULT_PRESET, help=f"or a file PATH.toml (default: {DEFAULT_PRESET})"
    )
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())
    known, rest = parser.parse_known_args(rest)
    config = parse_cli(cls, PRESETS, ["--preset", known.preset, *rest], prog)
    return RunArguments(known.out, known.storage, known.fresh, known.force, known.preset), config
