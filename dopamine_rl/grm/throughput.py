"""Model FLOPs utilization of training: floating-point operations of the model, and the device's peak."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

BACKWARD = 2
"""The backward pass has two matrix products per product of the forward pass: for weights and for inputs."""


def training_flops(forward: Callable[[], object]) -> int:
    """FLOPs of one training pass: three times the matrix products and attentions of its forward pass.

    An image that many prompts share counts once; recomputation by gradient checkpointing does not count.

    Args:
        forward: the forward pass; its result is ignored.
    """
    # Torch counts attention on GPUs, but not on CPUs.
    cpu_attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        forward()
    return (1 + BACKWARD) * counter.get_total_flops()


def _attention_flops(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    """FLOPs of an attention, from the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Peak FLOPs per second of this device with this number of threads: the best of some square matrix products.

    Measured once by a process.
    """
    return _measured_peak(device, dtype, torch.get_num_threads())


@functools.cache
def _measured_peak(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def measure_seconds() -> float:
        start = time.perf_counter()
        float((left @ right)[0, 0])  # waits for the device
        return time.perf_counter() - start

    return 2 * side**3 / min(measure_seconds() for _ in range(8))
