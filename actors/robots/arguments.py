"""A command line for a frozen dataclass, with Python's own parser: a robot's computer need not have any other."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from dopamine_rl.errors import DopamineError

Settings = TypeVar("Settings")
READERS: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float, "Path": Path}


def parse(cls: type[Settings], argv: Sequence[str], prog: str, about: str | None) -> Settings:
    """Parse a command line. A field without a default is a positional word; a bool is a switch.

    Args:
        cls: a frozen dataclass of str, int, float, Path (each may be None) and bool. The string literal below a field
            is its help.
    """
    parser = argparse.ArgumentParser(prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    helps = _literals(cls)
    for entry in fields(cls):  # type: ignore[arg-type]
        kind, text = str(entry.type).partition(" | ")[0], helps.get(entry.name, "")
        option = f"--{entry.name.replace('_', '-')}"
        if entry.default is MISSING:
            parser.add_argument(entry.name, type=READERS[kind], help=text)
        elif kind == "bool":
            parser.add_argument(option, action="store_true", help=text)
        else:
            shown = "" if entry.default in (None, "") else f" (default: {entry.default})"
            parser.add_argument(
                option, type=READERS[kind], default=entry.default, help=(text + shown).replace("%", "%%")
            )
    try:
        return cls(**vars(parser.parse_args(list(argv))))
    except DopamineError as error:
        parser.error(str(error))


def ending(run: Callable[[], None]) -> None:
    """Run a command; an error on purpose ends it with one line, Ctrl-C without any."""
    try:
        run()
    except KeyboardInterrupt:
        raise SystemExit(0) from None
    except DopamineError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def _literals(cls: type) -> dict[str, str]:
    """The string literals below the fields of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for entry, below in pairwise(body):
        if isinstance(entry, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(entry.target)] = " ".join(str(below.value.value).split())
    return found
