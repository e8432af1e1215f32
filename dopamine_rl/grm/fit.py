"""Training in one process, from recorded episodes to a model folder, alone or as part of a distributed job, without Ray.

The training state for resuming is one file, however training is run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dopamine_rl.episodes.stored import StoredEpisode, StoredPictures, decode_all, decoded_bytes, picture_shape
from dopamine_rl.errors import BadInput
from dopamine_rl.files import becomes, remove, write_atomically, write_folder_atomically
from dopamine_rl.grm.adapters import add_lora, save_adapter
from dopamine_rl.grm.batches import Batches, BatchSampler, from_memory
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.evaluate import evaluate, spread
from dopamine_rl.grm.labels import LabelledEpisode, label
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.train import Trainer, TrainProgress, train
from dopamine_rl.grm.vision import picture_size
from dopamine_rl.interfaces import OnProgress

MODEL, STATE, SETTINGS = "model", "state.pt", "settings.json"
"""In a job's folder: the finished model, the training state, and the settings that it belongs to."""
CURVE = "curve.jsonl"
"""In a model's folder: loss and held-out metrics at every checkpoint of training."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """The settings of a training job, for all of its processes.

    Args:
        config: training settings, including the number of processes.
        grm: shape of the model to build if `config.start_from` is empty.
        episodes: training episodes, labelled by keyframes (successes) or the simulator's true progress (failures).
        held_out: episodes for evaluation during and after training, with at least one success per task; may be empty.
        work: folder of the job's state, shared by all nodes.
        card: content of the model card besides the training results.
    Raises:
        BadInput: `episodes` is empty.
    """

    config: SFTConfig
    grm: GRMConfig
    episodes: tuple[StoredEpisode, ...]
    held_out: tuple[StoredEpisode, ...]
    work: Path
    card: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.episodes:
            raise BadInput("episodes", (), "give at least one episode to train on")

    def settings(self) -> dict[str, Any]:
        """All settings that the resulting weights depend on: JSON values by dotted name."""
        model = {"sft.start_from": model_version(self.config.start_from)} if self.config.start_from else {}
        flat = model or _flat("grm", asdict(self.grm))
        flat |= _flat("sft.train", asdict(self.config.train)) | {"sft.stride": self.config.stride}
        flat |= _flat("sft.lora", asdict(self.config.lora)) if self.config.lora.rank else {}
        infos = [(str(stored.folder), stored.info) for stored in self.episodes]
        data = [(folder, info.episode_id, info.frame_count, info.cameras) for folder, info in infos]
        return flat | {"DATA": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12], "episodes": len(data)}


def _flat(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
    return flat


def claim(job: TrainingJob, fresh: bool = False) -> bool:
    """Prepare a job's folder; returns True if it has the state of an interrupted training, to be resumed.

    Args:
        fresh: discard such a state.
    Raises:
        BadInput: the state belongs to a job with other settings, or the folder contains other files.
    """
    _check_own(job.work)
    if fresh and job.work.is_dir():
        for path in job.work.glob("[!.]*"):  # hidden files are locks of a running job
            remove(path)
    settings, path, resumed = job.settings(), job.work / SETTINGS, (job.work / STATE).exists()
    if resumed:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        for name in settings.keys() | earlier.keys():
            if settings.get(name) != earlier.get(name):
                fix = f"the training in {job.work} began with {earlier.get(name)!r}: give that again, or --fresh"
                raise BadInput(name, settings.get(name), fix)
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(settings, indent=2), encoding="utf-8"))
    return resumed


def _check_own(work: Path) -> None:
    """Raise BadInput if a job's folder, which is removed at the end, contains files that training did not write."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise BadInput(
            "--out", str(work), "move this away, or give another --out: training needs a folder of this name"
        )
    if not work.is_dir():
        return
    ours = re.compile(rf"{MODEL}|{re.escape(STATE)}|{re.escape(SETTINGS)}|grm_sft_[0-9a-f]{{8}}|\.lock|\.DS_Store")
    names = (becomes(path.name) or path.name for path in work.iterdir())
    foreign = sorted(name for name in names if not ours.fullmatch(name))
    if not foreign and (work / SETTINGS).exists() and not _is_settings(work / SETTINGS):
        foreign = [SETTINGS]
    if foreign:
        fix = f"move this folder away, or give another --out: no training wrote {', '.join(foreign[:3])} in it"
        raise BadInput("--out", str(work), fix)


