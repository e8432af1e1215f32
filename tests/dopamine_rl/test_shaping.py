"""Shaping: held potentials, telescoping, ends, and the success detector."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.progress import FoldState, fold
from dopamine_rl.shaping import (
    held_potential,
    n_step_shaping,
    next_potentials,
    phase,
    shaped_reward,
)
from dopamine_rl.types import FusionConfig

few = settings(max_examples=150, deadline=None)
unit = st.floats(0, 1, width=32)
gammas = st.floats(0.5, 1.0)


@st.composite
def scored_fragments(draw: st.DrawFn) -> tuple[int, list[int], list[float], float]:
    """T, times and progress of the scored frames (any pattern, also none), and Φ at the start."""
    T = draw(st.integers(0, 25))
    times = sorted(draw(st.sets(st.integers(0, T), max_size=T + 1)))
    return T, times, draw(st.lists(unit, min_size=len(times), max_size=len(times))), draw(unit)


@st.composite
def labelled_episodes(draw: st.DrawFn):
    """An episode scored at some stride with some answers invalid: task rewards, potentials [T + 1], terminated."""
    T, stride = draw(st.integers(1, 25)), draw(st.integers(1, 7))
    times = list(range(stride, T + 1, stride))
    gain = np.array(draw(st.lists(unit, min_size=3 * len(times), max_size=3 * len(times)))).reshape(-1, 3)
    valid = np.array(draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times))), bool)
    folded, _ = fold(FoldState(), gain, (1 - gain) / 2, valid, FusionConfig())
    rewards = np.array(draw(st.lists(st.floats(-1, 1, width=32), min_size=T, max_size=T)))
    return rewards, held_potential(times, folded.progress, T, 0.0), draw(st.booleans())


def slow_potential(T: int, times: list[int], progress: list[float], start: float) -> list[float]:
    potential = []
    for t in range(T + 1):
        value = start
        for time, score in zip(times, progress, strict=True):
            if time <= t:
                value = score
        potential.append(value)
    return potential


@few
@given(scored_fragments())
def test_held_potential_equals_the_slow_loop(fragment) -> None:
    T, times, progress, start = fragment
    potential = held_potential(times, progress, T, start)
    assert potential.dtype == np.float32
    assert potential.tolist() == slow_potential(T, times, progress, start)


@few
@given(scored_fragments(), st.data())
def test_a_potential_never_uses_a_later_frame(fragment, data) -> None:
    T, times, progress, start = fragment
    t = data.draw(st.integers(0, T))
    changed = [1 - value if time > t else value for time, value in zip(times, progress, strict=True)]
    before, after = held_potential(times, progress, T, start), held_potential(times, changed, T, start)
    assert np.array_equal(before[: t + 1], after[: t + 1])


def test_phase_counts_from_the_last_scored_frame() -> None:
    assert phase([0, 4, 8], 9, 4).tolist() == [0, 0.25, 0.5, 0.75, 0, 0.25, 0.5, 0.75, 0, 0.25]
    assert phase([1, 5], 6, 4, start=3).tolist() == [0.75, 0, 0.25, 0.5, 0.75, 0, 0.25]
    assert phase([], 2, 4, start=1).tolist() == [0.25, 0.5, 0.75]
    with pytest.raises(BadInput, match="every 4"):
        phase([0, 5], 6, 4)
    with pytest.raises(BadInput, match="stride"):
        phase([0], 1, 0)


@pytest.mark.parametrize("times", [[1, 1], [2, 1], [-1], [4], [0.5], [[1]]])
def test_times_must_increase_within_the_fragment(times) -> None:
    with pytest.raises(BadInput, match="score_times"):
        held_potential(times, np.zeros(np.shape(times)), 3, 0.0)


def test_potentials_must_be_progress() -> None:
    for progress, start in (([math.nan], 0.0), ([1.5], 0.0), ([0.5], math.inf), ([0.5, 0.6], 0.0)):
        with pytest.raises(BadInput):
            held_potential([1], progress, 3, start)


def test_termination_zeroes_the_last_potential_and_truncation_keeps_it() -> None:
    potential = np.float32([0.1, 0.2, 0.9])
    assert next_potentials(potential, terminated=True).tolist() == [potential[1], 0]
    assert next_potentials(potential, terminated=False).tolist() == potential[1:].tolist()
    assert potential[-1] == np.float32(0.9)


def test_each_mode_pays_its_formula() -> None:
    def pay(mode: str) -> float:
        return shaped_reward([1.0], [0.5], [0.75], 0.9, mode)[0]

    assert pay("grm") == pay("oracle") == pytest.approx(1 + 0.9 * 0.75 - 0.5)
    assert pay("naive") == pytest.approx(1 + 0.75 - 0.5)
    assert pay("sparse") == 1


def test_shaping_is_computed_from_what_the_columns_store() -> None:
    rng = np.random.default_rng(0)
    task, before, after = rng.random((3, 1000))
    exact = shaped_reward(task, before, after, 0.99, "grm")
    stored = shaped_reward(np.float32(task), np.float32(before), np.float32(after), 0.99, "grm")
    assert exact.dtype == np.float32
    assert np.array_equal(exact, stored)
    assert exact[:5].tolist() == shaped_reward(task[:5], before[:5], after[:5], 0.99, "grm").tolist()


def test_bad_rewards_are_refused() -> None:
    for task, before, gamma, mode in (
        ([math.nan], [0.5], 0.9, "sparse"),
        ([0.0], [math.inf], 0.9, "grm"),
        ([0.0], [0.5], 0.0, "grm"),
        ([0.0], [0.5], math.nan, "grm"),
        ([0.0], [0.5], 0.9, "shaped"),
        ([0.0, 0.0], [0.5], 0.9, "grm"),
    ):
        with pytest.raises(BadInput):
            shaped_reward(task, before, before, gamma, mode)


@few
@given(labelled_episodes(), gammas, st.data())
def test_shaping_telescopes_over_any_window(episode, gamma: float, data) -> None:
    """For any stride, cut, pattern of invalid answers and kind of end: Σ γ^i F_{t+i} = γ^m Φ_{t+m} − Φ_t."""
    rewards, potential, terminated = episode
    after = next_potentials(potential, terminated)
    shaping = shaped_reward(np.zeros(len(rewards)), potential[:-1], after, gamma, "grm").astype(float)
    t = data.draw(st.integers(0, len(rewards) - 1))
    m = data.draw(st.integers(1, len(rewards) - t))
    total = sum(gamma**i * shaping[t + i] for i in range(m))
    ends = terminated and t + m == len(rewards)
    assert total == pytest.approx(gamma**m * (0.0 if ends else potential[t + m]) - potential[t], abs=1e-5)


@few
@given(labelled_episodes(), gammas, st.integers(1, 30))
def test_n_step_returns_follow_the_formula_with_the_real_span(episode, gamma: float, n: int) -> None:
    rewards, potential, terminated = episode
    after = next_potentials(potential, terminated)
    returns, spans = n_step_shaping(rewards, potential[:-1], after, gamma, n, "grm")
    for t in range(len(rewards)):
        m = min(n, len(rewards) - t)
        gold = sum(gamma**i * rewards[t + i] for i in range(m))
        assert spans[t] == m
        assert returns[t] == pytest.approx(gold + gamma**m * after[t + m - 1] - potential[t], abs=1e-4)


def test_n_step_returns_of_the_other_modes_are_sums_of_their_rewards() -> None:
    rng = np.random.default_rng(1)
    task, before, after = rng.random((3, 7))
    for mode in ("naive", "sparse"):
        rewards = shaped_reward(task, before, after, 0.9, mode)
        returns, _ = n_step_shaping(task, before, after, 0.9, 3, mode)
        expected = [sum(0.9**i * rewards[t + i] for i in range(min(3, 7 - t))) for t in range(7)]
        assert returns == pytest.approx(expected, abs=1e-5)
    with pytest.raises(BadInput, match="n = 0"):
        n_step_shaping(task, before, after, 0.9, 0, "grm")
