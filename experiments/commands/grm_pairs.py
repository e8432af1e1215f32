"""Samples balanced training pairs from demonstrations and shows how evenly they cover the hops.

    dopamine grm pairs raw
    dopamine grm pairs raw/episode_001 -n 10000 --frames-per-state 20 --rule released
    dopamine grm pairs raw --items items.json
    dopamine grm pairs raw --mismatched 0.1 --other-instructions "open the drawer" "fold the cloth" --items items.json
    dopamine grm pairs items.json

DATA is a folder of raw episodes, one raw episode, or a LeRobotDataset v3. Pairs are balanced over 25 hop bins ×
4 quantiles of the distance between the two states; zero-hop pairs are added, and with --mismatched pairs under
another task's instruction, in which there is no progress. Without --items no image is decoded.

--items writes the pairs as training items of the released pipeline: eight image paths relative to the file, a
question and its answer. Images go to a folder beside the file (items_pictures for items.json).

If DATA is a .json or .jsonl file of items, they are checked one by one and counted by task and hop. The first
malformed item is reported and ends the command. The last line is JSON in both cases.

`dopamine grm train` uses another mixture: runs of consecutive frames, neighbouring frames, and balanced pairs for
the rest (dopamine_rl/grm/batches.py). Its hops are smaller: some 43 to 50 % lie in the 3 central bins.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional

from dopamine_rl.episodes.balance import RELEASED_CENTRAL_SHARE, Balance, balance
from dopamine_rl.episodes.listing import check_instructions, open_source
from dopamine_rl.episodes.pair_items import SUFFIXES, PairItems, check_new, read_template
from dopamine_rl.episodes.pairs import GAP_BINS, HopPairs, sample_blocks
from dopamine_rl.episodes.pauses import wavers
from dopamine_rl.episodes.states import episode_states, too_few_states
from dopamine_rl.errors import BadInput, require, seed_check
from dopamine_rl.progress import HOP_BINS
from dopamine_rl.texts import counted
from dopamine_rl.types import EpisodeInfo
from experiments.reports.items import describe_items
from experiments.runtime.arguments import Cameras, OptionalResultPath, option, parse
from experiments.runtime.console import Console
from experiments.runtime.ending import command, interruptible

MOST_PAIRS = 10_000_000
"""Limit of pairs per command; more would not fit into memory."""


@dataclass(frozen=True)
class Arguments:
    """The pairs to sample, and where to write them."""

    data: Annotated[Positional[Path], option("DATA")]
    """A folder of episodes, or a file of training items."""
    items: Annotated[OptionalResultPath, option("OUT.json", "")] = None
    """Write the pairs as training items; OUT.jsonl has one item per line."""
    wording: Annotated[Path | None, option("MODEL", "this project's prompt")] = None
    """Use the prompt in this model's template.json, for training a released checkpoint."""
    cameras: Cameras = None
    """Cameras to use, separated by commas, the front view first."""
    n: Annotated[int, option("N", aliases=["-n"])] = 2_000
    """Number of pairs to sample."""
    seed: Annotated[int, option("S")] = 0
    """Random seed; the same seed gives the same pairs on every machine."""
    frames_per_state: Annotated[float, option("C")] = 20.0
    """Frames per state (C in equation 1 of the paper)."""
    rule: Literal["paper", "released"] = "paper"
    """Rounding of Eq. 1: as in the paper, or as in the released code."""
    zero_share: Annotated[float, option("S")] = 0.05
    """Share of zero-hop pairs."""
    mismatched: Annotated[float, option("S")] = 0.0
    """Share of pairs under another task's instruction: their hop is −1 if BEFORE is the goal, else 0."""
    other_instructions: Annotated[tuple[str, ...], option("TEXT …", "the other tasks in DATA")] = ()
    """Instructions of other tasks for the mismatched pairs, besides those in DATA."""

    def __post_init__(self) -> None:
        if self.wording is not None and self.items is None:
            raise BadInput("--wording", str(self.wording), "give --items OUT.json with it, or leave it out")
        require(
            "",
            self,
            seed_check("seed", self.seed),
            ("frames_per_state", 0.01 <= self.frames_per_state < float("inf"), "give a finite number of at least 0.01"),
            ("zero_share", 0.0 <= self.zero_share < 1.0, "give a share in [0, 1)"),
            ("mismatched", 0.0 <= self.mismatched < 1.0 - self.zero_share, "give 0 or more, below 1 with --zero-share"),
            (
                "other_instructions",
                bool(self.mismatched and self.items) or not self.other_instructions,
                "give --mismatched and --items with it, or leave it out",
            ),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Sample the pairs and print the counts."""
    arguments = parse(Arguments, argv, "dopamine grm pairs", __doc__)
    with interruptible("Interrupted. Nothing was written."):
        report(arguments)


def report(arguments: Arguments) -> dict[str, Any]:
    """Print the table and the JSON line, and return its content.

    Raises:
        BadInput: no episode succeeded, an episode or item is malformed, or an argument is invalid.
    """
    if arguments.data.suffix in SUFFIXES:
        _check_only_data(arguments)
        return describe_items(arguments.data)
    if arguments.items is not None:
        check_new(arguments.items)
    if not 1 <= arguments.n <= MOST_PAIRS:
        raise BadInput("-n", arguments.n, f"give 1 to {MOST_PAIRS}")
    Console().say_passed_over([arguments.data])
    source = open_source(arguments.data, arguments.cameras)
    episodes = source.episodes()
    print("\n".join(source.notes), end="\n" if source.notes else "")
    successes = _successes(episodes, arguments)
    used = _with_states(successes, arguments)
    states = [episode_states(episode, arguments.frames_per_state, arguments.rule) for episode in used]
    digest = hashlib.sha256()
    blocks = list(sample_blocks(states, arguments.n, arguments.seed, arguments.zero_share, arguments.mismatched))
    statistics = balance(_hashed(blocks, digest))
    found = f"{counted(len(used), 'episode')} with {counted(sum(map(len, states)), 'state')}"
    print(f"{found}, {counted(arguments.n, 'pair')}")
    _print_counts(episodes, successes)
    print(table(statistics))
    figures = {
        "episodes": len(used),
        "states": sum(map(len, states)),
        "pairs": arguments.n,
        "seed": arguments.seed,
        "sha256": digest.hexdigest(),
        **_figures(statistics),
    }
    if arguments.items is not None:
        template = read_template(arguments.wording)
        items = PairItems(source, used, blocks, template, arguments.other_instructions)
        figures |= {"out": str(arguments.items), "pictures": items.write(arguments.items, Console().progress)}
    print(json.dumps(figures))
    return figures


def _check_only_data(arguments: Arguments) -> None:
    """Raise BadInput if an option is given whose effect a file of items cannot show: its items are only counted."""
    for argument in fields(arguments):
        value = getattr(arguments, argument.name)
        if argument.name != "data" and value != argument.default:
            name = "-n" if argument.name == "n" else f"--{argument.name.replace('_', '-')}"
            shown = str(value) if isinstance(value, Path) else value
            raise BadInput(name, shown, "leave it out, or give a folder of episodes as DATA: items are only counted")


def _successes(episodes: Sequence[EpisodeInfo], arguments: Arguments) -> list[EpisodeInfo]:
    """The successes that only advance. Raises BadInput if there is none, or one lacks what items need."""
    used = [episode for episode in episodes if episode.success is not False and not wavers(episode.stages)]
    if not used:
        raise BadInput("DATA", str(arguments.data), "give successful episodes: pairs are sampled from successes only")
    if arguments.items is not None:
        check_instructions(used)
    return used


def _with_states(successes: Sequence[EpisodeInfo], arguments: Arguments) -> list[EpisodeInfo]:
    """The episodes with enough states; names the others. Raises EpisodeError if there is none."""
    errors = [too_few_states(episode, arguments.frames_per_state, arguments.rule) for episode in successes]
    short = [error for error in errors if error is not None]
    if len(short) == len(successes):
        raise short[0]
    for error in short:
        Console().say(f"skipped: {error}")
    return [episode for episode, error in zip(successes, errors, strict=True) if error is None]


def _print_counts(episodes: Sequence[EpisodeInfo], successes: Sequence[EpisodeInfo]) -> None:
    failed = sum(episode.success is False for episode in episodes)
    for text, count in (
        ("failed episodes left out", failed),
        ("successes that pause or retreat left out", len(episodes) - failed - len(successes)),
        ("episodes without annotation, each used as one segment", sum(not episode.annotation for episode in successes)),
    ):
        if count:
            print(f"{text}: {count}")


def _figures(statistics: Balance) -> dict[str, Any]:
    """The balance as JSON values."""
    return {
        "cell_counts": statistics.counts.tolist(),
        "cell_sizes": statistics.sizes.tolist(),
        "empty_cells": int(statistics.empty.sum()),
        "repeated_cells": int(statistics.repeated.sum()),
        "zero_hops": statistics.zero_hops,
        "zero_hops_of_one_frame": statistics.still,
        "mismatched": statistics.mismatched,
        "mismatched_from_goal": statistics.from_goal,
        "max_deviation": round(statistics.max_deviation, 4),
        "central_share": round(statistics.central_balanced, 4),
        "central_share_with_zero_hops": round(statistics.central_share, 4),
        "central_share_unbalanced": round(statistics.central_unbalanced, 4),
        "central_share_released_quoted": RELEASED_CENTRAL_SHARE,
    }


def _hashed(blocks: Iterable[HopPairs], digest: Any) -> Iterator[HopPairs]:
    for pairs in blocks:
        columns: list[NDArray[Any]] = [pairs.episode_index, pairs.before_index, pairs.after_index, pairs.hop]
        columns += [pairs.mismatched] if pairs.mismatched.any() else []
        for column in columns:
            digest.update(column.astype(column.dtype.newbyteorder("<")).tobytes())
        yield pairs


def table(statistics: Balance) -> str:
    """The counts of every cell, and notes on them below."""
    lines = [
        "hop bin            " + "".join(f"{f'gap Q{i + 1}':>9}" for i in range(GAP_BINS)) + "      all   available"
    ]
    edges = np.linspace(-100, 100, HOP_BINS + 1)
    for i in range(HOP_BINS):
        cells = "".join(
            f"{'-' if empty else f'{count}*' if repeated else count:>9}"
            for count, empty, repeated in zip(
                statistics.counts[i], statistics.empty[i], statistics.repeated[i], strict=True
            )
        )
        counts, sizes = statistics.counts[i].sum(), statistics.sizes[i].sum()
        lines.append(f"{edges[i]:+6.0f} … {edges[i + 1]:+4.0f} %    {cells}{counts:>9}{sizes:>12}")
    lines += [
        f"additional zero-hop pairs: {statistics.zero_hops}, of which {statistics.still} show one frame twice",
        f"additional pairs under another task's instruction: {statistics.mismatched}, of which {statistics.from_goal} "
        "start at the goal (hop −1, the others 0)",
        f"empty cells (-), without any pair of states: {statistics.empty.sum()} of {statistics.empty.size}",
        f"cells with too few pairs (*), whose pairs repeat: {statistics.repeated.sum()}",
        f"largest deviation of a non-empty hop bin from their mean: {100 * statistics.max_deviation:.2f} %",
        f"share in the 3 central hop bins: {100 * statistics.central_balanced:.1f} % (uniform: {300 / HOP_BINS:.1f} %)"
        f", {100 * statistics.central_share:.1f} % with the additional pairs",
        f"  for comparison: {100 * statistics.central_unbalanced:.1f} % of all available pairs; "
        f"{100 * RELEASED_CENTRAL_SHARE:.0f} % with the released sampler on an episode as long as the published "
        "example (quoted from the method, not computed)",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
