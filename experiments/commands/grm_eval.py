"""Evaluates a reward model on held-out episodes, for several strides, cameras and fusions, with confidence intervals.

    dopamine grm eval grm-mini dataset --demo dataset#0
    dopamine grm eval model raw/a raw/b --bounds laptop            # exit status 3 if the gate would refuse
    dopamine grm eval --url http://127.0.0.1:8000 raw

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3. It should hold successes and failures
of one task. Failures recorded with transitions are compared with their ground-truth progress; for others only
the final progress counts.

Episodes named after a behaviour (pause_000001, retry, oscillate, beside, … as `dopamine demos` records them), and those
with a stage called pause, are also judged by kind: rank correlation with true progress, rest while nothing moves, false
success. Some successes are judged again under a wrong instruction (--mismatch).

The model scores each episode once per stride and set of cameras. All perspectives and fusions are computed from
these answers, which are saved in DIR/hops. Results are eval.md, eval.json and plots in DIR. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, create_mutex_group

from dopamine_rl.episodes.cameras import VIEW_NAMES
from dopamine_rl.errors import BadInput, require
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.plans import notes
from dopamine_rl.evaluation.scoring import ScoringConfig
from dopamine_rl.texts import counted
from dopamine_rl.types import FusionConfig
from experiments.runtime.arguments import Cameras, ResultPath, option, read_preset
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.console import Console
from experiments.runtime.ending import REFUSED, command, interruptible
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
    from dopamine_rl.episodes.recordings import Recording
    from dopamine_rl.evaluation.hops import Setting
    from dopamine_rl.evaluation.unseen import UnseenEpisode
    from experiments.reports.evaluation import Evaluation

VIEWS = (
    "Sets of cameras to compare, separated by commas, such as front+wrist,front. The first set is the main setting. "
    f"Cameras: {', '.join(VIEW_NAMES)}. Cameras that are not in a set are left blank."
)
MISLED = 10
"""Annotated successes that are also judged under a wrong instruction."""
INTERRUPTED = "Interrupted. Answers so far are saved; run the same command again to resume."


SOURCE = create_mutex_group(required=False, title="service (instead of CHECKPOINT)")


@dataclass(frozen=True)
class Arguments:
    """The model to evaluate, and the held-out episodes."""

    paths: Annotated[Positional[tuple[Path, ...]], option("CHECKPOINT DATA …", "")]
    """The model (a folder, a hub id or grm-mini), then the episodes. With --url or --app: only the episodes."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """Address of a reward service (HTTP)."""
    app: Annotated[str | None, SOURCE, option("NAME", "")] = None
    """Name of a reward service on the running Ray cluster (RAY_ADDRESS)."""
    token_file: TokenFile = None
    ca_file: CaFile = None
    insecure: Insecure = False
    threads: Threads = None
    device: Device = "cpu"
    demo: Annotated[Path | None, option("EPISODE", "the first annotated success of DATA")] = None
    """Successful episode (folder or DATASET#NUMBER) whose first and last frames are the START, END and goal images. It
    is left out of the evaluation."""
    stride: Annotated[int | Literal["auto"], option("K")] = "auto"
    """Score every K-th video frame; strides 2 K and 4 K are compared with it. auto: every frame of episodes recorded by
    this project, two frames per second of others."""
    views: Annotated[str | None, option("SETS", "all cameras, then each alone", about=VIEWS)] = None
    """Sets of cameras to compare, separated by commas."""
    cameras: Cameras = None
    """Cameras to use, separated by commas, the front view first."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Evaluate at most N successes and N failures."""
    mismatch: Annotated[UseAppendAction[tuple[str, ...]], option("TEXT", "those of the simulated tasks")] = ()
    """Wrong instruction under which some successes are judged too; may be given several times."""
    bounds: Annotated[str | None, option("PRESET", "")] = None
    """Check the metrics against a preset's [gate] bounds, with its [fusion]. Exit status 3 if any bound is missed."""
    deadline_s: Deadline = 120.0
    out: Annotated[ResultPath, option("DIR")] = Path("evaluation")
    """Folder for the results."""

    def __post_init__(self) -> None:
        minimum = 1 if self._served else 2
        if len(self.paths) < minimum:
            given = " ".join(map(str, self.paths)) or None
            raise BadInput("CHECKPOINT DATA", given, "give CHECKPOINT and DATA, or DATA with --url or --app")
        require(
            "",
            self,
            ("stride", self.stride == "auto" or self.stride >= 1, "give 1 or more video frames, or auto"),
            ("episodes", self.episodes is None or self.episodes >= 1, "give at least 1"),
        )

    @property
    def _served(self) -> bool:
        return self.url is not None or self.app is not None

    @property
    def model(self) -> Path | None:
        """The checkpoint; None with --url or --app."""
        return None if self._served else self.paths[0]

    @property
    def data(self) -> tuple[Path, ...]:
        """The episodes."""
        return self.paths if self._served else self.paths[1:]


def parse(argv: Sequence[str] | None) -> Arguments:
    """Parse the command line; imports nothing heavy. Raises UsageError."""
    return read_arguments(Arguments, argv, "dopamine grm eval", __doc__)


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate the model; exit with status 3 if --bounds are missed."""
    arguments = parse(argv)
    with interruptible(INTERRUPTED):
        evaluation = run(arguments)
    if evaluation.verdict is not None and not evaluation.verdict.passed:
        raise SystemExit(REFUSED)


@dataclass(frozen=True)
class Bounds:
    """What the metrics are checked against.

    Args:
        gate: the bounds, and the final progress that counts as a success.
        fusion: the fusion to evaluate.
        preset: the preset that they come from; "" without --bounds.
    """

    gate: GateConfig = field(default_factory=GateConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    preset: str = ""


def read_bounds(preset: str | None) -> Bounds:
    """The bounds of a preset. Raises BadInput if there is no such preset."""
    if preset is None:
        return Bounds()
    from experiments.settings import ExperimentConfig

    config = read_preset(ExperimentConfig, preset, "--bounds")
    return Bounds(config.gate, config.fusion, preset)


REPORT_FILES = ("eval.json", "eval.md", "curves.png", "hops.png", "effects.png")
"""What `write` makes; the first is a JSON object that names a `model_version`."""


def run(arguments: Arguments) -> Evaluation:
    """Score what has no saved answer yet, then write and print the results.

    Raises:
        BadInput: an argument or an episode cannot be used.
        ScoringError: the service did not answer; the answers so far are saved.
    """
    from dopamine_rl.evaluation.hops import HopStore, ask_all
    from experiments.reports.evaluation import evaluate
    from experiments.reports.evaluation_tables import table

    check_own_report(arguments.out, REPORT_FILES, "model_version")
    check_model_arguments(arguments, "CHECKPOINT")
    bounds, console = read_bounds(arguments.bounds), Console()
    scoring = ScoringConfig(bounds.fusion, in_flight=1 if arguments.model else 4, deadline_s=arguments.deadline_s)
    episodes, reference = _read_episodes(arguments, bounds, console)
    plans = [episode.plan for episode in episodes]
    settings = make_settings(arguments.views, min(plan.views for plan in plans))
    misled = mislead(episodes, arguments.mismatch)
    with reward_client(arguments, plans, console) as client, interruptible(INTERRUPTED):
        version = client.model_version(timeout_s=60.0)
        console.say(
            f"Model {version}: {counted(len(episodes), 'episode')}, {counted(len(settings), 'setting')}, "
            f"reference images of {reference.name}"
        )
        store = HopStore(arguments.out / "hops", client, version, reference, scoring)
        answered = ask_all(store, episodes, settings, console.progress)
        total = len(episodes) * len(settings)
        console.say(f"  scored {store.asked} of {total} (episode, setting) pairs; the others were already saved")
        main = dict(list(settings.items())[:1])
        misled_store = HopStore(arguments.out / "hops" / "misled", client, version, reference, scoring)
        mismatched = next(iter(ask_all(misled_store, misled, main, console.progress).values()))
    console.say("Computing metrics and confidence intervals")
    model = str(arguments.model or arguments.url or arguments.app)
    evaluation = evaluate(
        answered, bounds.gate, bounds.fusion, bounds.preset, model, version, reference.name, mismatched
    )
    print(table(evaluation))
    write(arguments.out, evaluation)
    print(f"Report: {arguments.out / 'eval.md'}")
    print(json.dumps(evaluation.summary(), ensure_ascii=False))
    return evaluation


def _read_episodes(arguments: Arguments, bounds: Bounds, console: Console) -> tuple[list[UnseenEpisode], Recording]:
    """The episodes to evaluate and the demonstration; prints notes on them. Raises BadInput or EpisodeError."""
    from dopamine_rl.evaluation.unseen import read_unseen

    console.say("Reading episodes")
    console.say_passed_over(arguments.data)
    episodes, reference = read_unseen(
        arguments.data,
        arguments.demo,
        None if arguments.stride == "auto" else arguments.stride,
        arguments.episodes,
        bounds.gate.success_threshold,
        console.progress,
        arguments.cameras,
    )
    for note in notes([episode.plan for episode in episodes]):
        console.say(note)
    unannotated = sum(episode.plan.recording.keyframes is None for episode in episodes)
    if unannotated:
        console.say(f"{counted(unannotated, 'episode')} without annotation: each counts as one segment")
    if bounds.preset:
        _check_both_kinds(episodes)
    return episodes, reference


def mislead(episodes: Sequence[UnseenEpisode], instructions: Sequence[str]) -> list[UnseenEpisode]:
    """Some of the annotated successes, each with a wrong instruction, taken in turn.

    Args:
        instructions: wrong ones; none takes those of the simulated tasks.
    Raises:
        BadInput: an instruction is empty or the right one.
    """
    from actors.tasks import TASKS
    from dopamine_rl.evaluation.behaviours import spread, wrong_instructions

    experts = [episode for episode in episodes if episode.expert]
    if not experts:
        return []
    told = experts[0].plan.recording.instructions or (experts[0].plan.instruction,)
    for text in instructions:
        if not text.strip() or text.strip() in told:
            raise BadInput("--mismatch", text, "give the instruction of another task")
    wrong = list(instructions) or wrong_instructions(told, [task.instructions for task in TASKS.values()])
    return [
        replace(experts[index], plan=replace(experts[index].plan, instruction=wrong[turn % len(wrong)].strip()))
        for turn, index in enumerate(spread(len(experts), MISLED))
    ]


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write eval.md, its plots, and eval.json last."""
    from dopamine_rl.files import write_text
    from experiments.reports.evaluation_plots import plot_all
    from experiments.reports.evaluation_tables import markdown

    plot_all(folder, evaluation)
    text = json.dumps(evaluation.content(), indent=2, allow_nan=False, ensure_ascii=False)
    for name, content in (("eval.md", markdown(evaluation)), ("eval.json", text + "\n")):
        write_text(folder / name, content)


def _check_both_kinds(episodes: Sequence[UnseenEpisode]) -> None:
    """Raise BadInput if the episodes cannot be checked against bounds, before any is scored."""
    experts = sum(episode.expert for episode in episodes)
    failures = sum(episode.verdict["failure"] == 1 for episode in episodes)
    if not experts or not failures:
        counts = f"{experts} annotated successes, {failures} failures"
        raise BadInput("DATA", counts, "--bounds needs both: add episodes, or leave out --bounds")


def make_settings(views: str | None, cameras: int) -> dict[str, Setting]:
    """The settings to evaluate, by name: the main setting first, then its larger strides, then other sets of cameras.

    Args:
        views: the option --views.
        cameras: number of cameras that every episode has.
    Raises:
        BadInput: an episode lacks a camera of `views`.
    """
    from dopamine_rl.evaluation.hops import MULTIPLES, Setting

    everything = tuple(range(cameras))
    if views is None:
        sets = [everything, *((camera,) for camera in everything if cameras > 1)]
    else:
        sets = [_cameras(part, cameras) for part in views.split(",")]
    names = ["+".join(VIEW_NAMES[camera] for camera in cameras_of_set) for cameras_of_set in sets]
    chosen_views = [None if chosen == everything else chosen for chosen in sets]
    settings = {f"{names[0]}, stride ×1": Setting(1, chosen_views[0])}
    settings |= {f"stride ×{multiple}": Setting(multiple, chosen_views[0]) for multiple in MULTIPLES}
    return settings | {
        f"{name} alone": Setting(1, chosen) for name, chosen in zip(names[1:], chosen_views[1:], strict=True)
    }


def _cameras(part: str, cameras: int) -> tuple[int, ...]:
    available = VIEW_NAMES[:cameras]
    names = part.split("+")
    if not set(names) <= set(available) or len(set(names)) < len(names):
        raise BadInput("--views", part, f"give cameras of {', '.join(available)}, joined by +")
    return tuple(sorted(available.index(name) for name in names))


if __name__ == "__main__":
    main()
