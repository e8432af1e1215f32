"""Trains a reward model on recorded episodes, as a Ray Train job, or with torch and transformers alone.

    dopamine grm train raw --out grm
    dopamine grm train raw/pick raw/stack lerobot/pull --out grm --held-out 2 --sft.train.updates 1000
    dopamine grm train raw --out adapted --start-from grm --sft.train.loss hops
    torchrun --nproc-per-node 8 -m experiments.cli grm train raw --out grm --local --preset grm-3b --start-from models/grm-3b

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3; several hold several tasks. Successes teach with the
progress of their keyframes, failures with their simulator-true progress. The model is judged on the last N successes and failures
of every task, which it is not trained on. Interrupted or killed, the same command goes on where it was. The last line is JSON:
version, folder and the figures on those episodes.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopamine_rl.config import parse_cli
from dopamine_rl.errors import BadInput, DopamineError
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.hub import model_folder
from experiments.runtime.cluster import ClusterConfig
from experiments.runtime.console import Console
from experiments.runtime.ending import exit_with, interruptible

if TYPE_CHECKING:
    from dopamine_rl.episodes.stored import StoredEpisode
    from dopamine_rl.grm.fit import TrainingJob

PRESETS = Path(__file__).resolve().parents[1] / "presets" / "grm"


@dataclass(frozen=True)
class GRMTrainingConfig:
    """Training of a reward model."""

    grm: GRMConfig = field(default_factory=GRMConfig)
    """The model that is built, where none is started from."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """How it is trained."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Ray cluster, where none is joined."""


@dataclass(frozen=True)
class Command:
    """What a command that trains a reward model is called, and what holds where nothing else is said.

    Args:
        prog: its name. about: its description.
        preset: of settings. start_from: the model to begin with; "" builds a new one.
        shots: train on so many successes of every task alone; 0 takes all that are not held out.
        held_out: successes and failures of every task that the model is judged on.
    """

    prog: str
    about: str
    preset: str
    start_from: str
    shots: int
    held_out: int


TRAIN = Command("dopamine grm train", __doc__ or "", "laptop", "", 0, 3)


def parse(argv: Sequence[str] | None, command: Command = TRAIN) -> tuple[argparse.Namespace, GRMTrainingConfig]:
    """Parse the command line. Raises BadInput."""
    rest = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog=command.prog,
        usage=f"{command.prog} DATA [DATA …] --out MODEL [options]",
        description=command.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        metavar="MODEL",
        type=Path,
        help="where the model's folder shall lie; a model that is there is replaced",
    )
    parser.add_argument("--start-from", metavar="MODEL", default=command.start_from, help=f"a reward model to begin with (default: {command.start_from or 'a new one'})")  # fmt: skip
    parser.add_argument("--shots", metavar="N", type=int, default=command.shots, help="train on the first N successes of every task alone; 0 takes all episodes that are not held out (default: %(default)s)")  # fmt: skip
    parser.add_argument("--held-out", metavar="N", type=int, default=command.held_out, help="successes and failures of every task that it is judged on (default: %(default)s)")  # fmt: skip
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    parser.add_argument("--fresh", action="store_true", help="forget the state of an interrupted training")
    parser.add_argument(
        "--preset", metavar="NAME", default=command.preset, help="or a file PATH.toml (default: %(default)s)"
    )
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())
    # Folders first: behind an option that only the settings know, a word is that option's value.
    behind = next((place for place, word in enumerate(rest) if word.startswith("-")), len(rest))
    known, others = parser.parse_known_args(rest[behind:])
    config = parse_cli(GRMTrainingConfig, PRESETS, ["--preset", known.preset, *others], command.prog)
    known.command = f"{command.prog} {shlex.join(rest)}"
    known.data = [Path(word) for word in rest[:behind]]
    if not known.data:
        raise BadInput("DATA", "", "give the episodes' folders first")
    if known.out is None:
        raise BadInput("--out", "", "give the folder where the model shall lie")
    if len({folder.resolve() for folder in known.data}) < len(known.data):
        raise BadInput("DATA", [str(folder) for folder in known.data], "give every folder once")
    _check_replaceable(known.out.resolve(), known.data)
    for name, value in (("--held-out", known.held_out), ("--shots", known.shots)):
        if value < 0:
            raise BadInput(name, value, "give a number of episodes, or 0")
    if start := known.start_from or config.sft.start_from:  # a job's processes run in folders of their own
        config = replace(config, sft=replace(config.sft, start_from=str(model_folder(start).resolve())))
    return known, config


def _check_replaceable(out: Path, data: Sequence[Path]) -> None:
    """Only a reward model is ever replaced. Raises BadInput where `out` is something else, or holds or lies among the episodes."""
    for folder in map(Path.resolve, data):
        if out == folder or folder in out.parents or out in folder.parents:
            raise BadInput("--out", str(out), f"give a folder apart from the episodes in {folder}")
    if out.exists() and not (out / "grm.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(
            "--out", str(out), "that is no reward model and is not replaced: give a new folder, or a model's"
        )


