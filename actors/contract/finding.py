"""How an environment, or a robot's driver, keeps to one rule of its contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "broken", "note"]


@dataclass(frozen=True, slots=True)
class ContractFinding:
    """How a thing keeps to one rule.

    Args:
        rule: its name.
        state: ok; broken; note, if the rule is kept but something is worth knowing.
        seen: what was seen, and where.
        fix: how to mend it, as an imperative; "" if nothing needs it.
    """

    rule: str
    state: State
    seen: str
    fix: str = ""
