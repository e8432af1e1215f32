"""What is recorded, by whom and from which seeds."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from actors.maniskill import EnvConfig
from dopamine_rl.config import load_preset, preset_names
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import ProbePictures
from dopamine_rl.paths import PathConfig
from experiments.job import plans as episodes
from experiments.job.gate import gate
from experiments.job.labels import label
from experiments.job.prepared import Prepared, RewardModel
from experiments.job.run import Run
from experiments.job.training import make_task
from experiments.runtime.arguments import PRESETS
from experiments.runtime.console import Console
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig, check_run
from learner.config import LearnerConfig
from learner.demonstrations import load_demonstrations
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.test_gate import REFERENCE, failure, success
from tests.fakes import FakeEngine, frame


def every_set(config, tmp_path):
    plans = episodes.scripted_plans(config, tmp_path) | episodes.rollout_plans(config, tmp_path, tmp_path / "bc", "v1")
    return (
        {name: list(plan.seeds) for name, plan in plans.items()}
        | {"trial": episodes.trial_seeds(config)}
        | {"probe": [episodes.probe_seed(config)]}
        | {"practice": list(episodes.practice_plan(config, tmp_path, tmp_path / "demonstration").seeds)}
    )


def test_no_seed_serves_two_purposes_in_any_preset(tmp_path):
    for name in preset_names(PRESETS):
        config = load_preset(ExperimentConfig, PRESETS / f"{name}.toml")
        if config.success == "env":
            config = replace(config, demonstrations=replace(config.demonstrations, gate_behaviours=3))
        if config.env.start == "insertion":
            config = practising(config, 5)
        unseen = range(config.evaluation.first_seed, config.evaluation.first_seed + config.evaluation.episodes)
        seeds = list(chain(unseen, *every_set(config, tmp_path).values()))
        assert len(seeds) == len(set(seeds)), name


def test_episodes_of_another_clone_or_environment_lie_elsewhere(tmp_path):
    config = ExperimentConfig()
    other = replace(config, env=replace(config.env, horizon=config.env.horizon + 1))
    first = episodes.rollout_plans(config, tmp_path, tmp_path / "bc", "v1")["gate_rollouts"].paths
    second = episodes.rollout_plans(config, tmp_path, tmp_path / "bc", "v2")["gate_rollouts"].paths
    third = episodes.rollout_plans(other, tmp_path, tmp_path / "bc", "v1")["gate_rollouts"].paths
    assert not set(first) & (set(second) | set(third))


def test_behaviours_are_recorded_on_request_until_they_end_as_meant(tmp_path):
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    assert episodes.scripted_plans(config, tmp_path)["gate_behaviours"].jobs == []
    config = replace(config, demonstrations=replace(config.demonstrations, gate_behaviours=2))
    plan = episodes.scripted_plans(config, tmp_path)["gate_behaviours"]
    assert [(job.method, *job.args[:2]) for job in plan.jobs][:5] == [
        ("record_as_meant", "pause", 8000),
        ("record_as_meant", "retry", 8001),
        ("record_as_meant", "oscillate", 8002),
        ("record_as_meant", "beside", 8003),
        ("record_as_meant", "pause", 8004),
    ]
    assert len(plan.paths) == len(plan.jobs) == 8
    with pytest.raises(BadInput, match=r"demonstrations.gate_behaviours = -1"):
        replace(config.demonstrations, gate_behaviours=-1)
    with pytest.raises(BadInput, match="at most 1000 episodes"):
        replace(config.demonstrations, gate_behaviours=251)


def practising(config, count):
    demonstrations = replace(config.demonstrations, practice=count)
    return replace(config, demonstrations=demonstrations, sft=replace(config.sft, failures="path"))


def test_practice_is_about_the_first_demonstration_at_its_stride(tmp_path):
    config = practising(load_preset(ExperimentConfig, PRESETS / "laptop.toml"), 3)
    about = episodes.scripted_plans(config, tmp_path)["reward_model"].paths[0]
    plan = episodes.practice_plan(config, tmp_path, about)
    assert [(job.method, *job.args[:2], job.args[3]) for job in plan.jobs] == [
        ("practise", about, 9000, 1),
        ("practise", about, 9001, 1),
        ("practise", about, 9002, 1),
    ]
    assert [path.name for path in plan.paths] == ["practice_009000", "practice_009001", "practice_009002"]


def test_practice_needs_a_scene_that_stays_and_labels_by_the_path():
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    with pytest.raises(BadInput, match=r"sft.failures = 'truth': write path"):
        replace(config, sft=replace(config.sft, failures="truth"))
    with pytest.raises(BadInput, match=r"demonstrations.practice = 1: give 0, with sft.failures = truth"):
        check_run(practising(load_preset(ExperimentConfig, PRESETS / "full.toml"), 1))
    with pytest.raises(BadInput, match=r"sft.failures = 'path': give truth, or some of what it labels"):
        replace(config, demonstrations=replace(config.demonstrations, practice=0))
    with pytest.raises(BadInput, match=r"sft.path = .*write sft.failures = path"):
        replace(config.sft, failures="truth", path=PathConfig(scale_m=0.02))
    with pytest.raises(BadInput, match=r"demonstrations.practice = -1"):
        replace(config.demonstrations, practice=-1)


def test_the_laptop_preset_judges_on_as_many_episodes_as_a_verdict_needs():
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    wanted = config.demonstrations
    assert wanted.gate_successes >= config.gate.least_successes
    assert wanted.gate_failures + wanted.gate_rollouts >= config.gate.least_failures
    kinds = [episodes.FAILURES[i % len(episodes.FAILURES)] for i in range(wanted.gate_failures)]
    assert kinds.count("near_miss") >= len(kinds) / 2


STATES = [(gap, offset) for gap in (0.03, 0.003) for offset in (0.0, 0.01, 0.03)]


class OneProbe:
    """A pool whose simulator shows a model that pays for advancing misaligned, or cannot reach a state."""

    def __init__(self, reachable: bool) -> None:
        self.jobs, self._reachable = [], reachable

    def map(self, jobs, on_progress, what):
        self.jobs += jobs
        if not self._reachable:
            raise RuntimeError("the arm cannot reach [1. 1. 1.]")
        progress = np.array([0.2, 0.15, 0.1, 0.6, 0.5, 0.4])
        gaps, offsets = np.array(STATES).T
        return [ProbePictures(frame(0.0), np.stack([frame(value) for value in progress]), gaps, offsets, progress)]


def gated(tmp_path, probe, reachable=True):
    """The gate's phase with real scoring of pictures that show their progress; also the jobs and what it depends on."""
    config = ExperimentConfig()
    config = replace(config, gate=replace(config.gate, probe=probe))
    unseen = []
    for demonstration, source in ((success(), "expert"), (failure(), "failure")):
        write_demonstration(tmp_path, demonstration)
        unseen.append((tmp_path / demonstration.episode_id, source))
    keys = []

    def phase(name, title, depends_on, work):
        keys.append(depends_on)
        return work()

    client = LocalRewardClient(Scorer(FakeEngine()))
    pool = OneProbe(reachable)
    run = SimpleNamespace(
        config=config, path=tmp_path, console=Console(), pool=pool, phase=phase, service=lambda path: ("", client)
    )
    model = RewardModel(tmp_path / "grm", "v1", REFERENCE)
    write_demonstration(tmp_path, replace(failure(0.9), episode_id="beside_008003"))
    prepared = SimpleNamespace(gate_episodes=unseen, behaviours=[tmp_path / "beside_008003"], model=model)
    figures, verdict = gate(run, prepared)
    assert figures.failures == 1  # what is reported alone does not count for the verdict
    assert (figures.false_success, figures.behaviours["beside"]["false_success"]) == (0.0, 1.0)
    assert figures.instruction["episodes"] == 1
    return figures, verdict, pool.jobs, keys


