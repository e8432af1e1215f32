"""The `dopamine` command: finds the command that the first words name, imports it, and hands it the rest.

dopamine [GROUP] COMMAND …        or        python -m experiments.cli [GROUP] COMMAND …
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.runtime.ending import UsageError, command


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do.

    Args:
        about: one line for the list of commands.
        module: has `main(argv)`, which gets the words after the command's name; `Arguments`, the dataclass of its options;
            and where it takes a preset `Settings`, the dataclass of these.
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


GRM = Group(
    "the General Reward Model: pictures in, progress out",
    {
        "score": Command("progress and reward videos of recorded episodes", "experiments.commands.grm_score"),
        "eval": Command("figures on unseen episodes, with intervals", "experiments.commands.grm_eval"),
        "adapt": Command("the shipped model to a new task, from a demonstration", "experiments.commands.grm_adapt"),
        "train": Command("a model from recorded episodes", "experiments.commands.grm_train"),
        "pairs": Command("balanced pairs of demonstrations, counted and written", "experiments.commands.grm_pairs"),
        "deploy": Command("move a running service to other weights", "experiments.commands.grm_deploy"),
        "import-template": Command(
            "the wording that a released checkpoint was trained with", "experiments.commands.grm_import_template"
        ),
    },
)

BENCH = Group(
    "speed and quality, measured side by side with the usual way",
    {
        "scorer": Command("scored frames a second, beside transformers", "experiments.benchmarks.scorer"),
        "service": Command("the reward service under load", "experiments.benchmarks.service"),
        "learner": Command("updates a second, beside RLlib and a bare loop", "experiments.benchmarks.learner"),
        "actors": Command("what labelling costs an actor", "experiments.benchmarks.actors"),
        "scaling": Command("whether actors wait for each other", "experiments.benchmarks.scaling"),
        "training": Command("training a reward model, beside transformers", "experiments.benchmarks.training"),
        "fusion": Command("what fusions and cameras are worth", "experiments.benchmarks.fusion"),
        "reward-model": Command("trust on tasks never seen", "experiments.benchmarks.reward_model"),
    },
)

DOPAMINE = Group(
    "progress rewards from a vision-language model for robot learning",
    {
        "train": Command("the main job: demonstrations, reward model, policy, report", "experiments.peg_insert"),
        "sweep": Command("search settings: many trainings, one reward model", "experiments.sweep"),
        "compare": Command("equal trainings under different rewards", "experiments.sweeps.comparison"),
        "evaluate": Command("success of one policy on unseen seeds", "experiments.commands.evaluate"),
        "audit": Command("score a run's episodes again and compare", "experiments.commands.audit"),
        "serve": Command("a reward model over HTTP", "experiments.commands.serve"),
        "demos": Command("record simulated demonstrations and failures", "experiments.commands.demos"),
        "convert": Command("recorded episodes to a LeRobotDataset v3", "experiments.commands.convert"),
        "grm": GRM,
        "bench": BENCH,
        "chaos": Command("break a reward service on purpose, count what is lost", "experiments.chaos.__main__"),
        "doctor": Command("what this machine lacks, and how to mend it", "experiments.commands.doctor"),
        "completion": Command("a script that lets your shell complete all this", "experiments.commands.completion"),
    },
)
"""Every command. A new one is a line here and a module with `main(argv)`."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Find the command that the first words name, and hand it the rest."""
    words = list(argv or ())
    name, entry = "dopamine", DOPAMINE
    while True:
        if not words or words[0] in ("-h", "--help"):
            print(listing(name, entry))
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
    """What `--help` says of a group: a screen of at most 24 lines of 80 columns."""
    width = max(map(len, group.commands))
    rows = [f"  {member.ljust(width)}  {entry.about}" for member, entry in group.commands.items()]
    about = group.about[0].upper() + group.about[1:]
    head = [f"usage: {name} COMMAND …", "", f"{about}.", "", "commands:"]
    return "\n".join([*head, *rows, "", f"`{name} COMMAND --help` says more."])


def _unknown(word: str, group: Group) -> UsageError:
    near = difflib.get_close_matches(word, group.commands, 1)
    inside = [path for path, _ in every_command() if path[-1] == word]
    if inside:
        return UsageError("COMMAND", word, f"write dopamine {' '.join(inside[0])}")
    if near:
        return UsageError("COMMAND", word, f"write {near[0]}")
    return UsageError("COMMAND", word, f"give one of {', '.join(group.commands)}")


def every_command(group: Group = DOPAMINE, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Command]]:
    """The words that name each command, and the command."""
    for name, entry in group.commands.items():
        if isinstance(entry, Command):
            yield (*path, name), entry
        else:
            yield from every_command(entry, (*path, name))


if __name__ == "__main__":
    main()
