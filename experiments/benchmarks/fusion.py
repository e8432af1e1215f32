"""What perspectives, fusions, cameras and adaptation are worth against the simulator's truth, look by look: the ablation table.

    dopamine bench fusion looks/plain looks/light looks/camera --model runs/peg_insert/grm \\
        --demo runs/peg_insert/demonstrations/…/reward_model/expert_001000 --held-in runs/peg_insert/demonstrations/…/gate
    dopamine bench fusion looks/* --model before=mini/grm --model adapted=mini/adapted …

Every DATA is a folder of unseen raw episodes of one task with their true progress (`dopamine demos TASK --look LOOK`), called after
its name. Each episode is asked about once by every model with all cameras, and once with each camera alone; all perspectives and
fusions are folded from the same answers, which are kept in DIR/hops. Beside the core's fusions (Eq. 8 mean, Eq. 9-11 consistency)
there are weighted ones (dopamine_rl.evaluation.weighted_fusion), whose maps from entropy and disagreement to the error to expect are fitted
on the episodes of --held-in alone and written beside the results. Intervals at 95 % by bootstrap over episodes; differences are
paired. DIR has fusion.md and fusion.json. The last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction

from dopamine_rl.errors import BadInput, require
from experiments.runtime.arguments import ResultPath, option, parse
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible

if TYPE_CHECKING:
    from experiments.reports.fusion import Answers, Comparison

KEPT = "Interrupted. The same command keeps the answers that are there and goes on with the next."


@dataclass(frozen=True)
class Arguments:
    """What is measured."""

    data: Annotated[Positional[tuple[Path, ...]], option("DATA …", "")]
    """Folders of unseen episodes, one a look; the first is what the others are compared with."""
    model: Annotated[UseAppendAction[tuple[str, ...]], option("[NAME=]CHECKPOINT")]
    """May be given several times; the first is what the others are compared with. Without NAME it is called after the folder that
    it lies in."""
    held_in: Annotated[UseAppendAction[tuple[Path, ...]], option("DIR")]
    """Episodes that the error to expect is fitted on; none of them is judged. May be given several times."""
    demo: Annotated[Path, option("EPISODE")]
    """A success whose first and last frames are START, END and the goal."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Judge at most N successes and N failures of each DATA."""
    threshold: Annotated[float, option("P")] = 0.8
    """Final progress that claims success."""
    threads: Annotated[int, option("N")] = 1
    """CPU threads."""
    device: Annotated[str, option("NAME")] = "cpu"
    """Such as cuda."""
    out: Annotated[ResultPath, option("DIR")] = Path("fusion")
    """Where the results and the answers lie."""

    def __post_init__(self) -> None:
        for name, values in (("DATA", self.data), ("--model", self.model), ("--held-in", self.held_in)):
            if not values:
                raise BadInput(name, None, "give at least one")
        require(
            "",
            self,
            ("episodes", self.episodes is None or self.episodes >= 1, "give at least 1, or leave it out"),
            ("threshold", 0.0 < self.threshold <= 1.0, "give a progress in (0, 1]"),
            ("threads", self.threads >= 1, "give at least 1"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Compare, write, print."""
    arguments = parse(Arguments, argv, "dopamine bench fusion", __doc__)
    with interruptible(KEPT):
        run(arguments)


def run(arguments: Arguments) -> Comparison:
    """Ask for what is not known yet, and write and print what follows.

    Raises:
        BadInput: an argument or an episode cannot be used.
        ScoringError: a model did not answer; the answers by then are kept.
    """
    from experiments.reports.fusion import compare, write
    from experiments.runtime.storage import check_own_report

    check_own_report(arguments.out, ("fusion.json", "fusion.md"), "minus_first_model")
    models = named([_pair(text) for text in arguments.model], "--model")
    looks = named([(path.resolve().name, path) for path in arguments.data], "DATA")
    if both := {path.resolve() for path in arguments.data} & {path.resolve() for path in arguments.held_in}:
        raise BadInput("--held-in", str(min(both)), "give other episodes than those that are judged")
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


def ask_model(arguments: Arguments, model: Path, looks: dict[str, Path], console: Console) -> Answers:
    """A model's answers about all looks, and about the episodes that maps are fitted on."""
    from dopamine_rl.episodes.recordings import VIEW_NAMES
    from dopamine_rl.evaluation.hops import HopStore, Setting, ask_all
    from dopamine_rl.evaluation.scoring import ScoringConfig
    from dopamine_rl.evaluation.unseen import read_unseen
    from experiments.reports.fusion import ALL_VIEWS, HELD_IN, Answers
    from experiments.runtime.reward_client import embedded_client

    read = {
        name: read_unseen(folders, arguments.demo, None, arguments.episodes, arguments.threshold)
        for name, folders in {
            HELD_IN: list(arguments.held_in),
            **{look: [folder] for look, folder in looks.items()},
        }.items()
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
