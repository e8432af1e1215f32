"""Checks this machine and says how to fix what is missing.

    dopamine doctor
    dopamine doctor --json

Checks Python and its packages, rendering, cores, memory, disk, Ray, GPU, tokens and the locale. Changes nothing.
`missing` means that something does not work without it; `optional` means that there is a fallback.
Exit status 1: something is missing.
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
    """The output format."""

    json: bool = False
    """Print one JSON object instead of a table."""


@command
def main(argv: Sequence[str] | None = None) -> None:
    """Check the machine, print the findings, and exit with status 1 if something is missing."""
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
    """One row per finding, with its fix on the next line."""
    rows = [["", "state", "finding and fix"]]
    for name, finding in findings.items():
        rows.append([name, finding.state, finding.what + (f"\n→ {finding.fix}" if finding.fix else "")])
    return rows
