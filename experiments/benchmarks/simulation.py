"""Batched simulation with labels: environment steps/s and labels/s for many environments in one process.

    dopamine bench simulation                                     # on a GPU: ManiSkill's batched PushCube-v1
    dopamine bench simulation --task LiftPegUpright-v1 --num-envs 256 1024 --model grm-mini
    dopamine bench simulation --simulator stand-in

Every arm takes random actions in a BatchedManiSkill: without pictures, with pictures of every scored frame, and with
the scored frames labelled by VectorProgressReward. Labels are those of --model, on the GPU where there is one, or of an
engine that answers at once, which leaves the cost of asking.

Without an NVIDIA GPU ManiSkill simulates one environment a process: then the stand-in is measured, points with the
same tensors, which says what asking costs and nothing about the simulator. The result says which one it was.

The last line is JSON: simulator, model, device, rows (for each number of environments: steps_per_s of the three arms,
labels_per_s, asking_us (microseconds of CPU time that labels add to an environment step, a model on the CPU included),
labels (asked, answered, invalid, late, rejected)).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import require
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates, TaskReference
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command

if TYPE_CHECKING:
    from actors.batched_maniskill import BatchedManiSkill
    from reward_service.local import BackgroundRewardClient

GAMMA = 0.99
HOP = 0.02


class InstantEngine:
    """Answers every prompt with the same small hop at once."""

    model_version = "instant"

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """See dopamine_rl.interfaces.Engine."""
        gain, nothing = np.full(len(prompts), HOP, np.float32), np.zeros(len(prompts), np.float32)
        return HopEstimates(gain, nothing, nothing, ("",) * len(prompts))


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    task: Annotated[str, option("ID")] = "PushCube-v1"
    """ManiSkill's id of the task."""
    num_envs: Annotated[tuple[int, ...], option("N …")] = (64, 256, 1024)
    """Numbers of environments."""
    simulator: Annotated[Literal["auto", "physx_cuda", "physx_cpu", "stand-in"], option("NAME")] = "auto"
    """What simulates; auto: physx_cuda where there is a GPU, else stand-in. physx_cpu has one environment."""
    model: Annotated[str | None, option("MODEL", "an engine that answers at once")] = None
    """Reward model: a folder, a hub id, or grm-mini."""
    cameras: Annotated[tuple[str, ...], option("NAME …")] = ("front",)
    """Cameras of a scored frame."""
    size: Annotated[int, option("PX")] = 112
    """Height and width of a picture."""
    stride: Annotated[int, option("K")] = 4
    """Environment steps between scored frames."""
    steps: Annotated[int, option("N")] = 100
    """Steps of all environments together, in each arm."""
    batch: Annotated[int, option("FRAMES")] = 256
    """Most frames that the model scores at once."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("num_envs", bool(self.num_envs) and min(self.num_envs) >= 1, "give numbers of at least 1"),
            ("steps", self.steps >= 1, "give at least 1"),
            ("batch", self.batch >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every number of environments, and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench simulation", __doc__)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    simulator = arguments.simulator
    if simulator == "auto":
        simulator = "physx_cuda" if device == "cuda" else "stand-in"
    if simulator == "stand-in":
        print(
            "measuring a stand-in: points with ManiSkill's tensors, which say nothing about its simulator", flush=True
        )
    rows = []
    for num_envs in (1,) if simulator == "physx_cpu" else arguments.num_envs:
        rows.append(measure(arguments, simulator, num_envs, make_client(arguments, device, num_envs)))
        print(rows[-1], flush=True)
    print(json.dumps({"simulator": simulator, "model": arguments.model or "instant", "device": device, "rows": rows}))


def make_client(arguments: Arguments, device: str, num_envs: int) -> BackgroundRewardClient:
    """The reward model in this process."""
    from reward_service.local import BackgroundRewardClient
    from reward_service.scorer import Scorer

    engine: Any = InstantEngine()
    if arguments.model is not None:
        from dopamine_rl.grm.checkpoint import load_grm
        from reward_service.engines.transformers import TransformersEngine

        engine = TransformersEngine(load_grm(arguments.model), device=device)
    return BackgroundRewardClient(Scorer(engine), max_pending=2 * num_envs, max_batch_frames=arguments.batch)


def measure(
    arguments: Arguments, simulator: str, num_envs: int, client: BackgroundRewardClient
) -> dict[str, int | float | dict[str, Any]]:
    """The three arms with one number of environments."""
    from actors.vector_progress_reward import VectorProgressReward

    row: dict[str, Any] = {"num_envs": num_envs}
    env = make(arguments, simulator, num_envs, cameras=())
    row["steps_per_s"] = {"without_pictures": round(num_envs / play(env, arguments.steps)[0], 1)}
    env.close()
    env = make(arguments, simulator, num_envs, cameras=arguments.cameras)
    seen_s, seen_cpu_s = play(env, arguments.steps)
    goal = env.reset(seed=0)[1]["scored_views"][0]
    labelled = VectorProgressReward(
        env,
        client,
        TaskReference(arguments.task, goal[0], goal[0], goal),
        GAMMA,
        stride=arguments.stride,
        deadline_s=60.0,
    )
    labelled_s, labelled_cpu_s = play(labelled, arguments.steps)
    counts = labelled.counts
    row["steps_per_s"] |= {"with_pictures": round(num_envs / seen_s, 1), "with_labels": round(num_envs / labelled_s, 1)}
    row["labels_per_s"] = round(counts.answered / (labelled_s * (arguments.steps + 1)), 1)
    row["asking_us"] = round((labelled_cpu_s - seen_cpu_s) / num_envs * 1e6, 1)
    row["labels"] = {name: getattr(counts, name) for name in ("asked", "answered", "invalid", "late", "rejected")}
    labelled.close()
    return row


def make(arguments: Arguments, simulator: str, num_envs: int, cameras: tuple[str, ...]) -> BatchedManiSkill:
    """The environments of an arm."""
    from actors.any_config import ManiSkillConfig
    from actors.batched_maniskill import BatchedManiSkill, make_batched
    from actors.batched_stand_in import BatchedPoints

    settings: dict[str, Any] = {"cameras": cameras, "image_size": arguments.size, "stride": arguments.stride}
    if simulator != "stand-in":
        return make_batched(arguments.task, num_envs, sim_backend=simulator, **settings)
    points = BatchedPoints(num_envs, max(1, len(cameras)), arguments.size)
    return BatchedManiSkill(ManiSkillConfig(arguments.task, **settings), points)


def play(env: Any, steps: int) -> tuple[float, float]:
    """Seconds of a step of all environments with random actions, on the clock and of this process's CPUs."""
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    actions = rng.uniform(-1.0, 1.0, (steps + 1, *env.action_space.shape)).astype(np.float32)
    env.step(actions[-1])  # what is made lazily is not timed
    began, began_cpu = time.perf_counter(), time.process_time()
    for action in actions[:-1]:
        env.step(action)
    return (time.perf_counter() - began) / steps, (time.process_time() - began_cpu) / steps


if __name__ == "__main__":
    main()
