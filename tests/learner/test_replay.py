from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.shaping import shaped_reward
from dopamine_rl.types import LabelColumns
from learner.config import LearnerConfig
from learner.demonstrations import ReplayEpisode, load_demonstrations, save_demonstrations, transition_columns
from learner.feed import ReplayFeed
from learner.replay import ColumnarReplay, sample_mixed
from learner.rows import ReplayColumns

GAMMA = 0.9


def fragment(start: int, count: int, terminated: bool = False, seed: int = 0) -> ReplayColumns:
    """T transitions whose first observation number is the environment step, with made-up labels."""
    rng = np.random.default_rng((seed, start))
    observations = np.stack([np.arange(start, start + count + 1), np.full(count + 1, seed)], 1).astype(np.float32)
    labels = make_labels(count, rng)
    actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    return transition_columns(observations, actions, np.zeros(count), terminated, labels)


def make_labels(count: int, rng: np.random.Generator, version: str = "v1") -> LabelColumns:
    values = rng.random((5, count)).astype(np.float32)
    return LabelColumns(values[0], values[1], values[2], np.ones(count, bool), values[3], values[4], version)


def replay(capacity: int = 100, mode: str = "grm") -> ColumnarReplay:
    return ColumnarReplay(capacity, 2, 1, GAMMA, mode)  # type: ignore[arg-type]


def test_rewards_are_what_the_labeller_writes() -> None:
    stored = replay()
    columns = fragment(0, 50)
    stored.add(columns, "a")
    batch = stored.sample(64, np.random.default_rng(0))
    steps = batch["obs"][:, 0].astype(int)
    written = shaped_reward(columns["task_reward"], columns["potential"], columns["next_potential"], GAMMA, "grm")
    np.testing.assert_array_equal(batch["rewards"], written[steps])
    np.testing.assert_array_equal(batch["next_obs"][:, 0], steps + 1)
    assert batch["rewards"].dtype == np.float32


def test_sparse_mode_pays_the_task_alone() -> None:
    stored = replay(mode="sparse")
    stored.add(fragment(0, 20), "a")
    batch = stored.sample(30, np.random.default_rng(0))
    np.testing.assert_array_equal(batch["rewards"], batch["task_reward"])


def test_absent_labels_mean_task_reward_and_no_potential() -> None:
    stored = replay()
    stored.add(transition_columns(np.zeros((4, 2)), np.zeros((3, 1)), np.array([0, 0, 2.5]), True, None), "a")
    columns = stored.columns()
    np.testing.assert_array_equal(columns["task_reward"], [0, 0, 2.5])
    np.testing.assert_array_equal(columns["terminated"], [0, 0, 1])
    assert not columns["potential"].any()
    assert columns["valid"].all()


def test_truncation_is_not_termination() -> None:
    columns = transition_columns(np.zeros((4, 2)), np.zeros((3, 1)), np.zeros(3), False, None)
    assert not columns["terminated"].any()


def test_three_fragments_of_one_episode_are_one_run_of_rows() -> None:
    stored = replay()
    for start, count in ((0, 4), (4, 3), (7, 5)):
        stored.add(fragment(start, count, terminated=start == 7), "a", start, "v1")
        stored.add(fragment(start, count, seed=1), "other", start, "v1")
    np.testing.assert_array_equal(stored.times("a"), np.arange(12))
    columns = stored.columns(stored.rows("a"))
    np.testing.assert_array_equal(columns["obs"][:, 0], np.arange(12))
    np.testing.assert_array_equal(columns["terminated"], [0] * 11 + [1])


def test_relabel_replaces_the_whole_episode_and_no_other() -> None:
    stored = replay()
    for start in (0, 4, 8):
        stored.add(fragment(start, 4), "a", start, "v1")
        stored.add(fragment(start, 4, seed=1), "other", start, "v1")
    before = stored.columns(stored.rows("other"))
    fresh = make_labels(12, np.random.default_rng(9), "v2")
    stored.relabel("a", fresh)
    after = stored.columns(stored.rows("a"))
    for name in ("task_reward", "potential", "next_potential", "valid", "phase", "next_phase"):
        np.testing.assert_array_equal(after[name], getattr(fresh, name))
    np.testing.assert_array_equal(after["obs"][:, 0], np.arange(12))
    assert stored.episodes == {"a": "v2", "other": "v1"}
    untouched = stored.columns(stored.rows("other"))
    assert all((before[name] == untouched[name]).all() for name in before)


