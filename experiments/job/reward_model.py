"""Trains a reward model on recorded episodes, for `dopamine grm train`, `grm adapt` and their benchmark."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from tyro.conf import Positional

from dopamine_rl.errors import BadInput, EpisodeError, require
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.folder import other_instructions, usable_model
from dopamine_rl.interfaces import no_progress
from dopamine_rl.texts import counted
from experiments.runtime.arguments import PRESETS as MAIN_PRESETS
from experiments.runtime.arguments import Cameras, ResultPath, option, parse_settings
from experiments.runtime.cluster import ClusterConfig
from experiments.runtime.console import Console
from experiments.runtime.ending import interruptible
from experiments.runtime.storage import check_folder, only_writer

if TYPE_CHECKING:
    from dopamine_rl.episodes.stored import StoredEpisode
    from dopamine_rl.grm.fit import TrainingJob
    from dopamine_rl.targets import FailureLabels

PRESETS = MAIN_PRESETS / "grm"


@dataclass(frozen=True)
class GRMTrainingConfig:
    """Config of a reward model's training."""

    grm: GRMConfig = field(default_factory=GRMConfig)
    """Architecture of a new model; ignored with --start-from."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    """Supervised fine-tuning."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """The Ray cluster to start, unless one is joined."""


@dataclass(frozen=True)
class TrainingArguments:
    """Data, output and initial model of a training."""

    data: Annotated[Positional[tuple[Path, ...]], option("DATA …", "")]
    """Raw episodes, folders of them, or LeRobotDatasets v3; different folders may hold different tasks."""
    out: Annotated[ResultPath, option("MODEL")]
    """Output folder of the model; an existing model is replaced."""
    start_from: Annotated[str, option("MODEL")] = ""
    """Reward model to start from; "" builds a new one."""
    shots: Annotated[int, option("N")] = 0
    """Train only on the first N successes per task; 0 uses all episodes that are not held out."""
    held_out: Annotated[int, option("N")] = 3
    """Held-out successes and failures per task, for evaluation."""
    cameras: Cameras = None
    """Cameras to use, separated by commas, the front view first."""
    local: bool = False
    """Train in this process, without Ray."""
    fresh: bool = False
    """Discard the state of an interrupted training and start again."""
    preset: Annotated[str, option("NAME")] = "laptop"
    """Sets every setting first: a name, or a file PATH.toml."""

    def __post_init__(self) -> None:
        if not self.data:
            raise BadInput("DATA", None, "give the episodes' folders")
        if len({folder.resolve() for folder in self.data}) < len(self.data):
            raise BadInput("DATA", [str(folder) for folder in self.data], "give each folder once")
        require(
            "",
            self,
            ("held_out", self.held_out >= 0, "give a number of episodes, or 0"),
            ("shots", self.shots >= 0, "give a number of episodes, or 0"),
        )


@dataclass(frozen=True)
class AdaptationArguments(TrainingArguments):
    """The same, with defaults for adapting to a new task from one demonstration."""

    start_from: Annotated[str, option("MODEL")] = "grm-mini"
    """Reward model to start from; "" builds a new one."""
    shots: Annotated[int, option("N")] = 1
    """Train only on the first N successes per task."""
    held_out: Annotated[int, option("N")] = 10
    """Held-out successes and failures per task, for evaluation."""
    preset: Annotated[str, option("NAME")] = "adapt"
    """Sets every setting first: a name, or a file PATH.toml."""

    def __post_init__(self) -> None:
        fix = "give at least 1; `dopamine grm train --start-from MODEL` trains on all episodes that are not held out"
        require("", self, ("shots", self.shots >= 1, fix))
        super().__post_init__()


Own = TypeVar("Own", bound=TrainingArguments)


def read_command(
    cls: type[Own], argv: Sequence[str] | None, prog: str, about: str | None
) -> tuple[Own, GRMTrainingConfig, str]:
    """Parse a command line. Returns the arguments, the settings, and the command for the model card.

    Args:
        cls, argv, prog, about: as for `parse_settings`.
    Raises:
        BadInput, CheckpointError: as `resolve`; also if an option is invalid.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments, config = parse_settings(cls, GRMTrainingConfig, words, prog, about, PRESETS)
    return arguments, resolve(arguments, config), f"{prog} {shlex.join(words)}"


def run_command(arguments: TrainingArguments, config: GRMTrainingConfig, command: str) -> None:
    """Train, and print the metrics as JSON."""
    with interruptible("Interrupted. Run the same command again to resume from the last checkpoint."):
        figures = run(arguments, config, command)
    if figures is not None:
        print(json.dumps(figures))


def resolve(arguments: TrainingArguments, config: GRMTrainingConfig) -> GRMTrainingConfig:
    """The config with the folder of the initial model filled in. Imports nothing heavy.

    Raises:
        BadInput: the output folder holds something other than a model, overlaps with the episodes, or cannot be
            written; the initial model cannot be used; there are no such episodes.
    """
    for folder in arguments.data:
        if not folder.is_dir():
            there = "this is a file" if folder.exists() else "there is no such folder"
            raise BadInput("DATA", str(folder), f"{there}: give a folder of raw episodes, or a LeRobotDataset v3")
    _check_replaceable(arguments.out.resolve(), arguments.data)
    check_folder(arguments.out, inside=arguments.out.resolve().parent)
    if start := arguments.start_from or config.sft.start_from:  # a job's processes have other working folders
        field = "--start-from" if arguments.start_from else "sft.start_from"
        return replace(config, sft=replace(config.sft, start_from=str(usable_model(start, field).resolve())))
    return config


