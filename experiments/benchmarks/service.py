"""The reward service under load: labels/s, latency, and model utilisation.

    dopamine bench service
    dopamine bench service --checkpoint runs/peg_insert/grm --threads 2

Actors are processes that send one new frame per request, in the order of an episode, with several requests in flight
as in a pipelined rollout. Their images are made up, since the content does not affect the model's speed. Every load
runs for some seconds after a warm-up. `model_share` is the share of time that a replica spends in the model, mean over
replicas; with more replicas than free cores it shows how the cores are shared, not the overhead of the service.

Finally, far more requests than the service can hold are sent at once with a short deadline: each must be answered,
rejected or late by then, and the service must recover.

The last line is JSON: loads (for each: actors, replicas, labels_per_s, p50_ms and p99_ms as measured by the actors,
model_share, and batch, the mean frames per batch), queue (bound and longest queue in a replica) and overload (sent,
answered, rejected, late, longest_wait_s, deadline_s, recovered_s).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

if not __package__:  # started by its path: sys.path begins with this folder instead of the project's
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.episodes.cameras import MAX_VIEWS
from dopamine_rl.errors import Overloaded, ScoringError, ScoringTimeout, require
from dopamine_rl.grm.folder import usable_model
from dopamine_rl.interfaces import PendingScore
from dopamine_rl.types import EpisodeContext, ScoreRequest
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command

APP = "benchmark"
SIDE, EPISODE = 112, 16
"""Height and width of images in pixels, and scored frames per episode."""
DEADLINE_S, OVERLOAD_DEADLINE_S = 30.0, 1.0


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    checkpoint: Annotated[Path | None, option("FOLDER", "an untrained embedded one")] = None
    """Folder of the reward model."""
    actors: Annotated[tuple[int, ...], option("N …")] = (1, 2, 4, 8)
    """Numbers of concurrent actors."""
    replicas: Annotated[tuple[int, ...], option("N …")] = (1, 2)
    """Numbers of replicas."""
    views: Annotated[int, option("N")] = 2
    """Views per frame."""
    depth: Annotated[int, option("N")] = 4
    """Requests in flight per actor."""
    seconds: Annotated[float, option("S")] = 8.0
    """Duration of each load in seconds, after 2 s of warm-up."""
    threads: Annotated[int, option("N")] = 1
    """Torch threads per replica."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("actors", min(self.actors, default=0) >= 1, "give numbers of at least 1"),
            ("replicas", min(self.replicas, default=0) >= 1, "give numbers of at least 1"),
            ("views", 1 <= self.views <= MAX_VIEWS, f"give 1 to {MAX_VIEWS}"),
            ("depth", self.depth >= 1, "give at least 1"),
            ("seconds", 0.0 < self.seconds < 1e6, "give a positive number of seconds"),
            ("threads", self.threads >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Measure every load, then overload the service, and print the results."""
    arguments = parse(Arguments, argv, "dopamine bench service", __doc__)
    if arguments.checkpoint is not None:
        usable_model(arguments.checkpoint, "--checkpoint")
    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    with tempfile.TemporaryDirectory() as scratch, ray_cluster(ClusterConfig(num_cpus=8)):
        checkpoint = arguments.checkpoint or untrained(Path(scratch) / "grm")
        loads: list[dict[str, Any]] = []
        for replicas in arguments.replicas:
            loads += measure(checkpoint, replicas, arguments)
        overloaded = overload(checkpoint, arguments)
    queue = {"bound": overloaded.pop("bound"), "longest": overloaded.pop("longest")}
    print(json.dumps({"loads": loads, "queue": queue, "overload": overloaded}))


def untrained(folder: Path, image_size: int = SIDE, seed: int = 0) -> Path:
    """Save an untrained embedded model of the default size, for measurements that do not depend on training."""
    from dopamine_rl.grm.checkpoint import save_grm
    from dopamine_rl.grm.config import GRMConfig
    from dopamine_rl.grm.model import build_grm

    save_grm(build_grm(GRMConfig(image_size=image_size, seed=seed)), folder, {"training": "none"})
    return folder


def measure(checkpoint: Path, replicas: int, arguments: Arguments) -> list[dict[str, Any]]:
    """One row per number of actors, at a number of replicas."""
    from reward_service.deployment import deploy, shutdown
    from reward_service.service import ServiceConfig

    deploy(checkpoint, APP, ServiceConfig(replicas=replicas, num_cpus=1.0, threads=arguments.threads))
    try:
        return [_load(actors, replicas, arguments) for actors in arguments.actors]
    finally:
        shutdown(APP)


def _load(actors: int, replicas: int, arguments: Arguments) -> dict[str, Any]:
    import ray

    remote: Any = ray.remote(Actor).options(num_cpus=0.01)
    acting = [remote.remote(number, arguments) for number in range(actors)]
    ray.get([actor.act.remote(2.0) for actor in acting])
    before, began = replica_counts(), time.perf_counter()
    latencies = np.concatenate(ray.get([actor.act.remote(arguments.seconds) for actor in acting]))
    passed, after = time.perf_counter() - began, replica_counts()
    for actor in acting:
        ray.kill(actor)
    done = {
        name: sum(after[pid][name] - before[pid][name] for pid in after) for name in ("frames", "batches", "model_s")
    }
    row = {
        "actors": actors,
        "replicas": replicas,
        "labels_per_s": round(len(latencies) / passed, 1),
        "p50_ms": round(float(np.percentile(latencies, 50)), 1),
        "p99_ms": round(float(np.percentile(latencies, 99)), 1),
        "model_share": round(done["model_s"] / replicas / passed, 3),
        "batch": round(done["frames"] / done["batches"], 1),
    }
    print(row, flush=True)
    return row


def replica_counts() -> dict[int, dict[str, Any]]:
    """Counts of every replica, by process id."""
    from reward_service.client import ServeRewardClient

    return {replica.process_id: vars(replica.counts).copy() for replica in ServeRewardClient(APP).describe_all(30.0)}


class Actor:
    """Plays episodes of made-up frames, in its own process.

    Args:
        number: its number, used as the seed of its images.
        arguments: provide views and depth.
    """

    def __init__(self, number: int, arguments: Arguments) -> None:
        from reward_service.client import ServeRewardClient

        self._client, self._depth = ServeRewardClient(APP), arguments.depth
        self._source = Source(number, arguments.views)

    def act(self, seconds: float) -> NDArray[np.float64]:
        """Keep `depth` requests in flight for `seconds`; returns the latency of each answer in ms."""
        latencies: list[float] = []
        in_flight: list[tuple[float, PendingScore]] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            while len(in_flight) < self._depth:
                in_flight.append((time.perf_counter(), self._client.submit(self._source.next(DEADLINE_S))))
            sent, pending = in_flight.pop(0)
            pending.result(DEADLINE_S)
            latencies.append((time.perf_counter() - sent) * 1e3)
        for _, pending in in_flight:
            pending.result(DEADLINE_S)
        return np.array(latencies)


@dataclass
class Source:
    """Requests for the frames of consecutive episodes, one frame each.

    Args:
        number: seed of the images.
        views: views per frame.
    """

    number: int
    views: int

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.number)
        self._episode, self._time = 0, EPISODE

    def next(self, deadline_s: float) -> ScoreRequest:
        """The request for the next frame; a new episode starts after the last one ends."""
        if self._time == EPISODE:
            self._episode, self._time = self._episode + 1, 0
            start, end, (self._last, goal) = self._picture(), self._picture(), (self._frame(), self._frame())
            name = f"{self.number}-{self._episode}"
            self._context = EpisodeContext(name, "insert the peg", start, end, self._last, goal)
        previous, self._last = self._last, self._frame()
        self._time += 1
        return ScoreRequest(self._context, previous, self._last[None], (self._time,), deadline_s * 1e3)

    def _picture(self) -> NDArray[np.uint8]:
        return self._rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)

    def _frame(self) -> NDArray[np.uint8]:
        return self._rng.integers(0, 255, (self.views, SIDE, SIDE, 3), np.uint8)


def overload(checkpoint: Path, arguments: Arguments, sent: int = 150) -> dict[str, Any]:
    """Send far more requests than fit, count their outcomes, and measure the time to recover."""
    from reward_service.client import ServeRewardClient
    from reward_service.deployment import deploy, shutdown
    from reward_service.service import ServiceConfig

    config = ServiceConfig(num_cpus=1.0, threads=arguments.threads, max_ongoing_requests=16, max_queued_requests=64)
    deploy(checkpoint, APP, config)
    try:
        client, source = ServeRewardClient(APP), Source(0, arguments.views)
        client.submit(source.next(DEADLINE_S)).result(DEADLINE_S)
        requests = [source.next(OVERLOAD_DEADLINE_S) for _ in range(sent)]
        began = time.perf_counter()
        pending = [client.submit(request) for request in requests]
        outcomes = Counter(_outcome(p, began + OVERLOAD_DEADLINE_S - time.perf_counter()) for p in pending)
        waited = time.perf_counter() - began
        resent = time.perf_counter()
        client.submit(replace(requests[-1], remaining_ms=DEADLINE_S * 1e3)).result(DEADLINE_S)
        recovered = time.perf_counter() - resent
        [counts] = replica_counts().values()
    finally:
        shutdown(APP)
    return {
        "sent": sent,
        **{name: outcomes[name] for name in ("answered", "rejected", "late", "other")},
        "deadline_s": OVERLOAD_DEADLINE_S,
        "longest_wait_s": round(waited, 3),
        "recovered_s": round(recovered, 3),
        "bound": config.max_ongoing_requests,
        "longest": counts["longest_line"],
    }


def _outcome(pending: Any, left_s: float) -> str:
    try:
        pending.result(max(0.0, left_s))
    except Overloaded:
        return "rejected"
    except ScoringTimeout:
        return "late"
    except ScoringError:
        return "other"
    return "answered"


if __name__ == "__main__":
    main()
