"""Labels of recorded episodes, as online data is labelled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from actors.label_record_writer import LabelRecordWriter
from actors.labeller import Labeller, LabellerConfig
from actors.workers import Job
from dopamine_rl.encoders.recorded import encoded
from dopamine_rl.episodes.stride import at_stride
from dopamine_rl.errors import BadInput, ScoringError
from dopamine_rl.policy import load_eyes
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import UNSHAPED, Demonstration, LabelColumns, TaskReference
from experiments.job import plans as episodes
from experiments.job.prepared import Prepared, asks_model, claimed, dense_gamma
from experiments.job.run import Run
from experiments.settings import ExperimentConfig
from learner.demonstrations import replay_episode, save_demonstrations


def labeller_config(
    config: ExperimentConfig, records_dir: Path | None = None, target: ProgressMap | None = None
) -> LabellerConfig:
    """The labeller's config, with the learner's γ.

    Args:
        records_dir: folder of the label records; None writes none.
        target: see `Prepared`.
    """
    return LabellerConfig(
        mode=config.reward,
        gamma=config.gamma,
        stride=config.env.stride,
        fusion=config.fusion,
        deadline_s=config.labels.deadline_s,
        records_dir=records_dir,
        records_mb=config.labels.records_mb,
        shaping=config.shaping,
        target=target,
    )


def label(run: Run, prepared: Prepared) -> Path:
    """Label the policy's demonstrations as online data is labelled; returns the file of transitions."""
    config, path = run.config, run.path / "policy_demonstrations.npz"
    model = prepared.model if asks_model(config) else None

    def work() -> int:
        demonstrations = _paid(run, prepared.policy_episodes)
        count = len(demonstrations)
        if config.learner.practice:
            demonstrations += episodes.read_all(prepared.practice)
        if config.env.sees_pictures and (eyes := load_eyes(prepared.cloned.path)) is not None:
            demonstrations = [encoded(d, eyes, config.env.views) for d in demonstrations]
        if config.reward not in UNSHAPED:
            demonstrations = [at_stride(d, config.env.stride) for d in demonstrations]
        records = run.path / "records" if config.labels.keep_frames else None
        patient = replace(labeller_config(config, records, prepared.target), deadline_s=120.0)
        client = run.service(model.path)[1] if model else None
        writer = LabelRecordWriter(records, config.labels.records_mb) if records else None
        room = config.service.max_queued_requests
        labeller, task = Labeller(patient, client), model.reference if model else None
        columns = label_demonstrations(demonstrations, labeller, task, room, writer)
        if writer and (removed := writer.take_counts()["removed"]):
            run.console.say(f"  removed the {removed} oldest records to stay within labels.records_mb")
        labelled = enumerate(zip(demonstrations, columns, strict=True))
        save_demonstrations(path, [replay_episode(d, c, practice=i >= count) for i, (d, c) in labelled])
        return len(demonstrations)

    labels_from = (model.version, config.fusion) if model else prepared.target
    depends_on: tuple[object, ...] = (
        config.env,
        config.demonstrations,
        config.reward,
        config.gamma,
        config.labels,
        labels_from,
        config.learner.practice,
        prepared.cloned.version if config.env.sees_pictures else None,
        *claimed(config),
    )
    run.phase("label", "Labels of the policy's demonstrations", depends_on, work)
    return path


def _paid(run: Run, folders: Sequence[Path]) -> list[Demonstration]:
    """The successes among recorded episodes, with the task rewards that the run's environment pays."""
    successes = {folder: d for folder, d in zip(folders, episodes.read_all(folders), strict=True) if d.success}
    gamma = dense_gamma(run.config)
    if gamma is None:
        return list(successes.values())
    jobs = [Job("dense_rewards", (folder, gamma)) for folder in successes]
    rewards = run.pool.map(jobs, run.console.progress, "demonstrations replayed")
    return [replace(d, task_rewards=paid) for d, paid in zip(successes.values(), rewards, strict=True)]


def label_demonstrations(
    demonstrations: Sequence[Demonstration],
    labeller: Labeller,
    reference: TaskReference | None,
    frames_together: int,
    writer: LabelRecordWriter | None = None,
) -> list[LabelColumns]:
    """Label recorded episodes with the labeller of online data, at its stride.

    Args:
        reference: the task reference; None if the labeller uses no reward model.
        frames_together: frames that may be requested at once; the service's queue is bounded.
        writer: writes the episodes' records; None writes none.
    Raises:
        ScoringError: a frame could not be scored.
    """
    columns = []
    for group in _groups(demonstrations, frames_together):
        for demonstration in group:
            _request_labels(demonstration, labeller, reference)
        for demonstration in group:
            name = demonstration.episode_id
            columns.append(labeller.collect(name, 0, demonstration.task_rewards, demonstration.terminated)[1])
            record = labeller.finish(name)
            if record is not None and writer is not None:
                writer.write(record)
    counts = labeller.take_counts()
    if counts.answered != counts.asked:
        raise ScoringError(f"some of the policy's demonstrations could not be labelled: {counts}")
    return columns


def _groups(demonstrations: Sequence[Demonstration], frames: int) -> Iterator[list[Demonstration]]:
    """Consecutive episodes with at most `frames` frames in all; a longer episode forms a group of its own."""
    group: list[Demonstration] = []
    for demonstration in demonstrations:
        if group and sum(len(d.frames) for d in group) + len(demonstration.frames) > frames:
            yield group
            group = []
        group.append(demonstration)
    if group:
        yield group


def _request_labels(demonstration: Demonstration, labeller: Labeller, reference: TaskReference | None) -> None:
    name, times = demonstration.episode_id, demonstration.frame_steps[1:]
    labeller.begin(
        name, reference.context(name, demonstration.frames[0]) if reference and labeller.asks_model else None
    )
    if labeller.asks_model:
        for time, views in zip(times, demonstration.frames[1:], strict=True):
            labeller.observe(name, int(time), views)
    elif labeller.config.mode == "oracle":
        if demonstration.true_progress is None:
            raise BadInput("reward", "oracle", f"use another reward: the true progress of {name} was not recorded")
        for time, progress in zip(times, demonstration.true_progress[1:], strict=True):
            labeller.observe_truth(name, int(time), float(progress))