MODEL_FILES = re.compile(
    r"grm\.json|README\.md|template\.json|curve\.jsonl"
    r"|(generation_|adapter_|preprocessor_|tokenizer_|processor_)?config\.json"
    r"|(added_tokens|special_tokens_map|tokenizer|vocab|video_preprocessor_config)\.json|merges\.txt|chat_template\.\w+"
    r"|(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|\.DS_Store"
)
"""File names in a reward model's folder."""


def _check_replaceable(out: Path, data: Sequence[Path]) -> None:
    """Refuse to replace anything but a reward model.

    Raises:
        BadInput: `out` holds something else, or overlaps with the episodes' folders.
    """
    for folder in map(Path.resolve, data):
        if out == folder or folder in out.parents or out in folder.parents:
            raise BadInput("--out", str(out), f"give a folder separate from the episodes in {folder}")
    check_folder(out)
    if out.exists() and not (out / "grm.json").is_file() and any(out.iterdir()):
        raise BadInput(
            "--out",
            str(out),
            "give a new folder, or a reward model's: this one is not a reward model and is not replaced",
        )
    others = sorted(path.name for path in out.iterdir() if not MODEL_FILES.fullmatch(path.name)) if out.exists() else []
    if others:
        names = ", ".join(others[:3])
        raise BadInput("--out", str(out), f"give a new folder: this one also holds other files ({names})")


def run(arguments: TrainingArguments, config: GRMTrainingConfig, command: str) -> dict[str, Any] | None:
    """Train on DATA without the held-out episodes. Returns the metrics, in process 0.

    Args:
        command: the command line, for the model card.
    Raises:
        BadInput: too few episodes, an unusable episode, or the state of a training with other settings.
    """
    # Spinning threads would take the core that their partner needs. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console, out = Console(), arguments.out.resolve()
    training, unseen = _choose_episodes(arguments, config, console)
    sft = _with_other_instructions(config.sft, training, console)
    from dopamine_rl.grm.fit import TrainingJob, claim  # imports torch, which takes seconds
    from dopamine_rl.provenance import provenance

    origin = provenance(preset=arguments.preset, seed=config.sft.train.seed)
    card = {"data": [str(folder) for folder in arguments.data], "command": command, "provenance": origin}
    work = out.with_name(f"{out.name}.train")
    job = TrainingJob(sft, config.grm, tuple(training), tuple(unseen), work, card)
    with ExitStack() as stack:
        if int(os.environ.get("RANK", "0")) == 0:
            work.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(work))
            if claim(job, arguments.fresh):
                console.say(f"  resuming the training in {work}")
        if arguments.local:
            if not _train_here(job, out, console):
                return None
        else:
            from experiments.runtime.cluster import ray_cluster

            stack.enter_context(ray_cluster(config.cluster))
            from learner.grm_sft import train_grm

            train_grm(job, out, console.progress)
    content = json.loads((out / "grm.json").read_text(encoding="utf-8"))
    result = {name: content["card"]["result"][name] for name in ("update", "pairs_per_s", "mfu")}
    figures = {"demonstration": content["card"]["demonstration"], **content["card"].get("held_out", {})}
    return {"version": content["model_version"], "folder": str(out), **result, **figures}


def _with_other_instructions(sft: SFTConfig, training: Sequence[StoredEpisode], console: Console) -> SFTConfig:
    """The settings with the instructions of other tasks that the initial model's card lists; prints those in use."""
    own = [words for episode in training for words in episode.info.instructions]
    if sft.start_from:
        sft = sft.with_other_instructions(other_instructions(Path(sft.start_from), own))
    if words := sft.train.plan.other_instructions:
        console.say(f"instructions of other tasks, besides those of DATA: {'; '.join(words)}")
    return sft


def _choose_episodes(
    arguments: TrainingArguments, config: GRMTrainingConfig, console: Console
) -> tuple[list[StoredEpisode], list[StoredEpisode]]:
    """The episodes to train on and the held-out ones; prints how many, and which are too short for some metrics."""
    from dopamine_rl.episodes.stored import failed_end
    from dopamine_rl.metrics import MIN_POINTS

    # With labels that a user has, failures stand beside the demonstrations; those of the truth would take their place.
    failures = config.sft.failures != "truth"
    episodes = _usable_episodes(arguments, config, console)
    training, unseen = split(episodes, arguments.held_out, arguments.shots, failures)
    if config.sft.failures == "outcome":
        training = [failed_end(episode) if episode.info.success is False else episode for episode in training]
    if failures:
        unseen = [e for e in unseen if e.info.success is not False or e.info.true_progress is not None]
    tries = sum(episode.info.success is False for episode in training)
    if config.sft.train.plan.failures and not tries:
        fix = "leave it out: there is no failure to train on (a failure has success=False in its transitions.npz)"
        raise BadInput("sft.train.plan.failures", config.sft.train.plan.failures, fix)
    kinds = f" ({counted(len(training) - tries, 'success')}, {counted(tries, 'failure')})" if tries else ""
    console.say(f"{counted(len(training), 'episode')} to train on{kinds}, {len(unseen)} held out")
    if short := [e.info.episode_id for e in (*training, *unseen) if e.info.frame_count < MIN_POINTS]:
        names = ", ".join(short)
        console.say(f"no VOC+, VOC− or rank correlation for episodes with fewer than {MIN_POINTS} frames kept: {names}")
    return training, unseen


