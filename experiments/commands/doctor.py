"""Examines this machine: what the project needs, what is missing, and how to mend it.

    dopamine doctor
    dopamine doctor --json

Looks at the interpreter and its packages, rendering, cores, memory, disk, Ray, GPU, tokens and the locale; changes nothing.
`missing`: something does not work without it; `optional`: something else is done instead. Exit status 1: something is missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from experiments.reports.tables import show
from experiments.runtime.arguments import parse
from experiments.runtime.ending import command, interruptible
from experiments.runtime.machine import Finding, examine


@dataclass(frozen=True)
class Arguments:
    """How the findings are shown."""

    json: bool = False
    """Print one JSON object instead of a table."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Examine, print, and end with status 1 where something is missing."""
    arguments = parse(Arguments, argv, "dopamine doctor", __doc__)
    with interruptible("Interrupted."):
        findings = examine()
    missing = [name for name, finding in findings.items() if finding.state == "missing"]
    if arguments.json:
        content = {name: asdict(finding) for name, finding in findings.items()}
        print(json.dumps({"ok": not missing, "missing": missing, "findings": content}, ensure_ascii=False))
    else:
        show(table(findings))
        print(f"missing: {', '.join(missing)}" if missing else "nothing is missing")
    if missing:
        raise SystemExit(1)


def table(findings: Mapping[str, Finding]) -> list[list[str]]:
    """A row for each finding; how to mend it stands below it."""
    rows = [["", "state", "what there is, and how to mend it"]]
    for name, finding in findings.items():
        rows.append([name, finding.state, finding.what + (f"\n→ {finding.fix}" if finding.fix else "")])
    return rows