def _is_settings(path: Path) -> bool:
    """Whether a file was written by `claim`."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and "DATA" in settings


def publish(job: TrainingJob, out: Path) -> Path:
    """Move the finished model to `out`, replacing a previous one, and remove the job's folder.

    Files are moved, because a full disk has no room for a second copy.
    """

    def move(target: Path) -> None:
        for path in (job.work / MODEL).iterdir():
            shutil.move(path, target / path.name)

    write_folder_atomically(out, move)
    shutil.rmtree(job.work)
    return out


Stream = Callable[[BatchSampler, Sequence[StoredEpisode], tuple[int, int], SFTConfig], Batches]
"""Streams batches of episodes that do not fit into memory, with images of a given size (height, width)."""


def threads(
    sampler: BatchSampler, episodes: Sequence[StoredEpisode], size: tuple[int, int], config: SFTConfig
) -> Batches:
    """A stream that decodes images in threads of this process."""
    return sampler.batches(StoredPictures(episodes, size, config.memory_mb * 2**20), config.decoders)


def fit(
    job: TrainingJob,
    device: torch.device,
    stream: Stream = threads,
    on_progress: OnProgress = lambda text, matters: None,
) -> Path | None:
    """Train, resuming from the state in the job's folder if there is one, and write the model's folder there.

    Under torch.distributed every process of the job must call it.

    Args:
        device: of this process.
        stream: used if the images do not fit into memory.
        on_progress: called for every decoded episode, after every update, and with held-out metrics at every checkpoint
            and at the end.
    Returns:
        The model's folder, in process 0.
    Raises:
        BadInput: episodes that cannot be used for training. EpisodeError: an episode cannot be read.
        CheckpointError: the initial model or the training state is unusable.
    """
    config = job.config
    torch.set_num_threads(config.threads)
    grm = start(job)
    grm.model.to(device, torch.float32)
    size = picture_size(grm.image_processor, *picture_shape(job.episodes[0]))
    exams = make_exams(job, size)
    trainer = Trainer(grm, make_batches(job, size, stream, on_progress), config.train, config.sharded)
    first = trainer.process.rank == 0
    state, curve = job.work / STATE, list[dict[str, float | None]]()
    if state.exists():
        content = torch.load(state, map_location="cpu", weights_only=True)
        trainer.load_state_dict(content)
        curve += content.get("curve", [])

    def save_state(update: int, content: dict[str, Any]) -> None:
        """Save the state, but keep training if that fails: the next attempt may succeed."""
        try:
            write_atomically(state, lambda path: torch.save(content | {"curve": curve}, path))
        except OSError as error:
            on_progress(f"the training state of update {update} could not be saved: {error.strerror or error}", True)

    evaluated: dict[int, dict[str, dict[str, float]]] = {}

    def evaluate_now(progress: TrainProgress) -> dict[str, dict[str, float]]:
        if progress.update in evaluated:
            return evaluated[progress.update]
        with trainer.gathered():
            tasks = evaluated[progress.update] = (
                figures_or_none(judge, "held-out", grm, exams, on_progress) if first else {}
            )
        if figures := mean_figures(tasks):
            text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            on_progress(f"update {progress.update}, held out: {text}", True)
        row = {"update": progress.update, "loss": progress.loss, "hop_error": progress.hop_error, **figures}
        curve[:] = [*(earlier for earlier in curve if earlier["update"] != progress.update), row]
        return tasks

    def each_update(progress: TrainProgress) -> None:
        on_progress(str(progress), False)
        if progress.update % config.checkpoint_updates == 0:
            content = trainer.state_dict()
            evaluate_now(progress)
            if first:
                save_state(progress.update, content)

    progress = train(trainer, each_update)
    if progress.update % config.checkpoint_updates:  # saved before evaluation, so that a crash there costs no training
        content = trainer.state_dict()
        if first:
            save_state(progress.update, content)
    tasks = evaluate_now(progress)
    figures = mean_figures(tasks)
    card = {**job.card, "training": asdict(config.train), "result": asdict(progress), "episodes": len(job.episodes)}
    card |= {"held_out": figures} if tasks else {}
    card |= {"held_out_tasks": tasks} if len(tasks) > 1 else {}
    with trainer.gathered():
        card["demonstration"] = (
            mean_figures(figures_or_none(fit_of, "demonstration's", grm, exams, on_progress)) if first else {}
        )
    weights = trainer.weights()
    if not first:
        return None
    finished = start(job)  # in the precision of the initial model
    finished.model.load_state_dict(weights)
    save = save_adapter if config.lora.rank else save_grm
    save(finished, job.work / MODEL, card)
    (job.work / MODEL / CURVE).write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")
    return job.work / MODEL


def start(job: TrainingJob) -> GRM:
    """The initial model of a job. Raises CheckpointError, or BadInput if its adapters cannot be added."""
    grm = load_grm(job.config.start_from) if job.config.start_from else build_grm(job.grm)
    if job.config.lora.rank:
        add_lora(grm, job.config.lora)
    return grm


def make_batches(job: TrainingJob, size: tuple[int, int], stream: Stream, on_progress: OnProgress) -> Batches:
    """The batches of a job: from memory if all images fit, else streamed. The batches are the same."""
    config = job.config
    labels = label([episode.info for episode in job.episodes])
    sampler = BatchSampler(labels, config.train)
    if decoded_bytes(job.episodes, size) > config.memory_mb * 2**20:
        return stream(sampler, job.episodes, size, config)

    def decoded(done: int, total: int) -> None:
        on_progress(f"episodes decoded: {done} of {total}", False)

    return sampler.batches(from_memory(decode_all(job.episodes, size, config.decoders, decoded)))


@dataclass(frozen=True, eq=False, slots=True)
class Exam:
    """A training demonstration and the held-out episodes of a task, reduced to the frames that are evaluated.

    Args:
        task: its canonical instruction.
        demonstration: source of references and goal.
        unseen: held-out episodes; may be empty.
    """

    task: str
    demonstration: LabelledEpisode
    unseen: tuple[LabelledEpisode, ...]


def make_exams(job: TrainingJob, size: tuple[int, int]) -> list[Exam]:
    """The exams of a job, one per task.

    Raises:
        BadInput: a task has no success to train on. EpisodeError: a frame cannot be decoded.
    """
    stored = (*job.episodes, *job.held_out)
    labels = label([episode.info for episode in stored])
    exams = []
    for task in dict.fromkeys(episode.info.instructions[0] for episode in stored):
        alike = [place for place, known in enumerate(labels) if known.instructions[0] == task]
        shown = next((place for place in alike if place < len(job.episodes) and labels[place].success), None)
        if shown is None:
            raise BadInput("held_out", task, "train on a successful demonstration of every held-out task")
        chosen = [shown, *(place for place in alike if place >= len(job.episodes))]
        asked = [spread(stored[place].info.frame_count) for place in chosen]
        thinned = [
            replace(stored[place], frame_ids=stored[place].frame_ids[ids])
            for place, ids in zip(chosen, asked, strict=True)
        ]
        frames = decode_all(thinned, size, job.config.decoders)
        first, *unseen = (
            LabelledEpisode(
                labels[place].instructions,
                pictures,
                labels[place].progress[ids],
                np.arange(len(ids) if labels[place].success else 0),
            )
            for place, pictures, ids in zip(chosen, frames, asked, strict=True)
        )
        exams.append(Exam(task, first, tuple(unseen)))
    return exams


def judge(grm: GRM, exams: Sequence[Exam]) -> dict[str, dict[str, float]]:
    """The figures of `evaluate` on held-out episodes, for each task that has a success among them."""
    known = [exam for exam in exams if any(episode.success for episode in exam.unseen)]
    return {exam.task: evaluate(grm, exam.unseen, exam.demonstration) for exam in known}


def fit_of(grm: GRM, exams: Sequence[Exam]) -> dict[str, dict[str, float]]:
    """The same on the demonstrations themselves: how well a model fits what it was trained on."""
    return {exam.task: evaluate(grm, [exam.demonstration], exam.demonstration) for exam in exams}


def figures_or_none(
    judge: Callable[[GRM, Sequence[Exam]], dict[str, dict[str, float]]],
    whose: str,
    grm: GRM,
    exams: Sequence[Exam],
    on_progress: OnProgress,
) -> dict[str, dict[str, float]]:
    """What `judge` says; nothing, and a line of why, where it fails in any way: a trained model outlives its exam."""
    try:
        return judge(grm, exams)
    except Exception as error:
        why = str(error).partition("\n")[0] or type(error).__name__
        on_progress(f"the {whose} figures could not be computed: {why}. The model is kept without them", True)
        return {}


def mean_figures(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over tasks of every figure that all of them have."""
    return {
        name: sum(figures[name] for figures in tasks.values()) / len(tasks)
        for name in next(iter(tasks.values()), {})
        if all(name in figures for figures in tasks.values())
    }
