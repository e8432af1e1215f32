"""What a training makes of its device: floating-point operations of the model, and what the device could do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

BACKWARD = 2
"""The backward pass has two products for each of the forward pass: for the weights and for the inputs."""


def training_flops(forward: Callable[[], object]) -> int:
    """Operations of one training pass: three times those of the matrix products and attentions of its forward pass.

    Only what is really computed counts: a picture that many questions share counts once, and what is computed again by
    gradient checkpointing does not count.

    Args:
        forward: the forward pass; its result is dropped.
    """
    on_cpu = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention
    }  # torch itself counts those on GPUs
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        forward()
    return (1 + BACKWARD) * counter.get_total_flops()


def _attention(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    """Operations of an attention, from the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the best of some square matrix products: what this device, with this many threads, gives at most."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def timed() -> float:
        began = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        return time.perf_counter() - began

    return 2 * side**3 / min(timed() for _ in range(8))
