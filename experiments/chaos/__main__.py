"""Breaks a reward service on purpose while actors are asking it, and counts what was lost.

    dopamine chaos reward-service
    dopamine chaos reward-service --faults 40 --replicas 3 --out DIR

Actors label episodes of made-up frames through a service of embedded models (untrained ones, unless --checkpoint names some).
Meanwhile, in random order: a replica is killed in mid-batch, or stands still, shorter and longer than any deadline; the Serve
controller is lost; an actor dies; the model is swapped, also while a replica dies; damaged models are deployed; far more is asked
than fits. After each the time is taken until the service answers again (answered_s) and until all its replicas do
(whole_s). In the end every frame must have exactly one outcome, and every progress must be what the model that its
episode names gives when it is scored again offline.

The last line is JSON: faults, lost, doubled, wrong_version, asked, answered, invalid, late, rejected, abandoned (by clients
that were killed), retried, versions, recovery (for each kind of fault the times in seconds). Exit status 1: something was lost,
doubled or wrong, or the service did not recover.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional

from dopamine_rl.errors import BadInput, DopamineError, ScoringError, require, seed_check
from experiments.runtime.arguments import OptionalResultPath, option, parse
from experiments.runtime.ending import command, interruptible

if TYPE_CHECKING:
    from experiments.chaos.faults import Bench

APP = "chaos"
PERIOD_S = 0.1
RECOVERY_S = 120.0
PAUSE_S = (0.5, 2.5)


@dataclass(frozen=True)
class Arguments:
    """What is broken, and how often."""

    system: Annotated[Positional[Literal["reward-service"]], option("SYSTEM")]
    """What is broken: reward-service."""
    faults: Annotated[int, option("N")] = 27
    """How many faults; three of each kind."""
    actors: Annotated[int, option("N")] = 4
    """Actors who ask."""
    replicas: Annotated[int, option("N")] = 2
    """Copies of the model."""
    seed: Annotated[int, option("N")] = 0
    """Seed of the order of faults."""
    checkpoint: Annotated[tuple[Path, ...], option("FOLDER …", "three untrained ones")] = ()
    """Models to swap between."""
    out: Annotated[OptionalResultPath, option("DIR", "")] = None
    """Keep journals and records here, in a new folder."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("faults", self.faults >= 1, "give at least 1"),
            ("actors", self.actors >= 1, "give at least 1"),
            ("replicas", self.replicas >= 1, "give at least 1"),
            seed_check("seed", self.seed),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Break the service, judge, print the figures."""
    arguments = parse(Arguments, argv, "dopamine chaos", __doc__)
    if arguments.out is not None and arguments.out.exists():
        raise BadInput("--out", str(arguments.out), "name a new folder")
    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    with (
        interruptible("Interrupted; nothing is left of the service."),
        tempfile.TemporaryDirectory() as scratch,
        ray_cluster(ClusterConfig(num_cpus=4)),
    ):
        figures = run(arguments, Path(scratch))
        if arguments.out is not None:
            shutil.copytree(Path(scratch) / "frames", arguments.out)
    print(json.dumps(figures))
    if any(figures[name] for name in ("lost", "doubled", "wrong_version", "unrecovered")):
        sys.exit(1)


def run(arguments: Arguments, scratch: Path) -> dict[str, Any]:
    """Everything between an empty folder and the figures."""
    import ray

    from experiments.benchmarks.service import untrained
    from experiments.chaos.clients import SIDE, judge
    from experiments.chaos.faults import Bench, break_models, schedule
    from reward_service.deployment import deploy, shutdown
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer
    from reward_service.service import ServiceConfig

    models = arguments.checkpoint or [untrained(scratch / f"model-{seed}", SIDE, seed) for seed in range(3)]
    scorers = {engine.model_version: Scorer(engine) for engine in map(TransformersEngine, models)}
    folder = scratch / "frames"
    (folder / "records").mkdir(parents=True)
    config = ServiceConfig(replicas=arguments.replicas, num_cpus=0.5, max_ongoing_requests=16, max_queued_requests=64)
    deploy(models[0], APP, config)
    try:
        bench = Bench(
            APP, arguments.replicas, folder, list(models), break_models(models[0], scratch), PERIOD_S,
            np.random.default_rng(arguments.seed),
        )  # fmt: skip
        for _ in range(arguments.actors):
            bench.add_client()
        recover(bench)
        recovery, unrecovered = strike(bench, schedule(arguments.faults, bench.rng))
        print("the actors finish their episodes …", flush=True)
        ended = ray.get([client.stop.remote() for client in bench.clients.values()], timeout=300.0)
    finally:
        shutdown(APP)
    print("scoring every episode again …", flush=True)
    verdict = judge(folder, bench.killed, scorers)
    names = ("answered", "invalid", "late", "rejected", "abandoned")
    return {
        "faults": arguments.faults,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "wrong_version": verdict.wrong_version,
        "unrecovered": unrecovered,
        "asked": sum(verdict.outcomes.values()) + verdict.lost,
        **{name: verdict.outcomes[name] for name in names},
        "retried": sum(counts["retried"] for counts in ended),
        "versions": dict(verdict.versions),
        "recovery": recovery,
    }


def strike(bench: Bench, faults: Sequence[Callable[[Bench], str]]) -> tuple[dict[str, list[dict[str, float]]], int]:
    """One fault after the other, each once the service has recovered from the one before."""
    recovery: dict[str, list[dict[str, float]]] = defaultdict(list)
    unrecovered = 0
    for number, fault in enumerate(faults, 1):
        time.sleep(bench.rng.uniform(*PAUSE_S))
        name = fault.__name__.replace("_", " ")
        try:
            what = fault(bench)
            times = recover(bench)
        except (DopamineError, RuntimeError) as error:
            unrecovered += 1
            print(f"{number:3d} {name}: FAILED: {error}", flush=True)
            continue
        recovery[name].append(times)
        print(f"{number:3d} {name}: {what}; answers after {times['answered_s']} s, whole after {times['whole_s']} s", flush=True)  # fmt: skip
    return dict(recovery), unrecovered


def recover(bench: Bench) -> dict[str, float]:
    """Wait until a frame is scored, then until all replicas answer. Raises RuntimeError where it takes too long."""
    began = time.monotonic()
    answered = None
    while time.monotonic() - began < RECOVERY_S:
        try:
            if answered is None:
                bench.probe(2.0)
                answered = time.monotonic() - began
            told = bench.told()
            if len(told) == bench.replicas and len({one.versions[0] for one in told}) == 1:
                return {"answered_s": round(answered, 2), "whole_s": round(time.monotonic() - began, 2)}
        except ScoringError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not whole again after {RECOVERY_S:g} s")


if __name__ == "__main__":
    main()
