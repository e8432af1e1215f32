"""Decoded frames of any number of episodes as a Ray Data stream: decoded where there is a free CPU, never all in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray.data
from numpy.typing import NDArray

from dopamine_rl.episodes.source import CachedSource, open_source
from dopamine_rl.errors import BadInput

FRAMES_AT_ONCE = 16
"""Frames of one episode that are decoded together; they lie close together, so that few others are decoded with them."""


def stream_frames(
    data: Path,
    wanted: Iterable[tuple[str, NDArray[np.int64]]],
    size: tuple[int, int] | None = None,
    decoders: int = 1,
    cache_bytes: int = 256 * 2**20,
) -> ray.data.Dataset:
    """Decode frames as they are consumed; Ray must be running, and every node must see `data`.

    Args:
        data: a folder of raw episodes or a LeRobotDataset, see `open_source`.
        wanted: episodes by name, with int64 [F] strictly increasing frame ids each.
        size: (height, width) that pictures are scaled to; None keeps them as they are.
        decoders: processes that decode, of one CPU each. Ray Data holds them back while its memory is full.
        cache_bytes: pictures that each of them keeps, for frames that are wanted more than once, as by many pairs.
    Returns:
        Rows in no particular order: `episode_id`, `frame_id`, `views` uint8 [V, H, W, 3].
    Raises:
        BadInput: nothing is wanted. While it is consumed, Ray's error with an EpisodeError as its cause.
    """
    parts = [
        {"episode_id": name, "frame_ids": part.tolist()}
        for name, ids in wanted
        for part in np.array_split(ids, -(-len(ids) // FRAMES_AT_ONCE) or 1)
        if len(part)
    ]
    if not parts:
        raise BadInput("wanted", (), "name at least one frame of one episode")
    return ray.data.from_items(parts).flat_map(
        _Decoder,
        fn_constructor_args=(data, size, cache_bytes),
        compute=ray.data.ActorPoolStrategy(size=decoders),
    )


class _Decoder:
    def __init__(self, data: Path, size: tuple[int, int] | None, cache_bytes: int) -> None:
        self._source, self._size = CachedSource(open_source(data), cache_bytes), size

    def __call__(self, part: dict[str, Any]) -> Iterator[dict[str, Any]]:
        ids = np.asarray(part["frame_ids"], np.int64)
        frames = self._source.frames(part["episode_id"], ids, self._size)
        for frame_id, views in zip(ids, frames, strict=True):
            yield {"episode_id": part["episode_id"], "frame_id": int(frame_id), "views": views}
