"""Evaluates a reward model on episodes it has not seen: figures with intervals, and what stride, cameras and fusion do to them.

    dopamine grm eval runs/peg_insert/grm runs/peg_insert/demonstrations/…/gate --demo runs/peg_insert/demonstrations/…/reward_model/expert_001000
    dopamine grm eval model raw/a raw/b --bounds laptop            # exit status 3 where the gate would refuse
    dopamine grm eval --url http://127.0.0.1:8000 raw
    dopamine grm eval grm-mini dataset --demo dataset#0

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3, of one task, successes and failures; true progress of
failures is read from their transitions where it was recorded, and what failed without it counts by its end alone. Each episode is asked about once for every stride and choice of cameras; all perspectives
and fusions are folded from the same answers, which are kept in DIR/hops. DIR has eval.md, eval.json and the plots. The last
line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, create_mutex_group

from dopamine_rl.episodes.recordings import VIEW_NAMES
from dopamine_rl.errors import BadInput, require
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.plans import notes
from dopamine_rl.evaluation.scoring import ScoringConfig
from dopamine_rl.types import FusionConfig
from experiments.runtime.arguments import Cameras, ResultPath, option, read_preset
from experiments.runtime.arguments import parse as read_arguments
from experiments.runtime.console import Console
from experiments.runtime.ending import REFUSED, command, interruptible
from experiments.runtime.reward_client import reward_client
from experiments.runtime.storage import check_folder
from reward_service.guards import TOKEN_VARIABLE

if TYPE_CHECKING:
    from dopamine_rl.evaluation.hops import Setting
    from dopamine_rl.evaluation.unseen import UnseenEpisode
    from experiments.reports.evaluation import Evaluation

VIEWS = (
    "Sets of cameras to compare, by commas, such as front+wrist,front; the first is the model's; of "
    f"{', '.join(VIEW_NAMES)}. The others' pictures are left blank."
)
KEPT = "Interrupted. The same command keeps the answers that are there and goes on with the next."


SOURCE = create_mutex_group(required=False, title="service (instead of CHECKPOINT)")


@dataclass(frozen=True)
class Arguments:
    """Which model is judged, and on which episodes."""

    paths: Annotated[Positional[tuple[Path, ...]], option("CHECKPOINT DATA …", "")]
    """The model's folder, a hub id or grm-mini, then episodes; with --url or --app episodes alone."""
    url: Annotated[str | None, SOURCE, option("URL", "")] = None
    """Ask a reward service over HTTP."""
    app: Annotated[str | None, SOURCE, option("NAME", "")] = None
    """Ask an application of the running Ray cluster (RAY_ADDRESS)."""
    token_file: Annotated[Path | None, option("FILE", f"the environment variable {TOKEN_VARIABLE}")] = None
    """With --url: file with the service's token."""
    ca_file: Annotated[Path | None, option("FILE", "")] = None
    """With an https --url: certificates that vouch for the service."""
    insecure: bool = False
    """With --url: send the token to another machine without https."""
    threads: Annotated[int | None, option("N", "torch's")] = None
    """With CHECKPOINT: CPU threads."""
    device: Annotated[str, option("NAME")] = "cpu"
    """With CHECKPOINT: such as cuda."""
    demo: Annotated[Path | None, option("EPISODE", "the first annotated success of DATA")] = None
    """A success, or DATASET#NUMBER, whose first and last frames are START, END and the goal; it is not judged."""
    stride: Annotated[int | Literal["auto"], option("K")] = "auto"
    """Score one video frame in K; auto: all frames of episodes recorded by this project, two a second of others. 2 K and 4 K are
    compared with it."""
    views: Annotated[str | None, option("SETS", "all cameras, then each alone", about=VIEWS)] = None
    """Sets of cameras to compare, by commas."""
    cameras: Cameras = None
    """Cameras to use, by commas, the front view first."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Judge at most N successes and N failures."""
    bounds: Annotated[str | None, option("PRESET", "")] = None
    """Hold the figures against a preset's [gate] bounds, with its [fusion]; exit status 3 where they miss."""
    deadline_s: Annotated[float, option("S")] = 120.0
    """Seconds for each request."""
    out: Annotated[ResultPath, option("DIR")] = Path("evaluation")
    """Folder of the results."""

    def __post_init__(self) -> None:
        least = 1 if self._served else 2
        if len(self.paths) < least:
            given = " ".join(map(str, self.paths)) or None
            raise BadInput("CHECKPOINT DATA", given, "give CHECKPOINT and DATA, or --url or --app and DATA")
        require(
            "",
            self,
            ("stride", self.stride == "auto" or self.stride >= 1, "give a number of video frames from 1 on, or auto"),
            ("episodes", self.episodes is None or self.episodes >= 1, "give at least 1"),
        )

    @property
    def _served(self) -> bool:
        return self.url is not None or self.app is not None

    @property
    def model(self) -> Path | None:
        """The checkpoint; None where a service is asked."""
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
    """Evaluate; ends with status 3 where bounds are asked for and missed."""
    arguments = parse(argv)
    with interruptible(KEPT):
        evaluation = run(arguments)
    if evaluation.verdict is not None and not evaluation.verdict.passed:
        raise SystemExit(REFUSED)


