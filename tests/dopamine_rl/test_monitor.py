"""The monitor warns when the reward model and the simulator part, once, and says when they agree again."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.evaluation.monitor import ShadowMonitor
from dopamine_rl.success import ClaimOutcome


def fill(monitor: ShadowMonitor, successes: Sequence[float], failures: Sequence[float]) -> None:
    for final in successes:
        monitor.add(final, True)
    for final in failures:
        monitor.add(final, False)


def test_a_model_that_tells_them_apart_gives_no_warning() -> None:
    monitor = ShadowMonitor()
    fill(monitor, [0.95] * 10, [0.4] * 25)
    assert monitor.warning() is None
    assert monitor.summary() == {
        "episodes": 35,
        "without_value": 0,
        "window_successes": 10,
        "window_failures": 25,
        "auc": 1.0,
        "false_success": 0.0,
        "success_end": pytest.approx(0.95),
        "failure_end": pytest.approx(0.4),
        "warnings": 0,
        "open": [],
    }


def test_a_blind_model_is_named_with_its_numbers() -> None:
    monitor = ShadowMonitor()
    fill(monitor, [0.6, 0.62, 0.58, 0.61], [0.4] * 8 + [0.7] * 8)
    warning = monitor.warning()
    assert warning is not None
    assert "AUC of 4 successes against 16 failures is 0.50 (bound 0.8)" in warning
    assert "last 20 episodes" in warning
    assert "failures end at progress" not in warning
    assert monitor.summary()["open"] == ["auc"]


def test_claimed_successes_are_named_also_where_nothing_succeeds() -> None:
    monitor = ShadowMonitor()
    fill(monitor, [], [0.3] * 15 + [0.85] * 5)
    warning = monitor.warning()
    assert warning is not None
    assert "25 % of 20 failures end at progress 0.8 or above (bound 20 %)" in warning
    assert monitor.summary()["auc"] is None


def test_successes_that_end_below_failures_are_named() -> None:
    monitor = ShadowMonitor(least_auc=0.0)
    fill(monitor, [0.3] * 5, [0.5] * 20)
    warning = monitor.warning()
    assert warning is not None
    assert "successes end at 0.30 on average, failures at 0.50" in warning
    assert "AUC" not in warning


def test_few_episodes_say_nothing() -> None:
    monitor = ShadowMonitor(window=50, least=20)
    fill(monitor, [0.1] * 3, [0.9] * 16)
    assert monitor.warning() is None
    monitor.add(0.9, False)
    assert monitor.warning() is not None
    few_successes = ShadowMonitor()
    fill(few_successes, [0.1] * 2, [0.5] * 30)
    assert few_successes.warning() is None
    few_failures = ShadowMonitor()
    fill(few_failures, [0.1] * 30, [0.95] * 2)
    assert few_failures.warning() is None


def test_a_warning_comes_when_it_starts_when_it_gets_worse_and_when_it_is_over() -> None:
    monitor = ShadowMonitor(window=40, least=20)

    def failures(claimed: int) -> str | None:
        fill(monitor, [], [0.9] * claimed + [0.2] * (40 - claimed))
        return monitor.warning()

    assert failures(8) is None  # 20 %, the bound itself
    assert "25 %" in (failures(10) or "")
    assert monitor.warning() is None
    assert failures(10) is None
    assert failures(13) is None  # not much worse
    worse = failures(20) or ""
    assert "50 %" in worse
    assert "recovered" not in worse
    assert failures(12) is None
    assert failures(7) is None  # within the bound, but hardly
    over = failures(4) or ""
    assert over.startswith("recovered: 10 % of 40 failures")
    assert monitor.summary()["open"] == []
    assert monitor.summary()["warnings"] == 2
    assert "25 %" in (failures(10) or "")


def test_what_can_no_longer_be_told_stays_open_and_silent() -> None:
    monitor = ShadowMonitor(window=20, least=20)
    fill(monitor, [], [0.9] * 20)
    assert monitor.warning() is not None
    fill(monitor, [0.9] * 20, [])
    assert monitor.warning() is None
    assert monitor.summary()["open"] == ["false_success"]


def test_only_the_window_counts() -> None:
    monitor = ShadowMonitor(window=20, least=10)
    fill(monitor, [0.1] * 50, [0.9] * 50)
    fill(monitor, [0.9] * 10, [0.1] * 10)
    assert monitor.warning() is None
    summary = monitor.summary()
    assert (summary["episodes"], summary["window_successes"], summary["window_failures"]) == (120, 10, 10)


def test_an_episode_without_a_value_is_counted_and_left_out() -> None:
    monitor = ShadowMonitor()
    monitor.add(math.nan, True)
    monitor.add(np.float32(0.5), np.bool_(False))  # type: ignore[arg-type]
    summary = json.loads(json.dumps(monitor.summary(), allow_nan=False))
    assert (summary["episodes"], summary["without_value"], summary["success_end"]) == (1, 1, None)
    for bad in (1.2, -0.1, math.inf):
        with pytest.raises(BadInput, match="final_progress"):
            monitor.add(bad, False)


@pytest.mark.parametrize(
    "bad",
    [
        {"least": 0},
        {"window": 10},
        {"window": 3, "least": 2},
        {"success_threshold": 0.0},
        {"least_auc": 0.99},
        {"most_false_success": 0.0},
        {"least_auc": math.nan},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"monitor.{next(iter(bad))}"):
        ShadowMonitor(**bad)  # type: ignore[arg-type]


def test_it_goes_on_from_its_state() -> None:
    whole, first, second = ShadowMonitor(), ShadowMonitor(), ShadowMonitor()
    for monitor in (whole, first):
        fill(monitor, [0.3] * 12, [0.9] * 12)
        assert monitor.warning() is not None
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for monitor in (whole, second):
        fill(monitor, [0.9] * 5, [math.nan, 0.95])
    assert second.warning() == whole.warning()
    assert second.summary() == whole.summary()


def claims(monitor: ShadowMonitor, right: int, false: int, missed: int) -> None:
    for count, outcome in (
        (right, ClaimOutcome(True, True, True)),
        (false, ClaimOutcome(True, False, False)),
        (missed, ClaimOutcome(False, True, True)),
    ):
        for _ in range(count):
            monitor.add(0.9, outcome.success, outcome)


def test_it_says_when_claims_and_truth_part_and_agree_again() -> None:
    monitor = ShadowMonitor()
    claims(monitor, right=40, false=2, missed=1)
    assert monitor.warning() is None
    claims(monitor, right=0, false=6, missed=0)
    warning = monitor.warning()
    assert warning is not None
    assert "8 of 49 episodes ended by a false claim of success (bound 10 %)" in warning
    assert "missed" not in warning
    restored = ShadowMonitor()
    restored.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    assert restored.summary() == monitor.summary()
    claims(restored, right=0, false=0, missed=10)
    told = restored.warning()
    assert told is not None
    assert "were successes that nobody claimed" in told
    claims(restored, right=50, false=0, missed=0)
    assert "recovered" in (restored.warning() or "")
    counts = {"ended_episodes": 109, "claims": 98, "false_claims": 8, "missed_successes": 11}
    assert counts.items() <= restored.summary().items()


def test_claims_are_counted_where_no_frame_has_a_value() -> None:
    monitor = ShadowMonitor()
    monitor.add(math.nan, True, ClaimOutcome(False, True, True))
    assert (monitor.summary()["without_value"], monitor.summary()["missed_successes"]) == (1, 1)
