"""What a user names as MODULE:CALLABLE, so that every process finds it by its name and nothing has to be pickled."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

from dopamine_rl.errors import BadInput
from dopamine_rl.spelling import nearest

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""MODULE:CALLABLE."""


def load_callable(field: str, name: str) -> Callable[..., Any]:
    """The callable of a name MODULE:CALLABLE. The module may also lie in the working folder.

    Args:
        field: what holds the name, as the user wrote it.
    Raises:
        BadInput: naming `field`, if there is no such module or callable, or the module cannot be imported.
    """
    if not NAME.fullmatch(name):
        raise BadInput(field, name, "write MODULE:CALLABLE, such as my_robot.envs:make_env")
    module_name, _, path = name.partition(":")
    _make_findable(field, name, module_name)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module does
        fix = f"mend its import ({type(error).__name__}: {error})"
        raise BadInput(field, name, fix) from error
    try:
        found: Any = reduce(getattr, path.split("."), module)
    except AttributeError:
        near = nearest(path, [entry for entry in vars(module) if not entry.startswith("_")])
        meant = f"write {module_name}:{near}" if near else f"define {path} in {module.__file__}"
        raise BadInput(field, name, f"the module has no {path}: {meant}") from None
    if not callable(found):
        raise BadInput(field, name, f"name a function or a class: this is {type(found).__name__}")
    return found


def read_keywords(field: str, text: str) -> dict[str, Any]:
    """The keyword arguments that a JSON object holds. Raises BadInput naming `field`."""
    try:
        keywords = json.loads(text)
    except ValueError as error:
        raise BadInput(field, text, f"""write a JSON object, such as '{{"camera": "front"}}' ({error})""") from error
    if not isinstance(keywords, dict) or not all(key.isidentifier() for key in keywords):
        raise BadInput(field, text, """write a JSON object with names of arguments, such as '{"camera": "front"}'""")
    return keywords


def _make_findable(field: str, name: str, module_name: str) -> None:
    """Add the working folder to the places of modules, in this process and those it starts, if it holds this one."""
    top = module_name.partition(".")[0]
    if top in sys.modules or importlib.util.find_spec(top) is not None:
        return
    here = os.getcwd()
    if not any(os.path.exists(os.path.join(here, entry)) for entry in (top, f"{top}.py")):
        fix = f"there is no module {top}: start where it lies, install it here, or add its folder to PYTHONPATH"
        raise BadInput(field, name, fix)
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
