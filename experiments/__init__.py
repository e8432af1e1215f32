"""The programs that users start: the main job, sweeps, and every other command of `dopamine` (see cli.py)."""

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
"""Old modules (`python -m experiments.NAME`) and the commands that replace them."""


def _refuse_moved_module() -> None:
    """Exit with the new command if the process was started with the name of a moved module.

    Runs at import, before Python fails to find the module's file.
    """
    words = sys.orig_argv[1:]
    index = words.index("-m") + 1 if "-m" in words else len(words)
    package, _, name = words[index].partition(".") if index < len(words) else ("", "", "")
    if sys.argv[:1] == ["-m"] and package == "experiments" and name in MOVED:
        print(f"error: python -m experiments.{name}: use dopamine {MOVED[name]}", file=sys.stderr)
        raise SystemExit(2)


_refuse_moved_module()
