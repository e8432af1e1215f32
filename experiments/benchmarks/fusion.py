"""What perspectives, fusions, cameras and adaptation are worth against the simulator's truth, look by look: the ablation table.

    python -m experiments.benchmarks.fusion looks/plain looks/light looks/camera --model runs/peg_insert/grm \\
        --demo runs/peg_insert/demonstrations/…/reward_model/expert_001000 --held-in runs/peg_insert/demonstrations/…/gate
    python -m experiments.benchmarks.fusion looks/* --model before=mini/grm --model adapted=mini/adapted …

Every DATA is a folder of unseen raw episodes of one task with their true progress (`dopamine demos TASK --look LOOK`), called after
its name. Each episode is asked about once by every model with all cameras, and once with each camera alone; all perspectives and
fusions are folded from the same answers, which are kept in DIR/hops. Beside the core's fusions (Eq. 8 mean, Eq. 9-11 consistency)
there are weighted ones (dopamine_rl.evaluation.weighted_fusion), whose maps from entropy and disagreement to the error to expect are fitted
on the episodes of --held-in alone and written beside the results. Intervals at 95 % by bootstrap over episodes; differences are
paired. DIR has fusion.md and fusion.json. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dopamine_rl.errors import BadInput, DopamineError
from experiments.runtime.console import Console
from experiments.runtime.ending import exit_with, interruptible

if TYPE_CHECKING:
    from experiments.reports.fusion import Answers, Comparison

KEPT = "Interrupted. The same command keeps the answers that are there and goes on with the next."


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; imports nothing heavy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", nargs="+", type=Path, help="folders of unseen episodes, one a look; the first is what the others are compared with")  # fmt: skip
    parser.add_argument("--model", metavar="[NAME=]CHECKPOINT", action="append", required=True, help="may be given several times; the first is what the others are compared with. Without NAME it is called after the folder that it lies in")  # fmt: skip
    parser.add_argument("--held-in", metavar="DIR", type=Path, action="append", required=True, help="episodes that the error to expect is fitted on; none of them is judged; may be given several times")  # fmt: skip
    parser.add_argument("--demo", type=Path, metavar="EPISODE", required=True, help="a success whose first and last frames are START, END and the goal")  # fmt: skip
    parser.add_argument("--episodes", type=int, metavar="N", help="judge at most N successes and N failures of each DATA (default: all)")  # fmt: skip
    parser.add_argument("--threshold", type=float, default=0.8, metavar="P", help="final progress that claims success (default: %(default)g)")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("fusion"), metavar="DIR", help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write, print."""
    arguments = parse(argv)
    try:
        with interruptible(KEPT):
            run(arguments)
    except DopamineError as error:
        exit_with(error)


def run(arguments: argparse.Namespace) -> Comparison:
    """Ask for what is not known yet, and write and print what follows.

    Raises:
        BadInput: an argument or an episode cannot be used.
        ScoringError: a model did not answer; the answers by then are kept.
    """
    from experiments.reports.fusion import compare, write

    models = named([_pair(text) for text in arguments.model], "--model")
    looks = named([(path.resolve().name, path) for path in arguments.data], "DATA")
    if both := {path.resolve() for path in arguments.data} & {path.resolve() for path in arguments.held_in}:
        raise BadInput("--held-in", str(min(both)), "give other episodes than those that are judged")
    if not 0.0 < arguments.threshold <= 1.0:
        raise BadInput("--threshold", arguments.threshold, "give a progress in (0, 1]")
    console = Console()
    answers = {name: ask_model(arguments, path, looks, console) for name, path in models.items()}
    console.say("figures and their intervals")
    comparison = compare(answers, arguments.threshold)
    write(arguments.out, comparison)
    print(comparison.text())
    print(f"written: {arguments.out / 'fusion.md'}")
    print(json.dumps(comparison.summary(), ensure_ascii=False))
    return comparison


def _pair(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).resolve().parent.name, Path(path)


def named(pairs: Sequence[tuple[str, Path]], option: str) -> dict[str, Path]:
    """Paths by name. Raises BadInput where two have the same."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadInput(
            option, [name for name, _ in pairs], "two have the same name: write NAME=PATH, or rename a folder"
        )
    return found


def ask_model(arguments: argparse.Namespace, model: Path, looks: dict[str, Path], console: Console) -> Answers:
    """A model's answers about all looks, and about the episodes that maps are fitted on."""
    from dopamine_rl.episodes.recordings import VIEW_NAMES
    from dopamine_rl.evaluation.hops import HopStore, Setting, ask_all
    from dopamine_rl.evaluation.scoring import ScoringConfig
    from dopamine_rl.evaluation.unseen import read_unseen
    from experiments.reports.fusion import ALL_VIEWS, HELD_IN, Answers
    from experiments.runtime.reward_client import embedded_client

    read = {
        name: read_unseen(folders, arguments.demo, None, arguments.episodes, arguments.threshold)
        for name, folders in {HELD_IN: arguments.held_in, **{look: [folder] for look, folder in looks.items()}}.items()
    }
    for name, (episodes, _) in read.items():
        if any(episode.truth is None for episode in episodes):
            raise BadInput("DATA", name, "nobody recorded its true progress: give episodes of `dopamine demos`")
    plans = [episode.plan for episodes, _ in read.values() for episode in episodes]
    views = range(min(plan.views for plan in plans))
    alone = {f"{VIEW_NAMES[view]} view alone": Setting(shown=(view,)) for view in views if len(views) > 1}
    client = embedded_client(model, arguments.threads, arguments.device, plans, console)
    version = client.model_version(timeout_s=60.0)
    answered = {}
    for name, (episodes, reference) in read.items():
        console.say(f"model {version}: {name}, {len(episodes)} episodes")
        store = HopStore(arguments.out / "hops", client, version, reference, ScoringConfig(in_flight=1))
        settings = {ALL_VIEWS: Setting()} | ({} if name == HELD_IN else alone)
        answered[name] = ask_all(store, episodes, settings, console.progress)
    return Answers(version, answered.pop(HELD_IN)[ALL_VIEWS], answered)


if __name__ == "__main__":
    main()
