"""What is recorded, by whom and from which seeds."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from dopamine_rl.config import load_preset, preset_names
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration
from experiments import episodes
from experiments.arguments import PRESETS
from experiments.settings import ExperimentConfig


def every_set(config, tmp_path):
    plans = episodes.scripted_plans(config, tmp_path) | episodes.rollout_plans(config, tmp_path, tmp_path / "bc", "v1")
    return {name: list(plan.seeds) for name, plan in plans.items()} | {"trial": episodes.trial_seeds(config)}


def test_no_seed_serves_two_purposes_in_any_preset(tmp_path):
    for name in preset_names(PRESETS):
        config = load_preset(ExperimentConfig, PRESETS / f"{name}.toml")
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


def test_the_laptop_preset_judges_on_as_many_episodes_as_a_verdict_needs():
    config = load_preset(ExperimentConfig, PRESETS / "laptop.toml")
    wanted = config.demonstrations
    assert wanted.gate_successes >= config.gate.least_successes
    assert wanted.gate_failures + wanted.gate_rollouts >= config.gate.least_failures
    kinds = [episodes.FAILURES[i % len(episodes.FAILURES)] for i in range(wanted.gate_failures)]
    assert kinds.count("near_miss") >= len(kinds) / 2


def shown(align: int, insert: int, success: bool = True) -> Demonstration:
    """An expert's episode by the frames of its stages."""
    count = align + insert + 1
    return Demonstration(
        "one", ("put it in",), np.zeros((count, 1, 32, 32, 3), np.uint8), np.arange(count), np.array([0, align, count - 1]),
        ("align", "insert"), np.zeros((count, 3), np.float32), np.zeros((count - 1, 2), np.float32),
        np.zeros(count - 1, np.float32), success, success, 0,
    )  # fmt: skip


def test_the_most_typical_take_is_neither_one_that_jammed_nor_one_that_failed():
    takes = [shown(4, 28), shown(12, 20), shown(14, 20, success=False), shown(15, 20), shown(19, 20)]
    assert episodes.most_typical(takes, 1) == [1]  # the medians are 13.5 and 20; of equals the first
    assert episodes.most_typical(takes, 2) == [1, 3]
    assert episodes.most_typical(takes, 9) == [0, 1, 3, 4]
    with pytest.raises(BadInput, match="no expert episode succeeded"):
        episodes.most_typical([shown(4, 4, success=False)], 1)
