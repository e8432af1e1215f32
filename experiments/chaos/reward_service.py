"""Injects faults into a reward service under load, and counts lost labels.

    dopamine chaos reward-service
    dopamine chaos reward-service --faults 40 --replicas 3 --out DIR

Actors label episodes of made-up frames through a service of embedded models (untrained, unless --checkpoint is given).
Meanwhile, in random order: a replica is killed during a batch, or hangs, for less and for more than any deadline; the
Serve controller is killed; an actor is killed; the model is swapped, also while a replica is killed; damaged models
are deployed; the service is overloaded. After each fault, the time is measured until the service answers again
(answered_s) and until all replicas do (whole_s). At the end every frame must have exactly one outcome, and its
progress must equal the offline score of the model version that its episode records.

The last line is JSON: faults, lost, doubled, wrong_version, asked, answered, invalid, late, rejected, abandoned (by
killed clients), retried, versions, recovery (times in seconds by kind of fault). Exit status 1: a label was lost,
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
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from dopamine_rl.errors import DopamineError, ScoringError, require, seed_check
from dopamine_rl.grm.folder import usable_model
from experiments.runtime.arguments import OptionalResultPath, option, parse
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import check_new_folder

if TYPE_CHECKING:
    from experiments.chaos.service_faults import SystemUnderTest

APP = "chaos"
PERIOD_S = 0.1
RECOVERY_S = 120.0
PAUSE_S = (0.5, 2.5)
Recovery = dict[str, list[dict[str, float]]]
"""Recovery times (answered_s, whole_s) of every fault, by kind."""


@dataclass(frozen=True)
class Arguments:
    """Options of the fault injection."""

    faults: Annotated[int, option("N")] = 27
    """Number of faults; the default has three of each kind."""
    actors: Annotated[int, option("N")] = 4
    """Number of actors."""
    replicas: Annotated[int, option("N")] = 2
    """Number of replicas."""
    seed: Annotated[int, option("N")] = 0
    """Seed for the order of faults."""
    checkpoint: Annotated[tuple[Path, ...], option("FOLDER …", "three untrained ones")] = ()
    """Models to swap between."""
    out: Annotated[OptionalResultPath, option("DIR", "")] = None
    """New folder for journals and records."""

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
    """Inject the faults, check every label, print the results."""
    arguments = parse(Arguments, argv, "dopamine chaos reward-service", __doc__)
    if arguments.out is not None:
        check_new_folder(arguments.out)
    for checkpoint in arguments.checkpoint:
        usable_model(checkpoint, "--checkpoint")
    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    with (
        interruptible("Interrupted. The service was stopped."),
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
    """Deploy, inject faults, check; returns the results."""
    from experiments.benchmarks.service import untrained
    from experiments.chaos.clients import SIDE, judge
    from experiments.chaos.service_faults import SystemUnderTest, break_models
    from reward_service.engines.transformers import TransformersEngine
    from reward_service.scorer import Scorer

    models = list(arguments.checkpoint) or [untrained(scratch / f"model-{seed}", SIDE, seed) for seed in range(3)]
    scorers = {engine.model_version: Scorer(engine) for engine in map(TransformersEngine, models)}
    system = SystemUnderTest(
        app_name=APP,
        replicas=arguments.replicas,
        folder=scratch / "frames",
        models=models,
        broken=break_models(models[0], scratch),
        period_s=PERIOD_S,
        rng=np.random.default_rng(arguments.seed),
    )
    recovery, unrecovered, ended = put_under_load(system, arguments.actors, arguments.faults)
    print("scoring every episode again …", flush=True)
    verdict = judge(system.folder, system.killed, scorers)
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


def put_under_load(system: SystemUnderTest, actors: int, faults: int) -> tuple[Recovery, int, list[dict[str, Any]]]:
    """Deploy the service, let actors label episodes, inject the faults, and stop all.

    Returns:
        Recovery times by fault, the number of faults without recovery, and the counts of every actor.
    """
    import ray

    from experiments.chaos.service_faults import schedule
    from reward_service.deployment import deploy, shutdown
    from reward_service.service import ServiceConfig

    (system.folder / "records").mkdir(parents=True)
    config = ServiceConfig(replicas=system.replicas, num_cpus=0.5, max_ongoing_requests=16, max_queued_requests=64)
    deploy(system.models[0], APP, config)
    try:
        for _ in range(actors):
            system.add_client()
        recover(system)
        recovery, unrecovered = inject(system, schedule(faults, system.rng))
        print("waiting for the actors to finish their episodes …", flush=True)
        counts = ray.get([client.stop.remote() for client in system.clients.values()], timeout=300.0)
    finally:
        shutdown(APP)
    return recovery, unrecovered, counts


def inject(system: SystemUnderTest, faults: Sequence[Callable[[SystemUnderTest], str]]) -> tuple[Recovery, int]:
    """Inject faults one by one, each after the service has recovered from the one before."""
    recovery: Recovery = defaultdict(list)
    unrecovered = 0
    for number, fault in enumerate(faults, 1):
        time.sleep(system.rng.uniform(*PAUSE_S))
        name = fault.__name__.replace("_", " ")
        try:
            detail = fault(system)
            times = recover(system)
        except (DopamineError, RuntimeError) as error:
            unrecovered += 1
            print(f"{number:3d} {name}: FAILED: {error}", flush=True)
            continue
        recovery[name].append(times)
        recovered = f"answers after {times['answered_s']} s, all replicas after {times['whole_s']} s"
        print(f"{number:3d} {name}: {detail}; {recovered}", flush=True)
    return dict(recovery), unrecovered


def recover(system: SystemUnderTest) -> dict[str, float]:
    """Wait until a frame is scored, then until all replicas answer. Raises RuntimeError after RECOVERY_S."""
    began = time.monotonic()
    answered = None
    while time.monotonic() - began < RECOVERY_S:
        try:
            if answered is None:
                system.probe(2.0)
                answered = time.monotonic() - began
            replicas = system.describe()
            if len(replicas) == system.replicas and len({replica.versions[0] for replica in replicas}) == 1:
                return {"answered_s": round(answered, 2), "whole_s": round(time.monotonic() - began, 2)}
        except ScoringError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"not recovered after {RECOVERY_S:g} s")


if __name__ == "__main__":
    main()