def _usable_episodes(arguments: TrainingArguments, config: GRMTrainingConfig, console: Console) -> list[StoredEpisode]:
    """The episodes of DATA without those of unknown progress, which are reported: failures of which nothing that tells
    it was recorded, successes that pause or retreat, whose keyframes do not tell it, and successes with too few states.

    Raises:
        EpisodeError: no success is left, and one has too few states.
    """
    from dopamine_rl.episodes.pauses import wavers
    from dopamine_rl.episodes.states import too_few_states
    from dopamine_rl.episodes.stored import list_stored

    console.say_passed_over(arguments.data)
    usable: list[StoredEpisode] = []
    unlabelled: list[str] = []
    wavering: list[str] = []
    short: list[EpisodeError] = []
    for folder in arguments.data:
        for episode in list_stored(folder, config.sft.stride, arguments.cameras, console.progress):
            if episode.info.success is False and not _labelled(episode, config.sft.failures):
                unlabelled.append(episode.info.episode_id)
            elif episode.info.success is not False and wavers(episode.info.stages):
                wavering.append(episode.info.episode_id)
            elif episode.info.success is not False and (error := too_few_states(episode.info)) is not None:
                short.append(error)
            else:
                usable.append(episode)
    if unlabelled:
        names = ", ".join(unlabelled)
        lacking = "poses of the tool" if config.sft.failures == "path" else "true progress"
        console.say(f"skipping failures without recorded {lacking} (see --sft.failures outcome): {names}")
    if wavering:
        console.say(f"skipping successes that pause or retreat: {', '.join(wavering)}")
    if short and all(episode.info.success is False for episode in usable):
        raise short[0]
    for error in short:
        console.say(f"skipped: {error}")
    return usable


def _labelled(failure: StoredEpisode, failures: FailureLabels) -> bool:
    """Whether what was recorded of a failure tells its labels."""
    needed = {"truth": failure.info.true_progress, "path": failure.info.tool_poses}
    return failures not in needed or needed[failures] is not None


def _train_here(job: TrainingJob, out: Path, console: Console) -> bool:
    """Train in this process, or in the processes of torchrun; True in the one of rank 0."""
    import torch

    from dopamine_rl.grm.fit import fit, publish

    device = torch.device("cpu")
    if job.config.use_gpu and not torch.cuda.is_available():
        raise BadInput("sft.use_gpu", True, "leave it out: torch finds no GPU on this machine")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "RANK" in os.environ:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    elif job.config.workers > 1:
        raise BadInput(
            "sft.workers", job.config.workers, "start this many processes with torchrun, or leave out --local"
        )
    first = os.environ.get("RANK", "0") == "0"

    model = fit(job, device, on_progress=console.progress if first else no_progress)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if model is not None:
        publish(job, out)
    return first


def split(
    episodes: Sequence[StoredEpisode], held_out: int, shots: int = 0, failures: bool = False
) -> tuple[list[StoredEpisode], list[StoredEpisode]]:
    """Split episodes into training and held-out ones.

    Args:
        held_out: number of held-out successes and of held-out failures per task: the last ones; with `shots`, those
            right after the training episodes.
        shots: train only on this many first successes per task; 0 uses all that are not held out.
        failures: with `shots`, also train on all failures; none is held out.
    Raises:
        BadInput: a task has too few successes to train on.
    """
    kinds: dict[tuple[str, bool], list[StoredEpisode]] = {}
    for episode in episodes:
        kinds.setdefault((episode.info.instructions[0], episode.info.success is not False), []).append(episode)
    training, unseen = set(), set()
    for (task, success), group in kinds.items():
        if success and len(group) <= (shots - 1 if shots else held_out):
            name, value = ("--shots", shots) if shots else ("--held-out", held_out)
            most = len(group) if shots else len(group) - 1
            raise BadInput(name, value, f"give at most {most}, or record more successful episodes of {task!r}")
        rest = max(0, len(group) - held_out)
        count = rest if not shots else shots if success else len(group) if failures else 0
        training |= {id(episode) for episode in group[:count]}
        unseen |= {id(episode) for episode in group[count : count + held_out]}
    for task in {task for task, _ in kinds}:
        if (task, True) not in kinds:
            raise BadInput(
                "DATA", task, "give a successful episode of this task, with its keyframes (annotated_keyframes.json)"
            )
    return [e for e in episodes if id(e) in training], [e for e in episodes if id(e) in unseen]
