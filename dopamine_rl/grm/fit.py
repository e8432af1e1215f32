"""Training in one process, from recorded episodes to a model folder, alone or as part of a distributed job, without
Ray.

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

from dopamine_rl.episodes.mismatch import other_wordings, wordings_of_tasks
from dopamine_rl.episodes.stored import StoredEpisode, StoredPictures, decode_all, decoded_bytes, picture_shape
from dopamine_rl.errors import BadInput
from dopamine_rl.files import becomes, remove, write_atomically, write_folder_atomically
from dopamine_rl.grm.adapters import add_lora, save_adapter
from dopamine_rl.grm.batches import Batches, BatchSampler, from_memory
from dopamine_rl.grm.checkpoint import load_grm, model_version, save_grm
from dopamine_rl.grm.config import GRMConfig, SFTConfig
from dopamine_rl.grm.evaluate import evaluate, spread
from dopamine_rl.grm.folder import INSTRUCTIONS
from dopamine_rl.grm.labels import EpisodeLabels, LabelledEpisode, label
from dopamine_rl.grm.model import GRM, build_grm
from dopamine_rl.grm.train import Trainer, TrainProgress, train
from dopamine_rl.grm.vision import picture_size
from dopamine_rl.interfaces import OnProgress, no_progress

MODEL, STATE, SETTINGS = "model", "state.pt", "settings.json"
"""In a job's folder: the finished model, the training state, and the settings that it belongs to."""
MOST_INSTRUCTIONS = 1000
"""A card with more wordings than this lists none."""
CURVE = "curve.jsonl"
"""In a model's folder: loss and held-out metrics at every checkpoint of training."""


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """The settings of a training job, for all of its processes.

    Args:
        config: training settings, including the number of processes.
        grm: shape of the model to build if `config.start_from` is empty.
        episodes: training episodes, labelled with `config.target` (dopamine_rl.grm.labels).
        held_out: episodes for evaluation during and after training, with at least one success per task; may be empty.
        work: folder of the job's state, shared by all nodes.
        card: content of the model card besides the training results.
    Raises:
        BadInput: `episodes` is empty; some are to be asked about under another task's instruction, and there is none.
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
        if (plan := self.config.train.plan).mismatched:
            tasks = wordings_of_tasks(stored.info.instructions for stored in self.episodes)
            other_wordings(tasks, plan.other_instructions)

    def settings(self) -> dict[str, Any]:
        """All settings that the resulting weights depend on: JSON values by dotted name."""
        model = {"sft.start_from": model_version(self.config.start_from)} if self.config.start_from else {}
        flat = model or _flat("grm", asdict(self.grm))
        flat |= _flat("sft.train", asdict(self.config.train)) | {"sft.stride": self.config.stride}
        flat |= {"sft.target": self.config.target} if self.config.target != "keyframes" else {}
        flat |= {"sft.failures": self.config.failures} if self.config.failures != "truth" else {}
        flat |= _flat("sft.lora", asdict(self.config.lora)) if self.config.lora.rank else {}
        infos = [(str(stored.folder), stored.info) for stored in self.episodes]
        data = [(folder, info.episode_id, info.frame_count, info.cameras) for folder, info in infos]
        flat |= {"DATA": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12], "episodes": len(data)}
        values: dict[str, Any] = json.loads(json.dumps(flat))
        return values


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
    on_progress: OnProgress = no_progress,
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
    torch.set_num_threads(job.config.threads)
    grm = start(job)
    grm.model.to(device, torch.float32)
    size = picture_size(grm.image_processor, *picture_shape(job.episodes[0]))
    exams = make_exams(job, size)
    trainer = Trainer(grm, make_batches(job, size, stream, on_progress), job.config.train, job.config.sharded)
    return _Fit(job, trainer, exams, on_progress).run()


TaskFigures = dict[str, dict[str, float]]
"""Metrics by task."""


class _Fit:
    """Training with checkpoints and evaluation, see `fit`. Every process must call the methods in the same order."""

    def __init__(self, job: TrainingJob, trainer: Trainer, exams: Sequence[Exam], on_progress: OnProgress) -> None:
        self._job, self._trainer, self._exams, self._on_progress = job, trainer, exams, on_progress
        self._first = trainer.process.rank == 0
        self._state, self._curve = job.work / STATE, list[dict[str, float | None]]()
        self._evaluated: dict[int, TaskFigures] = {}
        if self._state.exists():
            content = torch.load(self._state, map_location="cpu", weights_only=True)
            trainer.load_state_dict(content)
            self._curve += content.get("curve", [])

    def run(self) -> Path | None:
        progress = train(self._trainer, self._after_update)
        if progress.update % self._job.config.checkpoint_updates:
            self._save_state(progress.update, self._trainer.state_dict())  # a crash in evaluation costs no training
        card = self._card(progress)
        weights = self._trainer.weights()
        if not self._first:
            return None
        model = start(self._job)  # in the precision of the initial model
        model.model.load_state_dict(weights)
        save, folder = save_adapter if self._job.config.lora.rank else save_grm, self._job.work / MODEL
        save(model, folder, card)
        (folder / CURVE).write_text("".join(json.dumps(row) + "\n" for row in self._curve), encoding="utf-8")
        return folder

    def _after_update(self, progress: TrainProgress) -> None:
        self._on_progress(str(progress), False)
        if progress.update % self._job.config.checkpoint_updates == 0:
            content = self._trainer.state_dict()
            self._evaluate(progress)
            self._save_state(progress.update, content)

    def _save_state(self, update: int, content: dict[str, Any]) -> None:
        """Save the state in process 0, but keep training if that fails: the next attempt may succeed."""
        if not self._first:
            return
        try:
            write_atomically(self._state, lambda path: torch.save(content | {"curve": self._curve}, path))
        except OSError as error:
            reason = error.strerror or error
            self._on_progress(f"the training state of update {update} could not be saved: {reason}", True)

    def _evaluate(self, progress: TrainProgress) -> TaskFigures:
        """Held-out metrics, once per update; {} in other processes than the first."""
        if progress.update in self._evaluated:
            return self._evaluated[progress.update]
        tasks = self._evaluated[progress.update] = self._figures(judge, "held-out")
        if figures := mean_figures(tasks):
            text = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
            self._on_progress(f"update {progress.update}, held out: {text}", True)
        row = {"update": progress.update, "loss": progress.loss, "hop_error": progress.hop_error, **figures}
        self._curve[:] = [*(earlier for earlier in self._curve if earlier["update"] != progress.update), row]
        return tasks

    def _figures(self, judge: Callable[[GRM, Sequence[Exam]], TaskFigures], whose: str) -> TaskFigures:
        with self._trainer.gathered():
            if not self._first:
                return {}
            return figures_or_none(judge, whose, self._trainer.grm, self._exams, self._on_progress)

    def _card(self, progress: TrainProgress) -> dict[str, Any]:
        """The content of the model card, with metrics on held-out episodes and on the demonstrations."""
        tasks, train_settings = self._evaluate(progress), asdict(self._job.config.train)
        card = {**self._job.card, "training": train_settings, "result": asdict(progress)}
        card["episodes"] = len(self._job.episodes)
        words = dict.fromkeys(words for episode in self._job.episodes for words in episode.info.instructions)
        card |= {INSTRUCTIONS: list(words)} if len(words) <= MOST_INSTRUCTIONS else {}
        card |= {"held_out": mean_figures(tasks)} if tasks else {}
        card |= {"held_out_tasks": tasks} if len(tasks) > 1 else {}
        card["demonstration"] = mean_figures(self._figures(fit_of, "demonstration's"))
        return card


def start(job: TrainingJob) -> GRM:
    """The initial model of a job. Raises CheckpointError, or BadInput if its adapters cannot be added."""
    grm = load_grm(job.config.start_from) if job.config.start_from else build_grm(job.grm)
    if job.config.lora.rank:
        add_lora(grm, job.config.lora)
    return grm


def make_batches(job: TrainingJob, size: tuple[int, int], stream: Stream, on_progress: OnProgress) -> Batches:
    """The batches of a job: from memory if all images fit, else streamed. The batches are the same."""
    config = job.config
    labels = training_labels(job)
    sampler = BatchSampler(labels, config.train)
    if decoded_bytes(job.episodes, size) > config.memory_mb * 2**20:
        return stream(sampler, job.episodes, size, config)
    return sampler.batches(from_memory(decode_all(job.episodes, size, config.decoders, on_progress)))


def training_labels(job: TrainingJob) -> list[EpisodeLabels]:
    """The labels of a job's training episodes, in their order."""
    config = job.config
    return label([episode.info for episode in job.episodes], config.target, config.failures, config.path)


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
    labels = training_labels(job)
    successes = [episode.info for episode in job.episodes if episode.info.success is not False]
    held_out = [episode.info for episode in job.held_out]
    labels += label([*successes, *held_out], job.config.target)[len(successes) :]  # by the truth, where it is known
    exams = []
    for task in dict.fromkeys(episode.info.instructions[0] for episode in stored):
        members = [index for index, episode in enumerate(labels) if episode.instructions[0] == task]
        demonstrated = (index for index in members if index < len(job.episodes) and labels[index].success)
        demonstration = next(demonstrated, None)
        if demonstration is None:
            raise BadInput("held_out", task, "train on a successful demonstration of every held-out task")
        chosen = [demonstration, *(index for index in members if index >= len(job.episodes))]
        frame_ids = [spread(stored[index].info.frame_count) for index in chosen]
        reduced = [
            replace(stored[index], frame_ids=stored[index].frame_ids[ids])
            for index, ids in zip(chosen, frame_ids, strict=True)
        ]
        frames = decode_all(reduced, size, job.config.decoders)
        first, *unseen = (
            LabelledEpisode(
                labels[index].instructions,
                pictures,
                labels[index].progress[ids],
                np.arange(len(ids) if labels[index].success else 0),
            )
            for index, pictures, ids in zip(chosen, frames, frame_ids, strict=True)
        )
        exams.append(Exam(task, first, tuple(unseen)))
    return exams


