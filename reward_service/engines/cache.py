"""A bounded store of tensors: what was used least recently gives way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import torch

from dopamine_rl.errors import BadInput


class TensorCache:
    """Tensors by key, at most `max_bytes` of them in all. Not safe for use by several threads at once.

    Raises:
        BadInput: `max_bytes` is negative; 0 keeps nothing.
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
        """The tensor kept under a key, which counts as a use of it."""
        tensor = self._tensors.get(key)
        if tensor is not None:
            self._tensors.move_to_end(key)
        return tensor

    def put(self, key: Hashable, tensor: torch.Tensor) -> None:
        """Keep a copy, so that a row of a batch does not hold the batch; what does not fit at all is not kept."""
        if key in self._tensors or tensor.nbytes > self.max_bytes:
            return
        self._tensors[key] = tensor.clone()
        self.bytes += tensor.nbytes
        while self.bytes > self.max_bytes:
            self.bytes -= self._tensors.popitem(last=False)[1].nbytes
