"""Success is claimed by progress that stays up; the rule claims demonstrations at their ends, and nothing else."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.success import (
    MOST_FRAMES,
    ClaimOutcome,
    ScoredCurve,
    SuccessConfig,
    SuccessDetector,
    SuccessRule,
    fit_rule,
    longest_run,
    missed_if_left_out,
)

UNREADABLE = None


def curve(*progress: float | None) -> ScoredCurve:
    values = np.array([math.nan if value is UNREADABLE else value for value in progress], np.float32)
    return ScoredCurve(values, ~np.isnan(values))


def claimed_at(rule: SuccessRule, progress: Sequence[float | None]) -> int | None:
    """Index of the frame at which the detector claims; None if it never does."""
    detector = SuccessDetector(rule)
    for index, value in enumerate(progress):
        if detector.observe(math.nan if value is UNREADABLE else value, value is not UNREADABLE):
            return index
    return None


def slowly_claimed_at(rule: SuccessRule, progress: Sequence[float | None]) -> int | None:
    """The first valid frame that ends so many valid ones at or above the threshold, each looked up from scratch."""
    for index in range(len(progress)):
        known = [value for value in progress[: index + 1] if value is not UNREADABLE]
        if progress[index] is UNREADABLE or len(known) < rule.frames:
            continue
        if all(value >= rule.threshold for value in known[-rule.frames :]):
            return index
    return None


def test_the_detector_is_the_rule_frame_by_frame() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        rule = SuccessRule(float(rng.uniform(0.3, 1.0)), int(rng.integers(1, 4)))
        progress = [None if rng.random() < 0.2 else float(rng.random()) for _ in range(12)]
        assert claimed_at(rule, progress) == slowly_claimed_at(rule, progress)


def test_an_invalid_frame_neither_counts_nor_ends_a_run_nor_claims() -> None:
    rule = SuccessRule(0.9, 2)
    assert claimed_at(rule, [0.95, UNREADABLE, UNREADABLE, 0.92]) == 3
    assert claimed_at(rule, [0.95, UNREADABLE, UNREADABLE]) is None
    assert claimed_at(rule, [0.95, 0.5, UNREADABLE, 0.95]) is None
    with pytest.raises(BadInput, match="progress = nan"):
        SuccessDetector(rule).observe(math.nan)


def test_what_is_claimed_stays_claimed() -> None:
    detector = SuccessDetector(SuccessRule(0.9, 1))
    assert [detector.observe(progress) for progress in (0.5, 0.9, 0.1)] == [False, True, True]


def random_curves(rng: np.random.Generator) -> tuple[list[ScoredCurve], list[ScoredCurve]]:
    """Demonstrations that rise to their ends, and tries that now and then come near."""

    def noisy(level: np.ndarray) -> ScoredCurve:
        valid = rng.random(len(level)) < 0.9
        valid[-1] = True
        return ScoredCurve((level + rng.uniform(0.0, 0.1, len(level))).clip(0.0, 1.0).astype(np.float32), valid)

    demonstrations = [noisy(np.linspace(0.1, rng.uniform(0.8, 0.9), 12)) for _ in range(rng.integers(1, 5))]
    return demonstrations, [noisy(rng.uniform(0.0, 0.8, 12)) for _ in range(rng.integers(0, 5))]


def test_a_fitted_rule_claims_every_demonstration_that_stays_at_its_end_and_nothing_before() -> None:
    rng = np.random.default_rng(1)
    several = 0
    for _ in range(200):
        demonstrations, tries = random_curves(rng)
        rule = fit_rule(demonstrations, tries, SuccessConfig(margin=0.05))
        ends = [shown.known[-1] for shown in demonstrations]
        assert rule.threshold == pytest.approx(min(ends) - 0.05)
        for shown in demonstrations:
            assert claimed_at(rule, list(shown.known[:-1])) is None
            assert claimed_at(rule, [*shown.known, *[shown.known[-1]] * (rule.frames - 1)]) is not None
        for failed in tries:
            assert claimed_at(rule, list(failed.known)) is None
        if rule.frames > 1:  # one frame less, and something would be claimed that must not be
            several += 1
            hasty = SuccessRule(rule.threshold, rule.frames - 1)
            early = [list(shown.known[:-1]) for shown in demonstrations] + [list(failed.known) for failed in tries]
            assert any(claimed_at(hasty, progress) is not None for progress in early)
    assert several > 20


def test_a_rule_can_be_given() -> None:
    assert fit_rule([curve(0.2, 0.9)], [], SuccessConfig(threshold=0.7, frames=3)) == SuccessRule(0.7, 3)
    assert fit_rule([], [curve(0.8, 0.9, 0.1)], SuccessConfig(threshold=0.7)) == SuccessRule(0.7, 3)
    assert fit_rule([curve(0.2, 0.9)], [], SuccessConfig(frames=2, margin=0.1)).threshold == pytest.approx(0.8)


def test_what_progress_cannot_tell_apart_is_refused_with_advice() -> None:
    stuck = curve(*[0.9] * MOST_FRAMES)
    with pytest.raises(BadInput, match=r"claims.frames = 6: failures .* stay at progress 0.850 for 5 scored frames"):
        fit_rule([curve(0.1, 0.9)], [stuck])
    with pytest.raises(BadInput, match=r"claims.margin = 0.05: train the reward model longer"):
        fit_rule([curve(0.1, 0.04)], [])
    for unusable in ([], [curve(UNREADABLE, UNREADABLE)]):
        with pytest.raises(BadInput, match="give demonstrations that the reward model can read"):
            fit_rule(unusable, [])


def test_leaving_one_out_says_what_the_rule_of_the_others_would_miss() -> None:
    assert missed_if_left_out([curve(0.9)], 0.05) is None
    assert missed_if_left_out([curve(0.9), curve(0.95), curve(0.91)], 0.05) == 0
    assert missed_if_left_out([curve(0.9), curve(0.95), curve(0.7)], 0.05) == 1


def test_the_longest_run() -> None:
    assert longest_run([], 0.5) == 0
    assert longest_run([0.6, 0.5, 0.4, 0.7], 0.5) == 2


@pytest.mark.parametrize(
    ("claimed", "success", "reached", "kinds"),
    [
        (True, True, True, (True, False, False)),
        (True, False, False, (False, True, False)),
        (True, False, True, (False, True, False)),
        (False, True, True, (False, False, True)),
        (False, False, True, (False, False, True)),
        (False, False, False, (False, False, False)),
    ],
)
def test_an_episode_is_a_true_claim_a_false_one_a_missed_success_or_none(
    claimed: bool, success: bool, reached: bool, kinds: tuple[bool, bool, bool]
) -> None:
    outcome = ClaimOutcome(claimed, success, reached)
    assert (outcome.true_claim, outcome.false_claim, outcome.missed) == kinds


@pytest.mark.parametrize(
    "settings",
    [{"threshold": 1.1}, {"threshold": math.nan}, {"frames": -1}, {"margin": 1.0}, {"tries": 0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    [name] = settings
    with pytest.raises(BadInput, match=rf"claims\.{name}"):
        SuccessConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="claims"):
        SuccessRule(0.9, 0)
