"""Probes whether a reward model sees alignment before a hole, and what it pays for advancing without it.

    dopamine grm probe runs/peg_insert/grm --demo runs/peg_insert/demonstrations/…/reward_model_stride_1/expert_001000
    dopamine grm probe my_model --demo demos/PlugCharger/expert_000000 --task PlugCharger
    dopamine grm probe --url http://127.0.0.1:8000 --demo raw/expert_000000 --env laptop

The simulator puts the held object at rest at three distances before the hole, turned the right way, on the hole's
axis and up to 30 mm beside it in four directions. Demonstrations show no such states, but a policy that explores
goes there. The model judges the images; its forward and backward perspectives are averaged, as the incremental one
needs a previous image.

  probe_rank: lowest rank correlation of progress with alignment, of all distances. 1 is perfect, 0 is blind.
  probe_trade: progress near and misaligned minus far and aligned. Above 0 the policy is paid for getting stuck.

Results are probe.json and probe.png in DIR. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, create_mutex_group

from dopamine_rl.errors import BadInput, require, seed_check
from dopamine_rl.texts import counted
from experiments.runtime.arguments import ResultPath, option
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible
from experiments.runtime.reward_client import (
    CaFile,
    Deadline,
    Device,
    Insecure,
    Threads,
    TokenFile,
    check_model_arguments,
    reward_client,
)
from experiments.runtime.storage import check_own_report

if TYPE_CHECKING:
    from actors.maniskill import EnvConfig
    from dopamine_rl.evaluation.plans import Plan
    from dopamine_rl.evaluation.probe import ProbePictures
    from experiments.reports.probe import ProbeReport

INTERRUPTED = "Interrupted. Nothing was written."
SOURCE = create_mutex_group(required=False, title="service (instead of MODEL)")
SEED = 7000
"""Of the scene; the main job's probe has the same."""


