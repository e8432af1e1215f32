"""What training does to its pictures, and which moments it shows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.augment import augmented, draw_looks
from dopamine_rl.grm.batches import BatchSampler, Questions
from dopamine_rl.grm.config import AugmentConfig, BatchPlan, TrainConfig
from dopamine_rl.grm.labels import EpisodeLabels

STILL = AugmentConfig(
    share=1.0, shift=0.0, zoom=0.0, turn_rad=0.0, wrist_turn_rad=0.0, contrast=0.0, brightness=0.0, colour=0.0
)


def labels(task: str, success: bool = True, count: int = 60) -> EpisodeLabels:
    """An episode that makes nearly all of its progress in its last tenth."""
    late = count - count // 10
    progress = np.concatenate([np.linspace(0.0, 0.1, late), np.linspace(0.1, 1.0, count - late)]).astype(np.float32)
    states = np.arange(count) if success else np.zeros(0, np.int64)
    return EpisodeLabels((task,), progress, states, 2)


def plan_of(recorded: list[EpisodeLabels], augment: AugmentConfig = STILL, **changed: object) -> list[Questions]:
    plan = BatchPlan(**{"episodes": 6, "blank_reference": 0.0, **changed})  # type: ignore[arg-type]
    sampler = BatchSampler(recorded, TrainConfig(plan=plan, augment=augment))
    return [sampler.plan(number) for number in range(40)]


def test_pictures_stay_as_they_are_where_nothing_is_to_change() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), dtype=np.uint8)
    assert augmented(images, [None] * 3) is images
    (looks,) = draw_looks(STILL, (1, 3), np.random.default_rng(0))
    np.testing.assert_array_equal(augmented(images, looks), images)
    assert draw_looks(AugmentConfig(), (2, 2), np.random.default_rng(0)) == [[None, None], [None, None]]


def test_a_look_moves_and_lights_every_picture_alike() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[5:10, 5:10] = 100
    right_and_brighter = (-0.25, 0.0, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0)
    before = np.stack([image, image, image])
    after = augmented(before, [right_and_brighter, None, right_and_brighter])
    np.testing.assert_array_equal(after[1], image)
    np.testing.assert_array_equal(after[0], after[2])
    np.testing.assert_array_equal(after[0, 5:10, 10:15], 151)
    np.testing.assert_array_equal(after[0, :, :9], 51)
    np.testing.assert_array_equal(before[0], image)


def test_a_world_is_mirrored_and_its_colours_are_exchanged() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 16, 3), dtype=np.uint8)
    as_it_is = (0.0,) * 9
    after = augmented(images, [(*as_it_is, -1.0, 1.0, 0.0), (*as_it_is, 1.0, -1.0, 0.0), (*as_it_is, 1.0, 1.0, 5.0)])
    np.testing.assert_array_equal(after[0], images[0][:, ::-1])
    np.testing.assert_array_equal(after[1], images[1][::-1])
    np.testing.assert_array_equal(after[2], images[2][..., ::-1])


def test_an_episode_shares_its_world_with_its_goal_and_references() -> None:
    found = set()
    for questions in plan_of([labels("a")], AugmentConfig(share=0.5, worlds=1.0), episodes=1):
        looks = {(place[2], look[-3:]) for place, look in zip(questions.pictures, questions.looks, strict=True) if look}
        worlds = dict(looks)
        assert len(looks) == 2  # one of each camera
        assert worlds[0][-1] == worlds[1][-1]
        found |= set(worlds.values())
    assert [len(set(values)) for values in zip(*found, strict=True)] == [2, 2, 6]


def test_a_wrist_camera_turns_further_than_one_that_stands_still() -> None:
    looks = draw_looks(AugmentConfig(share=1.0, turn_rad=0.1, wrist_turn_rad=1.0), (100, 3), np.random.default_rng(0))
    front, left, right = np.abs(np.array(looks)[..., 3]).max(axis=0)
    assert 0.09 < front <= 0.1
    assert 0.9 < min(left, right) <= max(left, right) <= 1.0


def test_goal_and_references_look_another_way_than_the_episode() -> None:
    for questions in plan_of([labels("a")], AugmentConfig(share=1.0), episodes=1):
        looks = {(place[2], look) for place, look in zip(questions.pictures, questions.looks, strict=True)}
        assert len({look for view, look in looks if view == 0}) == 3  # the episode's, the goal's, the references'
        assert len({look for view, look in looks if view == 1}) == 2


def test_tasks_are_asked_about_in_turn() -> None:
    episodes = [labels("a"), *(labels("b") for _ in range(7)), labels("c"), labels("c", success=False)]
    asked = Counter(
        prompt.instruction for questions in plan_of(episodes, neighbours=0, balanced=0) for prompt in questions.prompts
    )
    assert max(asked.values()) - min(asked.values()) <= 0.1 * max(asked.values())


def test_runs_spread_over_an_episode_that_was_recorded_finely() -> None:
    def gaps(spread: float) -> set[int]:
        found = set()
        for questions in plan_of([labels("a")], spread=spread, runs=1, balanced=0, neighbours=0, episodes=1):
            frames = sorted({place[1] for place in questions.pictures} - {0, 59})
            found |= set(np.diff(frames).tolist())
        return found

    assert gaps(0.0) == {1}
    assert {1, 2, 3, 4, 5} <= gaps(5 / 60) <= {1, 2, 3, 4, 5}


def test_short_stages_are_seen_oftener_by_progress() -> None:
    def late(by_progress: float) -> float:
        shown = [
            place[1]
            for questions in plan_of([labels("a")], by_progress=by_progress, neighbours=0, balanced=0)
            for place in questions.pictures
            if place[1] not in (0, 59)
        ]
        return float(np.mean(np.array(shown) >= 54))

    assert late(1.0) > 3 * late(0.0)


def test_while_nothing_moves_nothing_is_gained() -> None:
    for questions in plan_of([labels("a")], still=2, neighbours=0, balanced=0, runs=1, episodes=1):
        same = [
            hop for prompt, hop in zip(questions.prompts, questions.hops, strict=True) if prompt.before == prompt.after
        ]
        assert len(same) >= 2
        assert set(same) == {0.0}


@pytest.mark.parametrize(
    "name", ["share", "shift", "zoom", "contrast", "brightness", "colour", "turn_rad", "wrist_turn_rad", "worlds"]
)
def test_amounts_out_of_range_are_named(name: str) -> None:
    with pytest.raises(BadInput, match=f"augment.{name}"):
        AugmentConfig(**{name: -0.1})
