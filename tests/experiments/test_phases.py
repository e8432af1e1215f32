"""What is recorded, by whom and from which seeds."""

from dataclasses import replace
from itertools import chain

import pytest

from dopamine_rl.config import load_preset, preset_names
from dopamine_rl.errors import BadInput
from experiments.job import plans as episodes
from experiments.runtime.arguments import PRESETS
from experiments.settings import ExperimentConfig


def every_set(config, tmp_path):
    plans = episodes.scripted_plans(config, tmp_path) | episodes.rollout_plans(config, tmp_path, tmp_path / "bc", "v1")
    return {name: list(plan.seeds) for name, plan in plans.items()} | {"trial": episodes.trial_seeds(config)}


def test_no_seed_serves_two_purposes_in_any_preset(tmp_path):
    for name in preset_names(PRESETS):
        config = load_preset(ExperimentConfig, PRESETS / f"{name}.toml")
        config = replace(config, demonstrations=replace(config.demonstrations, gate_behaviours=3))
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
        ("record_as_meant", "pause", 7000),
        ("record_as_meant", "retry", 7001),
        ("record_as_meant", "oscillate", 7002),
        ("record_as_meant", "beside", 7003),
        ("record_as_meant", "pause", 7004),
    ]
    assert len(plan.paths) == len(plan.jobs) == 8
    with pytest.raises(BadInput, match=r"demonstrations.gate_behaviours = -1"):
        replace(config.demonstrations, gate_behaviours=-1)
    with pytest.raises(BadInput, match="at most 1000 episodes"):
        replace(config.demonstrations, gate_behaviours=251)


def test_the_laptop_preset_judges_on_as_many_episodes_as_a_verdict_needs():
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    wanted = config.demonstrations
    assert wanted.gate_successes >= config.gate.least_successes
    assert wanted.gate_failures + wanted.gate_rollouts >= config.gate.least_failures
    kinds = [episodes.FAILURES[i % len(episodes.FAILURES)] for i in range(wanted.gate_failures)]
    assert kinds.count("near_miss") >= len(kinds) / 2
