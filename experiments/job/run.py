"""One run of the main job: config, folder, completed phases, and the processes it starts on demand."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dopamine_rl.texts import counted
from experiments.runtime.console import Console
from experiments.runtime.resume import PhaseStore
from experiments.runtime.storage import RunFolder
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from actors.workers import WorkerPool
    from reward_service.client import ServeRewardClient


class Run:
    """The context of every phase. Needs a running Ray; as a context manager it stops the processes it started.

    Args:
        config: the resolved config.
        folder: output folder.
        console: where progress is reported.
        preset: name or file of the preset, recorded as provenance.
        pool: simulators to use; None starts new ones.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        folder: RunFolder,
        console: Console,
        preset: str = "",
        pool: WorkerPool | None = None,
    ) -> None:
        self.config, self.folder, self.console, self.preset = config, folder, console, preset
        self._phases = PhaseStore(folder)
        self._pool = pool
        self._services: dict[Path, tuple[str, ServeRewardClient]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def use_service(self, checkpoint: Path, name: str) -> None:
        """Use a checkpoint's reward service that already runs under a name; it does not end with this run."""
        from reward_service.client import ServeRewardClient

        self._services[checkpoint] = (name, ServeRewardClient(name))

    def sibling(self, config: ExperimentConfig, folder: RunFolder, pool: WorkerPool | None = None) -> Run:
        """A run that shares this one's services, which end with this one.

        Args:
            pool: simulators to use; None starts new ones when they are needed.
        """
        other = Run(config, folder, self.console, self.preset, pool)
        other._services = self._services
        other._stack = self._stack
        return other

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    def phase(self, name: str, title: str, depends_on: object, work: Callable[[], Any]) -> Any:
        """Run a phase, or return its stored value if it completed with the same dependencies (see PhaseStore)."""

        def announced() -> Any:
            with self.console.phase(name, title):
                return work()

        return self._phases.run(name, depends_on, announced, lambda: self.console.say(f"{title}: reused"))

    def forget(self, name: str) -> None:
        """Make the next call run the phase again."""
        self._phases.forget(name)

    @property
    def pool(self) -> WorkerPool:
        """Simulators, each in its own process.

        They also record the simulator's true progress; the report states what is trained on it.
        """
        if self._pool is None:
            from actors.workers import WorkerPool

            simulation, expert = self.config.simulation, self.config.demonstrations.expert
            env = replace(self.config.env, oracle=True)
            self._pool = WorkerPool(env, simulation.workers, simulation.num_cpus, expert)
            self._stack.callback(self._pool.close)
        return self._pool

    def close_pool(self) -> None:
        """End the simulators; the next use starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def service(self, checkpoint: Path) -> tuple[str, ServeRewardClient]:
        """Name and client of a checkpoint's reward service, which the first call deploys under a unique name."""
        if checkpoint not in self._services:
            from reward_service.client import ServeRewardClient
            from reward_service.deployment import deploy, shutdown

            name = f"grm-{self.config.name}-{uuid.uuid4().hex[:8]}"
            self._stack.callback(_quietly, shutdown, name)
            replicas = counted(self.config.service.replicas, "replica")
            with self.console.phase("service", f"Reward service: {replicas}, {name}"):
                deploy(checkpoint, name, self.config.service)
            self._services[checkpoint] = (name, ServeRewardClient(name))
        return self._services[checkpoint]


def _quietly(end: Callable[[str], None], name: str) -> None:
    """If the cluster is already gone, so is the application."""
    with contextlib.suppress(Exception):
        end(name)
