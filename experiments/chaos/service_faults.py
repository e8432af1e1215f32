"""The faults that are injected into a reward service under load."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.errors import CheckpointError, Overloaded, ScoringError
from dopamine_rl.types import EpisodeContext, ScoreRequest
from experiments.chaos.clients import DEADLINE_S, SIDE, VIEWS, Client
from reward_service.client import ServeRewardClient
from reward_service.service import ServiceDescription
from reward_service.swap import SwapConfig, swap

ASK_S = 5.0
STALL_S, LONG_STALL_S = 2.0, DEADLINE_S + 2.0
SWAP = SwapConfig(keep=2, timeout_s=120.0, force=True)


@dataclass
class SystemUnderTest:
    """The reward service under test, and its clients.

    Args:
        app_name: name of the service.
        replicas: its number of replicas.
        folder: scratch folder, also for the clients' files.
        models: checkpoints of different versions, the served one first.
        broken: checkpoints that must be refused.
        period_s: time between frames of a client.
        clients: running clients by name.
        killed: names of killed clients.
    """

    app_name: str
    replicas: int
    folder: Path
    models: list[Path]
    broken: list[Path]
    period_s: float
    rng: np.random.Generator
    clients: dict[str, Any] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.service = ServeRewardClient(self.app_name)

    def add_client(self) -> None:
        """Start another client."""
        import ray

        name = f"client{len(self.clients) + len(self.killed)}"
        self.clients[name] = ray.remote(num_cpus=0, max_restarts=0)(Client).remote(
            name, self.app_name, self.folder, self.period_s
        )

    def describe(self) -> list[ServiceDescription]:
        """The description of every replica."""
        return self.service.describe_all(ASK_S)

    def some_replica(self) -> int:
        """The process id of a random replica."""
        return int(self.rng.choice([replica.process_id for replica in self.describe()]))

    def probe(self, timeout_s: float) -> None:
        """Score one frame. Raises the service's errors."""
        frame = self.rng.integers(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8)
        context = EpisodeContext(
            f"probe {self.rng.integers(1 << 30)}", "insert the peg", frame[0], frame[0], frame, frame
        )
        self.service.submit(ScoreRequest(context, frame, frame[None], (1,), timeout_s * 1e3)).result(timeout_s)


def kill_replica(system: SystemUnderTest) -> str:
    """Kill a replica during a batch."""
    victim = system.some_replica()
    os.kill(victim, signal.SIGKILL)
    return f"process {victim}"


def stall_replica(system: SystemUnderTest) -> str:
    """Stop a replica for two seconds."""
    return _stall(system, STALL_S)


def stall_replica_beyond_deadline(system: SystemUnderTest) -> str:
    """Stop a replica for longer than any deadline."""
    return _stall(system, LONG_STALL_S)


def _stall(system: SystemUnderTest, seconds: float) -> str:
    victim = system.some_replica()
    os.kill(victim, signal.SIGSTOP)
    threading.Timer(seconds, _resume, (victim,)).start()
    return f"process {victim} for {seconds:g} s"


def _resume(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # Serve has replaced it.
        os.kill(process_id, signal.SIGCONT)


def restart_controller(system: SystemUnderTest) -> str:
    """Kill the Serve controller; Ray restarts it."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    ray.kill(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE), no_restart=False)
    return ""


def kill_client(system: SystemUnderTest) -> str:
    """Kill an actor during an episode; a new one takes its place."""
    import ray

    name = str(system.rng.choice(sorted(system.clients)))
    victim = ray.get(system.clients.pop(name).process_id.remote(), timeout=30.0)
    os.kill(victim, signal.SIGKILL)
    system.killed.append(name)
    system.add_client()
    return name


def swap_model(system: SystemUnderTest) -> str:
    """Swap the weights of all replicas under load."""
    system.models.append(system.models.pop(0))
    done = swap(system.app_name, system.models[0], SWAP)
    return f"{done.before} to {done.version}"


def swap_and_kill_replica(system: SystemUnderTest) -> str:
    """Kill a replica during a swap."""
    victim = system.some_replica()
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    try:
        return f"{swap_model(system)}, process {victim}"
    finally:
        timer.join()


def deploy_broken_model(system: SystemUnderTest) -> str:
    """Deploy a checkpoint with damaged weights; it must be refused."""
    system.broken.append(system.broken.pop(0))
    folder = system.broken[0]
    try:
        swap(system.app_name, folder, SWAP)
    except CheckpointError:
        return f"{folder.name}: refused"
    raise RuntimeError(f"a {folder.name} model was accepted")


def overload(system: SystemUnderTest) -> str:
    """Send far more requests at once than the service can hold."""
    frame = system.rng.integers(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8)
    context = EpisodeContext("overload", "insert the peg", frame[0], frame[0], frame, frame)
    pending = [
        system.service.submit(ScoreRequest(context, frame, frame[None], (step,), 500.0)) for step in range(1, 201)
    ]
    rejected = late = 0
    deadline = time.monotonic() + 0.5
    for score in pending:
        try:
            score.result(max(0.0, deadline - time.monotonic()))
        except Overloaded:
            rejected += 1
        except ScoringError:
            late += 1
    return f"200 at once: {rejected} rejected, {late} late"


FAULTS: tuple[Callable[[SystemUnderTest], str], ...] = (
    kill_replica,
    swap_model,
    stall_replica,
    deploy_broken_model,
    kill_client,
    restart_controller,
    swap_and_kill_replica,
    overload,
    stall_replica_beyond_deadline,
)


def schedule(count: int, rng: np.random.Generator) -> list[Callable[[SystemUnderTest], str]]:
    """`count` faults in random order, with all kinds equally often."""
    rounds = [FAULTS[index] for _ in range(-(-count // len(FAULTS))) for index in rng.permutation(len(FAULTS))]
    return rounds[:count]


def break_models(good: Path, folder: Path) -> list[Path]:
    """Damaged copies of a checkpoint: truncated, with a flipped bit, and with NaN weights."""
    from safetensors.numpy import load_file, save_file

    cut, flipped, nan = (folder / name for name in ("truncated", "flipped", "not-a-number"))
    for copy in (cut, flipped, nan):
        shutil.copytree(good, copy)
    weights = cut / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    (nan / "grm.json").unlink()  # Its version would reveal the changed weights before they are loaded.
    with (flipped / "model.safetensors").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    tensors = load_file(nan / "model.safetensors")
    save_file(
        {name: np.full_like(tensor, np.nan) for name, tensor in tensors.items()},
        nan / "model.safetensors",
        metadata={"format": "pt"},
    )
    return [cut, flipped, nan]
