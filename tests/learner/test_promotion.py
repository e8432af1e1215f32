"""Own episodes that join the demonstrations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.shaping import Shaping
from dopamine_rl.types import LabelColumns, RewardMode
from learner.config import LearnerConfig
from learner.feed import ReplayFeed
from learner.replay import ColumnarReplay
from learner.rows import ReplayColumns
from tests.learner.test_replay import GAMMA, fragment


def episode(seed: int, count: int, final: float, won: bool = False) -> ReplayColumns:
    """An episode whose held potential rises to `final`; one that was won is rewarded and terminated."""
    level = np.linspace(0, final, count + 1).astype(np.float32)
    after = np.append(level[1:-1], 0.0 if won else final).astype(np.float32)
    reward = np.zeros(count, np.float32)
    reward[-1] = won
    labels = {"task_reward": reward, "potential": level[:-1], "next_potential": after}
    return {**fragment(0, count, terminated=won, seed=seed), **labels}


def feed(promote: int = 3, mode: RewardMode = "grm", demonstrations: int = 4, capacity: int = 100) -> ReplayFeed:
    """Demonstrations of 10 steps; their potentials before the last step are 0.81, 0.72, 0.63, 0.54."""
    demo = ColumnarReplay(10 * demonstrations, 2, 1, GAMMA, mode) if demonstrations else None
    for i in range(demonstrations):
        assert demo is not None
        demo.add(episode(100 + i, 10, 0.9 - 0.1 * i, won=True), f"demo_{i}", version="v1")
    config = LearnerConfig(learning_starts=1, batch_size=8, promote=promote)
    return ReplayFeed(ColumnarReplay(capacity, 2, 1, GAMMA, mode, Shaping(2.0)), demo, config, 0)


def play(fed: ReplayFeed, name: str, *args: Any, **kwargs: Any) -> None:
    fed.online.add(episode(*args, **kwargs), name, version="v1")
    fed.finish(name)


def test_the_best_join_and_the_worst_of_them_leaves() -> None:
    fed = feed(promote=2)
    play(fed, "near", 1, 8, 0.7)
    assert list(fed.promoted) == ["near"]
    play(fed, "far", 2, 8, 0.3)  # below the lower quartile, 0.6075
    assert list(fed.promoted) == ["near"]
    play(fed, "slow", 3, 9, 0.4, won=True)
    play(fed, "quick", 4, 5, 0.4, won=True)
    assert list(fed.promoted) == ["quick", "slow"]
    assert fed.demo is not None
    assert fed.demo.episodes == {**{f"demo_{i}": "v1" for i in range(4)}, "slow": "v1", "quick": "v1"}
    assert len(fed.demo) == fed.demo.capacity == 40 + 9 + 5
    assert fed.demo.shaping == fed.online.shaping == Shaping(2.0)
    stored, own = fed.demo.columns(fed.demo.rows("quick")), fed.online.columns(fed.online.rows("quick"))
    assert all((stored[key] == own[key]).all() for key in stored)
    assert set(fed.draw(40)["obs"][..., :4, 1].ravel()) == {3, 4, 100, 101, 102, 103}


def test_a_learner_without_a_potential_promotes_rewarded_episodes_alone() -> None:
    fed = feed(mode="sparse")
    play(fed, "high", 1, 8, 1.0)
    assert not fed.promoted
    play(fed, "won", 2, 8, 0.0, won=True)
    assert list(fed.promoted) == ["won"]


def test_rewards_on_the_way_do_not_make_a_failure_one_of_the_best() -> None:
    """A dense reward pays at every step."""
    fed = feed(mode="dense")
    dense = episode(1, 8, 0.0)
    fed.online.add({**dense, "task_reward": np.full(8, 0.5, np.float32)}, "hovers")
    fed.finish("hovers")
    assert not fed.promoted
    play(fed, "won", 2, 8, 0.0, won=True)
    assert list(fed.promoted) == ["won"]


def test_without_recorded_demonstrations_own_successes_become_them() -> None:
    fed = feed(demonstrations=0)
    play(fed, "high", 1, 8, 1.0)
    assert fed.demo is None
    play(fed, "won", 2, 8, 1.0, won=True)
    assert fed.demo is not None
    assert fed.demo.episodes == {"won": "v1"}


def test_none_join_unless_asked_for() -> None:
    fed = feed(promote=0)
    before = fed.demo
    play(fed, "won", 1, 8, 1.0, won=True)
    assert not fed.promoted
    assert fed.demo is before


def test_only_whole_episodes_join() -> None:
    fed = feed(capacity=12)
    columns = episode(1, 9, 0.9, won=True)
    for start in (0, 6):  # the steps 3 to 5 were lost
        fed.online.add({key: values[start : start + 3] for key, values in columns.items()}, "gap", start)
    fed.finish("gap")
    fed.online.add(episode(2, 8, 0.9, won=True), "evicted")
    fed.online.add(episode(3, 6, 0.1), "newer")
    fed.finish("evicted")
    fed.finish("never seen")
    assert not fed.promoted


def test_an_episode_that_left_the_online_buffer_stays_a_demonstration() -> None:
    fed = feed(promote=1, capacity=20)
    play(fed, "won", 1, 8, 0.9, won=True)
    for i in range(4):
        play(fed, f"lost_{i}", 2 + i, 8, 0.1)
    assert "won" not in fed.online.episodes
    assert list(fed.promoted) == ["won"]
    play(fed, "quicker", 9, 4, 0.9, won=True)
    assert list(fed.promoted) == ["quicker"]


def test_relabelling_replaces_a_promoted_episode_as_a_whole_and_judges_it_again() -> None:
    fed = feed()
    play(fed, "near", 1, 8, 0.7)
    play(fed, "nearer", 2, 8, 0.8)

    def labels(level: float) -> LabelColumns:
        values, zeros = np.full(8, level, np.float32), np.zeros(8, np.float32)
        return LabelColumns(zeros, values, values, np.ones(8, bool), zeros, zeros, "v2")

    fed.relabel("near", labels(0.9))
    assert fed.demo is not None
    for buffer in (fed.demo, fed.online):
        assert buffer.episodes["near"] == "v2"
        np.testing.assert_allclose(buffer.columns(buffer.rows("near"))["potential"], 0.9)
    assert list(fed.promoted) == ["near", "nearer"]
    fed.relabel("near", labels(0.1))
    assert list(fed.promoted) == ["nearer"]
    assert "near" not in fed.demo.episodes
    assert fed.online.episodes["near"] == "v2"
    with pytest.raises(BadInput, match="unknown"):
        fed.relabel("unknown", labels(0.1))


def test_promoted_episodes_are_part_of_the_checkpoint() -> None:
    fed, other = feed(), feed()
    play(fed, "near", 1, 8, 0.7)
    play(fed, "won", 2, 6, 0.7, won=True)
    json.dumps(fed.get_state()["promoted"])
    other.set_state(fed.get_state())
    for each in (fed, other):
        play(each, "later", 3, 5, 0.7, won=True)
        play(each, "latest", 4, 4, 0.7, won=True)
    assert fed.promoted == other.promoted
    assert list(fed.promoted) == ["latest", "later", "won"]
    mine, theirs = fed.draw(3), other.draw(3)
    assert all((mine[name] == theirs[name]).all() for name in mine)


def test_a_checkpoint_from_before_there_were_any_is_read() -> None:
    fed, other = feed(), feed()
    play(fed, "far", 1, 8, 0.1)
    state = fed.get_state()
    del state["promoted"]
    other.set_state(state)
    assert not other.promoted
    assert other.demo is not None
    assert fed.demo is not None
    assert other.demo.episodes == fed.demo.episodes