@dataclass(frozen=True)
class Arguments:
    """The model to probe, and its demonstration."""

    model: Annotated[Positional[Path | None], option("MODEL", "")] = None
    """The model: a folder, a hub id or grm-mini."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """Address of a reward service (HTTP)."""
    app: Annotated[str | None, SOURCE, option("NAME", "")] = None
    """Name of a reward service on the running Ray cluster (RAY_ADDRESS)."""
    token_file: TokenFile = None
    ca_file: CaFile = None
    insecure: Insecure = False
    threads: Threads = None
    device: Device = "cpu"
    demo: Annotated[str | None, option("EPISODE", "")] = None
    """Successful episode (folder or DATASET#NUMBER) whose first and last frames are the START, END and goal images."""
    task: Annotated[str | None, option("TASK", "that of the environment")] = None
    """Task, one with a hole: PegInsertionSide or PlugCharger."""
    env: Annotated[str | None, option("PRESET", "that of the demonstration, by the settings beside it")] = None
    """Take the environment from this preset's [env]."""
    seed: Annotated[int, option("S")] = SEED
    """Seed of the scene and of the directions."""
    deadline_s: Deadline = 120.0
    out: Annotated[ResultPath, option("DIR")] = Path("probe")
    """Folder for the results."""

    def __post_init__(self) -> None:
        served = self.url is not None or self.app is not None
        if (self.model is None) != served:
            raise BadInput("MODEL", str(self.model) if self.model else None, "give MODEL, --url or --app, one of them")
        if self.demo is None:
            raise BadInput("--demo", None, "give a successful episode of the task")
        require("", self, seed_check("seed", self.seed), ("deadline_s", 0.0 < self.deadline_s < 1e6, "give seconds"))


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; imports nothing heavy. Raises UsageError."""
    return read_arguments(Arguments, argv, "dopamine grm probe", __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Probe the model and print its figures."""
    arguments = parse(argv)
    with interruptible(INTERRUPTED):
        run(arguments)


REPORT_FILES = ("probe.json", "probe.png")
"""What `run` writes; the first is a JSON object that names a `model_version`."""


def run(arguments: Arguments) -> ProbeReport:
    """Record the states, ask the model, then write and print the figures.

    Raises:
        BadInput: an argument or the demonstration cannot be used.
        ScoringError: the service did not answer.
    """
    from dopamine_rl.episodes.recordings import read_frames
    from dopamine_rl.evaluation.probe import ask, probe_figures
    from dopamine_rl.files import write_atomically, write_text
    from dopamine_rl.types import TaskReference
    from experiments.reports.probe import ProbeReport

    check_own_report(arguments.out, REPORT_FILES, "model_version")
    env, console = environment(arguments), Console()
    check_model_arguments(arguments, "MODEL")
    plan = read_plan(arguments, env)
    with reward_client(arguments, [plan], console) as client, interruptible(INTERRUPTED):
        version = client.model_version(timeout_s=60.0)
        ends = read_frames(plan.recording, sys.maxsize, plan.size, plan.views).frames
        reference = TaskReference(plan.instruction, ends[0, 0], ends[-1, 0], ends[-1])
        console.say(f"Recording the states of the probe: {env.task}, seed {arguments.seed}")
        pictures = record(arguments, env)
        console.say(
            f"Model {version}: {counted(len(pictures.frames), 'state')}, reference images of {plan.recording.name}"
        )
        progress = ask(client, reference, pictures, arguments.deadline_s, console.progress)
    report = ProbeReport(
        str(arguments.model or arguments.url or arguments.app),
        version,
        plan.recording.name,
        env.task,
        len(progress),
        int((progress != progress).sum()),
        probe_figures(pictures.gaps_m, pictures.offsets_m, progress),
        probe_figures(pictures.gaps_m, pictures.offsets_m, pictures.truth),
    )
    print(report.table())
    write_atomically(arguments.out / "probe.png", report.plot)
    content = json.dumps(report.content(), allow_nan=False, ensure_ascii=False)
    write_text(arguments.out / "probe.json", content + "\n")
    print(f"Plot: {arguments.out / 'probe.png'}")
    print(content)
    return report


def environment(arguments: Arguments) -> EnvConfig:
    """The environment of the states. Raises BadInput, naming the argument, where there is none or no hole in it."""
    from actors.envs import has_place
    from actors.tasks import TASKS
    from dopamine_rl.episodes.listing import split_argument
    from dopamine_rl.evaluation.plans import find_demonstration
    from experiments.job.demonstrations import find_task, recorded_in
    from experiments.runtime.arguments import read_preset
    from experiments.settings import ExperimentConfig

    task = find_task(arguments.task, "--task") if arguments.task is not None else None
    if arguments.env is not None:
        env, origin = read_preset(ExperimentConfig, arguments.env, "--env").env, f"--env {arguments.env}"
    else:
        find_demonstration(str(arguments.demo))
        folder, _ = split_argument(str(arguments.demo))
        env, origin = recorded_in(folder), "its environment"
    if task is not None and task.name != env.task:
        fix = f"give {_short(env.task)}, or leave it out: {origin} is for it"
        raise BadInput("--task", arguments.task, fix)
    if not has_place(env):
        names = " or ".join(_short(name) for name, task in TASKS.items() if task.place is not None)
        field, value = ("--demo", arguments.demo) if arguments.env is None else ("--env", arguments.env)
        fix = f"{env.make or _short(env.task)} has no hole to align with: give a demonstration of {names}"
        raise BadInput(field, value, fix)
    return replace(env, oracle=False)


def _short(task: str) -> str:
    """A task's name without its version."""
    return task.rpartition("-")[0]


def read_plan(arguments: Arguments, env: EnvConfig) -> Plan:
    """How the states are judged by the demonstration. Raises BadInput where it does not fit the environment."""
    from dopamine_rl.episodes.recordings import size_of
    from dopamine_rl.evaluation.plans import Plan, find_demonstration

    demo = str(arguments.demo)
    recording = find_demonstration(demo)
    if not recording.instructions:
        raise BadInput("--demo", demo, "it does not say what the task is: give a recorded episode with an instruction")
    shown, size = (len(recording.videos), *size_of(recording)), env.image_size
    if shown != (len(env.views), size, size):
        wanted = f"{counted(len(env.views), 'view')} of {env.image_size}x{env.image_size}"
        has = f"{counted(shown[0], 'view')} of {shown[1]}x{shown[2]}"
        fix = f"it has {wanted}, the demonstration {has}: name the preset that it was recorded with"
        raise BadInput("--env", arguments.env, fix)
    return Plan(recording, recording, recording.instructions[0], 1, (size, size), len(env.views))


def record(arguments: Arguments, env: EnvConfig) -> ProbePictures:
    """The states of the probe. Raises BadInput where the arm cannot reach one, RenderingUnavailable."""
    from actors.envs import make_env
    from actors.experts.disturbed import simulated
    from actors.probe import record_probe

    pegs = make_env(env)
    try:
        return record_probe(simulated(pegs), arguments.seed)
    except RuntimeError as error:
        raise BadInput("--seed", arguments.seed, f"choose another: {error}") from error
    finally:
        pegs.close()


if __name__ == "__main__":
    main()
