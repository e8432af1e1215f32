from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.stored import StoredEpisode, failed_end
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.batches import BatchSampler
from dopamine_rl.grm.config import BatchPlan, TrainConfig
from dopamine_rl.grm.labels import keyframe_map, label
from dopamine_rl.shaping import Shaping, n_step_shaping, shaped_reward
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


def test_failures_labelled_by_outcome_have_no_progress_and_need_no_simulator():
    failure = replace(episode(success=False), true_progress=None)
    succeeded, failed = label([episode(), failure], failures="outcome")
    np.testing.assert_array_equal(succeeded.progress, label([episode()])[0].progress)
    assert not failed.progress.any()
    assert not failed.success
    geometric = label([failure, episode()], "geometric", "outcome")[1]
    np.testing.assert_array_equal(geometric.progress, episode().true_progress)


def test_only_the_first_frame_and_the_end_of_a_failure_are_kept():
    failure = episode(success=False)
    end = failed_end(StoredEpisode(Path("e"), failure, np.arange(0, 82, 2)))
    assert end.frame_ids.tolist() == [0, *range(54, 82, 2)]
    assert end.info.frame_count == len(end.info.true_progress) == 15
    assert end.info.keyframes.tolist() == [0, 14]
    assert len(end.info.stages) == 1


def test_a_share_of_a_batch_can_be_failures():
    labels = label([episode(), *[episode(success=False)] * 9], failures="outcome")
    config = TrainConfig(plan=BatchPlan(episodes=2, failures=0.3))
    sampler = BatchSampler(labels, config)
    chosen = [index for number in range(500) for index in sampler._choose(np.random.default_rng(number))]
    assert np.mean([index > 0 for index in chosen]) == pytest.approx(0.3, abs=0.05)
    everyone = BatchSampler(labels, TrainConfig())
    chosen = [index for number in range(500) for index in everyone._choose(np.random.default_rng(number))]
    assert np.mean([index > 0 for index in chosen]) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("mode", ["grm", "oracle", "naive", "sparse"])
def test_the_scale_multiplies_the_shaping_alone(mode):
    task, before, after = np.array([0.0, 1.0]), np.array([0.2, 0.5]), np.array([0.5, 0.0])
    whole, half = (shaped_reward(task, before, after, 0.9, mode, Shaping(scale)) for scale in (1.0, 0.5))
    np.testing.assert_allclose(half - task, (whole - task) / 2, atol=1e-7)
    np.testing.assert_array_equal(shaped_reward(task, before, after, 0.9, mode, Shaping(0.0)), task)
    assert whole.tolist() == shaped_reward(task, before, after, 0.9, mode).tolist()
    returns, _ = n_step_shaping(task, before, after, 0.9, 2, mode, Shaping(0.5))
    np.testing.assert_allclose(returns[0], half[0] + 0.9 * half[1], atol=1e-6)
    for name in ("scale", "progress"):
        with pytest.raises(BadInput, match=name):
            Shaping(**{name: -1.0})


def test_progress_as_a_reward_counts_as_if_a_success_lasted():
    task, before, after = np.array([0.0, 0.0, 1.0]), np.array([0.1, 0.4, 0.6]), np.array([0.4, 0.6, 0.0])
    plain, paid = (shaped_reward(task, before, after, 0.9, "grm", Shaping(progress=b)) for b in (0.0, 2.0))
    lasting = np.concatenate([after[:2], np.ones(1000)])  # progress from the success on
    discounted = 0.9 ** np.arange(len(lasting))
    gained = (0.9 ** np.arange(3) * (paid - plain)).sum()
    np.testing.assert_allclose(gained, 2.0 * (1.0 - 0.9) * (discounted * lasting).sum(), rtol=1e-6)
    assert shaped_reward(task, before, after, 0.9, "sparse", Shaping(progress=2.0)).tolist() == task.tolist()
    with pytest.raises(BadInput, match="naive pays"):
        shaped_reward(task, before, after, 0.9, "naive", Shaping(progress=2.0))


@pytest.mark.parametrize("b", [0.5, 1.0, 50.0])
def test_with_progress_as_a_reward_finishing_pays_more_than_hovering(b):
    gamma, level, steps = 0.97, 0.99, 2000
    hovering = np.full(steps, level)
    for end in (1, 10, 100):  # the task is finished after so many steps of hovering, or never
        before, after, task = hovering[:end], np.append(hovering[1:end], 0.0), np.append(np.zeros(end - 1), 1.0)
        finished = shaped_reward(task, before, after, gamma, "grm", Shaping(progress=b))
        never = shaped_reward(np.zeros(steps), hovering, hovering, gamma, "grm", Shaping(progress=b))
        assert (gamma ** np.arange(end) * finished).sum() > (gamma ** np.arange(steps) * never).sum()