def test_relabel_refuses_a_part_of_an_episode() -> None:
    stored = replay()
    stored.add(fragment(0, 6), "a")
    with pytest.raises(BadInput, match="all 6"):
        stored.relabel("a", make_labels(5, np.random.default_rng(0)))


def test_relabel_after_eviction_keeps_times_aligned() -> None:
    stored = replay(capacity=8)
    stored.add(fragment(0, 6), "a")
    stored.add(fragment(0, 4, seed=1), "b")
    fresh = make_labels(6, np.random.default_rng(9))
    stored.relabel("a", fresh)
    np.testing.assert_array_equal(stored.times("a"), [2, 3, 4, 5])
    np.testing.assert_array_equal(stored.columns(stored.rows("a"))["potential"], fresh.potential[2:])


@pytest.mark.parametrize(
    ("columns", "arguments"),
    [
        (fragment(0, 3), {"t_started": 2}),
        (fragment(3, 3), {"t_started": 3, "version": "v2"}),
        (fragment(3, 101), {"t_started": 3}),
        ({**fragment(3, 3), "task_reward": np.array([0, np.nan, 0])}, {"t_started": 3}),
        ({**fragment(3, 3), "actions": np.zeros((3, 2))}, {"t_started": 3}),
    ],
)
def test_bad_fragments_are_refused_and_leave_nothing(columns: ReplayColumns, arguments: dict[str, object]) -> None:
    stored = replay()
    stored.add(fragment(0, 3), "a", 0, "v1")
    with pytest.raises(BadInput):
        stored.add(columns, "a", **{"version": "v1", **arguments})  # type: ignore[arg-type]
    assert len(stored) == 3


def test_a_lost_fragment_leaves_a_gap() -> None:
    stored = replay()
    stored.add(fragment(0, 3), "a")
    stored.add(fragment(6, 2), "a", 6)
    np.testing.assert_array_equal(stored.times("a"), [0, 1, 2, 6, 7])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=25), st.integers(5, 17))
def test_ring_holds_the_newest_like_a_plain_list(pieces: list[tuple[int, int]], capacity: int) -> None:
    stored, plain, ends = replay(capacity), [], {}
    for episode, count in pieces:
        start = ends.get(episode, 0)
        stored.add(fragment(start, count, seed=episode), str(episode), start)
        plain += [(episode, start + index) for index in range(count)]
        plain = plain[-capacity:]
        present = {e for e, _ in plain}
        ends = {e: end for e, end in {**ends, episode: start + count}.items() if e in present}
    assert len(stored) == len(plain)
    assert set(stored.episodes) == {str(e) for e, _ in plain}
    for episode in {e for e, _ in plain}:
        rows = stored.rows(str(episode))
        expected = [t for e, t in plain if e == episode]
        np.testing.assert_array_equal(stored.times(str(episode)), expected)
        np.testing.assert_array_equal(stored.columns(rows)["obs"][:, 0], expected)
        np.testing.assert_array_equal(stored.columns(rows)["obs"][:, 1], episode)


def test_state_round_trip_continues_identically() -> None:
    stored = replay(capacity=20)
    for start in range(0, 30, 5):
        stored.add(fragment(start, 5), "a", start)
    copy = replay(capacity=20)
    copy.set_state(stored.get_state())
    for each in (stored, copy):
        each.add(fragment(30, 5), "a", 30)
        each.add(fragment(0, 3, seed=2), "b")
    assert stored.episodes == copy.episodes
    np.testing.assert_array_equal(stored.times("a"), copy.times("a"))
    mine, theirs = stored.get_state(), copy.get_state()
    np.testing.assert_array_equal(mine["rows"], theirs["rows"])


