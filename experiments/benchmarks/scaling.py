"""Measures whether actors wait for each other, on an environment with a set duration per step, like a robot.

First a normal and a slow env runner are measured alone, then all env runners together with one slow, then with one that
hangs during a step, then more of them together, all equally fast. Prints a table and, as the last line, one JSON
object:

    share_of_sum: environment steps/s of all env runners, relative to the sum of their own rates, with one slow.
    share_with_one_hung: environment steps/s while one hangs, relative to the sum of the others' own rates.
    replaced: how often the hung env runner was replaced; late: env runners reported as late, most at one time.
    share_of_linear_N: environment steps/s of N equal env runners, relative to N times the rate of one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dopamine_rl.errors import require
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command
from learner.config import Algorithm, LearnerConfig

LEARNER = LearnerConfig(
    hidden=(32, 32),
    batch_size=64,
    critics=2,
    updates_per_step=0.5,
    learning_starts=10,
    steps_per_iteration=20,
    vtrace_batch_size=64,
    num_cpus_per_env_runner=0.1,
)
HANG_S = 3600.0
NEVER = 10**9


class TimedSteps(gymnasium.Env[Any, Any]):
    """A step takes `step_s`, on env runner number `slow` `slow_factor` times as long.

    Env runner number `hung` hangs at its environment step `hangs_at`, once: afterwards the file `hung_once` exists.
    """

    def __init__(self, env_config: Any) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        runner = env_config.worker_index
        self._step_s = env_config["step_s"] * (env_config["slow_factor"] if runner == env_config["slow"] else 1.0)
        self._hung_once = Path(env_config["hung_once"]) if runner == env_config["hung"] else None
        self._hangs_at, self._steps, self._time = env_config["hangs_at"], 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode of 50 steps."""
        super().reset(seed=seed)
        self._time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Sleep for the duration of a step."""
        time.sleep(self._step_s)
        self._steps, self._time = self._steps + 1, self._time + 1
        if self._hung_once is not None and self._steps >= self._hangs_at and not self._hung_once.exists():
            self._hung_once.touch()
            time.sleep(HANG_S)
        return self._observation(), 0.0, False, self._time >= 50, {}

    def _observation(self) -> Any:
        return self.np_random.uniform(-1.0, 1.0, 8).astype(np.float32)


@dataclass(frozen=True)
class Rates:
    """Results of one arm.

    Args:
        rate: environment steps/s of all its env runners.
        late: env runners reported as late, most at one time.
        replaced: how often an env runner was replaced.
    """

    rate: float
    late: int
    replaced: int


def measure(
    algorithm: Algorithm, runners: int, seconds: float, env_config: Mapping[str, Any], sample_timeout_s: float
) -> Rates:
    """Environment steps/s of a training after its warm-up.

    If an env runner is to hang, measure from then on.
    """
    from learner.algorithms.common import TrainingSetup
    from learner.algorithms.table import make_config

    learner = replace(LEARNER, algorithm=algorithm, num_env_runners=runners, sample_timeout_s=sample_timeout_s)
    training: Any = make_config(TrainingSetup(TimedSteps, env_config), learner).build_algo()
    try:
        hung_once = Path(env_config["hung_once"])
        while acted(training.train()) < 2 * LEARNER.learning_starts:
            pass
        while env_config["hung"] and not hung_once.exists():
            training.train()
        before, late, steps = acted(training.train()), 0, 0
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            report = training.train()
            steps, late = acted(report) - before, max(late, len(report["acting"]["late_s"]))
        elapsed = time.perf_counter() - began
        return Rates(steps / elapsed, late, training.acting.replaced)
    finally:
        training.stop()


def acted(report: Mapping[str, Any]) -> int:
    """Environment steps of all env runners so far."""
    return int(report["env_runners"]["num_env_steps_sampled_lifetime"])


def benchmark(arguments: Arguments, folder: Path) -> dict[str, float]:
    """The values of the last line."""
    runners, slow_factor, seconds = arguments.runners, arguments.slow_factor, arguments.seconds
    algorithm = arguments.algorithm
    base = {
        "step_s": arguments.step_s,
        "slow_factor": slow_factor,
        "slow": 0,
        "hung": 0,
        "hangs_at": NEVER,
        "hung_once": str(folder / "hung_once"),
    }
    own = measure(algorithm, 1, seconds, base, 120.0).rate
    own_slow = measure(algorithm, 1, seconds, {**base, "slow": 1}, 120.0).rate
    together = measure(algorithm, runners, seconds, {**base, "slow": runners}, 120.0)
    # It is reported as late first and replaced during the measurement.
    hung = measure(algorithm, runners, seconds, {**base, "hung": runners, "hangs_at": 30}, max(6.0, seconds / 2))
    equal = {count: measure(algorithm, count, seconds, base, 120.0).rate for count in arguments.linear}
    others = (runners - 1) * own
    print(f"{'env runners':<44}{'steps/s':>10}{'own rates':>12}{'share':>8}")
    for name, rate, total in (
        ("one alone", own, own),
        (f"one alone, {slow_factor:g} times slower", own_slow, own_slow),
        (f"{runners}, one of them {slow_factor:g} times slower", together.rate, others + own_slow),
        (f"{runners}, one of them hung (share of the others')", hung.rate, others),
        *((f"{count} equal ones", rate, count * own) for count, rate in equal.items()),
    ):
        print(f"{name:<44}{rate:>10.1f}{total:>12.1f}{rate / total:>8.2f}")
    return {
        "share_of_sum": round(together.rate / (others + own_slow), 3),
        "share_with_one_hung": round(hung.rate / others, 3),
        "replaced": hung.replaced,
        "late": hung.late,
        "own_steps_per_s": round(own, 2),
        "slow_steps_per_s": round(own_slow, 2),
        **{f"share_of_linear_{count}": round(rate / (count * own), 3) for count, rate in equal.items()},
    }


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    algorithm: Literal["rlpd", "sac", "appo", "impala"] = "rlpd"
    """Algorithm whose actors are measured. Those of ppo wait for one another."""
    runners: Annotated[int, option("N")] = 4
    """Number of env runners."""
    slow_factor: Annotated[float, option("F")] = 10.0
    """How many times slower one of them is."""
    seconds: Annotated[float, option("S")] = 20.0
    """Duration of each measurement."""
    step_s: Annotated[float, option("S")] = 0.05
    """Duration of an environment step in seconds."""
    linear: Annotated[tuple[int, ...], option("N …")] = (8, 16)
    """Numbers of equal env runners to measure for scaling."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("runners", self.runners >= 2, "give at least 2"),
            ("slow_factor", 1.0 <= self.slow_factor < 1e6, "give at least 1"),
            ("seconds", 1.0 <= self.seconds < 1e6, "give at least 1"),
            ("linear", all(count >= 1 for count in self.linear), "give numbers from 1 on"),
            ("step_s", 0.0 < self.step_s < 1e6, "give a positive number of seconds"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Parse the arguments, start Ray locally, and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench scaling", __doc__)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import tempfile

    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = benchmark(arguments, Path(folder))
    finally:
        ray.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
