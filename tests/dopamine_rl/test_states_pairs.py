"""States of a demonstration, and the balance and repeatability of training pairs."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.episodes.pairs import ZERO_WINDOW, sample_pairs
from dopamine_rl.episodes.states import frame_progress, intervals_per_segment, sample_states, state_progress
from dopamine_rl.errors import BadInput
from dopamine_rl.progress import hop, hop_bin

few = settings(max_examples=60, deadline=None)
EXAMPLE = [8, 147, 211, 286, 370, 462, 495, 574, 603, 669, 724, 840, 910, 1003, 1110, 1178, 1263]
"""Keyframes of the published example episode: 1 277 frames, 16 sub-tasks."""


@st.composite
def demonstrations(draw: st.DrawFn) -> np.ndarray:
    gaps = draw(st.lists(st.integers(1, 30), min_size=1, max_size=25))
    return np.concatenate([[0], np.cumsum(gaps)]) + draw(st.integers(0, 9))


def test_the_example_episode_gives_65_states_under_the_released_rule() -> None:
    assert intervals_per_segment(EXAMPLE, 1277, 20, "released") == 4
    states = sample_states(EXAMPLE, 1277, 20, "released")
    assert len(states) == 65
    assert set(EXAMPLE) <= set(states.tolist())
    assert intervals_per_segment(EXAMPLE, 1277, 20, "paper") == 3
    assert len(sample_states(EXAMPLE, 1277, 20)) == 49


@few
@given(demonstrations(), st.floats(1, 60), st.sampled_from(["paper", "released"]))
def test_states_are_the_frames_nearest_to_an_even_cut(keyframes: np.ndarray, per_state: float, rule: str) -> None:
    n_frames = int(keyframes[-1]) + 4
    length = n_frames if rule == "paper" else keyframes[-1] - keyframes[0]
    m = length / per_state / (len(keyframes) - 1)
    m = max(int(m) if rule == "paper" else round(m), 1)
    ideal = [start + (end - start) * i / m for start, end in pairwise(keyframes) for i in range(m + 1)]
    states = sample_states(keyframes, n_frames, per_state, rule)
    for point in ideal:
        assert min(abs(state - point) for state in states) <= 0.5 + 1e-9
    for state in states:
        assert min(abs(state - point) for point in ideal) <= 0.5 + 1e-9
    assert states[0] == keyframes[0]
    assert states[-1] == keyframes[-1]
    assert np.all(np.diff(states) > 0)


def test_segments_too_short_to_cut_keep_their_two_ends() -> None:
    assert sample_states([0, 3, 9], 10, 100.0).tolist() == [0, 3, 9]


@few
@given(demonstrations())
def test_every_stage_has_its_share_of_the_frames_progress_however_short(keyframes: np.ndarray) -> None:
    count = int(keyframes[-1]) + 3
    progress = frame_progress(keyframes, count, np.arange(count))
    np.testing.assert_allclose(progress[keyframes], np.linspace(0.0, 1.0, len(keyframes)))
    assert np.all(progress[: keyframes[0]] == 0.0)
    assert np.all(progress[keyframes[-1] :] == 1.0)
    for start, end in pairwise(keyframes):
        assert np.ptp(np.diff(progress[start : end + 1])) < 1e-9  # even within a stage


def test_progress_of_frames_is_that_of_states_where_stages_have_frames_enough() -> None:
    keyframes = [0, 8, 12, 32]
    states = sample_states(keyframes, 33, 33 / 3 / 4)  # four to a stage
    np.testing.assert_allclose(frame_progress(keyframes, 33, states), state_progress(len(states)))


def test_progress_of_states_is_even() -> None:
    assert state_progress(5).tolist() == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(BadInput):
        state_progress(1)


@pytest.mark.parametrize(
    ("keyframes", "n_frames", "per_state"),
    [([0], 9, 2), ([0, 0], 9, 2), ([3, 2], 9, 2), ([0, 9], 9, 2), ([-1, 3], 9, 2), ([0.0, 3.0], 9, 2), ([0, 3], 9, 0)],
)
def test_bad_keyframes_are_refused(keyframes, n_frames: int, per_state: float) -> None:
    with pytest.raises(BadInput):
        sample_states(keyframes, n_frames, per_state)


def test_pairs_of_the_example_fill_every_cell_evenly() -> None:
    states = sample_states(EXAMPLE, 1277, 20, "released")
    pairs = sample_pairs([states], 2000, np.random.default_rng(0))
    assert pairs.zero_hop_count == 100
    assert pairs.cell_counts.shape == (25, 4)
    assert np.all(pairs.cell_counts == 19)
    assert pairs.cell_counts.sum() + pairs.zero_hop_count == len(pairs.hop) == 2000


@few
@given(st.lists(demonstrations(), min_size=1, max_size=4), st.integers(1, 300), st.integers(0, 2**32))
def test_pairs_carry_their_true_hop(states: list[np.ndarray], n: int, seed: int) -> None:
    pairs = sample_pairs(states, n, np.random.default_rng(seed), zero_share=0.0)
    assert len(pairs.hop) == n
    expected = []
    for episode, before, after in zip(pairs.episode_index, pairs.before_index, pairs.after_index, strict=True):
        progress = dict(zip(states[episode].tolist(), state_progress(len(states[episode])), strict=True))
        assert before != after
        expected.append(float(hop(progress[int(before)], progress[int(after)])))
    assert np.allclose(pairs.hop, expected, atol=1e-6)
    assert np.array_equal(np.bincount(hop_bin(pairs.hop), minlength=25), pairs.cell_counts.sum(1))


@few
@given(st.lists(demonstrations(), min_size=1, max_size=4), st.integers(1, 300), st.integers(0, 2**32))
def test_bins_that_hold_any_pair_are_filled_evenly(states: list[np.ndarray], n: int, seed: int) -> None:
    pairs = sample_pairs(states, n, np.random.default_rng(seed))
    possible = np.zeros(25, int)
    for frames in states:
        progress = state_progress(len(frames))
        before, after = np.nonzero(~np.eye(len(frames), dtype=bool))
        possible += np.bincount(hop_bin(hop(progress[before], progress[after])), minlength=25)
    by_bin = pairs.cell_counts.sum(1)
    assert np.all(by_bin[possible == 0] == 0)
    assert np.ptp(by_bin[possible > 0]) <= 1
    for cells in pairs.cell_counts[possible >= 4]:
        assert np.ptp(cells) <= 1


def test_each_gap_quantile_of_a_hop_bin_is_drawn_from() -> None:
    """With one draw a cell, the four gaps of a bin come from the four quarters of all gaps in that bin."""
    pairs = sample_pairs([np.arange(60)], 100, np.random.default_rng(1), zero_share=0.0)
    before, after = np.nonzero(~np.eye(60, dtype=bool))
    bins, drawn_bins = hop_bin(hop(before / 59, after / 59)), hop_bin(pairs.hop)
    for b in range(25):
        there = np.sort(np.abs(after - before)[bins == b])
        drawn = np.sort(np.abs(pairs.after_index - pairs.before_index)[drawn_bins == b])
        assert len(drawn) == 4
        for i, gap in enumerate(drawn):
            quarter = there[int(np.ceil(i * len(there) / 4)) : int(np.ceil((i + 1) * len(there) / 4))]
            assert quarter[0] <= gap <= quarter[-1]


def test_a_pair_repeats_only_after_its_cell_is_used_up() -> None:
    pairs = sample_pairs([np.arange(50)], 900, np.random.default_rng(2), zero_share=0.0)
    keys = list(zip(pairs.before_index, pairs.after_index, strict=True))
    _, counts = np.unique(keys, axis=0, return_counts=True)
    assert counts.max() <= 2


def test_zero_hop_pairs_lie_close_together() -> None:
    states = np.arange(0, 4001, 100)
    pairs = sample_pairs([states, states + 7], 1000, np.random.default_rng(3), zero_share=0.5)
    zero = pairs.hop == 0
    distance = np.abs(pairs.after_index - pairs.before_index)[zero]
    assert zero.sum() == pairs.zero_hop_count == 500
    assert distance.min() >= 100 * ZERO_WINDOW[0] - 0.5
    assert distance.max() <= 100 * ZERO_WINDOW[1] + 0.5
    assert set(np.sign(pairs.after_index - pairs.before_index)[zero]) == {-1, 1}


def test_the_same_seed_gives_the_same_bits() -> None:
    states = [np.arange(0, 90, 3), np.arange(0, 40, 2)]
    first, again, other = (sample_pairs(states, 500, np.random.default_rng(seed)) for seed in (7, 7, 8))
    for name in ("episode_index", "before_index", "after_index", "hop", "cell_counts"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.before_index, other.before_index)


def test_bad_requests_for_pairs_are_refused() -> None:
    rng, states = np.random.default_rng(0), np.arange(5)
    for arguments in (([], 5), ([states[:1]], 5), ([states[::-1]], 5), ([states], 0)):
        with pytest.raises(BadInput):
            sample_pairs(*arguments, rng)
    with pytest.raises(BadInput, match="zero_share"):
        sample_pairs([states], 5, rng, 1.0)
