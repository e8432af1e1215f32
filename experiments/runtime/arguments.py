"""One parser for all commands: it turns a frozen dataclass, and the settings of a preset, into options.

The string literal below a field is its help text. An error in the command line is one line: field, value, fix.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

from dopamine_rl.config import load_preset, preset_names
from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import nearest_paths, one_of
from experiments.runtime.ending import UsageError
from experiments.runtime.storage import lasting_path

Own = TypeVar("Own")
Config = TypeVar("Config")
PRESETS = Path(__file__).resolve().parents[1] / "presets"
DEFAULT_PRESET = "laptop"

_ABOUT = "(what it does)"
"""Placeholder for the description while tyro formats the rest: tyro would join its lines."""
MAY_BE_INFINITE = ("sft.train.clip",)
"""Settings for which inf means that there is no limit."""
_TYPES = {int: "a whole number", float: "a number", str: "text", Path: "a path", bool: "True or False"}


def option(
    metavar: str | None = None, default: str | None = None, aliases: Sequence[str] = (), about: str | None = None
) -> Any:
    """Configure how `--help` shows a field: `field: Annotated[int, option("N")]`.

    Args:
        metavar: placeholder for the value.
        default: description of the default, if the value itself does not explain it; "" shows none.
        aliases: other names, such as `-n`.
        about: help text, if it is not a constant; None uses the string literal below the field.
    """
    import tyro

    hint = None if default is None else f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint, aliases=tuple(aliases), help=about)


def written(metavar: str, read: Callable[[str], Any]) -> Any:
    """Parse a field from one word of the command line: `size: Annotated[Size, written("HxW", read_size)]`.

    Args:
        metavar: placeholder for the word.
        read: returns the value of the word; raises BadInput.
    """
    from tyro.constructors import PrimitiveConstructorSpec

    return PrimitiveConstructorSpec[Any](
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def _read_cameras(limit: int | None) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(name.strip() for name in text.split(","))
        if not all(names) or len(set(names)) < len(names) or (limit is not None and len(names) > limit):
            at_most = "" if limit is None else f", at most {limit}"
            raise BadInput("--cameras", text, f"give each camera once, separated by commas{at_most}")
        return names

    return read


RESULT = written("PATH", lasting_path)
ResultPath = Annotated[Path, RESULT]
"""Type of every option that names an output path."""
OptionalResultPath = Annotated[Path | None, RESULT]
"""Type of an optional output path."""

CAMERAS = (
    "Cameras to use, separated by commas, the front view first. A name is a feature of the dataset or a unique part of "
    "it, or a video of the folder, without .mp4."
)
Cameras = Annotated[
    tuple[str, ...] | None,
    written("NAMES", _read_cameras(3)),
    option(default="up to three; the front view is found by its name", about=CAMERAS),
]
"""Type of an option for the cameras of recordings, at most as many as a model accepts."""
AllCameras = Annotated[
    tuple[str, ...] | None,
    written("NAMES", _read_cameras(None)),
    option(default="all; the front view is found by its name", about=CAMERAS),
]
"""Type of an option for any number of cameras."""


@dataclasses.dataclass(frozen=True)
class FolderArguments:
    """The folder of a run."""

    out: Annotated[str | None, option("DIR", "STORAGE/NAME")] = None
    """Folder of this run: a path or a URI."""
    storage: Annotated[
        str | None, option("DIR", "the environment variable DOPAMINE_STORAGE, else runs/ of the checkout")
    ] = None
    """Folder of all runs: a path or a URI. In a submitted job the default is ~/dopamine_rl/runs."""
    fresh: bool = False
    """Delete an earlier run in this folder and start over."""


@dataclasses.dataclass(frozen=True)
class RunArguments(FolderArguments):
    """The folder of a run and how to use it."""

    force: bool = False
    """Continue even if the reward model failed its gate. The result records it."""
    preset: Annotated[str, option("NAME")] = DEFAULT_PRESET
    """Preset to start from: a name, or a file PATH.toml."""


def parse(cls: type[Own], argv: Sequence[str] | None, prog: str, about: str | None) -> Own:
    """Parse a command line. `--help` prints the help and exits with status 0.

    Args:
        cls: a frozen dataclass, whose `__post_init__` raises BadInput for invalid values.
        argv: words without the program's name; None uses sys.argv.
        prog: the program's name in the help.
        about: text at the top of the help.
    Raises:
        UsageError: names the option, its value and the fix.
    """
    return _parse(cls, _words(argv), prog, about)


def parse_settings(
    cls: type[Own],
    config: type[Config],
    argv: Sequence[str] | None,
    prog: str,
    about: str | None,
    presets: Path = PRESETS,
) -> tuple[Own, Config]:
    """Parse a command line with a preset. Returns the command's arguments, and the preset's settings with overrides.

    Args:
        cls: as for `parse`; its field `preset` is a name or a file PATH.toml.
        config: a tree of dataclasses (see dopamine_rl.config); `--section.field value` overrides a value.
        presets: folder of NAME.toml files.
    Raises:
        UsageError: as for `parse`; also if the preset does not exist or contains an invalid value.
    """
    words = _words(argv)
    usual = next(field.default for field in dataclasses.fields(cls) if field.name == "preset")  # type: ignore[arg-type]
    chosen = _value(words, ("--preset",)) or str(usual)
    pair = dataclasses.make_dataclass(
        "Arguments",
        [
            ("own", Annotated[cls, _flat()]),
            ("settings", Annotated[config, _flat()], _field(_start(config, chosen, presets))),
        ],
        frozen=True,
    )
    about = f"{(about or '').rstrip()}\n\nPresets: {', '.join(preset_names(presets))}."
    result: Any = _parse(pair, words, prog, about)
    return result.own, result.settings


def read_preset(cls: type[Config], name: str, option: str, presets: Path = PRESETS) -> Config:
    """The settings of a preset, given by name or as a file PATH.toml.

    Raises:
        BadInput: naming `option`, if there is no such preset or file; naming the setting that it has wrong.
    """
    names = preset_names(presets)
    own = name.endswith(".toml")
    if not own and name not in names:
        raise BadInput(option, name, f"{one_of(name, names)}; or your own file PATH.toml")
    try:
        return load_preset(cls, name if own else presets / f"{name}.toml")
    except BadInput as error:
        field = option if error.field == "preset" else error.field
        raise BadInput(field, error.value, error.fix) from error


def option_names(cls: Any, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Yield every option of a dataclass and of its sections, with its type; a flag has two names."""
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        base, extras = _bare(hint)
        if not any(field.name == name and field.init for field in dataclasses.fields(cls)) or _is_positional(extras):
            continue
        flat = any(getattr(extra, "name", None) == "" for extra in extras)
        written = name.replace("_", "-")
        if dataclasses.is_dataclass(base):
            yield from option_names(base, prefix if flat else f"{prefix}{written}.")
            continue
        yield prefix + written, base
        if base is bool:
            yield f"{prefix}no-{written}", base
        for extra in extras:
            yield from ((alias, base) for alias in getattr(extra, "aliases", None) or ())


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Split a type into the type without annotations, and the annotations."""
    extras: tuple[Any, ...] = ()
    while typing.get_origin(hint) is Annotated:
        hint, *more = typing.get_args(hint)
        extras += tuple(more)
    return hint, extras


def _is_positional(extras: Sequence[Any]) -> bool:
    import tyro

    return tyro.conf.Positional in extras


def _flat() -> Any:
    """Mark a dataclass whose options get no prefix."""
    import tyro

    return tyro.conf.arg(name="")


def _field(default: Any) -> Any:
    return dataclasses.field(default=default)


def _words(argv: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if argv is None else argv)


def _start(config: type[Config], preset: str, presets: Path) -> Config:
    """The settings of a preset, given by name or file."""
    try:
        return read_preset(config, preset, "--preset", presets)
    except BadInput as error:
        raise UsageError(error.field, error.value, error.fix) from error


def _plain_flags(config: Any, words: Sequence[str]) -> list[str]:
    """`--section.flag True` as `--section.flag`, and `… False` as `--section.no-flag`, for old saved commands."""
    flags = {name for name, kind in option_names(config) if kind is bool}
    plain: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.replace("_", "-") in flags and value in ("True", "False"):
            plain.append(name if value == "True" else _negated(name))
        elif word in ("True", "False") and plain and plain[-1].replace("_", "-") in flags:
            plain[-1] = plain[-1] if word == "True" else _negated(plain[-1])
        else:
            plain.append(word)
    return plain


def _negated(flag: str) -> str:
    section, dot, name = flag[2:].rpartition(".")
    return f"--{section}{dot}no-{name}"


def _parse(cls: Any, words: list[str], prog: str, about: str | None) -> Any:
    import tyro
    from tyro._errors import on_parse_error  # only here does tyro report an error in parts

    words = _plain_flags(cls, words)

    def refuse(event: Any) -> None:
        _refuse(event, cls, words)

    described = typing.cast(TextIO, _Described(sys.stdout, (about or "").strip()))
    try:
        with on_parse_error(refuse), redirect_stdout(described):
            result = tyro.cli(cls, prog=prog, description=_ABOUT, args=words, config=(tyro.conf.AvoidSubcommands,))
        _check_finite(getattr(result, "own", result), "--")
        _check_finite(getattr(result, "settings", None), "")
        _check_usual_results(getattr(result, "own", result))
        return result
    except UsageError:
        raise
    except BadInput as error:
        raise _usage(error, cls) from error


def _usage(error: BadInput, cls: Any) -> UsageError:
    """Convert a dataclass's error: `field` becomes `--field`; a setting keeps its dotted name."""
    hints = typing.get_type_hints(cls, include_extras=True)
    own = typing.get_type_hints(_bare(hints["own"])[0]) if "own" in hints else hints
    field = f"--{error.field.replace('_', '-')}" if error.field in own else error.field
    return UsageError(field, error.value, error.fix)


