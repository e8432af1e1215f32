"""The cost of labelling for an actor: environment steps/s with and without labels, rendering the same frames.

    dopamine bench actors
    dopamine bench actors --fragment 16 32 64 --latency-ms 20 50 100 200
    dopamine bench actors --algorithm ppo
    dopamine bench actors --observation pictures

Two actor processes (RLlib's env runner with the main job's environment, callback and labeller) play the same episodes
with the same untrained policy. One has every scored frame labelled by the reward service and stores the labels and
records; the other renders the same frames, discards them and uses only the task reward. They take turns (on, off, off,
on, …), so that only one is running, and each turn starts with fragments that are not timed.

Service and client are real; only the forward pass is simulated, by an engine that sleeps for a set time per batch and
makes up the hops, because a GPU would leave the CPU cores to the actor. With `--algorithm ppo` the labeller waits for
a fragment's last label before it returns the fragment; with the others it returns every fragment one fragment later.

With `--observation pictures` the policy sees pictures, through the vision tower of grm-mini, and both actors encode the
same ones. Scored frames are sent as the tower's tokens, and then, in rows of their own, as pictures to a service that
takes no tokens.

The last line is JSON: ratio (lowest of the rows; with pictures, of those that send tokens), rows (for each latency and
fragment length: ratio, its 95 % interval, environment steps/s of both arms, p50_ms and p99_ms of the labels from their
arrival at the service; frames that the service scored, and those that came as tokens), labels (asked, answered,
invalid, late, rejected, closed), queue (bound and longest queue in the replica), render_ms (one scored frame, all
views, in both arms), same_episodes (both arms had the same observations). With pictures also encoding: of one episode,
different pictures that the policy saw or that were scored, how many were encoded, and frame_bytes, the size of a scored
frame as pictures and as tokens.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import require
from dopamine_rl.interfaces import Prompt
from dopamine_rl.tokens import Image
from dopamine_rl.types import HopEstimates, TaskReference
from experiments.runtime.arguments import DEFAULT_PRESET, option, parse, read_preset
from experiments.runtime.ending import command
from experiments.settings import ExperimentConfig
from learner.config import Algorithm

if TYPE_CHECKING:
    from dopamine_rl.encoders.eyes import Eyes
    from learner.training import LabelLedger
    from reward_service.client import ServeRewardClient

APP = "benchmark-actors"
LATENCY_FILE, TOWER_FILE = "latency_ms", "tower"
POLICY_FILE = "policy.safetensors"
MODEL = "grm-mini"
"""Reward model whose tower a policy with pictures looks through."""
Sent = Literal["tokens", "pictures"]


class SimulatedEngine:
    """Simulates a GPU: every batch takes the same time and no CPU time.

    Args:
        folder: contains LATENCY_FILE with the latency in ms, and TOWER_FILE with the tower whose tokens are taken.
        threads: not used.
    """

    model_version = "simulated"

    def __init__(self, folder: Path, threads: int) -> None:
        self._latency_s = float((folder / LATENCY_FILE).read_text(encoding="utf-8")) / 1e3
        self.tower_version = (folder / TOWER_FILE).read_text(encoding="utf-8")

    def estimate(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> HopEstimates:
        """The same small made-up hop for every prompt."""
        time.sleep(self._latency_s)
        gain, nothing = np.full(len(prompts), 0.05, np.float32), np.zeros(len(prompts), np.float32)
        return HopEstimates(gain, nothing, nothing, ("",) * len(prompts))


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    preset: Annotated[str, option("NAME")] = DEFAULT_PRESET
    """Preset of the main job, for environment, stride and fragment length."""
    algorithm: Algorithm = "rlpd"
    """Algorithm whose actors are measured."""
    observation: Literal["state", "pictures"] = "state"
    """What the policy sees."""
    latency_ms: Annotated[tuple[float, ...], option("MS …")] = (50.0,)
    """Simulated model latency per batch."""
    fragment: Annotated[tuple[int, ...], option("N …", "the preset's")] = ()
    """Environment steps per fragment."""
    rounds: Annotated[int, option("N")] = 10
    """Turns per arm."""
    steps: Annotated[int, option("N")] = 192
    """Environment steps per turn, rounded up to whole fragments."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("latency_ms", bool(self.latency_ms) and min(self.latency_ms) >= 0.0, "give times of at least 0"),
            ("fragment", all(length >= 1 for length in self.fragment), "give numbers of at least 1"),
            ("rounds", self.rounds >= 1, "give at least 1"),
            ("steps", self.steps >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every latency and fragment length, and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench actors", __doc__)
    from experiments.runtime.cluster import ray_cluster

    config = main_job(arguments.preset, arguments.algorithm, arguments.observation)
    fragments = arguments.fragment or [config.learner.rollout_fragment_length]
    with tempfile.TemporaryDirectory() as scratch, ray_cluster(replace(config.cluster, num_cpus=4)):
        eyes = make_eyes(config, Path(scratch))
        arms = make_arms(config, Path(scratch))
        print("rendering …", flush=True)
        render_ms = round(float(np.mean([arm.render_ms() for arm in arms.values()])), 2)
        encoding = {} if eyes is None else {"encoding": arms["on"].encoding()}
        rows, longest = [], 0
        sent: tuple[Sent, ...] = ("pictures",) if eyes is None else ("tokens", "pictures")  # refusals are remembered
        for form, latency_ms in itertools.product(sent, arguments.latency_ms):
            tower = eyes.saved.version if eyes is not None and form == "tokens" else ""
            with simulated_service(config, Path(scratch), latency_ms, tower) as client:
                for fragment in fragments:
                    rows.append({"sent": form, **measure(arms, fragment, latency_ms, arguments)})
                    print(rows[-1], flush=True)
                counts = client.describe(10.0).counts
                longest = max(longest, counts.longest_line)
                rows[-1] |= {"frames": counts.frames, "encoded_frames": counts.encoded}
        figures = {
            "ratio": min(row["ratio"] for row in rows if row["sent"] == sent[0]),
            "rows": rows,
            "labels": arms["on"].labels.summary(),
            "queue": {"bound": config.service.max_ongoing_requests, "longest": longest},
            "render_ms": render_ms,
            "same_episodes": same_start(arms),
            **encoding,
        }
    print(json.dumps(figures))


def main_job(preset: str, algorithm: Algorithm, observation: Literal["state", "pictures"]) -> ExperimentConfig:
    """The main job's config, with a policy that needs no cloned policy."""
    config = read_preset(ExperimentConfig, preset, "--preset")
    learner = replace(config.learner, algorithm=algorithm, residual_scale=0.0)
    return replace(config, learner=learner, env=replace(config.env, observation=observation))


def make_eyes(config: ExperimentConfig, scratch: Path) -> Eyes | None:
    """What a policy with pictures sees with, saved as POLICY_FILE for the actors; None for another one."""
    from actors.eyes import sight_of
    from dopamine_rl.encoders.eyes import Eyes
    from dopamine_rl.encoders.loading import load_encoder
    from dopamine_rl.policy import save_policy

    sight = sight_of(config.env)
    if sight is None:
        return None
    eyes = Eyes(sight, load_encoder(f"grm:{MODEL}").saved())
    shapes: dict[str, tuple[int, ...]] = {
        "mean.weight": (config.env.action_size, eyes.size),
        "mean.bias": (config.env.action_size,),
    }
    shapes |= {"observation_mean": (eyes.size,), "observation_std": (eyes.size,)}
    state = {f"actor.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    save_policy(scratch / POLICY_FILE, state, eyes=eyes)
    return eyes


@contextlib.contextmanager
def simulated_service(
    config: ExperimentConfig, scratch: Path, latency_ms: float, tower: str
) -> Iterator[ServeRewardClient]:
    """Run the main job's reward service with the simulated engine; yields a client."""
    from reward_service.client import ServeRewardClient
    from reward_service.deployment import deploy, shutdown

    (scratch / LATENCY_FILE).write_text(str(latency_ms), encoding="utf-8")
    (scratch / TOWER_FILE).write_text(tower, encoding="utf-8")
    engine = f"experiments.benchmarks.actors:{SimulatedEngine.__name__}"
    deploy(scratch, APP, replace(config.service, engine=engine))
    try:
        yield ServeRewardClient(APP)
    finally:
        shutdown(APP)


@dataclass
class Arm:
    """An env runner in its own process, and its results.

    Args:
        runner: handle of the process.
        labels: outcomes of its labels.
        observations: of every fragment that it returned, in order.
    """

    runner: Any
    labels: LabelLedger
    observations: list[NDArray[np.float32]] = field(default_factory=list)

    def act(self, fragment: int, count: int) -> float:
        """Sample `count` fragments one by one, as the learner does; returns the elapsed seconds."""
        import ray
        from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

        began = time.perf_counter()
        for _ in range(count):
            chunks, metrics = ray.get(self.runner.apply.remote(act, fragment))
            self.labels.add(MetricsLogger.peek_results(metrics["labels"]))
            self.observations += [chunk.get_observations() for chunk in chunks]
        return time.perf_counter() - began

    def render_ms(self) -> float:
        """Median time of rendering one frame, all views, ms."""
        import ray

        return float(ray.get(self.runner.apply.remote(time_rendering)))

    def encoding(self) -> dict[str, Any]:
        """How often pictures are encoded, and the size of a scored frame."""
        import ray

        figures: dict[str, Any] = ray.get(self.runner.apply.remote(count_encodings))
        return figures


def act(runner: Any, fragment: int) -> tuple[list[Any], dict[str, Any]]:
    """Runs in the actor: one fragment and its metrics, as the learner requests them."""
    return runner.sample(num_timesteps=fragment), runner.get_metrics()


def time_rendering(runner: Any, frames: int = 20) -> float:
    """Runs in the actor: median time of rendering a frame, ms, without the first one, which loads resources."""
    env = runner.env.unwrapped.envs[0].unwrapped
    times = []
    for seed in range(frames + 1):
        env.reset(seed=seed, options={"pictures": False})  # a step's pictures are rendered once
        began = time.perf_counter()
        env.render_views()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]) * 1e3)


