"""Records demonstrations and failures of a simulated task, or replays ManiSkill's, for `dopamine demos`."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction

from actors.demonstrations import SPARE_SEEDS, episode_folder
from actors.maniskill import LOOKS, EnvConfig
from actors.playback import PLAYBACK, check_trajectory
from actors.tasks import TASKS
from actors.tasks.task import EXPERT, SUCCEEDING, Task, check_script, usable_scripts
from dopamine_rl.config import load_preset
from dopamine_rl.episodes.maniskill import ManiSkillTrajectory, list_trajectories, read_trajectories
from dopamine_rl.episodes.raw import list_episodes, read_outcome
from dopamine_rl.errors import BadInput, require
from dopamine_rl.files import remove_leftovers, write_text
from dopamine_rl.spelling import one_of
from dopamine_rl.texts import counted
from experiments.runtime.arguments import OptionalResultPath, option, read_preset
from experiments.runtime.console import Console
from experiments.runtime.ending import interruptible
from experiments.runtime.ownership import NOBODYS
from experiments.runtime.storage import check_folder, lasting_path, make_folder, only_writer
from experiments.settings import ExperimentConfig

if TYPE_CHECKING:
    from actors.workers import Job

SETTINGS = "demos.json"
"""File in the folder of episodes with the settings of their recording."""
INTERRUPTED = "Interrupted. Run the same command again to continue; recorded episodes are reused."
TRANSLATION_M, ROTATION_RAD = 0.05, 0.1
"""Translation and rotation for an action of 1: the experts need these to cross the table in a second."""


WHAT = {"-n": "success", "--failures": "failure"}
"""What an option counts."""
OPTIONS = {"image_size": "size"}
"""Option of a setting of the environment, where the two have different names."""


def _short(task: Task) -> str:
    return task.name.rpartition("-")[0]


KNOWN = {name for task in TASKS.values() for name in (task.name, _short(task))}
"""Names of the tasks with a scripted expert, with and without their version."""
TASKS_ABOUT = (
    "Task, with its kinds: "
    + "; ".join(f"{_short(task)}: {task.instructions[0]} ({', '.join(task.kinds)})" for task in TASKS.values())
    + ". With --policy or --trajectories: any task of ManiSkill by its id."
)
KINDS_ABOUT = (
    "Record only this kind; may be given several times. pause and retry succeed and take the place of the expert's "
    "successes (-n); the others are failures (--failures)."
)
LOOKS_ABOUT = f"Appearance of the images, drawn from each seed: {', '.join(LOOKS)}."


@dataclass(frozen=True)
class DemosArguments:
    """Which episodes to record, and how to simulate them."""

    task: Annotated[Positional[str], option("TASK", about=TASKS_ABOUT)]
    """Task, with its kinds."""
    n: Annotated[int | None, option("N", "all trajectories of the file", aliases=["-n"])] = None
    """Number of successes, or of trajectories to replay."""
    trajectories: Annotated[Path | None, option("FILE.h5", "")] = None
    """Replay ManiSkill's trajectories of this task instead of recording its expert."""
    policy: Annotated[Path | None, option("FILE", "")] = None
    """For a task without an expert: record this policy instead."""
    instruction: Annotated[str | None, option("TEXT", "the task's name")] = None
    """For a task without an expert: what it is, in words."""
    control_mode: Annotated[str | None, option("NAME", "pd_ee_delta_pose, or the trajectories'")] = None
    """For a task without an expert: ManiSkill's name of what actions mean."""
    failures: Annotated[int, option("M")] = 0
    """Number of failures, taking the task's kinds in turn."""
    kind: Annotated[UseAppendAction[tuple[str, ...]], option("KIND", about=KINDS_ABOUT)] = ()
    """Record only this kind; may be given several times."""
    out: Annotated[OptionalResultPath, option("DIR", "demos/TASK")] = None
    """Output folder of episodes."""
    seed: Annotated[int, option("S")] = 0
    """Seed of the first success and of the first failure."""
    env: Annotated[str | None, option("PRESET", "the task's standard start with every view")] = None
    """Take start, horizon and views from this preset's [env]."""
    look: Annotated[str, option("LOOK", about=LOOKS_ABOUT)] = "plain"
    """Appearance of the images, drawn from each seed."""
    views: Annotated[str | None, option("NAMES", "all, or the preset's")] = None
    """Cameras, separated by commas: front, wrist, close."""
    stride: Annotated[int | None, option("K", "the task's own, 2 or 4")] = None
    """Environment steps between frames."""
    size: Annotated[int | None, option("PX", "112")] = None
    """Height and width of every view, in pixels."""
    workers: Annotated[int, option("W")] = os.cpu_count() or 2
    """Number of simulator processes."""

    def __post_init__(self) -> None:
        require("", self, ("workers", self.workers >= 1, "give at least 1"))


