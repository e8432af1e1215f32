"""Measures the success of one policy on unseen seeds.

    python -m experiments.commands.evaluate expert
    python -m experiments.commands.evaluate runs/peg_insert/policy.safetensors --evaluation.episodes 100
    python -m experiments.commands.evaluate expert --env.start standard --env.translation-m 0.05 --env.rotation-rad 0.1 \\
        --env.horizon 150 --evaluation.episodes 100
    python -m experiments.commands.evaluate expert --env.task PlugCharger-v1 --env.start standard --env.translation-m 0.05 \\
        --env.rotation-rad 0.1 --env.horizon 200 --evaluation.episodes 100

POLICY is a saved policy, or one of the task's scripts: expert, near_miss, stall, retreat, drop, perturb, and for the peg
straight_push. Where a saved policy lies in the folder of its run, the settings are that run's, unless --preset names others. The last
line is JSON: mean, low, high (Wilson, 95 %), n, mean_environment_steps, failed_seeds.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from actors.tasks import TASKS
from dopamine_rl.errors import BadInput
from dopamine_rl.metrics import wilson
from experiments.runtime.arguments import parse_run
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.settings import ExperimentConfig


@command
def main(argv: list[str] | None = None) -> None:
    """Parse the command line, evaluate, print the rate."""
    given = list(sys.argv[1:] if argv is None else argv)
    name = given.pop(0) if given and not given[0].startswith("-") else ""
    own = Path(name).parent / "config.toml"
    if name.endswith(".safetensors") and own.is_file() and "--preset" not in given:
        given = ["--preset", str(own), *given]
    _, config = parse_run(ExperimentConfig, given, "evaluate POLICY", __doc__ or "")
    with interruptible("Interrupted."):
        print(json.dumps(evaluate(name, config)))


def evaluate(policy: str, config: ExperimentConfig) -> dict[str, object]:
    """Run a policy on the configured unseen seeds, without pictures.

    Args:
        policy: a file of dopamine_rl.policy.save_policy, or the name of one of the task's scripts.
    Raises:
        BadInput: it is neither.
    """
    from actors.workers import Job, PolicySpec, WorkerPool
    from experiments.runtime.cluster import ray_cluster

    spec = PolicySpec("network", Path(policy).resolve()) if policy.endswith(".safetensors") else PolicySpec(policy)
    if spec.path is not None:
        from dopamine_rl.policy import load_policy

        load_policy(spec.path)  # a damaged file is met here, not in a worker
    elif policy not in (scripts := TASKS[config.env.task].scripts):
        raise BadInput("POLICY", policy, f"name a .safetensors file or one of {', '.join(scripts)}")
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]
    with ray_cluster(config.cluster), interruptible("Interrupted."):
        pool = WorkerPool(replace(config.env, views=()), config.simulation.workers, config.simulation.num_cpus)
        outcomes = pool.map([Job("evaluate", (spec, seed)) for seed in seeds], Console().progress, "episodes")
        pool.close()
    failed = [outcome["seed"] for outcome in outcomes if not outcome["success"]]
    steps = sum(outcome["environment_steps"] for outcome in outcomes) / len(outcomes)
    rate = wilson(len(seeds) - len(failed), len(seeds))
    return {**asdict(rate), "mean_environment_steps": steps, "failed_seeds": failed}


if __name__ == "__main__":
    main()
