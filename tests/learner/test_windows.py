"""Transitions over several environment steps, against the slow loop of `n_step_shaping`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dopamine_rl.shaping import FULL, Shaping, n_step_shaping
from dopamine_rl.types import LabelColumns, RewardMode
from learner.config import LearnerConfig
from learner.feed import ReplayFeed
from learner.replay import ColumnarReplay, sample_mixed
from learner.rows import ReplayColumns
from learner.windows import Sampling, best_of, level_after
from tests.learner.test_replay import GAMMA, fragment

EPISODES = {"ends": (12, True), "runs out": (9, False)}


def stored(mode: RewardMode = "grm", shaping: Shaping = FULL) -> tuple[ColumnarReplay, dict[str, ReplayColumns]]:
    """Two episodes whose fragments of 3 arrive in turn; the truncated one lacks the steps 3 to 5."""
    replay = ColumnarReplay(60, 2, 1, GAMMA, mode, shaping)
    whole = {name: fragment(0, *shape, seed=i) for i, (name, shape) in enumerate(EPISODES.items())}
    for start in range(0, 12, 3):
        for name, columns in whole.items():
            part = {key: values[start : start + 3] for key, values in columns.items()}
            if len(part["actions"]) and (name, start) != ("runs out", 3):
                replay.add(part, name, start)
    return replay, whole


def expected(
    whole: dict[str, ReplayColumns], name: str, t: int, n: int, mode: RewardMode, shaping: Shaping
) -> tuple[float, int]:
    """Return and span of the window at step t, by the function that the labeller's side uses."""
    end = 3 if name == "runs out" and t < 3 else EPISODES[name][0]
    labels = (whole[name][key][t:end] for key in ("task_reward", "potential", "next_potential"))
    returns, spans = n_step_shaping(*labels, GAMMA, n, mode, shaping)
    return float(returns[0]), int(spans[0])


@pytest.mark.parametrize(
    ("mode", "shaping"),
    [
        ("grm", FULL),
        ("grm", Shaping(2.5)),
        ("oracle", Shaping(1.0, 0.5)),
        ("oracle", Shaping(0.0)),
        ("naive", FULL),
        ("sparse", FULL),
    ],
)
@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_sampled_windows_are_the_slow_loops(mode: RewardMode, shaping: Shaping, n: int) -> None:
    replay, whole = stored(mode, shaping)
    batch = sample_mixed(None, replay, 100, 0.0, np.random.default_rng(0), batches=2, sampling=Sampling(n_step=n))
    columns = {key: values.reshape(200, *values.shape[2:]) for key, values in batch.items()}
    for row in range(200):
        name = list(EPISODES)[int(columns["obs"][row, 1])]
        t = int(columns["obs"][row, 0])
        reward, span = expected(whole, name, t, n, mode, shaping)
        assert columns["rewards"][row] == np.float32(reward)
        assert columns["discounts"][row] == np.float32(GAMMA**span)
        assert columns["terminated"][row] == (name == "ends" and t + span == 12)  # what ran out of time bootstraps
        np.testing.assert_array_equal(columns["next_obs"][row], [t + span, columns["obs"][row, 1]])
        for key in ("next_potential", "next_phase"):
            assert columns[key][row] == whole[name][key][t + span - 1]
        for key in ("actions", "potential", "phase"):
            np.testing.assert_array_equal(columns[key][row], whole[name][key][t])


def test_one_step_windows_are_the_transitions() -> None:
    replay, _ = stored()
    rows = np.arange(len(replay))
    transitions, returns, discounts = replay.windows(rows, 1, replay)
    np.testing.assert_array_equal(transitions, replay.transitions(rows))
    np.testing.assert_array_equal(discounts, np.full(len(rows), GAMMA, np.float32))
    batch = replay.sample(40, np.random.default_rng(0))
    np.testing.assert_array_equal(batch["rewards"], returns[replay.draw((40,), np.random.default_rng(0))])


@pytest.mark.parametrize("capacity", [7, 8, 11])
def test_windows_survive_eviction_and_a_checkpoint(capacity: int) -> None:
    replay = ColumnarReplay(capacity, 2, 1, GAMMA, "grm")
    for start in range(0, 30, 2):
        for seed in range(2):
            replay.add(fragment(start, 2, seed=seed), str(seed), start)
    copy = ColumnarReplay(capacity, 2, 1, GAMMA, "grm")
    copy.set_state(replay.get_state())
    for each in (replay, copy):
        each.add(fragment(30, 2), "0", 30)
        transitions, _, discounts = each.windows(np.arange(capacity), 3, each)
        columns = each.layout.unpack(transitions)
        for row in range(capacity):
            seed, t = int(columns["obs"][row, 1]), int(columns["obs"][row, 0])
            span = min(3, (32 if seed == 0 else 30) - t)
            assert discounts[row] == np.float32(GAMMA**span)
            np.testing.assert_array_equal(columns["next_obs"][row], [t + span, seed])