def _check_finite(arguments: Any, prefix: str) -> None:
    """Raise UsageError for a number that is NaN, which passes most comparisons, or infinite."""
    for field in dataclasses.fields(arguments) if dataclasses.is_dataclass(arguments) else ():
        value = getattr(arguments, field.name)
        name = prefix + (field.name.replace("_", "-") if prefix.startswith("--") else field.name)
        _check_finite(value, f"{name}.")
        for number in value if isinstance(value, tuple) else (value,):
            infinite = isinstance(number, float) and math.isinf(number) and name not in MAY_BE_INFINITE
            if infinite or number != number:
                raise UsageError(name, value, "give a finite number")


def _check_usual_results(arguments: Any) -> None:
    """Check default output paths too: a submitted job's working folder is deleted at its end."""
    for name, hint in typing.get_type_hints(type(arguments), include_extras=True).items():
        value = getattr(arguments, name)
        if value is not None and RESULT in _bare(hint)[1]:
            lasting_path(value, f"--{name}")


class _Described:
    """A stream that replaces the placeholder with the description."""

    def __init__(self, stream: TextIO, about: str) -> None:
        self._stream, self._about = stream, about

    def write(self, text: str) -> int:
        return self._stream.write(text.replace(_ABOUT, self._about))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _refuse(event: Any, cls: Any, words: Sequence[str]) -> NoReturn:
    """Convert tyro's error event. Raises UsageError."""
    from tyro import _errors as parts

    cause = sys.exc_info()[1]
    while cause is not None and not isinstance(cause, BadInput):
        cause = cause.__context__
    if isinstance(cause, BadInput):
        if getattr(event, "argument", None) is not None and cause.field == "--out":  # of `lasting_path`
            cause = BadInput(_name(event.argument), cause.value, cause.fix)
        raise _usage(cause, cls) from None
    names = [name for name, _ in option_names(cls)]
    unknown = next((word for word in words if _is_option(word) and _option(word) not in names), None)
    if unknown is not None:  # other errors may follow from this one
        raise UsageError(*_unknown(unknown, words, names))
    if isinstance(event, parts.MissingArgs):
        missing = event.missing_arguments[0].arg
        raise UsageError(_name(missing), None, f"this argument is required: {_sentence(missing)}")
    if isinstance(event, parts.MissingMutexGroup):
        raise UsageError(", ".join(_name(member.arg) for member in event.groups[0]), None, "give one of them")
    if isinstance(event, parts.MutexConflict):
        raise UsageError(
            event.second_token,
            _value(words, (event.second_token,)),
            f"remove it or {event.first_token}: give only one of them",
        )
    if isinstance(event, parts.InvalidChoice):
        choices = [choice for choice in event.choices if choice != "None"]
        raise UsageError(_name(event.argument), event.value, one_of(event.value, choices))
    if isinstance(event, parts.UnrecognizedArgs):
        raise UsageError("arguments", event.tokens[0], "remove it: unexpected argument")
    argument = getattr(event, "argument", None)
    if argument is None:
        raise UsageError("arguments", " ".join(words), str(getattr(event, "message", "see --help")))
    several = typing.get_origin(_bare(argument.field.type)[0]) is tuple
    value = _value(words, argument.lowered.name_or_flags, several)
    raise UsageError(_name(argument), value, f"give {_kind(argument)}")


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not word.lstrip("-")[:1].isdigit()


