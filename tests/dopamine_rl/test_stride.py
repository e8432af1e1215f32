"""An episode seen at a larger stride holds what an environment of that stride would have recorded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dopamine_rl.episodes.stride import at_stride
from dopamine_rl.errors import BadInput
from dopamine_rl.types import Demonstration


def recorded(length: int, stride: int, stage_steps: tuple[int, ...] = ()) -> Demonstration:
    """An episode of `length` environment steps whose pictures show the step they were taken at.

    Args:
        stage_steps: environment steps, increasing, at which a later stage begins.
    """
    steps = np.array([t for t in range(length + 1) if t % stride == 0 or t == length], np.int64)
    starts = sorted({0, *(int(np.searchsorted(steps, t)) for t in stage_steps)} - {len(steps) - 1})
    return Demonstration(
        episode_id="e",
        instructions=("do it",),
        frames=np.broadcast_to(steps[:, None, None, None, None], (len(steps), 2, 4, 4, 3)).astype(np.uint8),
        frame_steps=steps,
        keyframes=np.array([*starts, len(steps) - 1], np.int64),
        stages=tuple(f"stage {i}" for i in range(len(starts))),
        observations=np.zeros((length + 1, 3), np.float32),
        actions=np.zeros((length, 2), np.float32),
        task_rewards=np.zeros(length, np.float32),
        terminated=True,
        success=True,
        seed=0,
        true_progress=(steps / length).astype(np.float32),
    )


def assert_same(a: Demonstration, b: Demonstration) -> None:
    assert a.stages == b.stages
    for name in ("frames", "frame_steps", "keyframes", "observations", "actions", "task_rewards", "true_progress"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 4))
def test_it_is_what_the_larger_stride_would_have_recorded(length: int, stride: int, factor: int) -> None:
    assert_same(at_stride(recorded(length, stride), stride * factor), recorded(length, stride * factor))


def test_the_recorded_stride_changes_nothing() -> None:
    assert_same(at_stride(recorded(13, 2, (4, 9)), 2), recorded(13, 2, (4, 9)))


def test_stages_begin_with_the_next_kept_frame() -> None:
    seen = at_stride(recorded(14, 2, (6, 8)), 4)
    np.testing.assert_array_equal(seen.frame_steps, [0, 4, 8, 12, 14])
    # The middle stage lasted from step 6 to 8, between two kept frames.
    np.testing.assert_array_equal(seen.frame_steps[seen.keyframes], [0, 8, 14])
    assert seen.stages == ("stage 0", "stage 2")


def test_unknown_truth_stays_unknown() -> None:
    assert at_stride(replace(recorded(9, 1), true_progress=None), 3).true_progress is None


@pytest.mark.parametrize("stride", [0, 1, 3])
def test_a_stride_that_was_not_recorded_is_refused(stride: int) -> None:
    with pytest.raises(BadInput, match="stride"):
        at_stride(recorded(12, 2), stride)


def test_an_episode_whose_only_stage_falls_between_two_frames_is_refused() -> None:
    late = replace(recorded(12, 2), keyframes=np.array([5, 6]))
    with pytest.raises(BadInput, match="no stage"):
        at_stride(late, 12)
