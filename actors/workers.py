"""Ray actors that hold a simulator: they record demonstrations, evaluate policies and film episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
import ray
from numpy.typing import NDArray

from actors.claims import Claiming, EndsOnClaim, run_until_claim
from actors.envs import scripts_of
from actors.experts.disturbed import simulated
from actors.eyes import check_sight, sight_in
from actors.foreign import foreign_of
from actors.maniskill import EnvConfig
from dopamine_rl.episodes.lerobot_transitions import EnvironmentSpaces
from dopamine_rl.episodes.raw import read_demonstration
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.probe import ProbePictures
from dopamine_rl.interfaces import OnProgress, RewardClient
from dopamine_rl.policy import DeterministicPolicy, load_eyes
from dopamine_rl.success import ClaimOutcome

if TYPE_CHECKING:
    import gymnasium

    from actors.dense_reward import DenseReward


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

    method: Literal[
        "spaces",
        "record",
        "record_as_meant",
        "practise",
        "play_back",
        "probe",
        "evaluate",
        "evaluate_claims",
        "film",
        "dense_rewards",
    ]
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
        self._clients: dict[str, RewardClient] = {}
        self._network: tuple[object, Callable[[Any], NDArray[np.float32]]] | None = None

    def spaces(self) -> EnvironmentSpaces:
        """What a user's own environment observes and takes."""
        return foreign_of(self._get()).spaces

    def record(
        self,
        actor: str | PolicySpec,
        seed: int,
        out_dir: Path,
        stride: int | None = None,
        claims: bool = False,
    ) -> dict[str, Any]:
        """Record one episode of a scripted behaviour or a policy, unless it is there; returns success and length.

        Args:
            stride: environment steps from one frame to the next; the environment's own where left out.
            claims: the demonstrator says whether it is a success; nothing of the simulator's truth is recorded.
        """
        from actors.demonstrations import record_missing

        if isinstance(actor, PolicySpec):
            seen = LatestObservation(self._get())
            policy, looks = PolicyExpert(self._policy(actor), seen), self._looks(actor)
            demonstration = record_missing(_told(seen, claims), str(actor), policy, seed, out_dir, stride, looks)
        elif actor in self._scripts:
            env = _told(self._get(), claims)
            demonstration = record_missing(env, actor, self._scripts[actor](), seed, out_dir, stride)
        else:
            raise BadInput("kind", actor, f"choose from {', '.join(self._scripts)}")
        return {"success": demonstration.success, "environment_steps": len(demonstration.actions)}

    def record_as_meant(self, script: str, seed: int, out_dir: Path) -> dict[str, Any]:
        """Record an episode of a script that ends as it is meant to; returns success and length."""
        from actors.demonstrations import record_as_meant

        demonstration = record_as_meant(self._get(), script, seed, out_dir)
        return {"success": demonstration.success, "environment_steps": len(demonstration.actions)}

    def practise(
        self, demonstration: Path, seed: int, out_dir: Path, stride: int | None = None, claims: bool = False
    ) -> dict[str, Any]:
        """Record a try that wanders about a demonstration's path, unless it is there; returns success and length.

        Args:
            stride, claims: as for `record`; nobody claims that a try is a success.
        """
        from actors.demonstrations import record_missing
        from actors.experts.practice import PRACTICE, Practice

        wandering = Practice(read_demonstration(demonstration))
        recorded = record_missing(_told(self._get(), claims), PRACTICE, wandering, seed, out_dir, stride)
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
        options = {"pictures": False, "blind": not self._looks(policy)}
        observation, _ = self._get().reset(seed=seed, options=options)
        for steps in range(1, 100_000):
            observation, _, terminated, truncated, info = self._get().step(act(observation))
            if terminated or truncated:
                return {"success": bool(info["success"]), "environment_steps": steps, "seed": seed}
        raise AssertionError("the environment never ended the episode")

    def dense_rewards(self, demonstration: Path, gamma: float) -> NDArray[np.float32]:
        """The dense rewards of a recorded episode, float32 [T], by replaying it."""
        from actors.dense_reward import rewards_of

        return rewards_of(self._paying(gamma), read_demonstration(demonstration))

    def evaluate_claims(self, policy: PolicySpec, seed: int, service: str, claiming: Claiming) -> ClaimOutcome:
        """Run one episode that ends by a claim of success, as in training.

        Args:
            service: names what `claiming` connects to; this process connects once.
        """
        if service not in self._clients:
            self._clients[service] = claiming.make_client()
        return run_until_claim(self._get(), self._policy(policy), seed, claiming, self._clients[service])

    def film(self, policy: PolicySpec, seed: int, dense_gamma: float | None = None) -> Film:
        """Run one episode with pictures at every environment step.

        Args:
            dense_gamma: pay the dense reward with this discount; None pays success alone.
        """
        act = self._policy(policy)
        env: gymnasium.Env[Any, Any] = self._get() if dense_gamma is None else self._paying(dense_gamma)
        observation, info = env.reset(seed=seed, options={"stride": 1, "blind": not self._looks(policy)})
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

    def _paying(self, gamma: float) -> DenseReward:
        """The environment with ManiSkill's dense reward."""
        from actors.dense_reward import DenseReward

        return DenseReward(self._get(), gamma)

    def _looks(self, spec: PolicySpec) -> bool:
        """Whether a policy sees the pictures of the observation; scripts do not."""
        return spec.kind == "network" and self._config.sees_pictures

    def _policy(self, spec: PolicySpec) -> Callable[[Any], NDArray[np.float32]]:
        """A function of the observation; called once an episode, before its reset."""
        if spec.kind == "network":
            assert spec.path is not None
            file = (spec.path, spec.path.stat().st_mtime_ns)
            if self._network is None or self._network[0] != file:  # an encoder is too large to be read every episode
                self._network = (file, load_acting(spec.path, self._get(), self._config))
            return self._network[1]
        env, expert = self._get(), self._scripts[spec.kind]()
        fresh = [True]

        def act(_: NDArray[np.float32]) -> NDArray[np.float32]:
            if fresh:
                expert.reset(env, np.random.default_rng(0))
                fresh.clear()
            return expert.act(env)

        return act


def _told(env: gymnasium.Env[Any, Any], claims: bool) -> gymnasium.Env[Any, Any]:
    """An environment; with claims, one that says nothing of its truth."""
    return EndsOnClaim(env) if claims else env


def load_acting(path: Path, env: gymnasium.Env[Any, Any], config: EnvConfig) -> Callable[[Any], NDArray[np.float32]]:
    """A saved policy as a function of an environment's observations.

    Args:
        config: of the environment.
    Raises:
        BadInput: it sees what the environment does not show, or does not see what it shows.
    """
    policy, eyes = DeterministicPolicy.load(path), load_eyes(path)
    check_sight(eyes, sight_in(env.observation_space, config), str(path))
    return policy if eyes is None else lambda observation: policy(eyes.vector(observation))


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
        act: action float32 [A] for an observation.
        env: in which it acts.
    """

    stages: tuple[str, ...] = ("act",)
    stage = 0

    def __init__(self, act: Callable[[Any], NDArray[np.float32]], env: LatestObservation) -> None:
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
