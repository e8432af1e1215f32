"""Figures by behaviour, against curves whose figures can be counted by hand."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from dopamine_rl.episodes.pauses import find_pauses, wavers
from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.behaviours import (
    behaviour_row,
    by_behaviour,
    instruction_gap,
    kind_of,
    spread,
    wrong_instructions,
)
from dopamine_rl.evaluation.figures import as_columns
from dopamine_rl.evaluation.gate import Source, behaviours, judge, judge_misled, report
from dopamine_rl.interfaces import Prompt
from dopamine_rl.metrics import kendall_tau, kendall_tau_a, spearman
from dopamine_rl.types import Demonstration, FusionConfig, HopEstimates
from reward_service.local import LocalRewardClient
from reward_service.scorer import Scorer
from tests.dopamine_rl.test_gate import REFERENCE, episode, failure, judged, success
from tests.fakes import FakeEngine

NOTHING = np.zeros(9, np.int64)
RISING = np.linspace(0.0, 0.8, 9)


@pytest.mark.parametrize("seed", range(4))
def test_tau_a_counts_all_pairs_and_none_of_the_tied(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, 12).astype(float), rng.normal(size=12)
    wanted = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i in range(12) for j in range(i)) / 66
    assert kendall_tau_a(x, y) == pytest.approx(wanted, abs=1e-12)
    assert abs(kendall_tau_a(x, y)) < abs(kendall_tau(x, y))


def test_tau_a_of_a_constant_or_of_one_value_is_0_and_of_a_long_curve_builds_no_pairs() -> None:
    assert kendall_tau_a([1, 1, 1], [0, 1, 2]) == kendall_tau_a([1], [2]) == 0.0
    assert kendall_tau_a(np.arange(100_000), np.arange(100_000)) == pytest.approx(1.0)
    with pytest.raises(BadInput, match="values"):
        kendall_tau_a([1, 2], [1])


def test_order_is_that_of_the_truth_not_of_time() -> None:
    truth = np.array([0.0, 0.2, 0.4, 0.6, 0.4, 0.2, 0.4, 0.6, 0.8])
    row = behaviour_row(0.5 * truth, truth, NOTHING)
    assert row["truth_spearman"] == pytest.approx(1.0)
    assert row["truth_kendall_a"] == pytest.approx(31 / 36)  # 3 pairs share .4, one .2, one .6
    falling = behaviour_row(RISING[::-1], RISING, NOTHING)
    assert (falling["truth_spearman"], falling["truth_kendall_a"]) == (pytest.approx(-1.0), pytest.approx(-1.0))


@pytest.mark.parametrize("truth", [None, np.full(9, 0.3)])
def test_without_a_truth_that_changes_order_is_not_known(truth: np.ndarray | None) -> None:
    row = behaviour_row(RISING, truth, NOTHING)
    assert np.isnan([row["truth_spearman"], row["truth_kendall_a"]]).all()
    assert np.isnan(behaviour_row(RISING[:5], RISING[:5], NOTHING[:5])["truth_spearman"])  # too short


def test_while_nothing_moves_progress_should_stay_and_the_truth_has_no_order() -> None:
    pauses = np.array([0, 0, 1, 1, 1, 0, 2, 2, 0])
    curve = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.6, 0.9])
    row = behaviour_row(curve, RISING, pauses)
    assert row["still_squares"] == pytest.approx(0.02 + 0.005)
    assert (row["still_frames"], row["still_pauses"]) == (5, 2)
    assert row["still_gains"] == pytest.approx(0.2 - 0.1)
    level = np.array([0.0, 0.1, 0.3, 0.3, 0.3, 0.5, 0.65, 0.65, 0.8])
    assert row["truth_spearman"] == pytest.approx(spearman(curve, level))
    assert row["truth_kendall_a"] == pytest.approx(32 / 36)  # the four pairs within the pauses count 0
    alone = behaviour_row(curve, RISING, np.array([0, 0, 1, 0, 0, 0, 0, 0, 0]))
    assert (alone["still_frames"], alone["still_pauses"]) == (0, 0)  # one frame says nothing


def test_kinds_are_told_apart_and_those_of_no_kind_left_out() -> None:
    def row(end: float, failed: bool, pauses: np.ndarray = NOTHING) -> dict[str, float]:
        return behaviour_row(RISING, RISING, pauses) | {"end": end, "failure": float(failed)}

    rest = np.array([0, 0, 0, 1, 1, 0, 0, 0, 0])
    rows = [row(0.9, True), row(0.3, True), row(1.0, False, rest), row(0.0, True)]
    found = by_behaviour(["beside", "beside", "pause", ""], as_columns(rows), 0.8)
    assert list(found) == ["pause", "beside"]
    assert asdict(found["beside"]) == {
        "episodes": 2,
        "failures": 2,
        "spearman": pytest.approx(1.0),
        "kendall_a": pytest.approx(1.0),
        "still_rmse": None,
        "still_gain": None,
        "end": pytest.approx(0.6),
        "true_end": pytest.approx(0.8),
        "false_success": 0.5,
    }
    assert found["pause"].still_rmse == pytest.approx(0.05)
    assert found["pause"].still_gain == pytest.approx(0.1)
    assert (found["pause"].failures, found["pause"].false_success) == (0, None)


@pytest.mark.parametrize(
    ("name", "stages", "kind"),
    [
        ("pause_006000", (), "pause"),
        ("drop_at_end_000001", (), "drop_at_end"),
        ("near_miss_3", (), "near_miss"),
        ("clone_1a2b_006000", (), ""),
        ("episode_001", (), ""),
        ("episode_001", ("reach", "pause", "push"), "pause"),
        ("episode_001", ("reach", "retreat", "push"), "retry"),
        ("pausing_01", (), ""),
        ("expert", (), ""),
    ],
)
def test_a_kind_is_told_by_the_name_else_by_the_stages(name: str, stages: tuple[str, ...], kind: str) -> None:
    assert kind_of(name, stages) == kind


def test_pauses_are_stages_of_this_name_without_their_ends() -> None:
    stages = ("reach", "pause", "reach", "pause")
    assert find_pauses([0, 2, 6, 8, 10], stages, 12).tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 0, 0]
    assert find_pauses([0, 5], ("reach",), 6).tolist() == [0] * 6
    assert wavers(stages)
    assert wavers(("reach", "retreat", "reach"))
    assert not wavers(("reach", "paused"))


def test_the_gap_is_what_the_words_change() -> None:
    found = instruction_gap([1.0, 0.8], [0.9, 0.3], 0.8)
    assert asdict(found) == pytest.approx(
        {"episodes": 2, "matching_end": 0.9, "mismatching_end": 0.6, "gap": 0.3, "mismatched_success": 0.5}
    )
    for wrong in ([0.5], []):
        with pytest.raises(BadInput, match="mismatching"):
            instruction_gap([1.0, 0.8], wrong, 0.8)


def test_wrong_instructions_are_those_of_other_tasks() -> None:
    tasks = [("insert", "push it in"), ("stack",), ("pull", "drag")]
    assert wrong_instructions(("push it in",), tasks) == ["stack", "pull"]
    assert wrong_instructions(("sweep",), tasks) == ["insert", "stack", "pull"]


def test_a_few_are_spread_over_all() -> None:
    assert spread(30, 4) == [0, 10, 19, 29]
    assert spread(2, 5) == [0, 1]
    assert spread(0, 5) == []


def named(shown: Demonstration, name: str, truth: list[float] | None = None) -> Demonstration:
    return replace(shown, episode_id=name, true_progress=None if truth is None else np.array(truth, np.float32))


def test_the_gate_reports_kinds_beside_its_verdict() -> None:
    to_and_fro = [0.0, 0.2, 0.4, 0.6, 0.4, 0.2, 0.4, 0.6, 0.5, 0.4]
    resting = [0.0, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.7, 0.9, 1.0]
    rest = replace(
        named(episode(resting, True), "pause_7", resting),
        keyframes=np.array([0, 3, 6, 9]),
        stages=("align", "pause", "insert"),
    )
    asked = [
        named(success(), "expert_1", np.linspace(0, 1, 12).tolist()),
        named(failure(), "near_miss_2"),
        named(episode(to_and_fro, False), "oscillate_3", to_and_fro),
        rest,
        named(failure(0.9), "clone_8"),
    ]
    sources: list[Source] = ["expert", "failure", "failure", "failure", "policy"]
    found = behaviours(judged(asked, sources=sources), 0.8)
    assert list(found) == ["expert", "pause", "oscillate", "near_miss"]
    assert found["oscillate"]["spearman"] == pytest.approx(1.0, abs=0.02)
    assert found["oscillate"]["false_success"] == 0.0
    assert found["pause"]["still_rmse"] == pytest.approx(0.0, abs=1e-4)
    assert found["near_miss"]["spearman"] is None
    assert behaviours([], 0.8) == {}
    assert report(judged(asked[:2]), 0.8, 4).behaviours == {}


class Reading(FakeEngine):
    """Sees progress under one instruction alone."""

    def estimate(self, images: list[np.ndarray], prompts: list[Prompt]) -> HopEstimates:  # type: ignore[override]
        found = super().estimate(images, prompts)
        right = np.array([prompt.instruction == "insert the peg" for prompt in prompts])
        gain, loss = np.where(right, found.gain, 0.0), np.where(right, found.loss, 1.0)
        return replace(found, gain=gain.astype(np.float32), loss=loss.astype(np.float32))


@pytest.mark.parametrize(("engine", "gap"), [(FakeEngine(), 0.0), (Reading(), 1.0)])
def test_the_gate_asks_a_few_experts_under_wrong_instructions(engine: FakeEngine, gap: float) -> None:
    client = LocalRewardClient(Scorer(engine))
    seen = judge(client, [*(success(9 + i) for i in range(8)), failure()], REFERENCE, FusionConfig())
    found = judge_misled(client, seen, REFERENCE, ["stack the cube", "pull the cube"], FusionConfig(), 0.8)
    assert found is not None
    assert found["episodes"] == 5
    assert found["gap"] == pytest.approx(gap, abs=0.02)
    assert found["mismatched_success"] == (1.0 if gap == 0.0 else 0.0)
    assert judge_misled(client, seen[-1:], REFERENCE, ["stack"], FusionConfig(), 0.8) is None
    assert judge_misled(client, seen, REFERENCE, [], FusionConfig(), 0.8) is None
