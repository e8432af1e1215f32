"""Transitions over several environment steps, against the slow loop of `n_step_shaping`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dopamine_rl.shaping import n_step_shaping
from dopamine_rl.types import RewardMode
from learner.config import LearnerConfig
from learner.feed import ReplayFeed
from learner.replay import ColumnarReplay, sample_mixed
from learner.rows import ReplayColumns
from tests.learner.test_replay import GAMMA, fragment

EPISODES = {"ends": (12, True), "runs out": (9, False)}


def stored(mode: RewardMode = "grm", capacity: int = 60) -> tuple[ColumnarReplay, dict[str, ReplayColumns]]:
    """Two episodes whose fragments of 3 arrive in turn; the truncated one lacks the steps 3 to 5."""
    replay = ColumnarReplay(capacity, 2, 1, GAMMA, mode)
    whole = {name: fragment(0, *shape, seed=i) for i, (name, shape) in enumerate(EPISODES.items())}
    for start in range(0, 12, 3):
        for name, columns in whole.items():
            part = {key: values[start : start + 3] for key, values in columns.items()}
            if len(part["actions"]) and (name, start) != ("runs out", 3):
                replay.add(part, name, start)
    return replay, whole


def expected(whole: dict[str, ReplayColumns], name: str, t: int, n: int, mode: RewardMode) -> tuple[float, int]:
    """Return and span of the window at step t, by the function that the labeller's side uses."""
    end = 3 if name == "runs out" and t < 3 else EPISODES[name][0]
    labels = (whole[name][key][t:end] for key in ("task_reward", "potential", "next_potential"))
    returns, spans = n_step_shaping(*labels, GAMMA, n, mode)
    return float(returns[0]), int(spans[0])


@pytest.mark.parametrize("mode", ["grm", "oracle", "naive", "sparse"])
@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_sampled_windows_are_the_slow_loops(mode: RewardMode, n: int) -> None:
    replay, whole = stored(mode)
    batch = sample_mixed(None, replay, 100, 0.0, np.random.default_rng(0), batches=2, n_step=n)
    columns = {key: values.reshape(200, *values.shape[2:]) for key, values in batch.items()}
    for row in range(200):
        name = list(EPISODES)[int(columns["obs"][row, 1])]
        t = int(columns["obs"][row, 0])
        reward, span = expected(whole, name, t, n, mode)
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
    transitions, returns, discounts = replay.windows(rows, 1, GAMMA, "grm")
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
        transitions, _, discounts = each.windows(np.arange(capacity), 3, GAMMA, "grm")
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