def main(argv: Sequence[str] | None = None, command: Command = TRAIN) -> None:
    """Train, and print what came of it."""
    try:
        arguments, config = parse(argv, command)
        with interruptible("Interrupted; the same command goes on from the last saved state."):
            figures = run(arguments, config)
    except DopamineError as error:
        exit_with(error)
    if figures is not None:
        print(json.dumps(figures))


def run(arguments: argparse.Namespace, config: GRMTrainingConfig) -> dict[str, Any] | None:
    """Train on DATA but the episodes held out. Returns the figures, in process 0.

    Raises:
        BadInput: too few episodes, one that cannot be used, or the state of a training with other settings.
    """
    # A thread that spins while it waits takes the core its partner needs. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from dopamine_rl.episodes.stored import list_stored
    from dopamine_rl.grm.fit import TrainingJob, claim

    console, out = Console(), arguments.out.resolve()
    stored = [episode for folder in arguments.data for episode in list_stored(folder, config.sft.stride)]
    told: list[StoredEpisode] = []
    untold: list[StoredEpisode] = []
    for episode in stored:
        known = episode.info.success is not False or episode.info.true_progress is not None
        (told if known else untold).append(episode)
    if untold:
        names = ", ".join(episode.info.episode_id for episode in untold)
        console.say(f"failures left out, because nobody recorded their true progress: {names}")
    training, unseen = split(told, arguments.held_out, arguments.shots)
    card = {"data": [str(folder) for folder in arguments.data], "command": arguments.command}
    work = out.with_name(f"{out.name}.train")
    job = TrainingJob(config.sft, config.grm, tuple(training), tuple(unseen), work, card)
    console.say(f"{len(training)} episodes to train on, {len(unseen)} held out")
    if int(os.environ.get("RANK", "0")) == 0 and claim(job, arguments.fresh):
        console.say(f"  going on with the training in {work}")
    if arguments.local:
        if not _train_here(job, out, console):
            return None
    else:
        from experiments.runtime.cluster import ray_cluster

        with ray_cluster(config.cluster):
            from learner.grm_sft import train_grm

            train_grm(job, out, console.progress)
    content = json.loads((out / "grm.json").read_text(encoding="utf-8"))
    result = {name: content["card"]["result"][name] for name in ("update", "pairs_per_s", "mfu")}
    figures = {"demonstration": content["card"]["demonstration"], **content["card"].get("held_out", {})}
    return {"version": content["model_version"], "folder": str(out), **result, **figures}


def _train_here(job: TrainingJob, out: Path, console: Console) -> bool:
    """Train in this process, or in those that torchrun started; True in the first of them."""
    import torch

    from dopamine_rl.grm.fit import fit, publish

    device = torch.device("cpu")
    if job.config.use_gpu and not torch.cuda.is_available():
        raise BadInput("sft.use_gpu", True, "this machine has no GPU that torch can use: leave it out")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    elif job.config.workers > 1:
        raise BadInput("sft.workers", job.config.workers, "start as many processes by torchrun, or leave out --local")
    first = os.environ.get("RANK", "0") == "0"

    model = fit(job, device, on_progress=console.progress if first else lambda text, matters: None)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if model is not None:
        publish(job, out)
    return first


def split(
    episodes: Sequence[StoredEpisode], held_out: int, shots: int = 0
) -> tuple[list[StoredEpisode], list[StoredEpisode]]:
    """The episodes to train on, and those that the model is judged on.

    Args:
        held_out: the last so many successes and failures of every task are judged on; with `shots` those that come first.
        shots: train on the first so many successes of every task alone; 0 takes all that are not held out.
    Raises:
        BadInput: a task has too few successes to train on.
    """
    kinds: dict[tuple[str, bool], list[StoredEpisode]] = {}
    for episode in episodes:
        kinds.setdefault((episode.info.instructions[0], episode.info.success is not False), []).append(episode)
    training, unseen = set(), set()
    for (task, success), alike in kinds.items():
        if success and len(alike) <= (shots - 1 if shots else held_out):
            name, value = ("--shots", shots) if shots else ("--held-out", held_out)
            raise BadInput(name, value, f"there are {len(alike)} successful episodes of {task!r}")
        shown = (shots if success else 0) if shots else max(0, len(alike) - held_out)
        training |= {id(episode) for episode in alike[:shown]}
        unseen |= {id(episode) for episode in alike[shown : shown + held_out]}
    for task in {task for task, _ in kinds}:
        if (task, True) not in kinds:
            raise BadInput(
                "DATA", task, "give a successful episode of this task, with its keyframes (annotated_keyframes.json)"
            )
    return [e for e in episodes if id(e) in training], [e for e in episodes if id(e) in unseen]


if __name__ == "__main__":
    main()
