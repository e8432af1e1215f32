"""What a robot may do, read from one TOML file on the robot's side. Without such a file no robot starts.

    rate_hz = 10.0            # control periods per second
    hold_after_ms = 300.0     # no command for so long: the robot holds
    stop_after_ms = 3000.0    # and then it stops
    frozen_after_ms = 2000.0  # of motion in which a picture stays the same: it holds; 0: never. May be left out

    [axes."shoulder.pos"]     # one table for each entry of an action
    kind = "position"         # the action is a target; "delta": it is a displacement per control period
    unit = "deg"
    low = -90.0               # of the position
    high = 90.0
    velocity = 60.0           # per second, at most
    acceleration = 300.0      # per second², at most
    step = 4.0                # change in one control period, at most; left out: velocity / rate_hz
    error = 15.0              # commanded and measured position may differ by so much; left out: not checked

    [workspace]               # metres; only with a driver that has `tool_after`
    low = [0.1, -0.3, 0.02]
    high = [0.5, 0.3, 0.4]

An axis of kind "position" is measured by the observation of the same name, or the one that `measured` names. One of
kind "delta" has a position, and so `low` and `high`, only where `measured` names an observation.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.errors import BadInput, require
from dopamine_rl.spelling import one_of

KINDS = ("position", "delta")
MOST_HZ = 1000.0


@dataclass(frozen=True)
class AxisLimits:
    """Limits of one entry of an action, in its own unit.

    Args:
        kind: "position", a target, or "delta", a displacement per control period.
        velocity, acceleration: highest, per second and per second².
        low, high: of the position.
        step: highest change in one control period; 0: velocity / rate_hz.
        error: largest difference between commanded and measured position; 0: not checked.
        unit: for people.
        measured: the observation that is its position; "": of the same name for a position, none for a delta.
    """

    kind: str
    velocity: float
    acceleration: float
    low: float = -math.inf
    high: float = math.inf
    step: float = 0.0
    error: float = 0.0
    unit: str = ""
    measured: str = ""


@dataclass(frozen=True)
class Limits:
    """Limits of a robot.

    Args:
        rate_hz: control periods per second.
        hold_after_ms, stop_after_ms: time without a command after which the robot holds, and stops.
        axes: of every entry of an action, by its name.
        box: lowest and highest [x, y, z] of the tool, metres; None: not checked.
        frozen_after_ms: time of motion in which a picture may stay the same; 0: not checked.
    """

    rate_hz: float
    hold_after_ms: float
    stop_after_ms: float
    axes: Mapping[str, AxisLimits]
    box: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    frozen_after_ms: float = 2000.0

    def __post_init__(self) -> None:
        period_ms = 1e3 / self.rate_hz if self.rate_hz > 0 else math.inf
        require(
            "",
            self,
            ("rate_hz", 0.0 < self.rate_hz <= MOST_HZ, f"give control periods per second, at most {MOST_HZ:g}"),
            ("hold_after_ms", period_ms <= self.hold_after_ms < math.inf, f"give at least a period, {period_ms:g}"),
            ("stop_after_ms", self.hold_after_ms <= self.stop_after_ms < math.inf, "give at least hold_after_ms"),
            (
                "frozen_after_ms",
                0.0 <= self.frozen_after_ms < math.inf,
                "give a time, or 0 to leave pictures unchecked",
            ),
            ("axes", bool(self.axes), 'give a table [axes."NAME"] for every entry of an action'),
        )
        for name, axis in self.axes.items():
            _check_axis(f'axes."{name}"', axis)
        if self.box is not None:
            low, high = (np.asarray(corner, np.float64) for corner in self.box)
            if low.shape != (3,) or high.shape != (3,) or not (np.isfinite([low, high]).all() and (low < high).all()):
                raise BadInput("workspace", self.box, "give low and high as [x, y, z] in metres, low below high")

    @property
    def period_s(self) -> float:
        """Length of a control period."""
        return 1.0 / self.rate_hz

    def step_of(self, name: str) -> float:
        """Highest change of an axis in one control period."""
        axis = self.axes[name]
        fastest = axis.velocity * self.period_s
        return min(axis.step, fastest) if axis.step else fastest

    def measured_by(self, name: str) -> str:
        """The observation that is an axis's position; "" where there is none."""
        axis = self.axes[name]
        return axis.measured or (name if axis.kind == "position" else "")

    def check_robot(self, actions: Iterable[str], observations: Iterable[str]) -> None:
        """Raise BadInput unless these are the limits of a robot with such actions and observations."""
        actions, observations = list(actions), set(observations)
        for name in actions:
            if name not in self.axes:
                raise BadInput("axes", sorted(self.axes), f'add [axes."{name}"]: the robot has such an action')
        for name in self.axes:
            if name not in actions:
                raise BadInput(f'axes."{name}"', "not an action", one_of(name, actions))
            if (measured := self.measured_by(name)) and measured not in observations:
                fix = f"name an observation as `measured`: {', '.join(sorted(observations))}"
                raise BadInput(f'axes."{name}".measured', measured, fix)


