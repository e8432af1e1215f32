"""Reads what a run has left so far. Whatever is missing, or half-written, is named and never an error."""

from __future__ import annotations

import json
import math
import os
import threading
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.gate import GateReport, Verdict, decide
from dopamine_rl.evaluation.gate_config import GateConfig
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.success import ClaimOutcome
from experiments.runtime.ownership import CONFIG, LOCK, MARKER, PHASES

CURVE, EPISODES, RECORDS, RESULT = "curve.jsonl", "episodes.jsonl", "records", "result.json"
FILES = {"policy.mp4": "trained policy", "bc.mp4": "cloned policy", "expert.mp4": "expert", "gate.png": "gate"}
"""Files of a run that are handed out as they are, and what they show."""
FRESH_S = 120.0
"""A run on another machine, whose lock cannot be seen, counts as running for so long after its last line."""
Status = Literal["running", "finished", "stopped"]


@dataclass(frozen=True, eq=False)
class RunState:
    """A run at one moment.

    Args:
        folder: the run's.
        name: of its configuration, else of its folder.
        status: running, finished (it has a result), or stopped (neither).
        stamp: changes whenever one of the files below does.
        config, result: config.toml and result.json; empty where there is none.
        curve: points of the learning curve.
        episodes: finished episodes, in order.
        phases: finished phases and when they finished (Unix time), in that order.
        phase_values: what these phases returned.
        missing: what the run has not written yet, in words.
    """

    folder: Path
    name: str
    status: Status
    stamp: tuple[object, ...]
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]
    episodes: Sequence[Mapping[str, Any]]
    phases: Sequence[tuple[str, float]]
    phase_values: Mapping[str, Any]
    missing: Sequence[str]

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of the learning curve, float64 [P]; NaN where a point has no number."""
        return np.array([_number(point.get(name)) for point in self.curve], np.float64)

    @property
    def last(self) -> Mapping[str, Any]:
        """The last point of the learning curve; empty before the first."""
        return self.curve[-1] if self.curve else {}


def check_run(path: Path, field: str = "RUN") -> Path:
    """The folder of a run, resolved. Raises BadInput naming `field` if it is none."""
    if not path.is_dir():
        raise BadInput(field, str(path), "there is no such folder: give the folder of a run, such as runs/peg_insert")
    if not any((path / name).exists() for name in (MARKER, PHASES, CURVE, RECORDS, RESULT)):
        raise BadInput(field, str(path), "this is no run's folder: give one that `dopamine train` writes into")
    return path.resolve()


class RunReader:
    """Reads a run again only when one of its files has changed. For several threads.

    Args:
        folder: from `check_run`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._state: RunState | None = None

    def read(self) -> RunState:
        """The run as it is now."""
        stamp = _stamp(self.folder)
        with self._lock:
            if self._state is None or self._state.stamp != stamp:
                self._state = _read_run(self.folder, stamp)
            return self._state


def gate_verdict(run: RunState) -> tuple[GateReport, Verdict] | None:
    """The figures of the run's gate and its verdict on them; None where they are not there, or another version's."""
    simulated = run.phase_values.get("gate")
    claims = run.phase_values.get("claims")
    figures = {**claims.get("figures", {}), "simulator": simulated} if isinstance(claims, dict) else simulated
    try:
        report = GateReport(**figures)  # type: ignore[arg-type]
        return report, decide(report, GateConfig(**_known(GateConfig, run.config.get("gate"))))
    except (TypeError, ValueError, BadInput):
        return None


def shadow(run: RunState) -> tuple[dict[str, Any], list[tuple[int, str]]]:
    """The shadow monitor over the run's finished episodes: its summary, and its warnings by environment steps.

    Episodes without progress, as those of runs without a reward model, are left out.
    """
    gate = run.config.get("gate")
    threshold = gate.get("success_threshold", 0.8) if isinstance(gate, dict) else 0.8
    monitor, warnings = ShadowMonitor(success_threshold=threshold), []
    scored = [episode for episode in run.episodes if "final_progress" in episode]
    for steps, episodes in groupby(scored, lambda episode: int(episode.get("environment_steps", 0))):
        for episode in episodes:
            claim = None
            if "claimed" in episode:
                claim = ClaimOutcome(*(bool(episode.get(name)) for name in ("claimed", "success", "reached")))
            monitor.add(_number(episode["final_progress"]), bool(episode.get("success")), claim)
        if warning := monitor.warning():
            warnings.append((steps, warning))
    return monitor.summary(), warnings


def _read_run(folder: Path, stamp: tuple[object, ...]) -> RunState:
    config, result = _toml(folder / CONFIG), _json(folder / RESULT)
    phase_files = sorted((folder / PHASES).glob("[!.]*.json"), key=_changed)
    curve, episodes = _json_lines(folder / CURVE), _json_lines(folder / EPISODES)
    has = {
        "its settings (config.toml)": config,
        "a finished phase": phase_files,
        "a point of the learning curve": curve,
        "a finished episode": episodes,
        "records of episodes": (folder / RECORDS).is_dir(),
        "its result": result,
    }
    return RunState(
        folder=folder,
        name=str(config.get("name") or folder.name),
        status=_status(folder, bool(result)),
        stamp=stamp,
        config=config,
        result=result,
        curve=curve,
        episodes=episodes,
        phases=[(path.stem, _changed(path)) for path in phase_files],
        phase_values={path.stem: _json(path).get("value") for path in phase_files},
        missing=[words for words, there in has.items() if not there],
    )


def _status(folder: Path, has_result: bool) -> Status:
    locked = _is_locked(folder / LOCK)
    if locked or (locked is None and time.time() - _changed(folder / CURVE) < FRESH_S and not has_result):
        return "running"
    return "finished" if has_result else "stopped"


def _is_locked(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock of a run, without touching it; None if nobody can tell."""
    try:
        inode, locks = os.stat(path).st_ino, Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return None
    held = any(" FLOCK " in line and line.split()[-3].endswith(f":{inode}") for line in locks.splitlines())
    return held or None


def _stamp(folder: Path) -> tuple[object, ...]:
    names = (CONFIG, RESULT, CURVE, EPISODES, PHASES)
    files = tuple((name, *_size(folder / name)) for name in names)
    return (*files, _status(folder, (folder / RESULT).exists()))


def _size(path: Path) -> tuple[int, int]:
    """Time of the last change in ns and size; zeros where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _changed(path: Path) -> float:
    return _size(path)[0] / 1e9


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or not a whole one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a line that is being written is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _known(cls: Any, table: Any) -> dict[str, Any]:
    """The entries of a table that are fields of a dataclass."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in table.items() if name in names} if isinstance(table, dict) else {}


def _number(value: Any) -> float:
    """A finite number, else NaN."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
