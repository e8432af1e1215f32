"""The `dopamine` command: imports the command that the first words name and passes it the rest.

dopamine [GROUP] COMMAND …        or        python -m experiments.cli [GROUP] COMMAND …
dopamine --version
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dopamine_rl.provenance import describe
from dopamine_rl.spelling import one_of
from experiments.runtime.ending import UsageError, command


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Args:
        about: one line for the list of commands, at most 55 characters.
        module: defines `main(argv)`, which takes the words after the command's name; `Arguments`, the dataclass of the
            options; and `Settings`, the dataclass of a preset, if it takes one.
    """

    about: str
    module: str


@dataclass(frozen=True, slots=True)
class Group:
    """A group of related commands.

    Args:
        about: one line for the list of groups.
        commands: by name.
    """

    about: str
    commands: Mapping[str, Command | Group]


GRM = Group(
    "the General Reward Model: from images to progress",
    {
        "score": Command("score recorded episodes: progress and reward videos", "experiments.commands.grm_score"),
        "eval": Command("evaluate a model on held-out episodes", "experiments.commands.grm_eval"),
        "probe": Command("ask whether a model sees alignment before a hole", "experiments.commands.grm_probe"),
        "exploit": Command("search for episodes that a model overvalues", "experiments.commands.grm_exploit"),
        "adapt": Command("adapt the shipped model to a new task", "experiments.commands.grm_adapt"),
        "train": Command("train a model on recorded episodes", "experiments.commands.grm_train"),
        "pairs": Command("sample balanced training pairs from demonstrations", "experiments.commands.grm_pairs"),
        "deploy": Command("move a running service to another checkpoint", "experiments.commands.grm_deploy"),
        "import-template": Command(
            "add the training prompt to a released checkpoint", "experiments.commands.grm_import_template"
        ),
    },
)

ENV = Group(
    "an environment of your own",
    {"check": Command("play it and say what a training cannot use", "experiments.commands.env_check")},
)

ROBOT = Group(
    "a real robot, or its simulated twin",
    {
        "serve": Command("serve a robot to other computers, within its limits", "experiments.commands.robot_serve"),
        "check": Command("check a robot's driver", "experiments.commands.robot_check"),
        "limits": Command("check a limits file and show it", "experiments.commands.robot_limits"),
        "drive": Command("drive a robot by keyboard, or take over from a policy", "experiments.commands.robot_drive"),
        "record": Command("record demonstrations that a person gives", "experiments.commands.robot_record"),
        "twin": Command("serve a simulated robot, with faults", "experiments.commands.robot_twin"),
    },
)

BENCH = Group(
    "benchmarks of speed and quality",
    {
        "scorer": Command("scored frames per second, compared with transformers", "experiments.benchmarks.scorer"),
        "service": Command("reward service under load", "experiments.benchmarks.service"),
        "learner": Command("updates per second, compared with RLlib", "experiments.benchmarks.learner"),
        "actors": Command("cost of labelling for an actor", "experiments.benchmarks.actors"),
        "simulation": Command("many environments in one process, labelled", "experiments.benchmarks.simulation"),
        "scaling": Command("acting throughput with one slow actor", "experiments.benchmarks.scaling"),
        "training": Command("reward model training, compared with transformers", "experiments.benchmarks.training"),
        "fusion": Command("benefit of fusions and cameras", "experiments.benchmarks.fusion"),
        "reward-model": Command("reward model on unseen tasks", "experiments.benchmarks.reward_model"),
    },
)

CHAOS = Group(
    "faults on purpose, and what they cost",
    {
        "reward-service": Command("break a service, and count lost labels", "experiments.chaos.reward_service"),
        "robot": Command("break a simulated robot, and see it hold", "experiments.chaos.robot"),
    },
)

DOPAMINE = Group(
    "progress rewards from a vision-language model for robot learning",
    {
        "train": Command("the main job: demonstrations, reward model, policy, report", "experiments.peg_insert"),
        "sweep": Command("search for settings: many trials, one reward model", "experiments.sweep"),
        "compare": Command("compare settings: the same training, arms and seeds", "experiments.commands.compare"),
        "evaluate": Command("measure the success rate of a policy", "experiments.commands.evaluate"),
        "show": Command("show runs and their episodes in a browser", "experiments.commands.show"),
        "audit": Command("rescore a run's episodes and compare", "experiments.commands.audit"),
        "serve": Command("serve a reward model over HTTP", "experiments.commands.serve"),
        "demos": Command("record simulated demonstrations and failures", "experiments.commands.demos"),
        "convert": Command("convert recorded episodes to a LeRobotDataset v3", "experiments.commands.convert"),
        "env": ENV,
        "robot": ROBOT,
        "grm": GRM,
        "bench": BENCH,
        "chaos": CHAOS,
        "doctor": Command("check this machine and say how to fix what is missing", "experiments.commands.doctor"),
        "completion": Command("print a completion script for bash or zsh", "experiments.commands.completion"),
    },
)
"""All commands. To add one, add a line here and a module with `main(argv)`."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first words name with the remaining words."""
    words = list(argv or ())
    name, entry = "dopamine", DOPAMINE
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(listing(name, entry))
            raise SystemExit(0)
        if words[0] == "--version" and entry is DOPAMINE:
            print(describe())
            raise SystemExit(0)
        member = entry.commands.get(words[0])
        if member is None:
            raise _unknown(words[0], entry)
        name, words = f"{name} {words[0]}", words[1:]
        if isinstance(member, Command):
            importlib.import_module(member.module).main(words)
            return
        entry = member


def listing(name: str, group: Group) -> str:
    """The `--help` text of a group: at most 24 lines of 80 columns."""
    width = max(map(len, group.commands))
    rows = [f"  {member.ljust(width)}  {entry.about}" for member, entry in group.commands.items()]
    about = group.about[0].upper() + group.about[1:]
    head = [f"usage: {name} COMMAND …", "", f"{about}.", "", "commands:"]
    return "\n".join([*head, *rows, "", f"See `{name} COMMAND --help` for the options of a command."])


def _unknown(word: str, group: Group) -> UsageError:
    paths = [path for path, _ in every_command() if path[-1] == word]
    if paths:
        return UsageError("COMMAND", word, f"use dopamine {' '.join(paths[0])}")
    return UsageError("COMMAND", word, one_of(word, list(group.commands)))


def every_command(group: Group = DOPAMINE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """Yield every command with the words that name it."""
    for name, entry in group.commands.items():
        if isinstance(entry, Command):
            yield (*path, name), entry
        else:
            yield from every_command(entry, (*path, name))


if __name__ == "__main__":
    main()
