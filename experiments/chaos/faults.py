"""The ways in which a reward service is broken while it is asked."""

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
class Bench:
    """The system under test and who works on it.

    Args:
        app_name: of the service.
        replicas: how many it should have.
        folder: scratch; also the clients' files.
        models: checkpoints of different versions, the served one first.
        broken: checkpoints that must be refused.
        period_s: of the clients.
        clients: the living ones by name.
        killed: names of those that were killed.
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

    def told(self) -> list[ServiceDescription]:
        """Every replica's account of itself."""
        return self.service.describe_all(ASK_S)

    def some_replica(self) -> int:
        """The process of one of the replicas."""
        return int(self.rng.choice([one.process_id for one in self.told()]))

    def probe(self, timeout_s: float) -> None:
        """Have one frame scored. Raises what the service raises."""
        frame = self.rng.integers(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8)
        context = EpisodeContext(
            f"probe {self.rng.integers(1 << 30)}", "insert the peg", frame[0], frame[0], frame, frame
        )
        self.service.submit(ScoreRequest(context, frame, frame[None], (1,), timeout_s * 1e3)).result(timeout_s)


def kill_replica(bench: Bench) -> str:
    """A replica's process ends at once, with a batch in the model."""
    victim = bench.some_replica()
    os.kill(victim, signal.SIGKILL)
    return f"process {victim}"


def stall_replica(bench: Bench) -> str:
    """A replica stands still for two seconds."""
    return _stall(bench, STALL_S)


def stall_replica_beyond_deadline(bench: Bench) -> str:
    """A replica stands still for longer than any request may take."""
    return _stall(bench, LONG_STALL_S)


def _stall(bench: Bench, seconds: float) -> str:
    victim = bench.some_replica()
    os.kill(victim, signal.SIGSTOP)
    threading.Timer(seconds, _go_on, (victim,)).start()
    return f"process {victim} for {seconds:g} s"


def _go_on(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # Serve has replaced it.
        os.kill(process_id, signal.SIGCONT)


def restart_controller(bench: Bench) -> str:
    """The Serve controller is lost; Ray starts it again."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    ray.kill(ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE), no_restart=False)
    return ""


def kill_client(bench: Bench) -> str:
    """An actor dies in the middle of an episode; another one takes its place."""
    import ray

    name = str(bench.rng.choice(sorted(bench.clients)))
    victim = ray.get(bench.clients.pop(name).process_id.remote(), timeout=30.0)
    os.kill(victim, signal.SIGKILL)
    bench.killed.append(name)
    bench.add_client()
    return name


def swap_model(bench: Bench) -> str:
    """All replicas move to other weights while they are asked."""
    bench.models.append(bench.models.pop(0))
    done = swap(bench.app_name, bench.models[0], SWAP)
    return f"{done.before} to {done.version}"


def swap_and_kill_replica(bench: Bench) -> str:
    """A replica is lost in the middle of a swap."""
    victim = bench.some_replica()
    timer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    timer.start()
    try:
        return f"{swap_model(bench)}, process {victim}"
    finally:
        timer.join()


def deploy_broken_model(bench: Bench) -> str:
    """A checkpoint with damaged weights is deployed; it must be refused."""
    bench.broken.append(bench.broken.pop(0))
    folder = bench.broken[0]
    try:
        swap(bench.app_name, folder, SWAP)
    except CheckpointError:
        return f"{folder.name}: refused"
    raise RuntimeError(f"a {folder.name} model was accepted")


def overload(bench: Bench) -> str:
    """Far more is asked at once than the service may hold."""
    frame = bench.rng.integers(0, 255, (VIEWS, SIDE, SIDE, 3), np.uint8)
    context = EpisodeContext("overload", "insert the peg", frame[0], frame[0], frame, frame)
    pending = [
        bench.service.submit(ScoreRequest(context, frame, frame[None], (step,), 500.0)) for step in range(1, 201)
    ]
    refused = late = 0
    deadline = time.monotonic() + 0.5
    for one in pending:
        try:
            one.result(max(0.0, deadline - time.monotonic()))
        except Overloaded:
            refused += 1
        except ScoringError:
            late += 1
    return f"200 at once: {refused} refused, {late} late"


FAULTS: tuple[Callable[[Bench], str], ...] = (
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


def schedule(count: int, rng: np.random.Generator) -> list[Callable[[Bench], str]]:
    """`count` faults, every kind as often as any other, in random order."""
    rounds = [FAULTS[index] for _ in range(-(-count // len(FAULTS))) for index in rng.permutation(len(FAULTS))]
    return rounds[:count]


def break_models(good: Path, folder: Path) -> list[Path]:
    """Copies of a checkpoint: one cut short, one with a damaged byte, one whose weights are not numbers."""
    from safetensors.numpy import load_file, save_file

    cut, flipped, nan = (folder / name for name in ("truncated", "flipped", "not-a-number"))
    for copy in (cut, flipped, nan):
        shutil.copytree(good, copy)
    weights = cut / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    (nan / "grm.json").unlink()  # It names the version, by which exchanged weights are found out before they are tried.
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
