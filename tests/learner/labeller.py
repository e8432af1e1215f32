from __future__ import annotations

from typing import Any

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback

from dopamine_rl.shaping import shaped_reward
from tests.learner import toy

GAMMA = 0.95


class Labeller(RLlibCallback):
    """Writes labels and shaped rewards as the real labelling callback does, with the true progress as potential."""

    def on_sample_end(self, *, samples: Any, **kwargs: Any) -> None:
        for episode in samples:
            rewards = np.asarray(episode.get_rewards(), np.float32)
            marks = toy.labels(np.asarray(episode.get_observations()), rewards, episode.is_terminated)
            episode.custom_data[f"labels/{episode.t_started}"] = marks
            episode.set_rewards(
                new_data=shaped_reward(marks.task_reward, marks.potential, marks.next_potential, GAMMA, "grm")
            )
