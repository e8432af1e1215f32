"""The checker of environments, on one that keeps the contract and on others that break one rule each."""

from __future__ import annotations

from typing import Any

import pytest

from actors.contract.check import check_environment, examine
from actors.contract.findings import ContractFinding
from tests.actors import broken_envs as envs

MODULE = "tests.actors.broken_envs"


def states(findings: list[ContractFinding]) -> dict[str, list[str]]:
    """Names of the rules by state."""
    return {state: [f.rule for f in findings if f.state == state] for state in ("ok", "note", "broken")}


@pytest.mark.parametrize("gives", ["observation", "infos"])
def test_an_environment_that_keeps_the_contract_breaks_no_rule(gives: str) -> None:
    findings = check_environment(lambda: envs.Good(gives=gives))
    assert states(findings)["broken"] == states(findings)["note"] == []
    assert len(findings) == 13
    assert "ms per step" in next(f.seen for f in findings if f.rule == "speed")


@pytest.mark.parametrize(
    ("make", "rule", "seen"),
    [
        (envs.Old, "steps", "step 1 of episode 0 returns 4 values"),
        (envs.NoNumber, "steps", "reward nan at step 1 of episode 0"),
        (envs.NoFlag, "steps", "terminated None at step 1"),
        (envs.Words, "success", "info['success'] = 'yes' at step 1"),
        (envs.Infinite, "observations", "proprioception[0] is not finite at step 1"),
        (envs.Shrinking, "observations", "front is uint8 (4, 8, 3), not uint8 (8, 8, 3)"),
        (envs.Partial, "observations", "observation has no proprioception"),
        (envs.Returning, "nothing resets by itself", "info has final_observation at step"),
        (envs.resetting, "nothing resets by itself", "the environment is in Autoreset"),
        (envs.Floats, "pictures", "info['scored_views'] = float64 at reset(seed=1)"),
        (lambda: envs.Good(gives="infos", stride=3), "pictures", "info['scored_views'] is missing at step 1"),
        (envs.Discretely, "action space", "action_space = Discrete(2)"),
        (envs.Unbounded, "action space", "action_space = Box"),
        (envs.Flat, "observation space", "observation_space = Box"),
        (envs.Unseeded, "seeds", "reset(seed=7) gives two different observations"),
        (envs.OldReset, "resets", "reset(seed=0) returns dict"),
        (envs.NoOptions, "does not raise", "unexpected keyword argument 'options'"),
        (envs.Raising, "does not raise", "RuntimeError: the gripper is stuck"),
        (lambda: 7, "is a gymnasium.Env", "int"),
        (lambda: 1 / 0, "does not raise", "making the environment: ZeroDivisionError"),
    ],
)
def test_each_broken_rule_is_named_with_its_place_and_a_fix(make: Any, rule: str, seen: str) -> None:
    findings = check_environment(make)
    assert states(findings)["broken"] == [rule]
    [finding] = [finding for finding in findings if finding.state == "broken"]
    assert seen in finding.seen
    assert finding.fix


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: envs.Good(gives="nowhere"), "pictures"),
        (envs.GoesOn, "success"),
        (lambda: envs.Good(horizon=1000), "ends"),
        (envs.Reaching, "seeds"),
    ],
)
def test_what_is_worth_knowing_breaks_nothing(make: Any, rule: str) -> None:
    findings = states(check_environment(make, steps=3))
    assert findings["broken"] == []
    assert rule in findings["note"]


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP", "DISABLED"])
@pytest.mark.parametrize("gives", ["observation", "infos"])
def test_vectors_of_environments_keep_the_contract_in_every_reset_mode(mode: str, gives: str) -> None:
    findings = check_environment(lambda: envs.vector(mode, gives))
    assert states(findings)["broken"] == []
    assert mode in [finding.seen for finding in findings]


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_vectors_may_speak_torch(mode: str) -> None:
    assert states(check_environment(lambda: envs.Tensors(mode)))["broken"] == []


@pytest.mark.parametrize("make", [envs.Nameless, envs.Forgetful])
def test_a_vector_that_does_not_say_how_episodes_end_is_named(make: Any) -> None:
    assert states(check_environment(make))["broken"] == ["autoreset"]


def test_a_crash_and_a_hang_are_findings_with_a_place() -> None:
    [crash] = examine(f"{MODULE}:Crashing")
    assert (crash.rule, crash.state) == ("does not crash", "broken")
    assert crash.seen == "the process ended with SIGABRT, in: step 1 of episode 0"
    [hang] = examine(f"{MODULE}:Hanging", deadline_s=3.0)
    assert (hang.rule, hang.state) == ("does not hang", "broken")
    assert "not done after 3 s, in: " in hang.seen
