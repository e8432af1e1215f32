"""Measures the success rate of a policy on unseen seeds.

    dopamine evaluate expert
    dopamine evaluate runs/peg_insert/policy.safetensors --evaluation.episodes 100
    dopamine evaluate expert --env.start standard --env.translation-m 0.05 --env.rotation-rad 0.1 \\
        --env.horizon 150 --evaluation.episodes 100
    dopamine evaluate expert --env.task PlugCharger-v1 --env.start standard --env.translation-m 0.05 \\
        --env.rotation-rad 0.1 --env.horizon 200 --evaluation.episodes 100

POLICY is a saved policy or one of the task's scripts: expert, near_miss, stall, retreat, drop, perturb, pause, retry,
oscillate, beside, drop_at_end, and straight_push (peg insertion only); nothing can be dropped from the insertion start.
A policy in a run folder is evaluated with the settings of that run, unless you give --preset. The last line is JSON:
mean, low, high (95 % Wilson interval), n, mean_environment_steps,
failed_seeds and policy_provenance (null for scripts and for policies of older versions).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from actors.envs import scripts_of
from actors.eyes import check_sight, sight_of
from actors.maniskill import EnvConfig
from actors.tasks.task import check_script, usable_scripts
from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.metrics import wilson
from dopamine_rl.policy import load_eyes, load_policy, policy_provenance, policy_sizes
from dopamine_rl.spelling import one_of
from dopamine_rl.texts import counted
from experiments.runtime.arguments import DEFAULT_PRESET, option, parse_settings
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from actors.workers import WorkerPool

Settings = ExperimentConfig
FILE = "a policy that `dopamine train` wrote, RUN/policy.safetensors"


@dataclass(frozen=True)
class Arguments:
    """The policy to evaluate."""

    policy: Annotated[Positional[str], option("POLICY")]
    """A saved policy (.safetensors), or the name of a script of the task."""
    preset: Annotated[str, option("NAME", f"the settings of the policy's run, else {DEFAULT_PRESET}")] = DEFAULT_PRESET
    """Preset to start from: a name, or a file PATH.toml."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the policy and print its success rate."""
    arguments, config = parse_settings(Arguments, Settings, with_run_settings(argv or ()), "dopamine evaluate", __doc__)
    made_by = check_policy(arguments, config.env, config.demonstrations.expert)
    with interruptible("Interrupted."):
        print(json.dumps(evaluate(arguments.policy, config) | {"policy_provenance": made_by}))


def with_run_settings(words: Sequence[str]) -> list[str]:
    """Add `--preset` with the settings of the policy's run, if the command line names no preset."""
    policy = next((word for word in words if word.endswith(".safetensors")), None)
    settings = Path(policy).parent / "config.toml" if policy else None
    if settings is None or not settings.is_file() or any(word.startswith("--preset") for word in words):
        return list(words)
    return [*words, "--preset", str(settings)]


def check_policy(arguments: Arguments, env: EnvConfig, expert: str = "") -> dict[str, Any] | None:
    """Check that a policy can act in an environment, before anything is started; returns its provenance.

    Args:
        expert: as for `scripts_of`.
    Raises:
        BadInput: it is neither a policy's file nor a script, or it is for another environment.
    """
    policy, path = arguments.policy, Path(arguments.policy)
    if not _is_file(policy):
        if path.is_dir():
            raise BadInput("POLICY", policy, _of_folder(path))
        scripts = scripts_of(env, expert)
        if policy not in scripts:
            raise BadInput("POLICY", policy, f"{one_of(policy, usable_scripts(scripts, env.start))}; or {FILE}")
        if not env.make:
            check_script("POLICY", policy, scripts, env.start, "add --env.start standard")
        return None
    if not path.is_file():
        raise BadInput("POLICY", policy, f"there is no such file: give {FILE}")
    try:
        sizes = policy_sizes(load_policy(path))
        made_by, eyes = policy_provenance(path), load_eyes(path)
    except CheckpointError as error:
        raise BadInput("POLICY", policy, f"give {FILE} ({error})") from error
    if not env.make:
        check_sight(eyes, sight_of(env), policy)
    if not env.make and (sizes[1] != env.action_size or (eyes is None and sizes[0] != env.observation_size)):
        fix = (
            f"it reads {sizes[0]} numbers and acts with {sizes[1]}, but an environment of preset {arguments.preset} "
            f"({env.task}, {env.start} start) gives {env.observation_size} and takes {env.action_size}: give --preset "
            "with the settings it was trained with, or leave --preset out for those in its run's folder"
        )
        raise BadInput("POLICY", policy, fix)
    return made_by


def _check_sizes(pool: WorkerPool, policy: str, path: Path, console: Console) -> None:
    """Raise BadInput if a policy is for another environment than the user's own one."""
    from actors.workers import Job

    [spaces] = pool.map([Job("spaces", ())], console.progress, "environments made")
    sizes = spaces.sizes
    if (read := policy_sizes(load_policy(path))) != sizes:
        fix = f"it reads {read[0]} numbers and acts with {read[1]}, but env.make gives {sizes[0]} and takes {sizes[1]}"
        raise BadInput("POLICY", policy, fix)


def _is_file(policy: str) -> bool:
    return policy.endswith(".safetensors")


def _of_folder(folder: Path) -> str:
    """The fix where a folder was given."""
    if (folder / "policy.safetensors").is_file():
        return f"write {folder / 'policy.safetensors'}"
    if (folder / "config.json").is_file():
        return f"this is a reward model's folder: give {FILE}"
    return f"there is no policy.safetensors in this folder: give {FILE}, or the name of a script"


def evaluate(policy: str, config: ExperimentConfig) -> dict[str, object]:
    """Run a policy that `check_policy` accepted on the configured unseen seeds, without rendering."""
    from actors.workers import Job, PolicySpec, WorkerPool
    from experiments.runtime.cluster import ray_cluster

    spec = PolicySpec("network", Path(policy).resolve()) if _is_file(policy) else PolicySpec(policy)
    seeds = [config.evaluation.first_seed + i for i in range(config.evaluation.episodes)]
    console = Console()
    with ray_cluster(config.cluster), interruptible("Interrupted."):
        console.say(f"Starting {counted(config.simulation.workers, 'simulator')}")
        simulation, expert = config.simulation, config.demonstrations.expert
        pool = WorkerPool(replace(config.env, views=()), simulation.workers, simulation.num_cpus, expert)
        if config.env.make and spec.path:
            _check_sizes(pool, policy, spec.path, console)
        outcomes = pool.map([Job("evaluate", (spec, seed)) for seed in seeds], console.progress, "episodes")
        pool.close()
    failed = [outcome["seed"] for outcome in outcomes if not outcome["success"]]
    steps = sum(outcome["environment_steps"] for outcome in outcomes) / len(outcomes)
    rate = wilson(len(seeds) - len(failed), len(seeds))
    return {**asdict(rate), "mean_environment_steps": steps, "failed_seeds": failed}


if __name__ == "__main__":
    main()