def record(arguments: DemosArguments) -> dict[str, Any]:
    """Record the requested episodes that do not exist yet.

    Raises:
        BadInput: an argument is invalid, or the folder's episodes were recorded with other settings.
    """
    task = find_task(arguments.task)
    for name in ("policy", "instruction", "control_mode"):
        if value := getattr(arguments, name):
            fix = f"leave it out: {_short(task)} has a scripted expert"
            raise BadInput(f"--{name.replace('_', '-')}", str(value), fix)
    out = lasting_path(arguments.out or Path("demos") / _short(task)).resolve()
    env = environment(task, arguments)
    if arguments.trajectories is None:
        episodes, origin = plan(task, arguments, env.start), None
    else:
        episodes, origin = plan_replay(task, env, arguments)
    make_job = as_meant(out) if arguments.trajectories is None else played_back(arguments.trajectories, out)
    return record_episodes(_short(task), episodes, make_job, env, out, arguments, {"trajectories": origin})


MakeJob = Callable[[str, int], "Job"]
"""What records an episode, by its name and its seed or number."""


def as_meant(out: Path) -> MakeJob:
    """Records scripts that end as they are meant to."""

    def make(script: str, seed: int) -> Job:
        from actors.workers import Job

        return Job("record_as_meant", (script, seed, out))

    return make


def played_back(path: Path, out: Path) -> MakeJob:
    """Replays the trajectories of a file."""

    def make(_: str, number: int) -> Job:
        from actors.workers import Job

        return Job("play_back", (path.resolve(), number, out))

    return make


def record_episodes(
    title: str,
    episodes: Sequence[tuple[str, int]],
    make_job: MakeJob,
    env: EnvConfig,
    out: Path,
    arguments: DemosArguments,
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Record the episodes that do not exist yet; returns the summary that is printed last.

    Args:
        title: of the task.
        episodes: name, and seed or number, of each.
        origin: kept with the settings: where the episodes come from.
    Raises:
        BadInput: the folder holds other things, or episodes that were recorded with other settings.
    """
    check_folder(out)
    _check_holds_episodes(out)
    make_folder(out)
    with only_writer(out):
        _check_settings(out, {**asdict(env), **origin})
        remove_leftovers(out, {episode_folder(name, seed, out).name for name, seed in episodes}.__contains__)
        missing = [(name, seed) for name, seed in episodes if not episode_folder(name, seed, out).exists()]
        console = Console()
        console.say(
            f"{title}: {counted(len(episodes), 'episode')} in {out}, {len(episodes) - len(missing)} already recorded"
        )
        if missing:
            _record(missing, make_job, env, arguments.workers, console)
    failures = Counter(name for name, seed in episodes if not read_outcome(episode_folder(name, seed, out)).success)
    return {
        "task": arguments.task if env.make else env.task,
        "out": str(out),
        "episodes": len(episodes),
        "successes": len(episodes) - failures.total(),
        "failures": dict(failures),
        "seconds": round(console.elapsed_s, 1),
        "episodes_per_s": round(len(missing) / console.elapsed_s, 3),
    }


def find_task(name: str, field: str = "TASK") -> Task:
    """The task of this name, given with or without its version. Raises BadInput naming `field`."""
    for task in TASKS.values():
        if name in (task.name, _short(task)):
            return task
    raise BadInput(field, name, one_of(name, [_short(task) for task in TASKS.values()]))


def environment_folder(env: EnvConfig) -> str:
    """Name of a run's folder of all episodes recorded in an environment."""
    return hashlib.sha256(repr(env).encode()).hexdigest()[:8]


def recorded_in(episode: Path) -> EnvConfig:
    """The environment that an episode of `dopamine demos` or of a run of `dopamine train` was recorded in.

    Raises:
        BadInput: naming `--env`, where no settings lie beside it that can be read.
    """
    folder = episode.resolve()
    settings = folder.parent / SETTINGS
    with suppress(OSError, ValueError, TypeError, KeyError):
        stored = json.loads(settings.read_text(encoding="utf-8"))
        known = {field.name: stored[field.name] for field in fields(EnvConfig) if field.name in stored}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in known.items()
        }
        return EnvConfig(**{**values, "views": tuple(known["views"])})
    for run in folder.parents[2:4]:
        with suppress(BadInput):
            env = load_preset(ExperimentConfig, run / "config.toml").env
            if folder.parents[1] == run / "demonstrations" / environment_folder(env):
                return env
    raise BadInput("--env", None, f"name the preset that {episode} was recorded with: no settings lie beside it")


def environment(task: Task, arguments: DemosArguments) -> EnvConfig:
    """The environment that demonstrations are recorded in, with true progress. Raises BadInput."""
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
    if env.make:
        raise BadInput("--env", arguments.env, "choose a preset of a simulated task; this one is for env.make")
    if env.task != task.name:
        raise BadInput("--env", arguments.env, f"choose a preset of this task; this one is for {env.task}")
    views = None if arguments.views is None else tuple(arguments.views.split(","))
    given = {"stride": arguments.stride, "image_size": arguments.size, "views": views, "look": arguments.look}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return replace(env, oracle=True, **changes)
    except BadInput as error:
        setting = error.field.removeprefix("env.")
        if setting not in changes:
            raise
        name = OPTIONS.get(setting, setting)
        raise BadInput(f"--{name}", getattr(arguments, name), error.fix) from None


