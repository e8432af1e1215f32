"""Training pairs under another task's instruction: in which words, with which hops, and which pairs.

The pictures of such a pair are those of the right task, START, END and the goal included, and a batch also asks about
it in the right words. So nothing but the words can tell the two answers apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.progress import hop_bin


def plain(words: str) -> str:
    """An instruction without what makes no difference: capitals, spaces, and a full stop at the end."""
    return " ".join(words.casefold().split()).rstrip(".")


def wordings_of_tasks(instructions: Iterable[Sequence[str]]) -> dict[str, list[str]]:
    """All ways to say each task, by its canonical one.

    Args:
        instructions: of each episode, the canonical one first.
    """
    wordings: dict[str, dict[str, None]] = {}
    for words in instructions:
        wordings.setdefault(words[0], {}).update(dict.fromkeys(words))
    return {task: list(words) for task, words in wordings.items()}


def other_wordings(
    tasks: Mapping[str, Sequence[str]], more: Sequence[str], field: str = "sft.train.plan.other_instructions"
) -> dict[str, list[str]]:
    """The instructions of other tasks for each task: those of `tasks`, then `more`.

    Tasks that share a wording count as the same task, and a wording that differs only in what `plain` removes is the
    same one. That other words mean the same, nothing here can know.

    Args:
        tasks: all ways to say each task.
        more: instructions besides, of tasks that are none of `tasks`.
        field: names `more` in the error.
    Raises:
        BadInput: nothing is left for a task.
    """
    plainly = {task: set(map(plain, words)) for task, words in tasks.items()}
    others: dict[str, list[str]] = {}
    for task, own in plainly.items():
        foreign = [words for other in tasks if not own & plainly[other] for words in tasks[other]]
        foreign += [words for words in more if plain(words) not in own]
        if not foreign:
            raise BadInput(field, tuple(more), f"give the instruction of another task than {task!r}")
        others[task] = list(dict.fromkeys(foreign))
    return others


def mismatched_hop(at_goal: ArrayLike) -> NDArray[np.float64]:
    """The hop of a pair under another task's instruction: −1 where BEFORE shows the goal, else 0.

    In the other task none of the frames is any progress, so Φ* has to stay at 0:

    - forward: Φ_F = H, from the first frame; 0 for H = hop(0, 0) = 0.
    - backward: Φ_B = 1 + H, as the goal counts as 1 whatever it shows; 0 for H = hop(1, 0) = −1 alone. A hop of 0 would
      say that AFTER is as complete as the goal.
    - incremental: Φ_I = Φ* + (1 − Φ*) H⁺ − Φ* H⁻, which is 0 at Φ* = 0 for every H ≤ 0. It is hop(0, 0) = 0, except
      where BEFORE is a last frame: its pictures are those of a goal, and equal pictures need equal answers.

    Fusion is a convex combination of the three and of the last Φ* = 0, so it stays at 0 too.

    Args:
        at_goal: bool, BEFORE is the goal or a frame of full progress.
    Source: arXiv:2512.23703, Eq. 2 and 4-8.
    """
    return np.where(at_goal, -1.0, 0.0)


def draw_mismatched(hops: ArrayLike, share: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the pairs to be asked about again under another task's instruction, evenly over the hop bins.

    Most pairs of a batch are neighbours whose hop is near 0 in any words. Drawn evenly over the pairs, they would
    answer 0 again and say nothing of the words.

    Args:
        hops: float [N], under the right instruction.
        share: how many to draw, as a share of N; a fraction of a pair is rounded at random.
    Returns:
        int64, indices without repetition.
    """
    bins = hop_bin(hops)
    count = min(int(share * len(bins) + rng.random()), len(bins))
    weights = 1.0 / np.bincount(bins)[bins]
    return rng.choice(len(bins), count, replace=False, p=weights / weights.sum())
