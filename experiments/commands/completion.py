"""Prints a completion script for bash or zsh.

    source <(dopamine completion bash)                              # for this shell
    dopamine completion bash > ~/.local/share/bash-completion/completions/dopamine
    dopamine completion zsh > "${fpath[1]}/_dopamine"               # a folder of your fpath, before compinit

Completes groups, commands, options and choices; where none of these fits, it completes file names.
The script contains all names, so print it again after an update.
"""

from __future__ import annotations

import importlib
import shlex
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from tyro.conf import Positional

from experiments.runtime.arguments import option, option_names, parse
from experiments.runtime.ending import command


@dataclass(frozen=True)
class Arguments:
    """The shell to complete in."""

    shell: Annotated[Positional[Literal["bash", "zsh"]], option("SHELL")]
    """The shell: bash or zsh."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Print the script."""
    arguments = parse(Arguments, argv, "dopamine completion", __doc__)
    print(script(arguments.shell, groups(), options()))


def groups() -> dict[str, list[str]]:
    """The members of every group, by the group's full name."""
    from experiments.cli import every_command

    members: dict[str, list[str]] = {}
    for path, _ in every_command():
        for depth, name in enumerate(path):
            names = members.setdefault(" ".join(path[:depth]), [])
            names += [] if name in names else [name]
    return members


def options() -> dict[str, dict[str, list[str]]]:
    """The options of every command and their choices, by the command's full name."""
    from experiments.cli import every_command

    return {" ".join(path): _options(entry.module) for path, entry in every_command()}


def _options(module: str) -> dict[str, list[str]]:
    imported = importlib.import_module(module)
    names = {"--help": list[str]()}
    for cls in (imported.Arguments, getattr(imported, "Settings", None)):
        names |= {} if cls is None else {name: _choices(kind) for name, kind in option_names(cls)}
    return names


def _choices(kind: Any) -> list[str]:
    """The choices of a Literal type; empty for other types."""
    if typing.get_origin(kind) is Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    return [choice for part in typing.get_args(kind) for choice in _choices(part)]


BASH = """# Completion of `dopamine` for bash.
_dopamine() {
  local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" path="" words="" i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case "$path${path:+ }${COMP_WORDS[i]}" in
      PATHS) path="$path${path:+ }${COMP_WORDS[i]}" ;;
      *) break ;;
    esac
  done
TABLE
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _dopamine dopamine"""

ZSH = """#compdef dopamine
# Completion of `dopamine` for zsh.
_dopamine() {
  local cur="${words[CURRENT]}" previous="${words[CURRENT-1]}" path_="" candidates="" i
  for ((i = 2; i < CURRENT; i++)); do
    case "$path_${path_:+ }${words[i]}" in
      PATHS) path_="$path_${path_:+ }${words[i]}" ;;
      *) break ;;
    esac
  done
TABLE
  if [[ -n "$candidates" ]]; then compadd -- ${=candidates}; else _files; fi
}
if [[ "$funcstack[1]" == "_dopamine" ]]; then _dopamine "$@"; else compdef _dopamine dopamine; fi"""


def script(
    shell: str, members: Mapping[str, Sequence[str]], commands: Mapping[str, Mapping[str, Sequence[str]]]
) -> str:
    """The completion script.

    Args:
        members: the member names of every group.
        commands: the options of every command, each with its choices.
    """
    path, words = ("path", "words") if shell == "bash" else ("path_", "candidates")
    paths = "|".join(shlex.quote(name) for name in (*members, *commands) if name)
    lines = [f'  case "${path}" in']
    lines += [f"    {shlex.quote(name)}) {words}={shlex.quote(' '.join(names))} ;;" for name, names in members.items()]
    for name, names in commands.items():
        lines += [f"    {shlex.quote(name)})", '      case "$previous" in']
        lines += [
            f"        {flag}) {words}={shlex.quote(' '.join(values))} ;;" for flag, values in names.items() if values
        ]
        flags = shlex.quote(" ".join(names))
        lines += [f'        *) if [[ "$cur" == -* ]]; then {words}={flags}; fi ;;', "      esac ;;"]
    lines.append("  esac")
    template = BASH if shell == "bash" else ZSH
    return template.replace("PATHS", paths).replace("TABLE", "\n".join(lines))
