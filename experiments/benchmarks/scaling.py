"""Measures whether actors wait for each other: RLPD on an environment whose step takes a set time, as a slow robot's does.

Every env runner's own rate is measured alone; then all act together, one of them some times slower; then one of them hangs
in the middle of a step; then more of them act together, all equally fast. Prints a table and, as last line, one JSON object:

    share_of_sum: environment steps/s together, as a share of the sum of their own rates, with one slow env runner.
    share_with_one_hung: what the others reach while one hangs, as a share of the sum of their own rates.
    replaced: how often the hung one was killed and started anew; late: how often it was named before.
    share_of_linear_N: environment steps/s of N equal env runners, as a share of N times the rate of one.
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
from typing import Annotated, Any

import gymnasium
import numpy as np

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dopamine_rl.errors import require
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command
from learner.config import LearnerConfig

LEARNER = LearnerConfig(
    hidden=(32, 32),
    batch_size=64,
    critics=2,
    updates_per_step=0.5,
    learning_starts=10,
    steps_per_iteration=20,
    num_cpus_per_env_runner=0.1,
)
HANG_S = 3600.0
NEVER = 10**9


class TimedSteps(gymnasium.Env[Any, Any]):
    """A step takes `step_s`; on the env runner numbered `slow` it takes `slow_factor` times as long.

    The env runner numbered `hung` hangs at its environment step `hangs_at`, unless the file `hung_once` says that it did.
    """

    def __init__(self, env_config: Any) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        runner = env_config.worker_index
        self._step_s = env_config["step_s"] * (env_config["slow_factor"] if runner == env_config["slow"] else 1.0)
        self._hung_once = Path(env_config["hung_once"]) if runner == env_config["hung"] else None
        self._hangs_at, self._steps, self._time = env_config["hangs_at"], 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """An episode of 50 steps."""
        super().reset(seed=seed)
        self._time = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Wait as long as a step takes."""
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
    """One arm.

    Args:
        rate: environment steps/s of all its env runners.
        late: env runners that were named as late, most at one time.
        replaced: how often one was killed and started anew.
    """

    rate: float
    late: int
    replaced: int


def measure(runners: int, seconds: float, env_config: Mapping[str, Any], sample_timeout_s: float) -> Rates:
    """Environment steps/s of an RLPD training, after a start that is not counted.

    Where one hangs, the time counts from then on.
    """
    from learner.algorithms.common import TrainingSetup
    from learner.algorithms.rlpd import make_rlpd_config

    learner = replace(LEARNER, num_env_runners=runners, sample_timeout_s=sample_timeout_s)
    config = make_rlpd_config(TrainingSetup(TimedSteps, env_config), learner, "sparse")
    algorithm: Any = config.build_algo()
    try:
        hung_once = Path(env_config["hung_once"])
        while len(algorithm.feed.online) < 2 * LEARNER.learning_starts:
            algorithm.train()
        while env_config["hung"] and not hung_once.exists():
            algorithm.train()
        began, before, late, steps = time.perf_counter(), acted(algorithm.train()), 0, 0
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds:
            report = algorithm.train()
            steps, late = acted(report) - before, max(late, len(report["acting"]["late_s"]))
        elapsed = time.perf_counter() - began
        return Rates(steps / elapsed, late, algorithm.acting.replaced)
    finally:
        algorithm.stop()


def acted(report: Mapping[str, Any]) -> int:
    """Environment steps of all env runners so far."""
    return int(report["env_runners"]["num_env_steps_sampled_lifetime"])


def benchmark(given: Arguments, folder: Path) -> dict[str, float]:
    """The figures of the last line."""
    runners, slow_factor, seconds = given.runners, given.slow_factor, given.seconds
    base = {
        "step_s": given.step_s,
        "slow_factor": slow_factor,
        "slow": 0,
        "hung": 0,
        "hangs_at": NEVER,
        "hung_once": str(folder / "hung_once"),
    }
    own = measure(1, seconds, base, 120.0).rate
    own_slow = measure(1, seconds, {**base, "slow": 1}, 120.0).rate
    together = measure(runners, seconds, {**base, "slow": runners}, 120.0)
    # It is named first and replaced in the middle of the measurement.
    hung = measure(runners, seconds, {**base, "hung": runners, "hangs_at": 30}, max(6.0, seconds / 2))
    equal = {count: measure(count, seconds, base, 120.0).rate for count in given.linear}
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
    """What is measured."""

    runners: Annotated[int, option("N")] = 4
    """Env runners that act together."""
    slow_factor: Annotated[float, option("F")] = 10.0
    """How many times slower one of them is."""
    seconds: Annotated[float, option("S")] = 20.0
    """Length of each measurement."""
    step_s: Annotated[float, option("S")] = 0.05
    """Seconds that an environment step takes."""
    linear: Annotated[tuple[int, ...], option("N …")] = (8, 16)
    """Numbers of equal env runners that act together."""

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
    """Parse the arguments, start Ray here, and print the figures."""
    given = parse(Arguments, argv, "dopamine bench scaling", __doc__)
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import tempfile

    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures = benchmark(given, Path(folder))
    finally:
        ray.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