def count_encodings(runner: Any) -> dict[str, Any]:
    """Runs in the actor: plays an episode without moving, and counts the pictures in it and those that were encoded."""
    env = runner.env.unwrapped.envs[0]
    config = env.unwrapped.config
    others = len(set(config.views) - set(config.policy_views))
    before, pictures, frame_bytes, ended = env.get_wrapper_attr("encoded_pictures"), 0, {}, False
    env.reset(seed=0)
    while not ended:
        _, _, terminated, truncated, infos = env.step(np.zeros(env.action_space.shape, np.float32))
        ended = terminated or truncated
        pictures += len(config.policy_views)
        if "scored_views" in infos:
            pictures += others
            frame_bytes = {"pictures": infos["scored_views"].nbytes, "tokens": infos["scored_tokens"].values.nbytes}
    encoded = env.get_wrapper_attr("encoded_pictures") - before
    return {"pictures": pictures + len(config.policy_views), "encoded": encoded, "frame_bytes": frame_bytes}


def make_arms(config: ExperimentConfig, scratch: Path) -> dict[str, Arm]:
    """The actors with (`on`) and without (`off`) labels, each with one environment."""
    import ray
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    from learner.training import LabelLedger

    pixels = np.zeros((len(config.env.views), config.env.image_size, config.env.image_size, 3), np.uint8)
    reference = TaskReference("insert the peg", pixels[0], pixels[0], pixels)
    arms = {}
    for name, reward in (("on", config.reward), ("off", "sparse")):
        algorithm = actor_config(replace(config, reward=reward), reference, scratch / "records")
        remote: Any = ray.remote(SingleAgentEnvRunner).options(num_cpus=1, max_concurrency=1)
        runner = remote.remote(config=algorithm, worker_index=1)
        arms[name] = Arm(runner, LabelLedger())
    return arms


