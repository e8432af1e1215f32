"""Frames come out of the stream as they lie in the episodes, each once, from both formats."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray

from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.source import open_source
from dopamine_rl.errors import BadInput
from learner.frame_stream import stream_frames
from tests.dopamine_rl.test_raw_episodes import make_demonstration

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("form", ["raw", "lerobot"])
def test_every_wanted_frame_comes_once(cluster: None, tmp_path: Path, form: str) -> None:
    for i, length in enumerate((40, 7)):
        write_demonstration(tmp_path / "raw", replace(make_demonstration(2, length), episode_id=f"take_{i}"))
    if form == "lerobot":
        write_dataset(tmp_path / "lerobot", open_source(tmp_path / "raw"), lossless=True)
    source = open_source(tmp_path / form)
    wanted = [
        (info.episode_id, np.arange(0, info.frame_count, step))
        for info, step in zip(source.episodes(), (1, 3), strict=True)
    ]
    rows = list(stream_frames(tmp_path / form, wanted, size=(24, 32)).iter_rows())
    found = {(row["episode_id"], row["frame_id"]): row["views"] for row in rows}
    assert len(rows) == len(found) == 40 + 3
    for name, ids in wanted:
        expected = source.frames(name, ids, (24, 32))
        assert all(np.array_equal(found[name, int(i)], views) for i, views in zip(ids, expected, strict=True))


def test_nothing_wanted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="wanted"):
        stream_frames(tmp_path, [])