def load_limits(path: Path) -> Limits:
    """Read a limits file. Raises BadInput, naming the entry, if it cannot be used."""
    try:
        content = _toml().loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput("limits", str(path), f"give the robot's limits file ({error.strerror})") from None
    except ValueError as error:
        raise BadInput("limits", str(path), f"mend the TOML: {error}") from None
    values = {key: value for key, value in content.items() if key not in ("axes", "workspace")}
    needed = ("rate_hz", "hold_after_ms", "stop_after_ms")
    _check_keys("", {name: value for name, value in values.items() if name != "frozen_after_ms"}, needed)
    axes = {name: _axis(f'axes."{name}"', table) for name, table in _table("axes", content.get("axes", {})).items()}
    box = None
    if "workspace" in content:
        corners = _table("workspace", content["workspace"])
        _check_keys("workspace", corners, ("low", "high"))
        try:
            low, high = (tuple(float(value) for value in corners[name]) for name in ("low", "high"))
        except (TypeError, ValueError):
            raise BadInput("workspace", corners, "give low and high as [x, y, z] in metres") from None
        box = (low, high)
    return Limits(**{name: _number(name, value) for name, value in values.items()}, axes=axes, box=box)


def describe(limits: Limits) -> list[tuple[str, ...]]:
    """A table of the limits: a heading, then one row for each axis."""
    head = ("axis", "kind", "low", "high", "per period", "per second", "per second²", "error", "unit", "measured by")
    rows = [
        (
            name,
            axis.kind,
            *(f"{value:g}" for value in (axis.low, axis.high, limits.step_of(name), axis.velocity, axis.acceleration)),
            f"{axis.error:g}" if axis.error else "–",
            axis.unit or "–",
            limits.measured_by(name) or "–",
        )
        for name, axis in limits.axes.items()
    ]
    return [head, *rows]


def _axis(field: str, table: Any) -> AxisLimits:
    values = dict(_table(field, table))
    for name in ("kind", "velocity", "acceleration"):
        if name not in values:
            raise BadInput(f"{field}.{name}", None, f"add it: {' or '.join(KINDS) if name == 'kind' else 'a number'}")
    _check_keys(field, values, tuple(entry.name for entry in fields(AxisLimits)), needed=False)
    for name, value in values.items():
        if name not in ("kind", "unit", "measured"):
            values[name] = _number(f"{field}.{name}", value)
        elif not isinstance(value, str):
            raise BadInput(f"{field}.{name}", value, "give text")
    return AxisLimits(**values)


def _check_axis(field: str, axis: AxisLimits) -> None:
    ends = [math.isfinite(end) for end in (axis.low, axis.high)]
    positive = ("velocity", "acceleration")
    require(
        field,
        axis,
        ("kind", axis.kind in KINDS, one_of(axis.kind, KINDS)),
        *((name, 0.0 < getattr(axis, name) < math.inf, "give a finite number above 0") for name in positive),
        *(
            (name, 0.0 <= getattr(axis, name) < math.inf, "give a number, or leave it out")
            for name in ("step", "error")
        ),
        ("low", axis.low < axis.high, "give a number below high"),
        ("low", axis.kind == "delta" or all(ends), "give low and high: a position has limits"),
        (
            "measured",
            axis.kind == "position" or not any(ends) or bool(axis.measured),
            "name the observation of low, high",
        ),
    )


def _number(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise BadInput(field, value, "give a number")
    return float(value)


def _table(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(field, value, f"make it a table, [{field}]")
    return value


def _check_keys(section: str, values: Mapping[str, Any], names: tuple[str, ...], needed: bool = True) -> None:
    prefix = f"{section}." if section else ""
    for name in values:
        if name not in names:
            raise BadInput(f"{prefix}{name}", values[name], one_of(name, names))
    for name in names if needed else ():
        if name not in values:
            raise BadInput(f"{prefix}{name}", None, "add it")


def _toml() -> Any:
    """Python's reader of TOML, or the package that it comes from."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            pass
    raise BadInput("limits", "TOML", "pip install tomli: this Python is older than 3.11 and cannot read TOML itself")
