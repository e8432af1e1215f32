"""Checks an environment in a process of its own, where it may crash or hang, and is found by its name as in a run.

python -m actors.contract.check NAME KEYWORDS STEPS FILE     writes findings, a line of JSON each
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

from actors.contract.finding import ContractFinding
from actors.contract.findings import Findings, OnActivity, Stopped
from actors.contract.single import check_single
from actors.contract.vector import check_vector
from dopamine_rl.callables import load_callable, read_keywords

STDERR = 2
"""File descriptor of standard error."""
DEADLINE_S = 120.0
"""Seconds that a check takes at most."""


def check_environment(
    make: Callable[[], Any], steps: int = 60, on_activity: OnActivity = lambda text: None
) -> list[ContractFinding]:
    """Make an environment and play some episodes of random actions.

    Args:
        make: makes the environment; a VectorEnv is checked for VectorProgressReward.
        steps: most environment steps of an episode.
        on_activity: called before every call of the environment.
    """
    findings = Findings(on_activity)
    try:
        with findings.calling("making the environment"):
            env = make()
        if isinstance(env, VectorEnv):
            check_vector(env, findings, steps)
        elif isinstance(env, gymnasium.Env):
            check_single(env, findings, steps)
        else:
            findings.add("is a gymnasium.Env", "broken", type(env).__name__, "return a gymnasium.Env")
            return findings.all
        with findings.calling("close()"):
            env.close()
        findings.add("does not raise", "ok", "reset, step and close returned")
    except Stopped:
        pass
    return findings.all


def examine(name: str, keywords: str = "{}", steps: int = 60, deadline_s: float = DEADLINE_S) -> list[ContractFinding]:
    """Check the environment that MODULE:CALLABLE makes; what it prints goes to standard error.

    Args:
        keywords: of the callable, a JSON object.
        steps: most environment steps of an episode.
        deadline_s: after which it counts as hung.
    Raises:
        BadInput: there is no such callable, or the keywords are no JSON object.
    """
    load_callable("MODULE:CALLABLE", name)
    read_keywords("--kwargs", keywords)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "findings.jsonl"
        file.touch()
        command = [sys.executable, "-m", __name__, name, keywords, str(steps), str(file)]
        with subprocess.Popen(command, stdout=STDERR) as process:
            try:
                status: int | None = process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                status = None
                process.kill()
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    found = [ContractFinding(**line["finding"]) for line in lines if "finding" in line]
    return found if found else [_lost(status, [line["doing"] for line in lines], deadline_s)]


def _lost(status: int | None, doing: list[str], deadline_s: float) -> ContractFinding:
    """The finding of a process that did not come to its end."""
    last = doing[-1] if doing else "importing the module"
    if status is None:
        seen = f"not done after {deadline_s:g} s, in: {last}"
        return ContractFinding("does not hang", "broken", seen, "give every wait a limit; a slow one: --deadline-s")
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    seen = f"the process ended with {how}, in: {last}"
    return ContractFinding("does not crash", "broken", seen, "mend what it calls there")


def main(name: str, keywords: str, steps: str, path: str) -> None:
    """Check in this process."""
    with Path(path).open("a", encoding="utf-8", buffering=1) as file:

        def write(**line: Any) -> None:
            file.write(json.dumps(line) + "\n")

        make, arguments = load_callable("MODULE:CALLABLE", name), read_keywords("--kwargs", keywords)
        findings = check_environment(lambda: make(**arguments), int(steps), lambda text: write(doing=text))
        for finding in findings:
            write(finding=asdict(finding))


if __name__ == "__main__":
    main(*sys.argv[1:])