def judge(grm: GRM, exams: Sequence[Exam]) -> dict[str, dict[str, float]]:
    """The metrics of `evaluate` on held-out episodes, for each task with a held-out success."""
    usable = [exam for exam in exams if any(episode.success for episode in exam.unseen)]
    return {exam.task: evaluate(grm, exam.unseen, exam.demonstration) for exam in usable}


def fit_of(grm: GRM, exams: Sequence[Exam]) -> dict[str, dict[str, float]]:
    """The metrics of `evaluate` on the training demonstrations: how well the model fits its training data."""
    return {exam.task: evaluate(grm, [exam.demonstration], exam.demonstration) for exam in exams}


def figures_or_none(
    judge: Callable[[GRM, Sequence[Exam]], dict[str, dict[str, float]]],
    whose: str,
    grm: GRM,
    exams: Sequence[Exam],
    on_progress: OnProgress,
) -> dict[str, dict[str, float]]:
    """The result of `judge`; {} and a note if it fails, because an evaluation error must not cost the trained model."""
    try:
        return judge(grm, exams)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        on_progress(f"the {whose} figures could not be computed: {reason}. The model is kept without them", True)
        return {}


def mean_figures(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean over tasks of every metric that all of them have."""
    return {
        name: sum(figures[name] for figures in tasks.values()) / len(tasks)
        for name in next(iter(tasks.values()), {})
        if all(name in figures for figures in tasks.values())
    }
