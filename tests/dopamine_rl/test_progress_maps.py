from dataclasses import replace

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.labels import keyframe_map, label
from dopamine_rl.shaping import n_step_shaping, shaped_reward
from dopamine_rl.targets import ProgressMap
from dopamine_rl.types import EpisodeInfo


def episode(success=True, true=None, frames=41):
    true = np.linspace(0, 1, frames, dtype=np.float32) ** 2 if true is None else np.asarray(true, np.float32)
    return EpisodeInfo(
        episode_id="e",
        instructions=("insert the peg",),
        frame_count=frames,
        frames_per_second=20.0,
        keyframes=np.array([0, 20, 40]),
        stages=("a", "b"),
        cameras=("front",),
        success=success,
        true_progress=true,
        annotation="annotated_keyframes.json",
    )


def test_a_map_follows_the_curves_it_was_fitted_to():
    true = np.linspace(0, 1, 200)
    fitted = ProgressMap.fit([true**2], [true])
    np.testing.assert_allclose(fitted(true**2), true, atol=0.03)
    assert fitted(0.0) == 0.0
    assert fitted(1.0) == 1.0
    assert fitted([[0.5, 0.5]]).shape == (1, 2)
    assert np.all(np.diff(fitted(true)) >= 0)
    with pytest.raises(BadInput, match="true progress"):
        ProgressMap.fit([], [])


def test_the_keyframes_map_turns_true_progress_into_the_labels():
    info = episode()
    [labels] = label([info])
    np.testing.assert_allclose(keyframe_map([info])(info.true_progress), labels.progress, atol=0.05)


def test_the_geometric_target_labels_with_true_progress():
    failure = episode(success=False, true=np.linspace(0.1, 0.4, 41))
    succeeded, failed = label([episode(), failure], "geometric")
    np.testing.assert_array_equal(succeeded.progress, episode().true_progress)
    np.testing.assert_array_equal(failed.progress, failure.true_progress)
    assert succeeded.success
    assert not failed.success
    with pytest.raises(BadInput, match="true_progress"):
        label([replace(episode(), true_progress=None)], "geometric")


@pytest.mark.parametrize("mode", ["grm", "oracle", "naive", "sparse"])
def test_the_scale_multiplies_the_shaping_alone(mode):
    task, before, after = np.array([0.0, 1.0]), np.array([0.2, 0.5]), np.array([0.5, 0.0])
    whole, half = (shaped_reward(task, before, after, 0.9, mode, scale) for scale in (1.0, 0.5))
    np.testing.assert_allclose(half - task, (whole - task) / 2, atol=1e-7)
    np.testing.assert_array_equal(shaped_reward(task, before, after, 0.9, mode, 0.0), task)
    assert whole.tolist() == shaped_reward(task, before, after, 0.9, mode).tolist()
    returns, _ = n_step_shaping(task, before, after, 0.9, 2, mode, 0.5)
    np.testing.assert_allclose(returns[0], half[0] + 0.9 * half[1], atol=1e-6)
    with pytest.raises(BadInput, match="scale"):
        shaped_reward(task, before, after, 0.9, mode, -1.0)
