"""Which folders are runs of ours, what in them we wrote, and whether this code can go on with one.

A run folder says so itself (`run.json`). Nothing is written into, or removed from, a folder that is neither empty nor a
run.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dopamine_rl import provenance
from dopamine_rl.errors import BadInput
from dopamine_rl.files import becomes, remove, write_atomically

PROJECT, FORMAT = "dopamine-rl", 4
"""Content of `run.json`. The format changes when runs of older versions can no longer be resumed; runs of format 1 have
no `run.json`."""
MARKER, LOCK, PHASES, CONFIG = "run.json", ".lock", "phases", "config.toml"
NOBODYS = frozenset({LOCK, ".DS_Store", "lost+found"})
"""A folder with nothing but these is empty: what systems put into every folder or volume, and the lock."""


class FolderContents(dict[str, "FolderContents | None"]):
    """What we write into a folder: patterns (regular expressions for the whole name), and the contents of subfolders.

    None stands for a file, or for a folder that contains only our files.
    """

    def find(self, name: str) -> tuple[bool, FolderContents | None]:
        """Whether a name is ours, also that of a half-written file, and the contents below it."""
        final = becomes(name) or name
        for pattern, below in self.items():
            if re.fullmatch(pattern, final):
                return True, below if final == name else None
        return False, None


_TRAINING = FolderContents(
    {
        r"policy_demonstrations\.npz|policy\.safetensors|curve\.jsonl|episodes\.jsonl": None,
        PHASES: FolderContents({r"\w+\.json": None}),
        "records": FolderContents({r".+\.npz": None, "references": FolderContents({r"[0-9a-f]+\.npz": None})}),
        "policies": FolderContents({r"\d{9}\.safetensors": None}),
        "checkpoint": None,
        "tensorboard": FolderContents({r"events\.out\.tfevents\..+": None}),
        "wandb": None,
    }
)
RUN_FOLDER = FolderContents(
    {
        **_TRAINING,
        r"run\.json|config\.toml|log\.jsonl|result\.json|report\.md|gate\.png|learning_curve\.png": None,
        r"(bc|policy|expert)\.mp4": None,
        r"bc(_\d+(x\d+)*)?\.safetensors": None,
        "demonstrations": FolderContents({r"[0-9a-f]{8}": None}),
        r"grm|grm\.train|grm_untrained": None,
        r"report\.json|curves\.png": None,
        "results": FolderContents({r"\w+-\d+\.json": None}),
        "prepared": FolderContents({r"\d+-[0-9a-f]{8}": None}),
        "units": FolderContents({r"\w+-\d+": _TRAINING}),
        r"sweep\.(json|md)": None,
        "tune": FolderContents({r"\d{8}-\d{6}": None}),
    }
)
"""Everything that the main job, studies and sweeps write into their folder."""


def check_usable(folder: Path, place: str, fresh: bool) -> None:
    """Raise BadInput where a run may not work in a folder: it holds other things, or a run that cannot be continued.

    Args:
        place: what the user calls the folder.
        fresh: the run there is to be forgotten; then any run will do.
    """
    names = {path.name for path in folder.iterdir()} - NOBODYS
    names = {name for name in names if becomes(name) != MARKER}
    if not names:
        return
    form = run_format(folder)
    if form is None:
        some = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise BadInput("--out", place, f"give a new folder or that of an earlier run: it contains other files ({some})")
    if fresh or form == FORMAT:
        return
    if form > FORMAT:
        fix = (
            f"update the code, or give --fresh: a newer version made this run (format {form}; this one reads {FORMAT})"
        )
    else:
        fix = (
            "give --fresh to start over, another --out, or resume with the older version that made this run: its "
            "phases and checkpoint are not compatible"
        )
    raise BadInput("--out", place, fix)


def run_format(folder: Path) -> int | None:
    """The format of the run in a folder, 1 where it is from before `run.json`; None where the folder is no run."""
    if (folder / MARKER).exists():
        marker = _read(folder / MARKER)
        form = marker.get("format") if marker.get("project") == PROJECT else None
        return form if isinstance(form, int) and form >= 1 else None
    return 1 if _has_phases(folder) or ((folder / LOCK).is_file() and _has_config(folder)) else None


def _has_phases(folder: Path) -> bool:
    """A finished phase is there: its key and its value."""
    phases = [_read(path) for path in (folder / PHASES).glob("*.json")]
    return any("value" in phase and re.fullmatch(r"[0-9a-f]{16}", str(phase.get("key"))) for phase in phases)


def _has_config(folder: Path) -> bool:
    """The resolved settings of a run are there, every section of them."""
    try:
        table = tomllib.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    sections = ("env", "demonstrations", "grm", "sft", "service", "learner", "training", "evaluation")
    return isinstance(table.get("reward"), str) and all(isinstance(table.get(name), dict) for name in sections)


def clear(folder: Path) -> list[str]:
    """Remove what we wrote into a run folder, but its lock. Links are removed, never followed.

    Returns:
        What is left, relative to the folder: things that no run wrote.
    """
    left = _clear(folder, RUN_FOLDER)
    return [name for name in left if name not in NOBODYS]


def _clear(folder: Path, contents: FolderContents) -> list[str]:
    left: list[str] = []
    for path, below in _ours(folder, contents, left.append):
        if below is None or path.is_symlink() or not path.is_dir():
            remove(path)
            continue
        left += [f"{path.name}/{name}" for name in _clear(path, below)]
        if not any(path.iterdir()):
            path.rmdir()
    return left


def remove_leftovers(folder: Path, contents: FolderContents = RUN_FOLDER) -> None:
    """Remove what a killed run left half-written among what is ours. Nobody may be writing there."""
    for path, below in _ours(folder, contents, lambda name: None):
        if becomes(path.name):
            remove(path)
        elif path.is_dir() and not path.is_symlink():
            if below is not None:
                remove_leftovers(path, below)
            else:
                for inside in [inside for inside in path.rglob(".*") if becomes(inside.name)]:
                    remove(inside)


def _ours(
    folder: Path, contents: FolderContents, other: Callable[[str], object]
) -> Iterator[tuple[Path, FolderContents | None]]:
    """Our files and folders in a folder, with their contents; the names of the others are passed to `other`.

    The files that identify the folder as a run come last: if the process is killed in between, it is still one.
    """
    for path in sorted(folder.iterdir(), key=lambda path: (path.name in (PHASES, CONFIG, MARKER), path.name)):
        ours, below = contents.find(path.name)
        if ours:
            yield path, below
        else:
            other(path.name)


def begin(folder: Path) -> str | None:
    """Say in `run.json` that the folder is a run of ours and which code works on it.

    Returns:
        Where other code has worked on the run before: a line that says what differs.
    """
    now = provenance.code()
    codes = earlier_codes(folder)
    changed = provenance.difference(codes[-1], now) if codes else None
    if not codes or changed:
        marker = {"project": PROJECT, "format": FORMAT, "code": [*codes, now]}
        text = json.dumps(marker, indent=2) + "\n"
        write_atomically(folder / MARKER, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return f"resuming with code that differs from the run's: {changed}" if changed else None


def earlier_codes(folder: Path) -> list[dict[str, Any]]:
    """The code (`provenance.code`) that worked on a run so far, the first and every other one, in order."""
    codes = _read(folder / MARKER).get("code", [])
    return [code for code in codes if isinstance(code, dict)] if isinstance(codes, list) else []


def _read(path: Path) -> Mapping[str, Any]:
    """A JSON object, or an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
