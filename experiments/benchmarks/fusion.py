"""Ablation of perspectives, fusions, cameras and adaptation against the simulator's true progress, by look.

    dopamine bench fusion looks/plain looks/light --model runs/peg_insert/grm \\
        --demo runs/peg_insert/demonstrations/…/reward_model/expert_001000 \\
        --held-in runs/peg_insert/demonstrations/…/gate

Every DATA is a folder of unseen raw episodes of one task with true progress (`dopamine demos TASK --look LOOK`); its
name is the name of the look. Every model scores each episode once with all cameras and once with each camera alone.
All perspectives and fusions are computed from the same hops, which are stored in DIR/hops. Besides the core's fusions
(Eq. 8 mean, Eq. 9-11 consistency) there are weighted ones (dopamine_rl.evaluation.weighted_fusion). Their maps from
entropy and disagreement to expected error are fitted only on the episodes of --held-in and written with the results.
Intervals (95 %) are by bootstrap over episodes; differences are paired. DIR contains fusion.md and fusion.json. The
last line is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, UseAppendAction

from dopamine_rl.errors import BadInput, require
from dopamine_rl.grm.folder import usable_model
from dopamine_rl.texts import counted
from experiments.runtime.arguments import ResultPath, option, parse
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible

if TYPE_CHECKING:
    from experiments.reports.fusion import Answers, Comparison

INTERRUPTED = "Interrupted. Run the same command again to continue; stored hops are reused."


@dataclass(frozen=True)
class Arguments:
    """Options of the benchmark."""

    data: Annotated[Positional[tuple[Path, ...]], option("DATA …", "")]
    """Folders of unseen episodes, one per look; the others are compared with the first."""
    model: Annotated[UseAppendAction[tuple[str, ...]], option("[NAME=]CHECKPOINT")]
    """Reward model; may be given several times, and the others are compared with the first. The default NAME is that of
    the parent folder."""
    held_in: Annotated[UseAppendAction[tuple[Path, ...]], option("DIR")]
    """Episodes for fitting the expected error; they are not evaluated. May be given several times."""
    demo: Annotated[Path, option("EPISODE")]
    """A success that provides the reference images START and END and the goal."""
    episodes: Annotated[int | None, option("N", "all")] = None
    """Evaluate at most N successes and N failures of each DATA."""
    threshold: Annotated[float, option("P")] = 0.8
    """Final progress that counts as success."""
    threads: Annotated[int, option("N")] = 1
    """CPU threads."""
    device: Annotated[str, option("NAME")] = "cpu"
    """Torch device, such as cuda."""
    out: Annotated[ResultPath, option("DIR")] = Path("fusion")
    """Output folder of results and hops."""

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
    """Parse the command line and run the benchmark."""
    arguments = parse(Arguments, argv, "dopamine bench fusion", __doc__)
    with interruptible(INTERRUPTED):
        run(arguments)


def run(arguments: Arguments) -> Comparison:
    """Score what has no stored hops yet; write and print the comparison.

    Raises:
        BadInput: an argument or an episode is invalid.
        ScoringError: a model did not answer; earlier hops stay stored.
    """
    from experiments.reports.fusion import compare, write
    from experiments.runtime.storage import check_own_report

    check_own_report(arguments.out, ("fusion.json", "fusion.md"), "minus_first_model")
    models = named([_pair(text) for text in arguments.model], "--model")
    for path in models.values():
        usable_model(path, "--model")
    looks = named([(path.resolve().name, path) for path in arguments.data], "DATA")
    if overlap := {path.resolve() for path in arguments.data} & {path.resolve() for path in arguments.held_in}:
        raise BadInput("--held-in", str(min(overlap)), "give other episodes than those that are evaluated")
    console = Console()
    answers = {name: ask_model(arguments, path, looks, console) for name, path in models.items()}
    console.say("computing metrics and intervals")
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
    """Paths by name. Raises BadInput if two have the same name."""
    paths = dict(pairs)
    if len(paths) < len(pairs):
        raise BadInput(
            option, [name for name, _ in pairs], "two have the same name: write NAME=PATH, or rename a folder"
        )
    return paths


def ask_model(arguments: Arguments, model: Path, looks: dict[str, Path], console: Console) -> Answers:
    """A model's answers on all looks, and on the episodes for fitting the maps."""
    from dopamine_rl.episodes.cameras import VIEW_NAMES
    from dopamine_rl.evaluation.hops import HopStore, Setting, ask_all
    from dopamine_rl.evaluation.scoring import ScoringConfig
    from dopamine_rl.evaluation.unseen import read_unseen
    from experiments.reports.fusion import ALL_VIEWS, HELD_IN, Answers
    from experiments.runtime.reward_client import embedded_client

    read = {
        name: read_unseen(folders, arguments.demo, None, arguments.episodes, arguments.threshold, console.progress)
        for name, folders in {
            HELD_IN: list(arguments.held_in),
            **{look: [folder] for look, folder in looks.items()},
        }.items()
    }
    for name, (episodes, _) in read.items():
        if any(episode.truth is None for episode in episodes):
            raise BadInput("DATA", name, "give episodes with true progress, as `dopamine demos` records")
    plans = [episode.plan for episodes, _ in read.values() for episode in episodes]
    views = range(min(plan.views for plan in plans))
    alone = {f"{VIEW_NAMES[view]} view alone": Setting(shown=(view,)) for view in views if len(views) > 1}
    client = embedded_client(model, arguments.threads, arguments.device, plans, console)
    version = client.model_version(timeout_s=60.0)
    answered = {}
    for name, (episodes, reference) in read.items():
        console.say(f"model {version}: {name}, {counted(len(episodes), 'episode')}")
        store = HopStore(arguments.out / "hops", client, version, reference, ScoringConfig(in_flight=1))
        settings = {ALL_VIEWS: Setting()} | ({} if name == HELD_IN else alone)
        answered[name] = ask_all(store, episodes, settings, console.progress)
    return Answers(version, answered.pop(HELD_IN)[ALL_VIEWS], answered)


if __name__ == "__main__":
    main()
