"""Batches whose pictures do not fit into memory, as a Ray Data stream: decoded where there is a free CPU, ahead of the training.

Every batch is a function of its number, so what flows is numbers in and pictures out, in their order; whoever decodes keeps the
pictures that were wanted last.
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
"""Batches of one stream; the next one begins when it is used up."""

BLOCK = 2
"""Batches that are decoded together."""


def stream(
    sampler: BatchSampler, episodes: Sequence[StoredEpisode], size: tuple[int, int], config: SFTConfig
) -> Batches:
    """A stream of a training's batches; Ray must be running, and every node must see the episodes' folders.

    `config.decoders` processes decode, each of `config.num_cpus` CPUs and with `config.memory_mb` of pictures. Ray Data holds
    them back while its memory is full.

    Raises:
        BadInput: the training leaves no CPU to decode with, for which Ray Data would wait for ever.
        EpisodeError: while it is consumed, a picture cannot be decoded.
    """
    free = ray.cluster_resources().get("CPU", 0.0) - config.workers * config.num_cpus
    if free < config.num_cpus:
        fix = f"the pictures do not fit into sft.memory_mb and are decoded beside the training, which leaves {free:g} CPUs: give the cluster {config.num_cpus:g} more"
        raise BadInput("sft.workers", config.workers, fix)
    decoder = ray.put((sampler, episodes))

    def draw(numbers: Iterable[int]) -> Iterator[Batch]:
        remaining = iter(numbers)
        while coming := list(islice(remaining, LENGTH)):
            for number, images in _decoded(decoder, coming, size, config):
                yield sampler.plan(number).with_images(images)

    return draw


def _decoded(
    decoder: Any, numbers: Sequence[int], size: tuple[int, int], config: SFTConfig
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The pictures of some batches, in order."""
    DataContext.get_current().execution_options.preserve_order = True
    DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(
        [{"number": number} for number in numbers], override_num_blocks=-(-len(numbers) // BLOCK)
    )
    decoded = rows.map(
        _Decoder,  # type: ignore[arg-type]  # a class that makes such a function
        fn_constructor_args=(decoder, size, config.memory_mb * 2**20),
        compute=ActorPoolStrategy(size=config.decoders),
        num_cpus=config.num_cpus,
    )
    for row in decoded.iter_rows():
        if row["error"]:
            raise error_from_text(row["error"])
        yield int(row["number"]), np.frombuffer(row["pixels"], np.uint8).reshape(-1, *size, 3)


class _Decoder:
    def __init__(self, decoder: Any, size: tuple[int, int], cache_bytes: int) -> None:
        self._sampler, episodes = ray.get(decoder)
        self._pictures = StoredPictures(episodes, size, cache_bytes)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            images = self._pictures(self._sampler.plan(row["number"]).pictures)
        except (DopamineError, OSError) as error:  # Ray Data would wrap it, with a traceback
            return {"number": row["number"], "pixels": b"", "error": error_to_text(error)}
        return {"number": row["number"], "pixels": images.tobytes(), "error": ""}