def test_the_feed_samples_windows_of_both_buffers() -> None:
    feeds: list[Any] = []
    for n_step in (1, 4):
        config = LearnerConfig(learning_starts=1, batch_size=8, n_step=n_step)
        feeds.append(ReplayFeed(stored()[0], stored()[0], config, 0))
    one, four = (feed.draw(3) for feed in feeds)
    assert set(four) - set(one) == {"discounts"}
    assert four["discounts"].shape == four["rewards"].shape == (3, 8)
    np.testing.assert_array_equal(one["obs"], four["obs"])
    assert (four["discounts"] < one["rewards"].dtype.type(GAMMA)).any()


def line(count: int = 101, **columns: Any) -> ColumnarReplay:
    """One episode whose potential is 0, 0.01, 0.02, …"""
    replay = ColumnarReplay(count, 2, 1, GAMMA, "grm")
    level = (np.arange(count) / 100).astype(np.float32)
    labels = {"potential": level, "next_potential": level + np.float32(0.01)}
    replay.add({**fragment(0, count), **labels, **columns}, "a")
    return replay


@pytest.mark.parametrize("k", [2, 4])
def test_high_potentials_are_sampled_more_often_and_none_is_left_out(k: int) -> None:
    replay, sampling = line(100), Sampling(prefer="high_potential", prefer_candidates=k)
    rows = replay.draw((400_000,), np.random.default_rng(0), sampling)
    ratio = np.bincount(rows, minlength=100) / 4000
    share = np.arange(101) / 100  # of the rows of lower potential
    expected = 0.5 + 0.5 * 100 * np.diff(share**k)
    np.testing.assert_allclose(ratio, expected, atol=0.1)
    assert ratio.min() > 0.4


def test_rising_potentials_are_sampled_more_often_whatever_their_level() -> None:
    level = np.where(np.arange(100) < 50, 0.9, np.linspace(-0.5, 0.5, 100)).astype(np.float32)
    replay = line(100, potential=level, next_potential=np.append(level[1:], level[-1]))
    rows = replay.draw((40_000,), np.random.default_rng(0), Sampling(prefer="rising_potential", progress_window=5))
    counts = np.bincount(rows, minlength=100) / 400
    assert counts[50:95].mean() > 1.5
    assert 0.4 < counts[45:50].mean() < 0.6  # they fall
    np.testing.assert_allclose(counts[:45], 0.8, atol=0.35)


def test_without_a_potential_all_is_uniform_and_demonstrations_always_are() -> None:
    rng = np.random.default_rng(0)
    flat = line(100, potential=np.zeros(100), next_potential=np.zeros(100))
    for prefer in ("high_potential", "rising_potential"):
        counts = np.bincount(flat.draw((100_000,), rng, Sampling(prefer=prefer)), minlength=100)  # type: ignore[arg-type]
        np.testing.assert_allclose(counts, 1000, atol=160)
    high = Sampling(prefer="high_potential")
    batch = sample_mixed(line(), line(), 20_000, 0.5, rng, sampling=high)
    assert batch["potential"][:10_000].mean() == pytest.approx(0.5, abs=0.02)
    assert batch["potential"][10_000:].mean() > 0.6


def test_gains_reach_to_the_end_of_their_window() -> None:
    replay = line(10)
    np.testing.assert_allclose(replay.gains(np.arange(10), 4), [0.04] * 7 + [0.03, 0.02, 0.01], atol=1e-6)
    fresh = np.linspace(1, 0, 10).astype(np.float32)
    ones = np.ones(10, np.float32)
    replay.relabel("a", LabelColumns(0 * ones, fresh, fresh, ones.astype(bool), ones, ones, "v2"))
    assert (replay.gains(np.arange(9), 4) < 0).all()


def test_an_end_is_full_progress_where_it_was_rewarded() -> None:
    columns = {"task_reward": [1, 0, 0, 1], "next_potential": [0, 0, 0.6, 0.6], "terminated": [1, 1, 0, 0]}
    after = level_after({name: np.array(values, np.float32) for name, values in columns.items()})
    np.testing.assert_allclose(after, [1.0, 0.0, 0.6, 0.6])


def test_equal_candidates_leave_the_uniform_one() -> None:
    candidates = np.arange(12).reshape(3, 4)
    chosen = best_of(candidates, np.zeros((3, 4), np.float32), np.random.default_rng(0))
    np.testing.assert_array_equal(chosen, candidates[0])


def test_the_feed_samples_gains_for_imitation() -> None:
    config = LearnerConfig(learning_starts=1, batch_size=8, imitation=0.5, progress_window=4)
    batch = ReplayFeed(line(), line(), config, 0).draw(2)
    steps = batch["obs"][..., 0]
    np.testing.assert_allclose(batch["gains"], np.minimum(4, 101 - steps) / 100, atol=1e-6)
