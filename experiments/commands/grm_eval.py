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

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dopamine_rl.episodes.recordings import VIEW_NAMES
from dopamine_rl.errors import BadInput, DopamineError
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.plans import notes
from dopamine_rl.evaluation.scoring import ScoringConfig
from dopamine_rl.types import FusionConfig
from experiments.runtime.arguments import add_cameras, read_preset
from experiments.runtime.console import Console
from experiments.runtime.ending import REFUSED, exit_with, interruptible
from experiments.runtime.reward_client import reward_client
from experiments.runtime.storage import check_folder
from reward_service.guards import TOKEN_VARIABLE

if TYPE_CHECKING:
    from dopamine_rl.evaluation.hops import Setting
    from dopamine_rl.evaluation.unseen import UnseenEpisode
    from experiments.reports.evaluation import Evaluation

KEPT = "Interrupted. The same command keeps the answers that are there and goes on with the next."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="dopamine grm eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", metavar="CHECKPOINT DATA", nargs="+", type=Path, help="the model's folder, a hub id or grm-mini, then episodes; with --url or --app episodes alone")  # fmt: skip
    service = parser.add_mutually_exclusive_group()
    service.add_argument("--url", help="ask a reward service over HTTP")
    service.add_argument("--app", metavar="NAME", help="ask an application of the running Ray cluster (RAY_ADDRESS)")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help=f"with --url: file with the service's token (default: the environment variable {TOKEN_VARIABLE})")  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="with CHECKPOINT: CPU threads (default: torch's)")
    parser.add_argument("--device", default="cpu", help="with CHECKPOINT: such as cuda (default: %(default)s)")
    parser.add_argument("--demo", type=Path, metavar="EPISODE", help="a success, or DATASET#NUMBER, whose first and last frames are START, END and the goal; it is not judged (default: the first annotated success of DATA)")  # fmt: skip
    add_cameras(parser)
    parser.add_argument("--stride", type=_stride, metavar="K", help="score one video frame in K, or `auto` (default): all frames of episodes recorded by this project, two a second of others. 2 K and 4 K are compared with it")  # fmt: skip
    parser.add_argument("--views", metavar="SETS", help=f"sets of cameras to compare, by commas, such as front+wrist,front; the first is the model's; of {', '.join(VIEW_NAMES)} (default: all cameras, then each alone). The others' pictures are left blank")  # fmt: skip
    parser.add_argument("--episodes", type=int, metavar="N", help="judge at most N successes and N failures (default: all)")  # fmt: skip
    parser.add_argument("--bounds", metavar="PRESET", help="hold the figures against a preset's [gate] bounds, with its [fusion]; exit status 3 where they miss")  # fmt: skip
    parser.add_argument("--deadline-s", type=float, default=120.0, metavar="S", help="seconds for each request (default: %(default)g)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("evaluation"), metavar="DIR", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    served = arguments.url is not None or arguments.app is not None
    if not served and len(arguments.paths) < 2:
        parser.error("give CHECKPOINT and DATA, or --url or --app and DATA")
    arguments.model = None if served else arguments.paths[0]
    arguments.data = arguments.paths if served else arguments.paths[1:]
    return arguments


def _stride(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number of video frames from 1 on, or auto")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate; ends with status 3 where bounds are asked for and missed."""
    arguments = parse(argv)
    try:
        with interruptible(KEPT):
            evaluation = run(arguments)
    except DopamineError as error:
        exit_with(error)
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


def run(arguments: argparse.Namespace) -> Evaluation:
    """Ask for what is not known yet, and write and print what follows.

    Raises:
        BadInput: an argument or an episode cannot be used.
        ScoringError: the model's service did not answer; the answers by then are kept.
    """
    from dopamine_rl.evaluation.hops import HopStore, ask_all
    from dopamine_rl.evaluation.unseen import read_unseen
    from experiments.reports.evaluation import evaluate

    if arguments.episodes is not None and arguments.episodes < 1:
        raise BadInput("--episodes", arguments.episodes, "give at least 1")
    check_folder(arguments.out)
    bounds, console = read_bounds(arguments.bounds), Console()
    scoring = ScoringConfig(bounds.fusion, in_flight=1 if arguments.model else 4, deadline_s=arguments.deadline_s)
    console.say("reading episodes")
    episodes, reference = read_unseen(
        arguments.data, arguments.demo, arguments.stride, arguments.episodes, bounds.gate.success_threshold,
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
    write(arguments.out, evaluation)
    print(evaluation.table())
    print(f"written: {arguments.out / 'eval.md'}")
    print(json.dumps(evaluation.summary(), ensure_ascii=False))
    return evaluation


def write(folder: Path, evaluation: Evaluation) -> None:
    """Write eval.md, its plots, and eval.json last."""
    from dopamine_rl.files import write_atomically
    from experiments.reports.evaluation_plots import plot_all

    plot_all(folder, evaluation)
    text = json.dumps(evaluation.content(), indent=2, allow_nan=False, ensure_ascii=False)
    for name, content in (("eval.md", evaluation.markdown()), ("eval.json", text + "\n")):
        write_atomically(folder / name, lambda path, content=content: path.write_text(content, encoding="utf-8"))


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
