"""What a misspelt name was probably meant to be. A suggestion is made only if one slip or two explain the spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

CLOSE, CLOSE_SHORT, SHORT = 0.8, 0.65, 4
"""Least similarity (difflib's ratio) of a suggestion, in general and for names of at most SHORT letters: one letter
too many, too few, wrong or in the wrong place."""
BEGUN = 3
"""Letters that suffice where a name begins with them."""
MOST = 3
"""Sections that a suggestion names."""


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that is most similar to a word, or the only one that begins with it; None if none is close."""
    folded = {_folded(name): name for name in names}
    wanted = _folded(word)
    if similar := difflib.get_close_matches(wanted, folded, 1, CLOSE_SHORT if len(wanted) <= SHORT else CLOSE):
        return folded[similar[0]]
    begun = [name for key, name in folded.items() if key.startswith(wanted)]
    return begun[0] if len(begun) == 1 and len(wanted) >= BEGUN else None


def nearest_paths(path: str, paths: Sequence[str]) -> list[str]:
    """The dotted names that another one was probably meant to be; none if none is close.

    A similar name of the same section comes first, then this very name in other sections, then a similar one there.
    """
    section, _, leaf = path.rpartition(".")
    split = [(*known.rpartition(".")[::2], known) for known in paths]
    siblings = {name: known for owner, name, known in split if owner == section}
    if name := nearest(leaf, siblings):
        return [siblings[name]]
    leaves: dict[str, list[str]] = {}
    for _, name, known in split:
        leaves.setdefault(_folded(name), []).append(known)
    similar = difflib.get_close_matches(_folded(leaf), leaves, 1, CLOSE)
    if not similar:
        return []
    found = sorted(leaves[similar[0]], key=lambda known: -difflib.SequenceMatcher(None, path, known).ratio())
    return found[: MOST if siblings else 1]  # the one that is most similar where the section is misspelt too


def one_of(word: str, names: Sequence[str]) -> str:
    """The fix for a word that is none of some names: the nearest one, if any is close, and all of them."""
    near = nearest(word, names)
    return f"write {near}; available: {', '.join(names)}" if near else f"give one of {', '.join(names)}"


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_").strip("_")
