"""Errors handed on as values keep their kind and their message."""

from __future__ import annotations

import numpy as np
import pytest

from dopamine_rl.errors import (
    BadInput,
    CheckpointError,
    DopamineError,
    EpisodeError,
    ScoringTimeout,
    error_from_text,
    error_to_text,
)


@pytest.mark.parametrize(
    "error",
    [
        BadInput("sft.workers", 3, "give 2"),
        EpisodeError("episode_000/cam_high.mp4: content", "nothing to see", "give a video"),
        EpisodeError("episode_001/*.mp4: frame count", {"cam_high": 3, "cam_left_wrist": 4}, "record the same number"),
        CheckpointError("no weights"),
        ScoringTimeout("late"),
        OSError(28, "No space left on device", "/data/video.mp4"),
        FileNotFoundError(2, "No such file or directory", "/data/video.mp4"),
    ],
)
def test_an_error_comes_back_as_it_was(error: DopamineError | OSError) -> None:
    back = error_from_text(error_to_text(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


def test_values_that_json_lacks_and_kinds_not_known_here_keep_their_message() -> None:
    class Special(DopamineError):
        pass

    back = error_from_text(error_to_text(BadInput("hops", np.zeros(2), "give numbers")))
    assert isinstance(back, BadInput)
    assert "array([0., 0.])" in str(back)
    text = error_to_text(Special("unheard of")).replace("Special", "Stranger")
    assert type(error_from_text(text)) is DopamineError
    assert str(error_from_text(text)) == "unheard of"
