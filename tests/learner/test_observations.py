"""Packed observations, stored once, against a buffer whose rows hold both observations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.encoders.packing import Packing
from dopamine_rl.errors import BadInput
from learner.config import LearnerConfig
from learner.feed import ReplayFeed
from learner.observations import check_room, table_bytes
from learner.replay import ColumnarReplay, sample_mixed
from learner.rows import ReplayColumns
from learner.windows import Sampling
from tests.learner.test_replay import GAMMA, fragment

HALVES = Packing(1, 1, "float16")
PIXELS = Packing(1, 6, "uint8")


def pair(capacity: int = 100) -> tuple[ColumnarReplay, ColumnarReplay]:
    """A buffer that holds vectors in its rows, and one that packs them."""
    return tuple(ColumnarReplay(capacity, 2, 1, GAMMA, "grm", packing=packing) for packing in (None, HALVES))  # type: ignore[return-value]


def opened(columns: ReplayColumns) -> ReplayColumns:
    """Columns whose packed observations are vectors again."""
    packed = {name: columns[name] for name in ("obs", "next_obs")}
    assert all(values.dtype == np.uint8 for values in packed.values())
    parts = {name: (HALVES.proprioception_of(each), HALVES.seen_of(each)) for name, each in packed.items()}
    return {**columns, **{name: np.concatenate(each, -1, dtype=np.float32) for name, each in parts.items()}}


def same(plain: ReplayColumns, packed: ReplayColumns) -> None:
    assert plain.keys() == packed.keys()
    for name, values in opened(packed).items():
        np.testing.assert_array_equal(plain[name], values, err_msg=name)


def same_buffers(plain: ColumnarReplay, packed: ColumnarReplay) -> None:
    assert plain.episodes == packed.episodes
    same(plain.columns(), packed.columns())
    for n_step in (1, 3):
        rng, sampling = [np.random.default_rng(1) for _ in range(2)], Sampling(n_step=n_step)
        same(*(sample_mixed(None, r, 40, 0.0, g, 2, sampling) for r, g in zip((plain, packed), rng, strict=True)))


Pieces = list[tuple[int, int, int]]


def play(replays: tuple[ColumnarReplay, ColumnarReplay], pieces: Pieces, ends: dict[int, int] | None = None) -> None:
    """Add fragments of several episodes, some of them after lost ones: (episode, length, environment steps lost)."""
    ends = {} if ends is None else ends
    for episode, count, lost in pieces:
        start = ends.get(episode, 0) + lost
        for replay in replays:
            replay.add(fragment(start, count, seed=episode), str(episode), start)
        ends[episode] = start + count


PIECES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.sampled_from([0, 0, 2])), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(PIECES, st.integers(5, 17))
def test_observations_are_those_of_whole_rows(pieces: Pieces, capacity: int) -> None:
    replays, ends = pair(capacity), {}
    play(replays, pieces, ends)
    same_buffers(*replays)
    restored = pair(capacity)
    for copy, replay in zip(restored, replays, strict=True):
        copy.set_state(replay.get_state())
    same_buffers(*restored)
    play(restored, [(4, 3, 0), (5, 2, 0)], ends)
    same_buffers(*restored)


def test_an_observation_is_stored_once() -> None:
    _, packed = pair(40)
    play((packed, packed.empty(40)), [(0, 4, 0), (1, 4, 0)] * 5)
    state = packed.get_state()
    assert len(state["observations"]) == 40 + 2  # and the last one of either episode
    play((packed, packed.empty(40)), [(0, 4, 0), (1, 4, 0)] * 5, {0: 20, 1: 20})
    assert len(packed.get_state()["observations"]) == 40 + 2
    assert packed._observations is not None
    assert packed._observations.nbytes == table_bytes(40, HALVES.width)


def test_very_short_episodes_find_room() -> None:
    replays = pair(60)
    play(replays, [(episode, 1, 0) for episode in range(80)])
    same_buffers(*replays)


def test_observations_that_do_not_follow_one_another_are_kept_apart() -> None:
    replays = pair()
    columns = fragment(0, 4)
    columns["next_obs"] = columns["next_obs"] + np.array([[0], [50], [0], [0]], np.float32)
    for replay in replays:
        replay.add(columns, "a")
        replay.add(fragment(7, 2), "a", 4)  # another observation than the one that ended the last fragment
    same_buffers(*replays)


def test_a_copy_and_the_feed_keep_what_is_packed() -> None:
    replays = pair()
    play(replays, [(0, 6, 0), (1, 5, 0)])
    copies = [replay.empty(20) for replay in replays]
    for copy, replay in zip(copies, replays, strict=True):
        copy.copy(replay)
    same_buffers(*copies)
    config = LearnerConfig(learning_starts=1, batch_size=4)
    same(*(ReplayFeed(replay, copy, config, 0).draw(2) for replay, copy in zip(replays, copies, strict=True)))
    state = replays[0].get_state()
    with pytest.raises(BadInput, match="--fresh"):
        replays[1].empty(100).set_state(state)


def test_pixels_stay_as_they_are() -> None:
    replay, rng = ColumnarReplay(20, PIXELS.width, 1, GAMMA, "sparse", packing=PIXELS), np.random.default_rng(0)
    joints, pictures = rng.normal(size=(6, 1)).astype(np.float32), rng.integers(0, 256, (6, 1, 2, 3, 1), np.uint8)
    seen = PIXELS.pack(joints, pictures)
    rest: dict[str, Any] = {"actions": np.zeros((5, 1)), "task_reward": np.zeros(5), "terminated": np.zeros(5)}
    replay.add({"obs": seen[:-1], "next_obs": seen[1:], **rest}, "a")
    columns = replay.columns()
    np.testing.assert_array_equal(columns["obs"], seen[:-1])
    np.testing.assert_array_equal(PIXELS.proprioception_of(columns["next_obs"]), joints[1:])
    np.testing.assert_array_equal(PIXELS.seen_of(columns["next_obs"]), pictures[1:].reshape(5, 6))
    for wrong in (seen[:-1].astype(np.float32), seen[:-1, :-1], seen[:-2]):
        with pytest.raises(BadInput, match="obs"):
            replay.add({"obs": wrong, "next_obs": seen[1:], **rest}, "b")
    assert len(replay) == 5


def test_a_buffer_that_memory_cannot_hold_is_refused() -> None:
    check_room(1000, 20_000, 0.03)
    with pytest.raises(BadInput, match=r"replay_capacity = 1000: give at most 888, .*replay_gb = 0\.02") as refused:
        check_room(1000, 20_000, 0.02)
    assert "0.0 GB" in str(refused.value)
