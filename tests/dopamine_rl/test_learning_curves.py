import math

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.learning_curves import LearningCurve, area, area_difference, steps_ratio


def curve(rates, every=1000, episodes=10):
    """A curve whose first `rate` share of episodes succeed at each point."""
    outcomes = np.array([[i < round(rate * episodes) for i in range(episodes)] for rate in rates])
    return LearningCurve(tuple(range(0, every * len(rates), every)), outcomes)


def test_an_area_is_the_trapezoids_over_the_budget():
    rising = curve([0.0, 1.0, 1.0])
    assert rising.areas(2000).mean() == pytest.approx(0.75)
    assert rising.areas(1000).mean() == pytest.approx(0.5)
    assert rising.areas(500).mean() == pytest.approx(0.25)  # between two points: by interpolation
    irregular = LearningCurve((0, 1010, 2030), rising.outcomes)
    slow = sum(0.5 * 1010 if t == 0 else 1020 for t in (0, 1)) / 2030
    assert irregular.areas(2030).mean() == pytest.approx(slow)


@pytest.mark.parametrize("budget", [0, 2001])
def test_a_budget_beyond_the_curve_is_refused(budget):
    with pytest.raises(BadInput, match="budget"):
        curve([0, 1, 1]).areas(budget)


@pytest.mark.parametrize(
    ("steps", "shape"), [((0,), (1, 3)), ((0, 0), (2, 3)), ((5, 10), (2, 3)), ((0, 5), (3, 3)), ((0, 5), (2, 0))]
)
def test_a_curve_is_whole(steps, shape):
    with pytest.raises(BadInput, match="curve"):
        LearningCurve(steps, np.zeros(shape, bool))


def test_a_level_counts_from_two_points_in_a_row():
    assert curve([0.1, 0.5, 0.2, 0.6, 0.5, 0.4]).steps_to(0.5) == 3000
    assert curve([0.1, 0.2, 0.6]).steps_to(0.5) == math.inf  # the last point alone does not


def test_steps_spent_before_training_delay_a_curve():
    curve = LearningCurve((0, 100, 200), np.array([[0, 1], [1, 1], [1, 1]], bool))
    later = curve.delayed(50)
    assert later.environment_steps == (0, 50, 150, 250)
    assert later.success.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert curve.delayed(0) is curve


def test_the_longest_stretch_below_the_clone():
    assert curve([0.3, 0.3, 0.5]).longest_below_start() == 0
    assert curve([0.3, 0.1, 0.2, 0.4, 0.1, 0.5]).longest_below_start() == 2000
    assert curve([0.3, 0.1, 0.2]).longest_below_start() == 1000  # to the end, which is at the last point


def test_a_paired_difference_is_clear_where_every_seed_agrees():
    better = [curve([0.0, r, 1.0]) for r in (0.6, 0.7, 0.8)]
    worse = [curve([0.0, r, 0.5]) for r in (0.1, 0.2, 0.3)]
    difference = area_difference(better, worse, 2000)
    assert difference.value == pytest.approx(0.5 * 0.5 + 0.25 * 0.5, abs=1e-9)
    assert 0 < difference.low <= difference.value <= difference.high
    same = area_difference(better, better, 2000)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    alone = area(better, 2000)
    assert alone.low < alone.value < alone.high


def test_the_bootstrap_draws_seeds_and_episodes():
    """Against a slow loop; one seed alone leaves the spread of its episodes."""
    curves = [curve([0.0, r, r]) for r in (0.2, 0.9)]
    rng = np.random.default_rng(5)
    means = []
    for _ in range(4000):
        drawn = rng.integers(2, size=2)
        means.append(np.mean([rng.choice(curves[s].areas(2000), 10).mean() for s in drawn]))
    figure = area(curves, 2000)
    assert [figure.low, figure.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    one = area(curves[:1], 2000)
    assert one.high - one.low < figure.high - figure.low


def test_seeds_and_episodes_must_match():
    with pytest.raises(BadInput, match="baseline"):
        area_difference([curve([0, 1])], [], 1000)
    with pytest.raises(BadInput, match="same unseen episodes"):
        area_difference([curve([0, 1])], [curve([0, 1], episodes=5)], 1000)


def test_a_level_never_reached_is_not_a_number():
    fast, slow, never = curve([0, 0.5, 0.6, 0.6]), curve([0, 0, 0.5, 0.6]), curve([0, 0, 0, 0])
    assert steps_ratio([fast], [slow], 0.5).value == 0.5
    bound = steps_ratio([fast], [never], 0.5)
    assert (bound.value, bound.at_most) == (pytest.approx(1000 / 3000), True)
    assert math.isnan(steps_ratio([never], [slow], 0.5).value)
    assert math.isnan(steps_ratio([never], [never], 0.5).value)
