"""Updates/s of the policy learner, compared with stock RLlib SAC and with a minimal loop.

    dopamine bench learner
    dopamine bench learner --sees pictures

All have an actor and two critics with the same layers, the same batch size and one thread, and sample from the same
transitions; `rllib_default` is SAC with the critics that RLlib builds by default for these widths. Timed is a training
iteration without acting: sample, transfer, update, report, send the weights to the env runner (the minimal loop only
samples and updates). Time is CPU time of the main thread, which does all the work, so other load on the machine does
not count. The arms take turns; ratios are medians over the rounds. The last line is JSON.

With --sees, updates/s, bytes per transition and peak memory of the learner alone, with a full replay buffer of frozen
features (2 x 512 numbers) or of pictures (2 x 64 x 64 pixels, encoder cnn).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from dopamine_rl.errors import require
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command

OBSERVATION_SIZE, ACTION_SIZE, TRANSITIONS, EPISODE = 30, 6, 20_000, 100
HIDDEN, BATCH_SIZE, GAMMA = (256, 256), 256, 0.99
UPDATES_PER_CALL = 8
"""Updates of one training iteration: two for each of the four environment steps of a fragment."""


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    rounds: Annotated[int, option("N")] = 9
    """Turns per arm."""
    updates: Annotated[int, option("N")] = 40
    """Updates per turn, a multiple of 8; stock RLlib does a fifth."""
    sees: Literal["state", "features", "pictures"] = "state"
    """What the policy sees."""
    transitions: Annotated[int, option("N")] = 100_000
    """Transitions in the replay buffer, with --sees."""
    batch_size: Annotated[int, option("N")] = BATCH_SIZE
    """Transitions of an update, with --sees."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("rounds", self.rounds >= 1, "give at least 1"),
            ("transitions", self.transitions >= 1, "give at least 1"),
            ("batch_size", self.batch_size >= 1, "give at least 1"),
            ("updates", self.updates >= 8 and self.updates % 8 == 0, "give a multiple of 8"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Run the arms in turn and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench learner", __doc__)
    if arguments.sees != "state":
        from experiments.benchmarks.seeing import measure

        print(json.dumps(measure(arguments.sees, arguments.transitions, arguments.updates, arguments.batch_size)))
        return
    arms = make_arms(make_columns())
    for run in arms.values():
        run(UPDATES_PER_CALL)
    counts = {
        name: UPDATES_PER_CALL * max(1, arguments.updates // 40) if name.startswith("rllib") else arguments.updates
        for name in arms
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(arguments.rounds):
        for name, run in arms.items():
            begin = time.thread_time()
            run(counts[name])
            rates[name].append(counts[name] / (time.thread_time() - begin))
    print(json.dumps(figures({name: np.array(values) for name, values in rates.items()})))


def figures(rates: dict[str, np.ndarray]) -> dict[str, float]:
    """Medians of the rates (updates/s) and of the ratios per round."""
    result = {f"{name}_updates_per_s": round(float(np.median(values)), 2) for name, values in rates.items()}
    for other in rates.keys() - {"ours"}:
        result[f"ratio_{other}"] = round(float(np.median(rates["ours"] / rates[other])), 3)
    return result


def make_columns() -> dict[str, np.ndarray]:
    """Made-up transitions of truncated episodes."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(TRANSITIONS + 1, OBSERVATION_SIZE)).astype(np.float32)
    return {
        "obs": observations[:-1],
        "next_obs": observations[1:],
        "actions": rng.uniform(-1, 1, (TRANSITIONS, ACTION_SIZE)).astype(np.float32),
        "rewards": rng.normal(size=TRANSITIONS).astype(np.float32),
        "terminated": np.zeros(TRANSITIONS, np.float32),
    }


def make_arms(columns: dict[str, np.ndarray]) -> dict[str, Callable[[int], None]]:
    """For each arm, a function that does a number of updates."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    import torch
    from ray.rllib.algorithms.dqn import dqn

    from experiments.benchmarks.bare_loop import BareLoop

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    arms = {
        "ours": our_arm(columns),
        "rllib": rllib_arm(columns, same=True),
        "rllib_default": rllib_arm(columns, same=False),
    }
    sampling: Any = dqn
    sampling.synchronous_parallel_sample = lambda **_: ([], [])
    bare = BareLoop(columns, HIDDEN, BATCH_SIZE, GAMMA)

    def bare_arm(count: int) -> None:
        for _ in range(count):
            bare.update()

    arms["bare"] = bare_arm
    torch.set_num_threads(1)
    return arms


def make_env(env_config: Any) -> Any:
    """A trivial environment with the right spaces."""
    import gymnasium

    class Still(gymnasium.Env):
        def __init__(self) -> None:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(OBSERVATION_SIZE, np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(OBSERVATION_SIZE, np.float32), 0.0, False, False, {}

    return Still()


def our_arm(columns: dict[str, np.ndarray]) -> Callable[[int], None]:
    """RLPD in RLlib's learner group, with half of every batch from demonstrations."""
    from learner.algorithms.common import TrainingSetup
    from learner.algorithms.rlpd import make_rlpd_config
    from learner.config import LearnerConfig
    from learner.replay import ColumnarReplay

    config = LearnerConfig(
        hidden=HIDDEN, critics=2, target_critics=2, actor_every=1, batch_size=BATCH_SIZE, num_env_runners=0
    )
    algorithm: Any = make_rlpd_config(TrainingSetup(make_env, gamma=GAMMA), config, "grm").build_algo()
    stored = {**columns, "task_reward": columns["rewards"]}
    demo = ColumnarReplay(TRANSITIONS, OBSERVATION_SIZE, ACTION_SIZE, GAMMA, "grm")
    for replay in (algorithm.feed.online, demo):
        replay.add(stored, "all")
    algorithm.feed.demo = demo

    def run(count: int) -> None:
        for _ in range(0, count, UPDATES_PER_CALL):
            algorithm._improve(UPDATES_PER_CALL)

    return run


def rllib_arm(columns: dict[str, np.ndarray], same: bool) -> Callable[[int], None]:
    """Stock RLlib SAC (prioritised episode replay, connectors, its own learner), with our layers or its default."""
    from ray.rllib.algorithms.sac import SACConfig
    from ray.tune.registry import register_env

    register_env("still", make_env)
    config = SACConfig().environment("still", disable_env_checking=True).env_runners(num_env_runners=0)
    config.training(gamma=GAMMA, train_batch_size_per_learner=BATCH_SIZE, actor_lr=3e-4)
    config.rl_module(rl_module_spec=rllib_networks(same))
    config.training(training_intensity=BATCH_SIZE * UPDATES_PER_CALL, num_steps_sampled_before_learning_starts=0)
    algorithm: Any = config.debugging(log_level="ERROR").build_algo()
    algorithm.local_replay_buffer.add(episodes_of(columns))
    algorithm.training_step()  # one real fragment, so that the counters which later iterations read exist

    def run(count: int) -> None:
        for _ in range(0, count, UPDATES_PER_CALL):
            algorithm.training_step()

    return run


def rllib_networks(same: bool) -> Any:
    """RLlib's SAC module with our widths; if `same`, our encoder replaces the critics' (which is four times larger)."""
    import torch
    from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
    from ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module import DefaultSACTorchRLModule
    from ray.rllib.core.models.base import ENCODER_OUT
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from experiments.benchmarks.bare_loop import hidden_layers

    class Joined(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = hidden_layers(OBSERVATION_SIZE + ACTION_SIZE, HIDDEN, normalised=True)

        def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {ENCODER_OUT: self.layers(torch.cat((batch["obs"], batch["actions"]), -1))}

    class SameCatalog(SACCatalog):
        def build_qf_encoder(self, framework: str) -> Any:
            return Joined()

    settings = {"fcnet_hiddens": HIDDEN, "head_fcnet_hiddens": [], "fcnet_activation": "relu"}
    catalog = SameCatalog if same else SACCatalog
    return RLModuleSpec(module_class=DefaultSACTorchRLModule, catalog_class=catalog, model_config=settings)


def episodes_of(columns: dict[str, np.ndarray]) -> list[Any]:
    """The same transitions as RLlib episodes."""
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    return [
        SingleAgentEpisode(
            observations=[*columns["obs"][start : start + EPISODE], columns["next_obs"][start + EPISODE - 1]],
            actions=list(columns["actions"][start : start + EPISODE]),
            rewards=columns["rewards"][start : start + EPISODE].tolist(),
            infos=[{} for _ in range(EPISODE + 1)],
            extra_model_outputs={"weights_seq_no": [0] * EPISODE},
            truncated=True,
            len_lookback_buffer=0,
        ).to_numpy()
        for start in range(0, TRANSITIONS, EPISODE)
    ]


if __name__ == "__main__":
    main()
