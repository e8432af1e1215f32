"""Plays an environment of your own and says how to mend what a training cannot use.

    dopamine env check my_robot.envs:make_env
    dopamine env check my_robot.envs:make_env --kwargs '{"camera": "front"}'

The contract is dopamine_rl.interfaces.MakeEnvironment (docs/your_environment.md). The environment is made and played in
a process of its own, as a run does it; it may crash or hang there. A gymnasium VectorEnv is checked for
VectorProgressReward. The last line is JSON: ok, broken (rules), findings.
Exit status 1: a rule is broken.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from tyro.conf import Positional

from dopamine_rl.errors import require
from experiments.reports.tables import show
from experiments.runtime.arguments import option, parse
from experiments.runtime.ending import command, interruptible


@dataclass(frozen=True)
class Arguments:
    """The environment, and how long it is played."""

    make: Annotated[Positional[str], option("MODULE:CALLABLE")]
    """Makes the environment."""
    kwargs: Annotated[str, option("JSON")] = "{}"
    """Its keyword arguments, a JSON object."""
    steps: Annotated[int, option("N")] = 60
    """Most environment steps of an episode."""
    deadline_s: Annotated[float, option("S")] = 120.0
    """Seconds after which it counts as hung."""

    def __post_init__(self) -> None:
        require(
            "",
            self,
            ("steps", self.steps >= 2, "give at least 2"),
            ("deadline_s", self.deadline_s > 0.0, "give seconds above 0"),
        )


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Check the environment, print the findings, and exit with status 1 if a rule is broken."""
    arguments = parse(Arguments, argv, "dopamine env check", __doc__)
    from actors.contract.check import examine  # imports gymnasium

    with interruptible("Interrupted."):
        findings = examine(arguments.make, arguments.kwargs, arguments.steps, arguments.deadline_s)
    rows = [[f.rule, f.state, f.seen + (f"\n→ {f.fix}" if f.fix else "")] for f in findings]
    show([["rule", "state", "finding and fix"], *rows])
    broken = [finding.rule for finding in findings if finding.state == "broken"]
    content = {"ok": not broken, "broken": broken, "findings": [asdict(finding) for finding in findings]}
    print(json.dumps(content, ensure_ascii=False))
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
