"""Recorded episodes as training needs them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import CAMERAS
from dopamine_rl.episodes.scale import resize
from dopamine_rl.episodes.stored import StoredPictures, decode_all, decoded_bytes, list_stored, picture_shape
from dopamine_rl.episodes.video import write_video
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.grm.labels import label
from tests.dopamine_rl.grm_toys import moving_square, record_squares


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_squares(tmp_path_factory.mktemp("raw"), 3, 1, count=20)


def test_a_stride_keeps_the_last_frame_and_moves_keyframes(raw: Path) -> None:
    whole, thin = list_stored(raw)[0], list_stored(raw, stride=6)[0]
    assert thin.frame_ids.tolist() == [0, 6, 12, 18, 19]
    assert whole.info.keyframes.tolist() == [0, 10, 19]
    assert thin.info.keyframes.tolist() == [0, 2, 4]
    assert thin.info.true_progress is not None
    assert whole.info.true_progress is not None
    np.testing.assert_array_equal(thin.info.true_progress, whole.info.true_progress[thin.frame_ids])
    np.testing.assert_allclose(label([thin.info])[0].progress, [0.0, 0.25, 0.5, 0.75, 1.0])
    with pytest.raises(EpisodeError, match="stride of at most 9, not 999999999"):
        list_stored(raw, stride=999_999_999)
    list_stored(raw, stride=9)


def test_an_episode_without_keyframes_is_named_not_passed_over(tmp_path: Path) -> None:
    folder = record_squares(tmp_path / "raw", 2, 0, count=20)
    (folder / "episode_001" / "annotated_keyframes.json").unlink()
    with pytest.raises(EpisodeError, match=r"episode_001/annotated_keyframes.json: file.*missing"):
        list_stored(folder)


def test_failures_are_labelled_by_their_true_progress(raw: Path) -> None:
    labels = label([stored.info for stored in list_stored(raw)])
    assert [known.success for known in labels] == [True, True, True, False]
    assert labels[3].progress[-1] < 0.8


def test_a_failure_is_labelled_by_the_successes_of_its_own_task(raw: Path) -> None:
    """Another task's true progress may mean something else: it is half as far at the same value here."""
    infos = [stored.info for stored in list_stored(raw)]
    alone = label(infos)[3].progress
    others = []
    for info in infos[:3]:
        assert info.true_progress is not None
        others.append(replace(info, instructions=("another",), true_progress=np.sqrt(info.true_progress)))
    np.testing.assert_array_equal(label([*infos, *others])[3].progress, alone)
    with pytest.raises(BadInput, match="push the block"):
        label([*others, infos[3]])


def test_an_episode_with_too_few_states_cannot_teach(raw: Path) -> None:
    info = list_stored(raw)[0].info
    with pytest.raises(EpisodeError, match=r"episode_000.*states"):
        label([replace(info, keyframes=np.array([0, 1]), stages=("push",))])


def test_cameras_of_different_sizes_are_scaled_to_one(raw: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(raw, tmp_path / "raw")
    write_video(folder / "episode_000" / f"{CAMERAS[1]}.mp4", moving_square(0, count=20).frames[:, 1, ::2, ::2])
    stored = list_stored(folder)[0]
    assert picture_shape(stored) == (56, 56)
    assert decode_all([stored], (28, 28), 1)[0].shape == (20, 2, 28, 28, 3)


def test_pictures_come_as_they_lie_in_any_order(raw: Path) -> None:
    stored = list_stored(raw, stride=3)
    assert picture_shape(stored[0]) == (56, 56)
    wanted = [(2, 4, 1), (-1, 0, 0), (0, 3, 0), (2, 1, 0), (2, 4, 0)]
    pictures = StoredPictures(stored, (56, 56), max_bytes=56 * 56 * 3 * 3)(wanted)
    for picture, (episode, frame, view) in zip(pictures, wanted, strict=True):
        shown = moving_square(episode, count=20).frames[3 * frame, view] if episode >= 0 else np.zeros((56, 56, 3))
        np.testing.assert_allclose(picture, shown, atol=12)  # colours were coded as YUV


def test_all_pictures_fit_what_was_foretold(raw: Path) -> None:
    stored, told = list_stored(raw, stride=2), []
    frames = decode_all(stored, (28, 42), 2, lambda text, _: told.append(text))
    assert [shown.shape for shown in frames] == [(11, 2, 28, 42, 3)] * 4
    assert sum(shown.nbytes for shown in frames) == decoded_bytes(stored, (28, 42))
    assert told == [f"episodes decoded: {done} of 4" for done in (1, 2, 3, 4)]
    alone = open_source(raw).frames("episode_001", stored[1].frame_ids[3:4])[0, 1]
    np.testing.assert_array_equal(frames[1][3, 1], resize(alone, (28, 42)))
