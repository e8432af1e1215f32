"""In the real simulator: a demonstrator says what a success is, claims end episodes, and the simulator has no say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.claims import Claiming, EndsOnClaim
from actors.demonstrations import episode_folder, record
from actors.envs import make_env
from actors.experts.practice import Practice
from actors.labeller import LabellerConfig
from actors.maniskill import EnvConfig, PegInsertionEnv
from actors.tasks import TASKS
from dopamine_rl.evaluation.gate import judge
from dopamine_rl.interfaces import Prompt
from dopamine_rl.success import ClaimOutcome, ScoredCurve, SuccessRule, fit_rule
from dopamine_rl.types import Demonstration, FusionConfig, HopEstimates, TaskReference
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.fakes import hop

pytestmark = pytest.mark.render

CONFIG = EnvConfig(views=("front",), image_size=32, horizon=48, stride=6, lateral_m=0.003, angle_rad=0.01, oracle=True)
SEED = 3


def lie(env: PegInsertionEnv, what: Callable[[bool], Any]) -> PegInsertionEnv:
    """Make a simulator say something else of success and progress."""
    scene, step, progress = env._scene, env._scene.step, env.true_progress

    def lying_step(action: Any) -> Any:
        *rest, infos = step(action)
        return (*rest, {**infos, "success": [what(bool(infos["success"][0]))]})

    scene.step = lying_step  # type: ignore[method-assign]
    env.true_progress = lambda: float(what(progress() > 0.5))  # type: ignore[method-assign]
    return env


@pytest.fixture(scope="module")
def env() -> Iterator[PegInsertionEnv]:
    env = make_env(CONFIG)
    assert isinstance(env, PegInsertionEnv)
    yield env
    env.close()


def told(env: PegInsertionEnv) -> tuple[Demonstration, Demonstration]:
    """A demonstration and a try about its path, of which the simulator says nothing."""
    ending, scripts = EndsOnClaim(env), TASKS[CONFIG.task].scripts
    shown = record(ending, scripts["expert"](), SEED, np.random.default_rng(0), "demonstration", stride=4)
    tried = record(ending, Practice(shown), SEED + 1, np.random.default_rng(1), "practice")
    return shown, tried


def test_demonstrations_and_practice_do_not_depend_on_what_the_simulator_says(env: PegInsertionEnv) -> None:
    shown, tried = told(env)
    asked = record(env, TASKS[CONFIG.task].scripts["expert"](), SEED, np.random.default_rng(0))
    assert (shown.success, shown.terminated, tried.success, tried.terminated) == (True, True, False, False)
    assert len(asked.actions) <= len(shown.actions) <= len(asked.actions) + 3
    np.testing.assert_array_equal(shown.actions[: len(asked.actions)], asked.actions)
    assert shown.frame_steps[-1] == len(shown.actions)
    assert shown.task_rewards.tolist() == [0.0] * (len(shown.actions) - 1) + [1.0]
    assert len(tried.actions) == CONFIG.horizon
    assert not tried.task_rewards.any()
    assert shown.true_progress is tried.true_progress is None
    scene, step, progress = env._scene, env._scene.step, env.true_progress
    for what in (lambda success: not success, lambda success: float("nan")):
        try:
            for honest, lied in zip((shown, tried), told(lie(env, what)), strict=True):
                for field in fields(Demonstration):
                    same = np.array_equal(getattr(honest, field.name), getattr(lied, field.name))
                    assert same, f"{honest.episode_id}: {field.name}"
        finally:
            scene.step, env.true_progress = step, progress  # type: ignore[method-assign]


@dataclass
class PixelEngine:
    """Progress is how much nearer a front picture is to the demonstration's last one than its first is."""

    model_version: str = "pixels"

    def estimate(self, images: Any, prompts: list[Prompt]) -> HopEstimates:
        pictures = [np.asarray(image, np.float32) for image in images]
        hops = []
        for prompt in prompts:
            start, end = (pictures[index] for index in prompt.references)
            far = np.abs(start - end).mean()
            near = [1.0 - np.abs(pictures[views[0]] - end).mean() / far for views in (prompt.before, prompt.after)]
            hops.append(hop(*(float(np.clip(value, 0.0, 1.0)) for value in near)))
        gain, loss = np.array(hops, np.float32).reshape(-1, 2).T
        return HopEstimates(gain, loss, np.full(len(prompts), np.nan, np.float32), ("",) * len(prompts))


def pixel_client() -> LocalRewardClient:
    return LocalRewardClient(Scorer(PixelEngine()))


def fitted(shown: Demonstration, tried: Demonstration, reference: TaskReference) -> SuccessRule:
    judged = judge(pixel_client(), [shown, tried], reference, FusionConfig(), sources=["expert", "failure"])
    curves = [ScoredCurve(episode.curve[1:], episode.answers.valid) for episode in judged]
    return fit_rule(curves[:1], curves[1:])


@pytest.mark.ray
def test_a_rule_from_one_demonstration_claims_a_success_and_nothing_else(tmp_path: Path) -> None:
    import ray

    from actors.workers import Job, PolicySpec, WorkerPool
    from dopamine_rl.episodes.raw import read_demonstration

    # At every step: the expert pushes on after its success, and shows the last picture of its demonstration only once.
    config = replace(CONFIG, stride=1)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        pool = WorkerPool(config, 1, 0.5)
        lines: list[str] = []
        quiet = lambda text, matters: lines.append(text)  # noqa: E731
        pool.map([Job("record", ("expert", SEED, tmp_path, 1, True))], quiet, "episodes")
        folder, wandering = episode_folder("expert", SEED, tmp_path), episode_folder("practice", SEED + 1, tmp_path)
        pool.map([Job("practise", (folder, SEED + 1, tmp_path, None, True))], quiet, "episodes")
        shown, tried = read_demonstration(folder), read_demonstration(wandering)
        reference = TaskReference.of(shown)
        rule = fitted(shown, tried, reference)
        labelling = LabellerConfig("grm", 0.9, config.stride, deadline_s=60.0)
        claiming = Claiming(labelling, pixel_client, reference, rule)
        stays = replace(claiming, rule=SuccessRule(1.0, 60))
        jobs = [("expert", claiming), ("straight_push", claiming), ("expert", stays)]
        asked = [Job("evaluate_claims", (PolicySpec(name), SEED, str(i), how)) for i, (name, how) in enumerate(jobs)]
        right, other, missed = pool.map(asked, quiet, "episodes")
        assert right == ClaimOutcome(claimed=True, success=True, reached=True)
        assert other.claimed <= other.success
        assert missed == ClaimOutcome(claimed=False, success=True, reached=True)
    finally:
        ray.shutdown()