@dataclass(frozen=True)
class Bounds:
    """What the figures are held against.

    Args:
        gate: bounds, and the final progress that counts as claimed success.
        fusion: the one that is judged.
        preset: where they come from; "" where nothing is asked for.
    """

    gate: GateConfig = field(default_factory=GateConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    preset: str = ""


def read_bounds(preset: str | None) -> Bounds:
    """The bounds of a preset. Raises BadInput where there is no such preset."""
    if preset is None:
        return Bounds()
    from experiments.settings import ExperimentConfig

    config = read_preset(ExperimentConfig, preset, "--bounds")
    return Bounds(config.gate, config.fusion, preset)


def run(arguments: Arguments) -> Evaluation:
    """Ask for what is not known yet, and write and print what follows.

    Raises:
        BadInput: an argument or an episode cannot be used.
        ScoringError: the model's service did not answer; the answers by then are kept.
    """
    from dopamine_rl.evaluation.hops import HopStore, ask_all
    from dopamine_rl.evaluation.unseen import read_unseen
    from experiments.reports.evaluation import evaluate

    check_folder(arguments.out)
    bounds, console = read_bounds(arguments.bounds), Console()
    scoring = ScoringConfig(bounds.fusion, in_flight=1 if arguments.model else 4, deadline_s=arguments.deadline_s)
    stride = None if arguments.stride == "auto" else arguments.stride
    console.say("reading episodes")
    console.say_passed_over(arguments.data)
    episodes, reference = read_unseen(
        arguments.data, arguments.demo, stride, arguments.episodes, bounds.gate.success_threshold,
        lambda done, total: console.progress(f"{done} of {total} episodes read"), arguments.cameras,
    )  # fmt: skip
    for note in notes([episode.plan for episode in episodes]):
        console.say(note)
    bare = sum(episode.plan.recording.keyframes is None for episode in episodes)
    if bare:
        console.say(f"episodes without annotation, each one segment: {bare}")
    if bounds.preset:
        _check_both_kinds(episodes)
    settings = make_settings(arguments.views, min(episode.plan.views for episode in episodes))
    with reward_client(arguments, [episode.plan for episode in episodes], console) as client, interruptible(KEPT):
        version = client.model_version(timeout_s=60.0)
        console.say(
            f"model {version}: {len(episodes)} episodes, references of {reference.name}, {len(settings)} settings"
        )
        store = HopStore(arguments.out / "hops", client, version, reference, scoring)
        answered = ask_all(store, episodes, settings, console.progress)
    pairs = len(episodes) * len(settings)
    console.say(f"  of {pairs} episodes in a setting {store.asked} were asked now, the others were known")
    console.say("figures and their intervals")
    model = str(arguments.model or arguments.url or arguments.app)
    evaluation = evaluate(answered, bounds.gate, bounds.fusion, bounds.preset, model, version, reference.name)
    print(evaluation.table())
    write(arguments.out, evaluation)
    print(f"written: {arguments.out / 'eval.md'}")
    print(json.dumps(evaluation.summary(), ensure_ascii=False))
    return evaluation


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write eval.md, its plots, and eval.json last."""
    from dopamine_rl.files import write_text
    from experiments.reports.evaluation_plots import plot_all

    plot_all(folder, evaluation)
    text = json.dumps(evaluation.content(), indent=2, allow_nan=False, ensure_ascii=False)
    for name, content in (("eval.md", evaluation.markdown()), ("eval.json", text + "\n")):
        write_text(folder / name, content)


def _check_both_kinds(episodes: Sequence[UnseenEpisode]) -> None:
    """Raises BadInput where bounds cannot be held against these episodes, before any is asked about."""
    experts = sum(episode.expert for episode in episodes)
    failures = sum(episode.verdict["failure"] == 1 for episode in episodes)
    if not experts or not failures:
        seen = f"{experts} annotated successes, {failures} failures"
        raise BadInput("DATA", seen, "--bounds needs both: give more episodes, or leave it out")


def make_settings(views: str | None, cameras: int) -> dict[str, Setting]:
    """What is asked, by name: the first setting is the model's own, then come its multiples, then other cameras.

    Args:
        views: as given on the command line.
        cameras: how many every episode has.
    Raises:
        BadInput: a camera is not there.
    """
    from dopamine_rl.evaluation.hops import MULTIPLES, Setting

    everything = tuple(range(cameras))
    if views is None:
        sets = [everything, *((camera,) for camera in everything if cameras > 1)]
    else:
        sets = [_cameras(part, cameras) for part in views.split(",")]
    names = ["+".join(VIEW_NAMES[camera] for camera in shown) for shown in sets]
    shown = [None if chosen == everything else chosen for chosen in sets]
    settings = {f"{names[0]}, stride ×1": Setting(1, shown[0])}
    settings |= {f"stride ×{multiple}": Setting(multiple, shown[0]) for multiple in MULTIPLES}
    return settings | {f"{name} alone": Setting(1, chosen) for name, chosen in zip(names[1:], shown[1:], strict=True)}


def _cameras(part: str, cameras: int) -> tuple[int, ...]:
    known = VIEW_NAMES[:cameras]
    names = part.split("+")
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise BadInput("--views", part, f"join some of {', '.join(known)} by +")
    return tuple(sorted(known.index(name) for name in names))


if __name__ == "__main__":
    main()