def _option(word: str) -> str:
    """The option that a word names, as `--help` spells it."""
    return word.partition("=")[0].replace("_", "-")


def _unknown(word: str, words: Sequence[str], names: Sequence[str]) -> tuple[str, str | None, str]:
    """Field, value and fix for an unknown option."""
    name = word.partition("=")[0]
    value = _value(words, (name,))
    near = nearest_paths(_option(word), names)
    return name, value, f"write {' or '.join(near)}" if near else "no such option; see --help"


def _name(argument: Any) -> str:
    """The name of an argument in the help."""
    if argument.is_positional():
        return str(argument.lowered.metavar).strip("[] ").split(" ")[0]
    return str(max(argument.lowered.name_or_flags, key=len))


def _sentence(argument: Any) -> str:
    """The first sentence of an argument's help text."""
    text = argument.field.helptext
    text = (text() if callable(text) else text) or ""
    sentence = " ".join(text.split()).split(". ")[0].rstrip(".")
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


def _kind(argument: Any) -> str:
    """The values that an argument accepts, in words."""
    kinds = _kinds(argument.field.type)
    return f"{' or '.join(kinds)} ({_sentence(argument)})"


def _kinds(hint: Any) -> list[str]:
    base, _ = _bare(hint)
    if base in _TYPES:
        return [_TYPES[base]]
    if typing.get_origin(base) is typing.Literal:
        return [str(choice) for choice in typing.get_args(base)]
    parts = [part for part in typing.get_args(base) if part not in (type(None), Ellipsis)]
    return list(dict.fromkeys(kind for part in parts for kind in _kinds(part)))


def _value(words: Sequence[str], names: Sequence[str], several: bool = False) -> str | None:
    """The value of an option on the command line; with `several`, all words up to the next option. None if absent."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names or _option(word) in names:
            values = list(itertools.takewhile(lambda following: not _is_option(following), words[index + 1 :]))
            return value if equals else " ".join(values if several else values[:1]) or None
    return None
