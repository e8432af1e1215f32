"""Videos of a run's cloned and trained policy, with the reward model's progress and the reward below the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from actors.labeller import Labeller
from actors.workers import Film, Job, PolicySpec
from dopamine_rl.interfaces import RewardClient
from dopamine_rl.types import TaskReference
from experiments.job.labels import labeller_config
from experiments.job.phases import policies
from experiments.job.prepared import Prepared, RewardModel, dense_gamma, file_version
from experiments.job.run import Run
from experiments.reports.video import Curves, write_film
from experiments.settings import ExperimentConfig

TITLES = {"expert": "Scripted expert", "bc": "Cloned policy (BC)", "policy": "Trained policy"}


def make_films(run: Run, prepared: Prepared) -> list[str]:
    """Record a video of each policy on the first unseen seed; returns the file names."""
    config, model = run.config, prepared.model
    version = model.version if model else None
    specs = {name: spec for name, spec in policies(run, prepared).items() if name in TITLES}
    versions = [file_version(spec.path) if spec.path else spec.kind for spec in specs.values()]
    reward = (config.reward, config.gamma, config.shaping)
    depends_on = (versions, version, config.env, config.fusion, reward, config.evaluation)
    names: list[str] = run.phase("films", "Videos", depends_on, lambda: _film(run, specs, model))
    return names


def _film(run: Run, specs: dict[str, PolicySpec], model: RewardModel | None) -> list[str]:
    config, seed = run.config, run.config.evaluation.first_seed
    jobs = [Job("film", (spec, seed, dense_gamma(config))) for spec in specs.values()]
    films = run.pool.map(jobs, run.console.progress, "videos")
    client = run.service(model.path)[1] if model else None
    names = []
    for name, film in zip(specs, films, strict=True):
        curves = film_curves(film, client, model.reference, config) if client and model else task_curves(film)
        verdict = "success" if film.success else "failure"
        title = f"{TITLES[name]}, unseen seed {seed}: {verdict}. Reward: {config.reward}"
        names.append(write_film(run.path / f"{name}.mp4", enumerate(film.views), curves, title).name)
    return names


def film_curves(film: Film, client: RewardClient, reference: TaskReference, config: ExperimentConfig) -> Curves:
    """The reward model's progress over a filmed episode, and the reward that this run's labeller gives it."""
    name = f"film_{film.seed}"
    scored = [t for t in film.score_times if t > 0]
    labeller = Labeller(replace(labeller_config(config), records_dir=Path("in memory")), client)
    labeller.begin(name, reference.context(name, film.views[0]))
    for time in scored:
        labeller.observe(name, time, film.views[time])
    rewards, _ = labeller.collect(name, 0, film.task_rewards, film.terminated)
    record = labeller.finish(name)
    assert record is not None
    perspectives = np.array([np.zeros(3)] + [frame.perspectives for frame in record.frames], np.float32)
    progress = np.array([0.0] + [frame.progress for frame in record.frames], np.float32)
    return Curves(np.array([0, *scored]), progress, perspectives, np.arange(len(rewards) + 1), rewards)


def task_curves(film: Film) -> Curves:
    """The task reward alone, for runs without a reward model."""
    times, rewards = np.zeros(0), film.task_rewards
    edges, perspectives = np.arange(len(rewards) + 1), np.zeros((0, 3), np.float32)
    return Curves(times, np.zeros(0, np.float32), perspectives, edges, rewards, "task reward")