def plan(task: Task, arguments: DemosArguments, start: str = "standard") -> list[tuple[str, int]]:
    """Script and seed of every episode. Success i and failure i share a seed, however many are requested."""
    if arguments.n is None:
        raise BadInput("-n", None, "say how many successes to record")
    for name, value in (("-n", arguments.n), ("--failures", arguments.failures)):
        if value < 0:
            raise BadInput(name, value, "give at least 0")
    if arguments.n + arguments.failures == 0:
        raise BadInput("-n", arguments.n, "request at least one success, or --failures")
    if not 0 <= arguments.seed < SPARE_SEEDS:
        raise BadInput("--seed", arguments.seed, f"choose 0 to {SPARE_SEEDS - 1}")
    succeeding, failing = _kinds(task, arguments, start)
    successes = [(succeeding[i % len(succeeding)], arguments.seed + i) for i in range(arguments.n)]
    return successes + [(failing[i % len(failing)], arguments.seed + i) for i in range(arguments.failures)]


def _kinds(task: Task, arguments: DemosArguments, start: str) -> tuple[list[str], list[str]]:
    """The kinds of successes and those of failures, to be taken in turn."""
    kinds = usable_scripts(task.kinds, start)
    for kind in arguments.kind:
        check_script("--kind", kind, task.kinds, start, f"leave out --env {arguments.env}")
        for name, count in (("-n", arguments.n), ("--failures", arguments.failures)):
            if not count and (kind in SUCCEEDING) == (name == "-n"):
                raise BadInput(name, count, f"give at least 1: {kind} is a kind of {WHAT[name]}")
    succeeding = [kind for kind in arguments.kind if kind in SUCCEEDING]
    failing = [kind for kind in arguments.kind if kind not in SUCCEEDING]
    return succeeding or [EXPERT], failing or [kind for kind in task.failures if kind in kinds]


def plan_replay(task: Task, env: EnvConfig, arguments: DemosArguments) -> tuple[list[tuple[str, int]], dict[str, str]]:
    """Name and number of every trajectory to replay, and the file's identity. Raises BadInput."""
    path = arguments.trajectories
    assert path is not None
    first = first_trajectory(path)
    for name, given in (("--failures", arguments.failures), ("--kind", arguments.kind), ("--seed", arguments.seed)):
        if given:
            raise BadInput(name, given, "leave it out: --trajectories replays the file as it is")
    if env.start != "standard":
        raise BadInput("--env", arguments.env, "leave it out: ManiSkill's trajectories use the standard start")
    if arguments.n is not None and arguments.n < 1:
        raise BadInput("-n", arguments.n, "give at least 1, or leave it out for all trajectories")
    check_trajectory(task, first)
    numbers = list_trajectories(path)[: arguments.n]
    return [(PLAYBACK, number) for number in numbers], identity(path, first.control_mode)


def first_trajectory(path: Path) -> ManiSkillTrajectory:
    """The first trajectory of a file. Raises BadInput if there is no such file, or none in it."""
    if not path.is_file():
        raise BadInput("--trajectories", str(path), "name the .h5 file that ManiSkill's RecordEpisode wrote")
    first = next(read_trajectories(path), None)
    if first is None:
        raise BadInput("--trajectories", str(path), "give a file with at least one trajectory")
    return first


def identity(path: Path, control_mode: str) -> dict[str, str]:
    """What tells a file of trajectories from another."""
    digest = hashlib.sha256(path.with_suffix(".json").read_bytes()).hexdigest()[:12]
    return {"file": path.name, "sha256_of_json": digest, "control_mode": control_mode}


def _check_holds_episodes(out: Path) -> None:
    """Refuse to record into a folder of other things. Raises BadInput naming `--out`."""
    if not out.exists() or (out / SETTINGS).is_file() or list_episodes(out):
        return
    others = sorted({path.name for path in out.iterdir()} - NOBODYS)
    if others:
        fix = f"give a new folder, or one of recorded episodes: this one holds other things ({', '.join(others[:3])})"
        raise BadInput("--out", str(out), fix)


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the recording's settings, or refuse to mix episodes of different settings in one folder."""
    settings, path = json.loads(json.dumps(settings)), out / SETTINGS
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2))
        return
    stored = asdict(EnvConfig()) | json.loads(path.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if stored.get(name) != value:
            raise BadInput(f"{path}: {name}", stored.get(name), f"choose another --out for episodes with {value!r}")


def _record(
    missing: Sequence[tuple[str, int]], make_job: MakeJob, env: EnvConfig, workers: int, console: Console
) -> None:
    from actors.workers import WorkerPool
    from experiments.runtime.cluster import ClusterConfig, ray_cluster

    workers = min(workers, len(missing))
    # Ray installs its own SIGTERM handler when it starts.
    with ray_cluster(ClusterConfig(num_cpus=max(2, workers))), interruptible(INTERRUPTED):
        console.say(f"Starting {counted(workers, 'simulator')}")
        pool = WorkerPool(env, workers, num_cpus=1)
        pool.map([make_job(*episode) for episode in missing], console.progress, "episodes")
        pool.close()