def actor_config(config: ExperimentConfig, reference: TaskReference, records: Path) -> Any:
    """RLlib's config of the main job's actors; the environment renders for any reward."""
    from experiments.job.training import make_task
    from learner.algorithms.table import Data, make_config

    task = make_task(config, APP, reference, records.parent / POLICY_FILE, records)
    task = replace(task, env_config={**task.env_config, "env": config.env})
    return make_config(task, config.learner, Data(config.reward))


def measure(arms: Mapping[str, Arm], fragment: int, latency_ms: float, arguments: Arguments) -> dict[str, Any]:
    """One row: both arms in turn, in alternating order."""
    from learner.training import LatencyHistogram

    count = -(-arguments.steps // fragment)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    labels = arms["on"].labels
    before = dict(labels.latencies.bins)
    for turn in range(arguments.rounds):
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            arms[name].act(fragment, 2)
            rates[name].append(count * fragment / arms[name].act(fragment, count))
    on, off = (np.array(rates[name]) for name in ("on", "off"))
    latencies = LatencyHistogram({i: n - before.get(i, 0) for i, n in labels.latencies.bins.items()})
    p50, p99 = (latencies.quantile(share) for share in (0.5, 0.99))
    return {
        "latency_ms": latency_ms,
        "fragment": fragment,
        "ratio": round(float(np.median(on / off)), 3),
        "interval": [round(bound, 3) for bound in median_interval(on / off)],
        "on_steps_per_s": round(float(np.median(on)), 1),
        "off_steps_per_s": round(float(np.median(off)), 1),
        "p50_ms": None if p50 is None else round(p50, 1),
        "p99_ms": None if p99 is None else round(p99, 1),
    }


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draws = np.median(np.random.default_rng(0).choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def same_start(arms: Mapping[str, Arm]) -> bool:
    """True if the fragments of both arms have the same observations."""
    return all(np.array_equal(a, b) for a, b in zip(*(arm.observations for arm in arms.values()), strict=False))


if __name__ == "__main__":
    main()
