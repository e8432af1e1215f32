"""Collects what is found out about an environment, one finding for each rule of its contract."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.contract.finding import ContractFinding, State
from actors.foreign import ObservationLayout, action_bounds
from dopamine_rl.errors import BadInput

OnActivity = Callable[[str], None]
"""Told what is called next, so that a crash has a place."""
SEED = 7
"""Of the first episode that is compared with another."""


class Stopped(Exception):
    """The environment cannot be played any further; the findings say why."""


@dataclass(slots=True)
class Findings:
    """One finding for each rule: the first that is broken, else the first of all."""

    on_activity: OnActivity = lambda text: None
    by_rule: dict[str, ContractFinding] = field(default_factory=dict)

    def add(self, rule: str, state: State, seen: str, fix: str = "") -> None:
        """Keep a finding, unless a worse one of its rule is known."""
        known = self.by_rule.get(rule)
        if known is None or (state != "ok" and known.state == "ok") or (state == "broken" != known.state):
            self.by_rule[rule] = ContractFinding(rule, state, seen, fix)

    def refuse(self, rule: str, error: BadInput, where: str = "") -> None:
        """Keep the finding of a value that cannot be used."""
        at = f" at {where}" if where else ""
        self.add(rule, "broken", f"{error.field} = {error.value}{at}", error.fix)

    @contextmanager
    def calling(self, what: str) -> Iterator[None]:
        """Call the environment. Raises Stopped where it raises."""
        self.on_activity(what)
        try:
            yield
        except Exception as error:  # whatever the user's code does
            place = traceback.extract_tb(error.__traceback__)[-1]
            seen = f"{what}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
            self.add("does not raise", "broken", seen, "end the episode (truncated=True) where it cannot go on")
            raise Stopped from error

    @property
    def all(self) -> list[ContractFinding]:
        """In the order of the rules' first findings."""
        return list(self.by_rule.values())


def check_spaces(observations: Any, actions: Any, findings: Findings) -> ObservationLayout | None:
    """Check the spaces of one environment; None if they cannot be played."""
    layout = None
    try:
        layout = ObservationLayout.of(observations)
        names = "" if layout.pictures is None else f", pictures {', '.join(layout.pictures) or 'none'}"
        findings.add("observation space", "ok", f"{layout.size} numbers{names}")
    except BadInput as error:
        findings.refuse("observation space", error)
    try:
        low, _ = action_bounds(actions)
        findings.add("action space", "ok", f"{len(low)} numbers, bounded")
    except BadInput as error:
        findings.refuse("action space", error)
        return None
    return layout


def unlike_numbers(name: str, value: Any, shape: tuple[int, ...]) -> str:
    """How a value differs from finite numbers of a shape; "" where it does not."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf" or value.shape != shape:
        return f"{name} is {kind_of(value)}, not numbers {shape}"
    if not np.isfinite(value).all():
        return f"{name}{np.argwhere(~np.isfinite(value))[0].tolist()} is not finite"
    return ""


def kind_of(value: Any) -> str:
    """What a value is, in few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"{len(value)} values" if isinstance(value, tuple) else type(value).__name__
