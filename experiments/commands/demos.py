"""Records demonstrations of a simulated task into a folder of raw episodes: successes of its expert, and failures.

    dopamine demos PickCube -n 50 --failures 50
    dopamine demos PickCube --trajectories trajectory.h5 -n 50
    dopamine demos StackCube -n 0 --failures 20 --kind near_miss --kind drop --out raw/misses --seed 5000
    dopamine demos PegInsertionSide -n 16 --env laptop --look light

Every episode belongs to a seed: the same command records the same episodes, whatever the number of workers, and with another
--look the same again in other pictures. Failures are of
the task's kinds in turn, half of them near misses. What is in the folder already is kept, so that the same command goes on
where it was interrupted, and a larger -n adds to it. Beside the pictures every episode holds the simulator's true progress.

--trajectories shows again what ManiSkill's RecordEpisode wrote, FILE.h5 with FILE.json beside it, up to each one's first success:
the simulator is put into every recorded state, so that any control mode will do. True progress tells two stages: until the
object is held, and from then on. Actions stay in the control mode of the recording, which demos.json names.
The last line is JSON: episodes, successes, failures by kind, seconds, and episodes a second of those recorded now.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from actors.demonstrations import SPARE_SEEDS, episode_folder
from actors.maniskill import LOOKS, EnvConfig
from actors.playback import PLAYBACK, check_trajectory
from actors.tasks import TASKS
from actors.tasks.task import EXPERT, Task
from dopamine_rl.episodes.maniskill import list_trajectories, read_trajectories
from dopamine_rl.episodes.raw import read_outcome
from dopamine_rl.errors import BadInput
from dopamine_rl.files import remove_leftovers, write_text
from experiments.runtime.arguments import read_preset
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.storage import lasting_path, make_folder, only_writer, result_path
from experiments.settings import ExperimentConfig

SETTINGS = "demos.json"
"""File in the folder of episodes that says how they were recorded."""
KEPT = "Interrupted. The same command keeps the episodes that are recorded and goes on."
TRANSLATION_M, ROTATION_RAD = 0.05, 0.1
"""Movement for an action of one: what the experts need to cross the table in a second."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; imports neither Ray nor a simulator."""
    parser = argparse.ArgumentParser(
        prog="dopamine demos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = "; ".join(f"{_short(task)}: {task.instructions[0]} ({', '.join(_kinds(task))})" for task in TASKS.values())
    parser.add_argument("task", metavar="TASK", help=f"with its kinds of failures: {tasks}")
    parser.add_argument("-n", type=int, metavar="N", help="successes of the expert, or trajectories of the file (default: all of them)")  # fmt: skip
    parser.add_argument("--trajectories", type=Path, metavar="FILE.h5", help="replay ManiSkill's trajectories of this task instead of recording its expert")  # fmt: skip
    parser.add_argument("--failures", type=int, default=0, metavar="M", help="failures (default: %(default)s)")
    parser.add_argument("--kind", action="append", metavar="KIND", help="a kind of failures, instead of all in turn; may be given several times")  # fmt: skip
    parser.add_argument("--out", type=result_path, metavar="DIR", help="folder of episodes (default: demos/TASK)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first success and of the first failure (default: %(default)s)")  # fmt: skip
    parser.add_argument("--env", metavar="PRESET", help="simulate as a preset's [env] says, with its start, horizon and views (default: the task's standard start with every view)")  # fmt: skip
    parser.add_argument("--look", default="plain", metavar="LOOK", help=f"what pictures show, drawn from each seed: {', '.join(LOOKS)} (default: %(default)s)")  # fmt: skip
    parser.add_argument("--views", metavar="NAMES", help="cameras by commas, of front, wrist and close (default: all, or the preset's)")  # fmt: skip
    parser.add_argument("--stride", type=int, metavar="K", help="environment steps from one frame to the next (default: the task's own, 2 or 4)")  # fmt: skip
    parser.add_argument("--size", type=int, metavar="PX", help="height and width of every view (default: 112)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2, metavar="W", help="simulators, each a process (default: %(default)s)")  # fmt: skip
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Record what is missing and say what there is."""
    arguments = parse(argv)
    with interruptible(KEPT):
        print(json.dumps(run(arguments)))


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Record every episode that is asked for and not there yet.

    Raises:
        BadInput: an argument cannot be used, or the folder's episodes were recorded in another way.
    """
    task = find_task(arguments.task)
    if arguments.workers < 1:
        raise BadInput("--workers", arguments.workers, "give at least 1")
    out = lasting_path(arguments.out or Path("demos") / _short(task)).resolve()
    env = environment(task, arguments)
    if arguments.trajectories is None:
        episodes, origin = plan(task, arguments), None
    else:
        episodes, origin = plan_replay(task, env, arguments)
    make_folder(out)
    with only_writer(out):
        _agree(out, {**asdict(env), "trajectories": origin})
        return _fill(task, episodes, env, out, arguments)


def _fill(
    task: Task, episodes: Sequence[tuple[str, int]], env: EnvConfig, out: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Record what is missing of some episodes, and return what the last line says."""
    remove_leftovers(out, {episode_folder(script, seed, out).name for script, seed in episodes}.__contains__)
    missing = [(script, seed) for script, seed in episodes if not episode_folder(script, seed, out).exists()]
    console = Console()
    console.say(f"{_short(task)}: {len(episodes)} episodes into {out}, {len(episodes) - len(missing)} are there")
    if missing:
        _record(missing, env, out, arguments, console)
    failures = Counter(script for script, seed in episodes if not read_outcome(episode_folder(script, seed, out))[0])
    return {
        "task": task.name,
        "out": str(out),
        "episodes": len(episodes),
        "successes": len(episodes) - failures.total(),
        "failures": dict(failures),
        "seconds": round(console.elapsed_s, 1),
        "episodes_per_s": round(len(missing) / console.elapsed_s, 3),
    }


def find_task(name: str) -> Task:
    """The task of a name with or without its version. Raises BadInput."""
    for task in TASKS.values():
        if name in (task.name, _short(task)):
            return task
    raise BadInput("TASK", name, f"choose from {', '.join(map(_short, TASKS.values()))}")


def environment(task: Task, arguments: argparse.Namespace) -> EnvConfig:
    """How a task's demonstrations are simulated, with the true progress. Raises BadInput."""
    if arguments.env is None:
        env = EnvConfig(
            task=task.name,
            start="standard",
            horizon=task.horizon,
            stride=task.stride,
            translation_m=TRANSLATION_M,
            rotation_rad=ROTATION_RAD,
        )
    else:
        env = read_preset(ExperimentConfig, arguments.env, "--env").env
    if env.task != task.name:
        raise BadInput("--env", arguments.env, f"choose a preset of this task; it is for {env.task}")
    views = None if arguments.views is None else tuple(arguments.views.split(","))
    given = {"stride": arguments.stride, "image_size": arguments.size, "views": views}
    return replace(
        env, look=arguments.look, oracle=True, **{name: value for name, value in given.items() if value is not None}
    )


def plan(task: Task, arguments: argparse.Namespace) -> list[tuple[str, int]]:
    """Script and seed of every episode. Success i and failure i have the same seed, whatever the numbers asked for."""
    if arguments.n is None:
        raise BadInput("-n", None, "say how many successes to record")
    for name, value in (("-n", arguments.n), ("--failures", arguments.failures)):
        if value < 0:
            raise BadInput(name, value, "give at least 0")
    if arguments.n + arguments.failures == 0:
        raise BadInput("-n", arguments.n, "ask for at least one success, or for --failures")
    if not 0 <= arguments.seed < SPARE_SEEDS:
        raise BadInput("--seed", arguments.seed, f"choose 0 to {SPARE_SEEDS - 1}")
    kinds = tuple(arguments.kind or task.failures)
    for kind in kinds:
        if kind not in _kinds(task):
            raise BadInput("--kind", kind, f"choose from {', '.join(_kinds(task))}")
    successes = [(EXPERT, arguments.seed + i) for i in range(arguments.n)]
    return successes + [(kinds[i % len(kinds)], arguments.seed + i) for i in range(arguments.failures)]


def plan_replay(
    task: Task, env: EnvConfig, arguments: argparse.Namespace
) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Name and number of every trajectory to replay, and what is to be known of the file. Raises BadInput."""
    path: Path = arguments.trajectories
    if not path.is_file():
        raise BadInput("--trajectories", str(path), "name the .h5 file that ManiSkill's RecordEpisode wrote")
    for name, given in (("--failures", arguments.failures), ("--kind", arguments.kind), ("--seed", arguments.seed)):
        if given:
            raise BadInput(name, given, "leave it out: --trajectories replays what is in the file")
    if env.start != "standard":
        raise BadInput("--env", arguments.env, "leave it out: ManiSkill's trajectories have the standard start")
    if arguments.n is not None and arguments.n < 1:
        raise BadInput("-n", arguments.n, "give at least 1, or leave it out for all trajectories")
    numbers = list_trajectories(path)[: arguments.n]
    first = next(read_trajectories(path), None)
    if first is None:
        raise BadInput("--trajectories", str(path), "give a file with a trajectory")
    check_trajectory(task, first)
    digest = hashlib.sha256(path.with_suffix(".json").read_bytes()).hexdigest()[:12]
    origin = {"file": path.name, "sha256_of_json": digest, "control_mode": first.control_mode}
    return [(PLAYBACK, number) for number in numbers], origin


def _short(task: Task) -> str:
    return task.name.rpartition("-")[0]


def _kinds(task: Task) -> list[str]:
    return sorted(set(task.failures))


def _agree(out: Path, settings: dict[str, Any]) -> None:
    """Write how the folder's episodes are recorded, or refuse to mix them with others."""
    settings, path = json.loads(json.dumps(settings)), out / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2))
        return
    there = asdict(EnvConfig()) | json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if there.get(name) != value:
            raise BadInput(f"{path}: {name}", there.get(name), f"choose another --out for episodes with {value!r}")


def _record(
    missing: Sequence[tuple[str, int]], env: EnvConfig, out: Path, arguments: argparse.Namespace, console: Console
) -> None:
    from actors.workers import Job, WorkerPool
    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    workers = min(arguments.workers, len(missing))
    if arguments.trajectories is None:
        jobs = [Job("record_as_meant", (*episode, out)) for episode in missing]
    else:
        jobs = [Job("play_back", (arguments.trajectories.resolve(), number, out)) for _, number in missing]
    # Ray takes SIGTERM for itself when it starts.
    with ray_cluster(ClusterConfig(num_cpus=max(2, workers))), interruptible(KEPT):
        pool = WorkerPool(env, workers, num_cpus=1)
        pool.map(jobs, console.progress, "episodes")
        pool.close()


if __name__ == "__main__":
    main()
