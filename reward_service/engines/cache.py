"""A size-bounded LRU cache of tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

from dopamine_rl.errors import BadInput


class TensorCache:
    """An LRU cache of at most `max_bytes` of tensors (0 caches nothing). Not thread-safe.

    Raises:
        BadInput: `max_bytes` is negative.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise BadInput("engine.cache_bytes", max_bytes, "give a number of bytes, or 0 to keep nothing")
        self.max_bytes = max_bytes
        self.bytes = 0
        self._tensors: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tensors)

    def get(self, key: Hashable) -> torch.Tensor | None:
        """The cached tensor of a key, marked as recently used; None if it is not cached."""
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
        return tensor

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Cache a copy (a view would keep its whole batch alive). Tensors larger than the cache are not cached."""
        if key in self._tensors or tensor.nbytes > self.max_bytes:
            return
        self._tensors[key] = tensor.clone()
        self.bytes += tensor.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._tensors.popitem(last=False)[1].nbytes
