"""The vision tower's forward pass on a batch of images of equal size.

The same code runs both architectures: most layers of Qwen2.5-VL attend within a window; Qwen3-VL adds learned position
embeddings and returns intermediate features too (deepstack). Three things differ from the stock forward pass, without
changing the result. A still image is repeated in time, so the two halves of the patch embedding are summed.
Normalisation is folded into the same matrix, so it applies to bytes. Windows are a mask in one batched attention
instead of a loop over windows and images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_position_ids

from dopamine_rl.episodes.scale import resize
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.attention import attend, normalise, rotate, rotation, run
from dopamine_rl.grm.model import VisionModel


@dataclass(frozen=True, eq=False, slots=True)
class ImageFeatures:
    """M encoded images of one size.

    Args:
        tokens: float [M, rows · columns, (1 + K) · D], each image's prompt tokens, then the deepstack features that are
            added to them after each of the first K layers of the language model; K is 0 for Qwen2.5-VL.
        rows, columns: of the token grid.
    """

    tokens: torch.Tensor
    rows: int
    columns: int


@dataclass(frozen=True, eq=False, slots=True)
class Grid:
    """Inputs of the tower that depend only on the image size.

    Args:
        cos, sin: float32 [patches, 1, d], rotary angles.
        window: bool [patches, patches], True within a window; None if the model has no windows.
        position: [patches, D], learned position embedding of each patch; None if the model has none.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    window: torch.Tensor | None
    position: torch.Tensor | None


@dataclass(frozen=True, eq=False, slots=True)
class Tower:
    """The vision tower in the form that `encode_patches` uses.

    Args:
        weight, bias: patch embedding of bytes.
        blocks: stock modules.
        windowed: indices of the blocks with window attention.
        merger: maps the last block's patches to tokens.
        taps: deepstack mergers by the index of the block whose patches they take.
        recompute: gradient checkpointing of every block.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    blocks: Sequence[Any]
    windowed: frozenset[int]
    merger: Any
    taps: Mapping[int, Any]
    recompute: bool


def make_tower(vision: VisionModel, recompute: bool = False) -> Tower:
    """Collect a model's weights; call it again after they have changed. Gradients flow back to them."""
    visual = vision.visual
    blocks = range(len(visual.blocks))
    full_attention = getattr(visual, "fullatt_block_indexes", blocks)
    taps = zip(
        getattr(visual, "deepstack_visual_indexes", ()), getattr(visual, "deepstack_merger_list", ()), strict=True
    )
    windowed = frozenset(blocks).difference(full_attention)
    return Tower(*patch_embedding(vision), visual.blocks, windowed, visual.merger, dict(taps), recompute)


def patch_embedding(vision: VisionModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch embedding of bytes, including normalisation: weight [D, patch² · 3] and bias [D]."""
    processor, stock = vision.image_processor, vision.visual.patch_embed.proj
    kernel = stock.weight
    mean = 255.0 * torch.tensor(processor.image_mean, device=kernel.device)
    scale = 1.0 / (255.0 * torch.tensor(processor.image_std, device=kernel.device))
    still = kernel.float().sum(dim=2).permute(0, 2, 3, 1) * scale
    weight = still.flatten(1).to(kernel.dtype)
    # Computed from the rounded weight, so that a grey image maps to zero in half precision too.
    bias = -(weight.float().view(still.shape) * mean).sum(dim=(1, 2, 3))
    return weight, (bias if stock.bias is None else bias + stock.bias.float()).to(kernel.dtype)


def picture_size(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width to which the image processor resizes an image. Raises BadInput if the image is too narrow."""
    unit = processor.patch_size * processor.merge_size
    limits = (processor.size["shortest_edge"], processor.size["longest_edge"])
    try:
        return smart_resize(height, width, unit, *limits)
    except ValueError as error:
        raise BadInput("images", (height, width), f"give a less narrow image ({error})") from None


def cut_patches(vision: VisionModel, images: NDArray[np.uint8]) -> tuple[torch.Tensor, int, int]:
    """Resize if needed and cut into patches like the checkpoint's image processor, but keep bytes.

    Args:
        images: uint8 [M, H, W, 3].
    Returns:
        uint8 [M, rows · columns, patch² · 3], patches in the order of the stock processor, channels last and without
        its repetition in time, and the numbers of patch rows and columns.
    """
    patch, merge = vision.image_processor.patch_size, vision.image_processor.merge_size
    size = picture_size(vision.image_processor, *images.shape[1:3])
    if size != images.shape[1:3]:
        images = np.stack([resize(image, size) for image in images])
    rows, columns = size[0] // patch, size[1] // patch
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(vision.device)
    patches = pixels.view(len(images), rows // merge, merge, patch, columns // merge, merge, patch, 3)
    patches = patches.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(len(images), rows * columns, patch * patch * 3)
    return patches, rows, columns


def picture_grid(vision: VisionModel, rows: int, columns: int) -> Grid:
    """Rotary angles, windows and positions of images with rows × columns patches."""
    tower, device = vision.visual, vision.device
    merge = tower.spatial_merge_size
    positions = get_vision_position_ids(torch.tensor([[1, rows, columns]], device=device), merge)
    cos, sin = rotation(*tower.rotary_pos_emb(positions.float(), positions))
    window = position = None
    if hasattr(tower, "fullatt_block_indexes"):
        side = tower.window_size // merge // tower.patch_size * merge
        window = (positions[:, None] // side == positions[None] // side).all(dim=-1)
    if hasattr(tower, "pos_embed"):
        side = tower.num_grid_per_side
        table = tower.pos_embed.weight.float().unflatten(0, (side, side)).permute(2, 0, 1)
        resized = F.interpolate(table[None], (rows, columns), mode="bilinear", align_corners=True)[0]
        position = resized[:, positions[:, 0], positions[:, 1]].T.to(tower.pos_embed.weight.dtype)
    return Grid(cos, sin, window, position)


def encode_patches(tower: Tower, patches: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Features [M, tokens, (1 + K) · D] of M images of equal size, uint8 [M, patches, patch² · 3]."""
    hidden = F.linear(patches.to(tower.weight.dtype), tower.weight, tower.bias)
    if grid.position is not None:
        hidden = hidden + grid.position
    tapped = []
    for number, block in enumerate(tower.blocks):
        mask = grid.window if number in tower.windowed else None
        hidden = run(tower.recompute, _block, block, hidden, grid, mask)
        if number in tower.taps:
            tapped.append(tower.taps[number](hidden))
    return torch.cat([_merge(tower.merger, hidden), *tapped], dim=-1).unflatten(0, (len(patches), -1))


def _block(block: Any, hidden: torch.Tensor, grid: Grid, mask: torch.Tensor | None) -> torch.Tensor:
    hidden = hidden + _attention(block.attn, normalise(block.norm1, hidden), grid, mask)
    mixed: torch.Tensor = hidden + block.mlp(normalise(block.norm2, hidden))
    return mixed


def _merge(merger: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Merge patches [M, patches, D'] into tokens [M · tokens, D] with the stock module."""
    if not hasattr(merger, "ln_q"):
        return merger(hidden)
    return merger.mlp(normalise(merger.ln_q, hidden).view(-1, merger.hidden_size))


def _attention(attention: Any, hidden: torch.Tensor, grid: Grid, mask: torch.Tensor | None) -> torch.Tensor:
    mixed = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1))
    rotated = rotate(mixed[:, :, :2], grid.cos[:, None], grid.sin[:, None])
    return attention.proj(attend(rotated[:, :, 0], rotated[:, :, 1], mixed[:, :, 2], mask))
