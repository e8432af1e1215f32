"""Commands for the computer of a robot, which may have nothing but numpy and msgpack.

python -m actors.robots serve|limits|check|drive …        the same as `dopamine robot …`
"""

from __future__ import annotations

import importlib
import sys

from actors.robots.arguments import ending, parse

COMMANDS = {
    "serve": ("ServeArguments", "serve"),
    "limits": ("LimitsArguments", "show_limits"),
    "check": ("CheckArguments", "check"),
    "drive": ("DriveArguments", "drive"),
}
"""Module of each command, and in it the dataclass of its options and the function that takes them."""
MODULES = {name: f"actors.robots.{'show' if name == 'limits' else name}" for name in COMMANDS}


def main(words: list[str]) -> None:
    """Run the command that the first word names."""
    if not words or words[0] not in COMMANDS:
        print(__doc__)
        raise SystemExit(0 if words[:1] in (["-h"], ["--help"]) else 2)
    module = importlib.import_module(MODULES[words[0]])
    arguments, run = (getattr(module, name) for name in COMMANDS[words[0]])
    given = parse(arguments, words[1:], f"python -m actors.robots {words[0]}", module.__doc__)
    ending(lambda: run(given))


if __name__ == "__main__":
    main(sys.argv[1:])