def test_the_gate_shows_the_probe_and_a_stored_report_without_it_stays_good(tmp_path):
    figures, verdict, [job], shown = gated(tmp_path / "shown", "shown")
    assert (job.method, job.args) == ("probe", (7000,))
    assert figures.probe_rank == pytest.approx(1.0)
    assert figures.probe_trade == pytest.approx(0.2, abs=0.01)
    assert [check.passed for check in verdict.advisory] == [True, False]
    assert "probe_trade" not in [check.name for check in verdict.checks]
    figures, verdict, jobs, off = gated(tmp_path / "off", "off")
    assert (figures.probe_rank, figures.probe_trade, jobs, verdict.advisory) == (None, None, [], ())
    *_, required = gated(tmp_path / "required", "required")
    assert shown == off != required


def test_a_required_probe_refuses_and_one_that_cannot_be_taken_stops_the_run(tmp_path, capsys):
    _, verdict, *_ = gated(tmp_path / "refused", "required")
    assert "probe_trade" in [check.name for check in verdict.failed]
    figures, *_ = gated(tmp_path / "shown", "shown", reachable=False)
    assert figures.probe_rank is None
    assert "warning: no precision probe: the arm cannot reach" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="cannot reach"):
        gated(tmp_path / "required", "required", reachable=False)


@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_demonstrations_are_paid_what_the_training_pays(tmp_path, reward):
    """With the dense reward they are replayed for it; the failure among them is no demonstration."""
    folders, jobs = [], []
    for demonstration in (success(), failure()):
        write_demonstration(tmp_path, demonstration)
        folders.append(tmp_path / demonstration.episode_id)
    dense = np.linspace(0.01, 1.0, len(success().actions), dtype=np.float32)

    def replayed(wanted, on_progress, what):
        jobs.extend(wanted)
        return [dense for _ in wanted]

    config = replace(ExperimentConfig(), reward=reward, learner=LearnerConfig(practice=False))
    run = Run(config, RunFolder(tmp_path / "run"), Console(), pool=SimpleNamespace(map=replayed))
    stored = label(run, Prepared(folders, [], [], None, None))
    [buffer, _] = load_demonstrations(stored, config.gamma, reward)
    paid = buffer.rewards(buffer.columns())
    if reward == "sparse":
        assert jobs == []
        assert paid.tolist() == success().task_rewards.tolist()
    else:
        assert [(job.method, job.args) for job in jobs] == [("dense_rewards", (folders[0], config.gamma))]
        assert paid.tolist() == dense.tolist()


def test_reward_dense_is_the_training_environment_s_and_the_peg_insertion_s(tmp_path):
    dense, sparse = (
        make_task(ExperimentConfig(reward=reward), "", None, tmp_path, tmp_path).env_config
        for reward in ("dense", "sparse")
    )
    assert (dense["dense_gamma"], sparse["dense_gamma"]) == (0.97, None)
    assert dense["env"].views == ()
    with pytest.raises(BadInput, match=r"env.task = 'PullCube-v1': write PegInsertionSide-v1"):
        ExperimentConfig(reward="dense", env=EnvConfig(task="PullCube-v1", start="standard"))
