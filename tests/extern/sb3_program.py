"""Stable-Baselines3's SAC on a small Dict environment, paid by the shipped model: python sb3_program.py STEPS OUT

It runs in an environment of its own (`make sb3-env`); what it saw is kept as JSON in the file OUT.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.monitor import Monitor

from actors.progress_reward import ProgressReward
from dopamine_rl.types import TaskReference
from reward_service.local import embedded_client
from tests.actors.reaching import NAMES, REFERENCE, Reaching, enlarged

GAMMA, HORIZON, STRIDE, LARGER = 0.95, 10, 4, 5


class Kept(BaseCallback):
    """Keeps every step's parts of the reward, and whether the episode ended there."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        [info], [done], [reward] = (self.locals[name] for name in ("infos", "dones", "rewards"))
        names = ("progress", "task_reward", "shaping", "labels", "episode")
        parts = {name: info[name] for name in names if name in info}
        truncated = info.get("TimeLimit.truncated", False)
        self.steps.append({**parts, "reward": float(reward), "done": bool(done), "truncated": bool(truncated)})
        return True


def main(steps: int, out: Path) -> None:
    """Train, and keep what was paid."""
    pictures = (REFERENCE.reference_start, REFERENCE.reference_end, REFERENCE.goal)
    env = ProgressReward(
        Reaching(horizon=HORIZON, larger=LARGER),
        embedded_client("grm-mini"),
        TaskReference("reach", *(enlarged(picture, LARGER) for picture in pictures)),
        GAMMA,
        stride=STRIDE,
        views=NAMES,
        deadline_s=60.0,
    )
    check_env(env, skip_render_check=True)
    settings: dict[str, Any] = {"learning_starts": 20, "batch_size": 16, "buffer_size": 1000}
    settings["policy_kwargs"] = {"net_arch": [32, 32]}
    learner = SAC("MultiInputPolicy", Monitor(env), gamma=GAMMA, seed=0, **settings)
    kept = Kept()
    learner.learn(steps, callback=kept)
    counts = env.counts
    content = {
        "steps": kept.steps,
        "counts": {name: getattr(counts, name) for name in ("asked", "answered", "invalid", "late", "rejected")},
        "replayed": np.asarray(learner.replay_buffer.rewards[:steps, 0], float).tolist(),
        "updates": int(learner._n_updates),
    }
    out.write_text(json.dumps(content, default=float))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
