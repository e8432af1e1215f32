"""A Ray Data stream of training batches whose pictures do not fit into memory, decoded ahead of time on free CPUs.

Each batch is a function of its number: batch numbers go in, decoded pictures come out in the same order. Every decoder
process caches the pictures it used last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext

from dopamine_rl.episodes.stored import StoredEpisode, StoredPictures
from dopamine_rl.errors import BadInput, DopamineError, error_from_text, error_to_text
from dopamine_rl.grm.batches import Batch, Batches, BatchSampler
from dopamine_rl.grm.config import SFTConfig

LENGTH = 4096
"""Batches per Ray Data stream; the next stream starts when one is used up."""

BLOCK = 2
"""Batches per Ray Data block."""


def stream(
    sampler: BatchSampler, episodes: Sequence[StoredEpisode], size: tuple[int, int], config: SFTConfig
) -> Batches:
    """Stream the batches of a training. Ray must be running, and every node must be able to read the episodes' folders.

    `config.decoders` processes decode, each with `config.num_cpus` CPUs and a picture cache of `config.memory_mb`. Ray
    Data applies backpressure when its memory is full.

    Raises:
        BadInput: the training leaves no CPU for decoding; Ray Data would wait for ever.
        EpisodeError: a picture cannot be decoded (raised while iterating).
    """
    free = ray.cluster_resources().get("CPU", 0.0) - config.workers * config.num_cpus
    if free < config.num_cpus:
        raise BadInput(
            "sft.workers",
            config.workers,
            "the pictures do not fit into sft.memory_mb and are decoded beside the training, "
            f"which leaves {free:g} CPUs: give the cluster {config.num_cpus:g} more",
        )
    source = ray.put((sampler, episodes))

    def draw(numbers: Iterable[int]) -> Iterator[Batch]:
        remaining = iter(numbers)
        while chunk := list(islice(remaining, LENGTH)):
            for number, images in _decode(source, chunk, size, config):
                yield sampler.plan(number).with_images(images)

    return draw


def _decode(
    source: Any, numbers: Sequence[int], size: tuple[int, int], config: SFTConfig
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode the pictures of some batches, in order. `source` is the object reference of (sampler, episodes)."""
    DataContext.get_current().execution_options.preserve_order = True
    DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(
        [{"number": number} for number in numbers], override_num_blocks=-(-len(numbers) // BLOCK)
    )
    decoded = rows.map(
        _Decoder,  # type: ignore[arg-type]  # a callable class
        fn_constructor_args=(source, size, config.memory_mb * 2**20),
        compute=ActorPoolStrategy(size=config.decoders),
        num_cpus=config.num_cpus,
    )
    for row in decoded.iter_rows():
        if row["error"]:
            raise error_from_text(row["error"])
        yield int(row["number"]), np.frombuffer(row["pixels"], np.uint8).reshape(-1, *size, 3)


class _Decoder:
    def __init__(self, source: Any, size: tuple[int, int], cache_bytes: int) -> None:
        self._sampler, episodes = ray.get(source)
        self._pictures = StoredPictures(episodes, size, cache_bytes)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            images = self._pictures(self._sampler.plan(row["number"]).pictures)
        except (DopamineError, OSError) as error:  # As a value: Ray Data would wrap an exception with a traceback.
            return {"number": row["number"], "pixels": b"", "error": error_to_text(error)}
        return {"number": row["number"], "pixels": images.tobytes(), "error": ""}
