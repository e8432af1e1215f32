"""The `dopamine` command: groups of commands, each in a module of its own that is imported when it is asked for.

dopamine GROUP COMMAND …        or        python -m experiments.cli GROUP COMMAND …
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.runtime.ending import command


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do.

    Args:
        about: one line for the list of commands.
        module: has `main(argv)`, which gets the words after the command's name.
    """

    about: str
    module: str


@dataclass(frozen=True, slots=True)
class Group:
    """Commands about one thing.

    Args:
        about: one line for the list of groups.
        commands: by name.
    """

    about: str
    commands: Mapping[str, Command | Group]


DOPAMINE = Group(
    "Progress rewards from a vision-language model for robot learning.",
    {
        "demos": Command(
            "simulated demonstrations and failures of a task, or trajectories of ManiSkill",
            "experiments.commands.demos",
        ),
        "convert": Command("recorded episodes to a LeRobotDataset v3", "experiments.commands.convert"),
        "grm": Group(
            "the General Reward Model: pictures in, progress out",
            {
                "pairs": Command(
                    "balanced training pairs of demonstrations, counted and written as items",
                    "experiments.commands.grm_pairs",
                ),
                "train": Command(
                    "a reward model from recorded episodes, whole or interrupted", "experiments.commands.grm_train"
                ),
                "adapt": Command(
                    "the shipped reward model to a new task, from one demonstration", "experiments.commands.grm_adapt"
                ),
                "score": Command("progress and reward videos for recorded episodes", "experiments.commands.grm_score"),
                "import-template": Command(
                    "the wording that a released checkpoint was trained with, from its authors' repository",
                    "experiments.commands.grm_import_template",
                ),
                "deploy": Command("move a running reward service to other weights", "experiments.commands.grm_deploy"),
                "eval": Command(
                    "figures of a reward model on unseen episodes, with intervals", "experiments.commands.grm_eval"
                ),
            },
        ),
    },
)
"""Every command. A new one is a line here and a module with `main(argv)`."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Find the command that the first words name, and hand it the rest."""
    words = list(sys.argv[1:] if argv is None else argv)
    name, entry = "dopamine", DOPAMINE
    while True:
        chosen = _choose(name, entry, words)
        name, found = f"{name} {chosen}", entry.commands[chosen]
        words = words[1:]
        if isinstance(found, Command):
            importlib.import_module(found.module).main(words)
            return
        entry = found


def _choose(name: str, group: Group, words: Sequence[str]) -> str:
    """The member of a group that the first word names; help and errors end the process as argparse does."""
    parser = argparse.ArgumentParser(
        prog=name, description=group.about[0].upper() + group.about[1:], epilog=f"`{name} COMMAND --help` says more."
    )
    members = parser.add_subparsers(title="commands", metavar="COMMAND", dest="chosen", required=True)
    for member, entry in group.commands.items():
        members.add_parser(member, help=entry.about, add_help=False)
    return str(parser.parse_args(words[:1] or ["--help"]).chosen)


if __name__ == "__main__":
    main()
