"""Ray actors that hold a simulator: they record demonstrations, evaluate policies and film episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import ray
from numpy.typing import NDArray

from actors.envs import scripts_of
from actors.experts.disturbed import simulated
from actors.maniskill import EnvConfig
from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import ProbePictures
from dopamine_rl.interfaces import OnProgress


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """The policy of an evaluation or film.

    Args:
        kind: "network" (a saved policy), or the name of one of the task's scripts (actors.tasks).
        path: the saved policy's file, for "network".
        name: name prefix of recorded episodes; the kind by default.
    """

    kind: str
    path: Path | None = None
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


@dataclass(frozen=True, slots=True)
class Job:
    """One call of a SimulationWorker's method."""

    method: Literal["sizes", "record", "record_as_meant", "practise", "play_back", "probe", "evaluate", "film"]
    args: tuple[Any, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Film:
    """One episode with pictures at every environment step.

    Args:
        views: uint8 [T+1, V, H, W, 3].
        task_rewards: float32 [T].
        success: the simulator's verdict.
        terminated: the task ended with the last step.
        score_times: int [F], environment steps at which a frame is scored.
        seed: the episode's environment seed.
    """

    views: NDArray[np.uint8]
    task_rewards: NDArray[np.float32]
    success: bool
    terminated: bool
    score_times: tuple[int, ...]
    seed: int


@ray.remote(max_restarts=3, max_task_retries=3)
class SimulationWorker:
    """One environment in a process of its own.

    Args:
        config: the environment; it is built with the first job.
        expert: MODULE:CALLABLE that makes the expert of a user's own environment; "" where there is none.
    """

    def __init__(self, config: EnvConfig, expert: str = "") -> None:
        self._config, self._scripts = config, scripts_of(config, expert)
        self._env: gymnasium.Env[Any, Any] | None = None

    def sizes(self) -> tuple[int, int]:
        """Lengths D of an observation and A of an action."""
        env = self._get()
        assert env.observation_space.shape
        assert env.action_space.shape
        return env.observation_space.shape[0], env.action_space.shape[0]

    def record(self, actor: str | PolicySpec, seed: int, out_dir: Path, stride: int | None = None) -> dict[str, Any]:
        """Record one episode of a scripted behaviour or a policy, unless it is there; returns success and length.

        Args:
            stride: environment steps from one frame to the next; the environment's own where left out.
        """
        from actors.demonstrations import record_missing

        if isinstance(actor, PolicySpec):
            env = LatestObservation(self._get())
            policy = PolicyExpert(self._policy(actor), env)
            demonstration = record_missing(env, str(actor), policy, seed, out_dir, stride)
        elif actor in self._scripts:
            demonstration = record_missing(self._get(), actor, self._scripts[actor](), seed, out_dir, stride)
        else:
            raise BadInput("kind", actor, f"choose from {', '.join(self._scripts)}")
        return {"success": demonstration.success, "environment_steps": len(demonstration.actions)}

    def record_as_meant(self, script: str, seed: int, out_dir: Path) -> dict[str, Any]:
        """Record an episode of a script that ends as it is meant to; returns success and length."""
        from actors.demonstrations import record_as_meant

        demonstration = record_as_meant(self._get(), script, seed, out_dir)
        return {"success": demonstration.success, "environment_steps": len(demonstration.actions)}

    def practise(self, demonstration: Path, seed: int, out_dir: Path, stride: int | None = None) -> dict[str, Any]:
        """Record a try that wanders about a demonstration's path, unless it is there; returns success and length."""
        from actors.demonstrations import record_missing
        from actors.experts.practice import PRACTICE, Practice

        wandering = Practice(read_demonstration(demonstration))
        recorded = record_missing(self._get(), PRACTICE, wandering, seed, out_dir, stride)
        return {"success": recorded.success, "environment_steps": len(recorded.actions)}

    def play_back(self, path: Path, number: int, out_dir: Path) -> bool:
        """Play back a ManiSkill trajectory, unless it exists; returns success."""
        from actors import any_playback, playback

        if self._config.make:
            return any_playback.play_back_missing(self._get(), path, number, out_dir)
        return playback.play_back_missing(simulated(self._get()), path, number, out_dir)

    def probe(self, seed: int) -> ProbePictures:
        """Record the states of the precision probe."""
        from actors.probe import record_probe

        return record_probe(simulated(self._get()), seed)

    def evaluate(self, policy: PolicySpec, seed: int) -> dict[str, Any]:
        """Run one episode without pictures; returns success and length."""
        act = self._policy(policy)
        observation, _ = self._get().reset(seed=seed, options={"pictures": False})
        for steps in range(1, 100_000):
            observation, _, terminated, truncated, info = self._get().step(act(observation))
            if terminated or truncated:
                return {"success": bool(info["success"]), "environment_steps": steps, "seed": seed}
        raise AssertionError("the environment never ended the episode")

    def film(self, policy: PolicySpec, seed: int) -> Film:
        """Run one episode with pictures at every environment step."""
        env, act = self._get(), self._policy(policy)
        observation, info = env.reset(seed=seed, options={"stride": 1})
        views, rewards = [info["scored_views"]], []
        terminated = truncated = False
        while not (terminated or truncated):
            observation, reward, terminated, truncated, info = env.step(act(observation))
            rewards.append(float(reward))
            views.append(info["scored_views"])
        scored = sorted({*range(0, len(rewards), self._config.stride), len(rewards)})
        return Film(
            np.stack(views), np.array(rewards, np.float32), bool(info["success"]), bool(terminated), tuple(scored), seed
        )

    def _get(self) -> gymnasium.Env[Any, Any]:
        if self._env is None:
            from actors.envs import make_env

            self._env = make_env(self._config)
        return self._env

    def _policy(self, spec: PolicySpec) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """A function of the observation; called once an episode, before its reset."""
        if spec.kind == "network":
            from dopamine_rl.policy import DeterministicPolicy

            assert spec.path is not None
            return DeterministicPolicy.load(spec.path)
        env, expert = self._get(), self._scripts[spec.kind]()
        fresh = [True]

        def act(_: NDArray[np.float32]) -> NDArray[np.float32]:
            if fresh:
                expert.reset(env, np.random.default_rng(0))
                fresh.clear()
            return expert.act(env)

        return act


class LatestObservation(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Remembers what was observed last."""

    latest: Any = None

    def observation(self, observation: Any) -> Any:
        """The same."""
        self.latest = observation
        return observation


class PolicyExpert:
    """A policy as an Expert of a single stage, so that its episodes are recorded like anybody's.

    Args:
        act: action float32 [A] for an observation float32 [D].
        env: in which it acts.
    """

    stages: tuple[str, ...] = ("act",)
    stage = 0

    def __init__(self, act: Callable[[NDArray[np.float32]], NDArray[np.float32]], env: LatestObservation) -> None:
        self._act, self._env = act, env

    def reset(self, env: Any, rng: np.random.Generator) -> None:
        """Nothing to begin."""

    def act(self, env: Any) -> NDArray[np.float32]:
        """What the policy does."""
        return self._act(self._env.latest)


class WorkerPool:
    """A fixed number of SimulationWorkers that jobs are spread over.

    Args:
        config: their environment.
        workers: how many processes.
        num_cpus: logical CPUs of each.
        expert: as for SimulationWorker.
    Raises:
        BadInput: the cluster has fewer CPUs, and they would be waited for in silence.
    """

    def __init__(self, config: EnvConfig, workers: int, num_cpus: float, expert: str = "") -> None:
        present = ray.cluster_resources().get("CPU", 0.0)
        if workers * num_cpus > present:
            raise BadInput(
                "simulation.num_cpus", num_cpus, f"give at most {present / workers:g}: {workers} share {present:g} CPUs"
            )
        start: Any = SimulationWorker
        self._workers = [start.options(num_cpus=num_cpus).remote(config, expert) for _ in range(workers)]

    def map(self, jobs: Sequence[Job], on_progress: OnProgress, what: str, deadline_s: float = 600.0) -> list[Any]:
        """Run the jobs and return their results in order.

        Args:
            on_progress: called with the number of finished jobs.
            what: they are, in the plural.
            deadline_s: within which one of those under way must end.

        Raises:
            TimeoutError: none did.
        """
        idle, results = list(self._workers), {}
        running: dict[Any, tuple[int, Any]] = {}
        waiting = list(enumerate(jobs))[::-1]
        while waiting or running:
            while idle and waiting:
                index, job = waiting.pop()
                worker = idle.pop()
                running[getattr(worker, job.method).remote(*job.args)] = (index, worker)
            ready, _ = ray.wait(list(running), num_returns=1, timeout=deadline_s)
            if not ready:
                raise TimeoutError(f"no {what} ended within {deadline_s:.0f} s")
            index, worker = running.pop(ready[0])
            results[index] = ray.get(ready[0])
            idle.append(worker)
            on_progress(f"{what}: {len(results)} of {len(jobs)}", len(results) == len(jobs))
        return [results[i] for i in range(len(jobs))]

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []
