"""Trains a policy on ManiSkill's dense reward, to record demonstrations of a task that has no scripted expert.

    python -m experiments.examples.dense_policy LiftPegUpright-v1 --steps 60000 --out lift.safetensors
    python -m experiments.examples.dense_policy PushCube-v1 --num-envs 256 --steps 500000 --out push.safetensors  # GPU

The dense reward is written by ManiSkill's authors from the simulator's state: what it teaches is no result of a learned
reward. The file says so, and so do the episodes that `dopamine demos --policy` records with it.

Soft actor-critic on the simulator's state, one update for every few environment steps. Episodes go on after success,
because the dense reward pays for staying there. Every 5000 environment steps it prints the share of the last episodes
that succeeded, and keeps the policy.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from dopamine_rl.errors import require
from dopamine_rl.policy import PolicyState, save_policy
from experiments.runtime.arguments import ResultPath, option, parse
from experiments.runtime.ending import command

if TYPE_CHECKING:
    from actors.batched_maniskill import BatchedManiSkill
    from experiments.benchmarks.bare_loop import BareLoop

GAMMA = 0.8
"""ManiSkill's own choice for its dense rewards."""
INITIAL_ALPHA = 0.02
"""Temperature at first; the sum of future rewards is at most 5."""
REPORT = 5000
"""Environment steps between two lines."""
TRAINED_ON = "ManiSkill's normalised dense reward, from the simulator's state"


@dataclass(frozen=True)
class Arguments:
    """What is trained, and for how long."""

    task: Annotated[Positional[str], option("ID")]
    """ManiSkill's id of the task."""
    out: Annotated[ResultPath, option("FILE")] = Path("policy.safetensors")
    """The policy's file."""
    steps: Annotated[int, option("N")] = 60_000
    """Environment steps."""
    num_envs: Annotated[int, option("N")] = 1
    """Environments that are simulated together; more than one needs an NVIDIA GPU."""
    robot: Annotated[str | None, option("NAME", "the task's own")] = None
    """ManiSkill's name of the robot; panda_wristcam for demonstrations with the wrist camera."""
    control_mode: Annotated[str | None, option("NAME", "pd_ee_delta_pose")] = None
    """ManiSkill's name of what actions mean."""
    updates_per_step: Annotated[float, option("X", "1 for one environment, 0.1 for more")] = 0.0
    """Updates per environment step."""
    batch: Annotated[int, option("N")] = 256
    """Transitions of an update."""
    hidden: Annotated[tuple[int, ...], option("N …")] = (256, 256)
    """Widths of the networks' layers."""
    warm_up: Annotated[int, option("N")] = 1000
    """Environment steps with random actions before the first update."""
    seed: Annotated[int, option("S")] = 0
    """Of the first episode and of the networks."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("steps", self.steps > self.warm_up >= 1, "give more than warm_up, which is at least 1"),
            ("num_envs", self.num_envs >= 1, "give at least 1"),
            ("updates_per_step", self.updates_per_step >= 0.0, "give at least 0"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the policy."""
    arguments = parse(Arguments, argv, "python -m experiments.examples.dense_policy", __doc__)
    from actors.batched_maniskill import make_batched

    env = make_batched(
        arguments.task,
        arguments.num_envs,
        sim_backend="physx_cpu" if arguments.num_envs == 1 else "physx_cuda",
        cameras=(),
        reward="dense",
        terminates=False,
        robot=arguments.robot,
        control_mode=arguments.control_mode,
    )
    try:
        train(env, arguments)
    finally:
        env.close()


def train(env: BatchedManiSkill, arguments: Arguments) -> float:
    """Train on an environment whose reward is dense; returns the success rate of the last episodes."""
    import torch

    from experiments.benchmarks.bare_loop import BareLoop

    torch.manual_seed(arguments.seed)
    size, width = env.single_observation_space.shape[0], env.single_action_space.shape[0]  # type: ignore[index]
    shapes = {"obs": (size,), "next_obs": (size,), "actions": (width,), "rewards": (), "terminated": ()}
    columns = {name: np.zeros((arguments.steps, *shape), np.float32) for name, shape in shapes.items()}
    learner, rng = BareLoop(columns, arguments.hidden, arguments.batch, GAMMA), np.random.default_rng(arguments.seed)
    learner.log_alpha.data.fill_(math.log(INITIAL_ALPHA))
    rate = arguments.updates_per_step or (1.0 if arguments.num_envs == 1 else 0.1)
    observations, _ = env.reset(seed=arguments.seed)
    filled, owed, fresh, outcomes = 0, 0.0, np.zeros(env.num_envs, bool), deque[bool]([], 100)
    while filled < arguments.steps:
        actions = (
            _actions(learner, observations)
            if filled >= arguments.warm_up
            else rng.uniform(-1, 1, (env.num_envs, width))
        )
        following, rewards, _, truncated, infos = env.step(actions.astype(np.float32))
        rows = np.flatnonzero(~fresh)[: arguments.steps - filled]  # a step that resets is no transition
        new = slice(filled, filled + len(rows))
        for name, values in (
            ("obs", observations),
            ("next_obs", following),
            ("actions", actions),
            ("rewards", rewards),
        ):
            columns[name][new] = values[rows]
        outcomes.extend(infos["success"][truncated].tolist())
        before, filled = filled, filled + len(rows)
        observations, fresh = following, truncated
        if filled >= arguments.warm_up:
            learner.columns = {name: values[:filled] for name, values in columns.items()}
            owed += rate * len(rows)
            while owed >= 1.0:
                learner.update()
                owed -= 1.0
        if before // REPORT != filled // REPORT or filled == arguments.steps:
            success = float(np.mean(outcomes)) if outcomes else 0.0
            print(
                f"{filled} environment steps: {success:.2f} of the last {len(outcomes)} episodes succeeded", flush=True
            )
            _save(learner, arguments, filled, success)
    return success


def _actions(learner: BareLoop, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Actions with exploration."""
    import torch

    with torch.no_grad():
        actions: NDArray[np.float32] = learner.act(torch.from_numpy(observations))[0].numpy()
    return actions


def _save(learner: BareLoop, arguments: Arguments, steps: int, success: float) -> None:
    about: dict[str, Any] = {
        "trained_on": TRAINED_ON,
        "task": arguments.task,
        "robot": arguments.robot,
        "control_mode": arguments.control_mode,
        "environment_steps": steps,
        "training_success": success,
    }
    save_policy(arguments.out, policy_state(learner), about)


def policy_state(learner: BareLoop) -> PolicyState:
    """The actor as dopamine_rl.policy has it; of its last layer the means alone."""
    linear = [layer for layer in learner.actor if hasattr(layer, "weight")]
    names = [*(f"layers.{index}" for index in range(len(linear) - 1)), "mean"]
    state = {
        f"actor.{name}.{part}": getattr(layer, part).detach().numpy().copy()
        for name, layer in zip(names, linear, strict=True)
        for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        state[f"actor.mean.{part}"] = state[f"actor.mean.{part}"][: learner.width]
    size = state["actor.layers.0.weight"].shape[1]
    return state | {
        "actor.observation_mean": np.zeros(size, np.float32),
        "actor.observation_std": np.ones(size, np.float32),
    }


if __name__ == "__main__":
    main()
