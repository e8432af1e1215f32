"""What people start: the main job, sweeps, and every other command of `dopamine` (see cli.py)."""

from __future__ import annotations

import sys

MOVED = {
    "arms": "compare",
    "audit": "audit",
    "convert": "convert",
    "demos": "demos",
    "deploy": "grm deploy",
    "evaluate": "evaluate",
    "evaluate_grm": "grm eval",
    "grm_adapt": "grm adapt",
    "grm_train": "grm train",
    "import_template": "grm import-template",
    "pairs": "grm pairs",
    "score": "grm score",
    "serve": "serve",
}
"""Modules that were started with `python -m experiments.NAME`, and the commands that they are now."""


def _name_what_replaces() -> None:
    """End a process that starts a module which is no more, with what replaces it. Its file would be looked for next."""
    words = sys.orig_argv[1:]
    place = words.index("-m") + 1 if "-m" in words else len(words)
    package, _, name = words[place].partition(".") if place < len(words) else ("", "", "")
    if sys.argv[:1] == ["-m"] and package == "experiments" and name in MOVED:
        print(f"error: python -m experiments.{name}: write dopamine {MOVED[name]}", file=sys.stderr)
        raise SystemExit(2)


_name_what_replaces()
