"""Two processes that write the same thing at once: one is refused, and nothing of the other is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes import raw
from dopamine_rl.errors import EpisodeError
from dopamine_rl.files import write_atomically
from tests.dopamine_rl.test_raw_episodes import make_demonstration


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Calls to be made by "another process" just before an episode's first video is written."""
    calls: list[object] = []
    write_video = raw.write_video

    def slow(*arguments: object) -> None:
        while calls:
            calls.pop()()  # type: ignore[operator]
        write_video(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(raw, "write_video", slow)
    return calls


def test_an_episode_that_appears_meanwhile_is_kept(tmp_path: Path, late: list[object]) -> None:
    first = make_demonstration()
    late.append(lambda: raw.write_demonstration(tmp_path, first))
    with pytest.raises(EpisodeError, match="episode_001: episode_id"):
        raw.write_demonstration(tmp_path, replace(first, seed=8))
    assert raw.read_demonstration(tmp_path / "episode_001").seed == first.seed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_001", raw.INSTRUCTIONS]


def test_a_task_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(path: Path, write: object, **options: bool) -> Path:
        path.write_text(json.dumps(["fold the towel"]))
        return write_atomically(path, write, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(raw, "write_atomically", slow)
    with pytest.raises(EpisodeError, match="a folder has one task"):
        raw.write_demonstration(tmp_path, make_demonstration())
    assert json.loads((tmp_path / raw.INSTRUCTIONS).read_text()) == ["fold the towel"]
    assert [path.name for path in tmp_path.iterdir()] == [raw.INSTRUCTIONS]


def test_the_task_of_a_folder_is_written_where_links_are_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    raw.write_demonstration(tmp_path, make_demonstration())
    with pytest.raises(EpisodeError, match="a folder has one task"):
        raw.write_demonstration(
            tmp_path, replace(make_demonstration(), episode_id="episode_002", instructions=("fold the towel",))
        )
    assert np.array_equal(raw.read_demonstration(tmp_path / "episode_001").frames, make_demonstration().frames)