def test_mixed_batches_hold_the_share_and_fall_back() -> None:
    demo, online = replay(), replay()
    rng = np.random.default_rng(0)
    demo.add(fragment(0, 10, seed=7), "d")
    assert (sample_mixed(demo, online, 8, 0.5, rng)["obs"][:, 1] == 7).all()
    online.add(fragment(0, 10), "a")
    batch = sample_mixed(demo, online, 8, 0.25, rng, batches=3)
    np.testing.assert_array_equal((batch["obs"][..., 1] == 7).sum(1), [2, 2, 2])
    assert batch["rewards"].shape == (3, 8)
    assert (sample_mixed(None, online, 8, 0.5, rng)["obs"][:, 1] == 0).all()
    with pytest.raises(BadInput):
        sample_mixed(None, replay(), 8, 0.5, rng)


def test_demonstrations_round_trip(tmp_path: Path) -> None:
    episodes = [ReplayEpisode(f"e{i}", fragment(0, 4 + i, True, seed=i), f"v{i}") for i in range(3)]
    save_demonstrations(tmp_path / "demos.npz", episodes)
    loaded, practice = load_demonstrations(tmp_path / "demos.npz", GAMMA, "grm")
    assert practice is None
    assert loaded.episodes == {"e0": "v0", "e1": "v1", "e2": "v2"}
    for episode in episodes:
        stored = loaded.columns(loaded.rows(episode.episode_id))
        for name, values in episode.columns.items():
            np.testing.assert_array_equal(stored[name], values.astype(np.float32))
    with pytest.raises(BadInput):
        load_demonstrations(tmp_path / "absent.npz", GAMMA, "grm")


def test_practice_is_kept_apart_and_fills_the_replay(tmp_path: Path) -> None:
    shown = ReplayEpisode("shown", fragment(0, 4, True, seed=1), "v")
    tries = [ReplayEpisode(f"try{i}", fragment(0, 5, False, seed=2 + i), "v", practice=True) for i in range(2)]
    save_demonstrations(tmp_path / "demos.npz", [tries[0], shown, tries[1]])
    demo, practice = load_demonstrations(tmp_path / "demos.npz", GAMMA, "grm")
    assert list(demo.episodes) == ["shown"]
    assert practice is not None
    assert list(practice.episodes) == ["try0", "try1"]
    online = replay()
    online.add(fragment(0, 3), "own")
    online.copy(practice)
    assert len(online) == 13
    for episode in tries:
        stored = online.columns(online.rows(episode.episode_id))
        np.testing.assert_array_equal(stored["actions"], episode.columns["actions"].astype(np.float32))
    save_demonstrations(tmp_path / "demos.npz", tries)
    with pytest.raises(BadInput, match="at least one demonstration"):
        load_demonstrations(tmp_path / "demos.npz", GAMMA, "grm")


def test_updates_are_owed_by_what_lies_in_the_replay() -> None:
    online = replay()
    feed = ReplayFeed(
        online, None, LearnerConfig(learning_starts=6, updates_per_step=1.5, critic_warmup_updates=40, batch_size=4), 0
    )
    online.add(fragment(0, 5), "a")
    assert feed.due(5) == 0
    online.add(fragment(5, 5), "a", 5)
    assert feed.due(5) == 40
    assert [feed.due(1) for _ in range(4)] == [1, 2, 1, 2]


def test_feed_state_continues_the_same_draws() -> None:
    config = LearnerConfig(learning_starts=1, batch_size=4)
    feeds = [ReplayFeed(replay(), replay(10), config, seed) for seed in (0, 1)]
    for source in (feeds[0].online, feeds[0].demo):
        assert source is not None
        source.add(fragment(0, 8), "a")
    feeds[0].due(1)
    feeds[1].set_state(feeds[0].get_state())
    mine, theirs = (feed.draw(2) for feed in feeds)
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert feeds[0].due(3) == feeds[1].due(3)
