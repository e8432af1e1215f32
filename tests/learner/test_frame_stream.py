"""Streamed batches are those from memory, from both formats, wherever they begin."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import ray

from dopamine_rl.episodes.lerobot_write import write_dataset
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.stored import decode_all, list_stored
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.grm.batches import BatchSampler, from_memory
from dopamine_rl.grm.config import BatchPlan, SFTConfig, TrainConfig
from dopamine_rl.grm.fit import threads
from dopamine_rl.grm.labels import label
from tests.dopamine_rl.grm_toys import record_squares

SIZE = (28, 42)
CONFIG = SFTConfig(memory_mb=1, decoders=2, num_cpus=0.4)


@pytest.mark.ray
@pytest.mark.slow
def test_streamed_batches_are_those_from_memory(cluster: None, tmp_path: Path) -> None:
    from learner import frame_stream

    record_squares(tmp_path / "raw", 5, 0)
    write_dataset(tmp_path / "lerobot", open_source(tmp_path / "raw"), lossless=True)
    stored = [*list_stored(tmp_path / "raw", stride=2), *list_stored(tmp_path / "lerobot")]
    kinds = {"paused": 1, "mismatched": 0.3, "other_instructions": ("lift the block",)}
    plan = BatchPlan(episodes=3, runs=2, run_length=2, blank_reference=0.5, **kinds)  # type: ignore[arg-type]
    sampler = BatchSampler(label([episode.info for episode in stored]), TrainConfig(plan=plan))
    numbers = range(3, 60, 2)
    expected = list(sampler.batches(from_memory(decode_all(stored, SIZE, 2)))(numbers))
    for stream in (threads, frame_stream.stream):
        # It could go on for ever; what is asked for comes in order.
        batches = list(islice(stream(sampler, stored, SIZE, CONFIG)(numbers), len(numbers)))
        assert [batch.prompts for batch in batches] == [batch.prompts for batch in expected]
        for batch, known in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(batch.images, known.images)


@pytest.mark.ray
def test_what_cannot_be_streamed_is_said(cluster: None, tmp_path: Path) -> None:
    from learner import frame_stream

    stored = list_stored(record_squares(tmp_path / "raw", 1, 0))
    sampler = BatchSampler(label([episode.info for episode in stored]), TrainConfig(plan=BatchPlan(episodes=1)))
    full = replace(CONFIG, workers=2, num_cpus=ray.cluster_resources()["CPU"] / 2)
    with pytest.raises(BadInput, match="leaves 0 CPUs"):
        frame_stream.stream(sampler, stored, SIZE, full)
    video = stored[0].folder / "episode_000" / "cam_high.mp4"
    video.write_bytes(b"nothing to see")
    with pytest.raises(EpisodeError, match=r"episode_000/cam_high.mp4"):
        next(iter(frame_stream.stream(sampler, stored, SIZE, CONFIG)([0])))
