"""The algorithms by their names in `learner.algorithm`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dopamine_rl.shaping import FULL, Shaping
from dopamine_rl.types import RewardMode
from learner.algorithms.common import TrainingSetup
from learner.algorithms.ppo import make_ppo_config
from learner.algorithms.rlpd import make_rlpd_config
from learner.algorithms.vtrace import make_appo_config, make_impala_config
from learner.config import Algorithm, LearnerConfig


@dataclass(frozen=True)
class Data:
    """What a training starts from, besides its setup and settings.

    Args:
        reward_mode: reward of replayed transitions; the others' rewards are the labeller's.
        demonstrations: an .npz of `save_demonstrations`, or None; RLPD alone learns from them.
        initial_policy: a file of `save_policy` to start from, or None.
        shaping: how the potential of replayed transitions is paid.
    """

    reward_mode: RewardMode = "sparse"
    demonstrations: str | None = None
    initial_policy: str | None = None
    shaping: Shaping = FULL


@dataclass(frozen=True)
class Entry:
    """An algorithm.

    Args:
        make: makes its AlgorithmConfig; `.build_algo()` starts it.
        waits_for_labels: whether its actors return a fragment only when it has its labels, as on-policy learning needs;
            else they return it one fragment later, and never wait for the reward model.
    """

    make: Callable[[TrainingSetup, LearnerConfig, Data], Any]
    waits_for_labels: bool = False


def _rlpd(setup: TrainingSetup, learner: LearnerConfig, data: Data) -> Any:
    return make_rlpd_config(setup, learner, data.reward_mode, data.demonstrations, data.initial_policy, data.shaping)


def _sac(setup: TrainingSetup, learner: LearnerConfig, data: Data) -> Any:
    return make_rlpd_config(setup, learner, data.reward_mode, None, data.initial_policy, data.shaping)


def _from_rewards(make: Callable[[TrainingSetup, LearnerConfig, str | None], Any]) -> Callable[..., Any]:
    return lambda setup, learner, data: make(setup, learner, data.initial_policy)


ALGORITHMS: Mapping[Algorithm, Entry] = {
    "rlpd": Entry(_rlpd),
    "sac": Entry(_sac),
    "ppo": Entry(_from_rewards(make_ppo_config), waits_for_labels=True),
    "appo": Entry(_from_rewards(make_appo_config)),
    "impala": Entry(_from_rewards(make_impala_config)),
}


def make_config(setup: TrainingSetup, learner: LearnerConfig, data: Data | None = None) -> Any:
    """The AlgorithmConfig of `learner.algorithm`; `.build_algo()` starts it."""
    return ALGORITHMS[learner.algorithm].make(setup, learner, data or Data())
