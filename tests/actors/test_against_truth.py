"""The environment that charges for true progress."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from actors.against_truth import AgainstTruth
from dopamine_rl.shaping import shaped_reward

TRUTH = (0.1, 0.3, 0.2, 0.9, 1.0)


class Line(gymnasium.Env[Any, Any]):
    """Its true progress is TRUTH; it pays 1 at the end."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1, np.float32), {"oracle_progress": TRUTH[0]}

    def step(self, action: Any) -> Any:
        self.time += 1
        done = self.time == len(TRUTH) - 1
        return np.zeros(1, np.float32), float(done), done, False, {"oracle_progress": TRUTH[self.time]}


def rewards(env: AgainstTruth) -> list[float]:
    env.reset(seed=0)
    paid = []
    while True:
        _, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        paid.append(reward)
        if terminated or truncated:
            return paid


def test_it_charges_what_true_progress_gains_and_pays_no_success() -> None:
    env = AgainstTruth(Line())
    for _ in range(2):  # the second episode begins anew
        assert rewards(env) == pytest.approx([-0.2, 0.1, -0.7, -0.1])


def test_with_the_models_progress_on_top_only_what_it_overvalues_pays() -> None:
    paid, truth = rewards(AgainstTruth(Line())), np.array(TRUTH)
    right = shaped_reward(paid, truth[:-1], truth[1:], 0.97, "naive")
    assert right == pytest.approx(np.zeros(4), abs=1e-6)
    excess = np.array([0.0, 0.2, 0.4, 0.0, 0.0])
    wrong = shaped_reward(paid, (truth + excess)[:-1], (truth + excess)[1:], 0.97, "naive")
    assert wrong == pytest.approx(np.diff(excess), abs=1e-6)
