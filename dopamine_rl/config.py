"""Configuration: a tree of frozen dataclasses, values from a TOML preset.

The string literal below a field documents it. The tree may hold bool, int, float, str, Literal, Path, tuples of these,
`X | None` (None: the key is omitted) and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import nearest_paths, one_of

Config = TypeVar("Config")
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text in quotes",
    Path: "a path in quotes",
}
"""The values of a type, in words."""


def load_preset(cls: type[Config], path: Path | str) -> Config:
    """Return an instance of the dataclass `cls` with the values of a TOML file; omitted keys keep their defaults.

    Raises:
        BadInput: the file cannot be read, a key is unknown, a value has the wrong type, a required key is missing;
            the message names the dotted field, its value and what to write instead.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput("preset", str(path), f"give a readable TOML file ({reason})") from error
    return _build(cls, table, "", cls)


def load_table(cls: type[Config], table: Mapping[str, Any], base: Config) -> Config:
    """Return an instance of the dataclass `cls` with the values of nested tables; omitted keys keep those of `base`.

    Raises:
        BadInput: as for `load_preset`.
    """
    return _build(cls, table, "", cls, base)


def preset_names(preset_dir: Path | str) -> list[str]:
    """Return the names that `--preset` accepts: the TOML files of a folder, sorted."""
    return sorted(path.stem for path in Path(preset_dir).glob("*.toml"))


def dump_toml(instance: Any) -> str:
    """Return a configuration as TOML; `load_preset` reads back an equal one.

    Raises:
        BadInput: a field has a value that TOML cannot express.
    """
    return "\n".join(_dump(instance, "")).lstrip("\n") + "\n"


def _build(cls: Any, table: Mapping[str, Any], prefix: str, root: type, base: Any = None) -> Any:
    """Build the dataclass `cls` from a table; other values come from `base` or the class defaults.

    `prefix` is the dotted name of the table with a trailing dot; `root` is the class of the whole tree.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key, value in table.items():
        if key not in fields:
            raise BadInput(prefix + key, value, _suggest(key, prefix, list(fields), root))
    values: dict[str, Any] = {}
    for name, field in fields.items():
        default = _default(field) if base is None else getattr(base, name)
        if name not in table:
            values[name] = default
        elif dataclasses.is_dataclass(default) and isinstance(table[name], dict):
            values[name] = _build(type(default), table[name], f"{prefix}{name}.", root, default)
        else:
            values[name] = _convert(prefix + name, table[name], hints[name], root)
        if values[name] is dataclasses.MISSING:
            raise BadInput(prefix + name, "(missing)", f"write {_kind(prefix + name, hints[name])}")
    try:
        return cls(**values)
    except BadInput:
        raise
    except (TypeError, ValueError) as error:
        raise BadInput(prefix.rstrip(".") or "preset", dict(table), str(error)) from error


def _default(field: dataclasses.Field) -> Any:
    """Return a field's default, or MISSING."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _suggest(key: str, prefix: str, siblings: list[str], root: type) -> str:
    """Return the fix for an unknown key: the names that were probably meant, else those of its section."""
    if near := nearest_paths(prefix + key, _paths(root, "")):
        return f"write {' or '.join(near)}"
    return f"remove it, or write one of: {', '.join(prefix + name for name in siblings)}"


def _paths(cls: Any, prefix: str) -> list[str]:
    """Return the dotted names of every field of a tree."""
    paths = []
    for name, hint in typing.get_type_hints(cls).items():
        paths.append(prefix + name)
        if dataclasses.is_dataclass(hint):
            paths += _paths(hint, f"{prefix}{name}.")
    return paths


def _convert(name: str, value: Any, hint: Any, root: type) -> Any:
    """Convert a TOML value to the type of a field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in args if option is not type(None)]
        if len(options) == 1:
            return _convert(name, value, options[0], root)
    elif origin is Literal:
        if any(type(value) is type(option) and value == option for option in args):
            return value
        raise BadInput(name, value, one_of(str(value), [str(option) for option in args]))
    elif origin is tuple:
        if isinstance(value, list):
            return _convert_tuple(name, value, args, root)
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, f"{name}.", root)
    elif hint is float and type(value) in (int, float):
        if abs(value) <= sys.float_info.max:
            return float(value)
    elif hint is Path and type(value) is str:
        return Path(value)
    elif hint in (bool, int, str) and type(value) is hint:
        return value
    raise BadInput(name, value, f"write {_kind(name, hint)}")


def _convert_tuple(name: str, value: list[Any], args: tuple[Any, ...], root: type) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(value)
    if len(value) != len(args):
        raise BadInput(name, value, f"write a list of {len(args)} values")
    return tuple(_convert(f"{name}[{i}]", *pair, root) for i, pair in enumerate(zip(value, args, strict=True)))


def _kind(name: str, hint: Any) -> str:
    """Return the values that a field takes, in the words of the error message."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if origin is tuple:
        return "a list in brackets"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(name, option) for option in options if option is not type(None))
    if dataclasses.is_dataclass(hint):
        return f"a section: a line [{name}] with its keys below, or {name}.KEY = VALUE"
    return _KINDS[hint]


def _dump(instance: Any, prefix: str) -> list[str]:
    """Return the lines of one table: first its values, then its sub-tables, as TOML requires."""
    lines, tables = [], []
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if dataclasses.is_dataclass(value):
            tables += ["", f"[{prefix}{field.name}]", *_dump(value, f"{prefix}{field.name}.")]
        elif value is None:
            if field.default is not None:
                raise BadInput(prefix + field.name, None, "make None the field's default: TOML cannot write it")
        else:
            lines.append(f"{field.name} = {_literal(prefix + field.name, value)}")
    return lines + tables


def _literal(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and abs(value) <= sys.float_info.max):
        return repr(value)
    if isinstance(value, (str, Path)):
        # A JSON string is a TOML basic string, except for the delete character.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_literal(f'{name}[{i}]', item) for i, item in enumerate(value))}]"
    raise BadInput(name, value, "use bool, int, float, str, tuple or a dataclass")
