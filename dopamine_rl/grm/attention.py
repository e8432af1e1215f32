"""Operations shared by the vision tower and the language model, each with as few kernels as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def run(recompute: bool, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function, with gradient checkpointing if `recompute`."""
    result: Result = checkpoint(function, *arguments, use_reentrant=False) if recompute else function(*arguments)
    return result


def normalise(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Apply a stock LayerNorm or RMSNorm module in one call."""
    if isinstance(norm, torch.nn.LayerNorm):
        return norm(hidden)
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def rotation(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prepare rotary embeddings [L, d] for `rotate`: [L, 1, d], with the sign of the swapped half in the sine."""
    half = sin.shape[-1] // 2
    return cos.unsqueeze(-2), torch.cat((-sin[..., :half], sin[..., half:]), dim=-1).unsqueeze(-2)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate heads [..., L, heads, d] by prepared angles [L, 1, d], in the precision of the angles.

    Source: transformers, `apply_rotary_pos_emb`; the halves are swapped by a roll, so nothing is negated.
    """
    if heads.dtype != cos.dtype:
        return rotate(heads.to(cos.dtype), cos, sin).to(heads.dtype)
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Attention of n tokens to L, [N, n, heads · d].

    Heads that share keys are treated as additional tokens, so no key is copied.

    Args:
        query: [N, n, heads, d].
        key, value: [N, L, key_heads, d]; key_heads divides heads.
        mask: [n · heads / key_heads, L], True or 0 where a token may attend, False or −∞ elsewhere, one row per token
            and head of a group; None means full attention.
    """
    count, length, heads, width = query.shape
    key_heads = key.shape[2]
    folded = query.view(count, length, key_heads, heads // key_heads, width).transpose(1, 2).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(folded, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask)
    return mixed.unflatten(2, (length, -1)).transpose(1, 2).reshape(count, length, heads * width)
