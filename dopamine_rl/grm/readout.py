"""From pixels to hops: each picture is encoded once, each prompt is one forward pass, the answer is a distribution.

The stock modules' weights are used as they are; only the order of the work differs (all pictures of a batch in one pass, the
answer read from 201 logits at the prompt's last token), so results agree with the stock forward pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from transformers import DynamicCache
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_position_ids

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.interfaces import Prompt

HOPS = np.linspace(-1.0, 1.0, HOP_BINS)
"""float64 [201], the hop of each bin."""


@dataclass(frozen=True, eq=False, slots=True)
class ImageFeatures:
    """M encoded pictures of one size.

    Args:
        tokens: float [M, rows · columns, D], what stands in the prompt for each picture.
        rows, columns: the grid of tokens.
    """

    tokens: torch.Tensor
    rows: int
    columns: int


def pixels_to_patches(grm: GRM, images: NDArray[np.uint8]) -> tuple[torch.Tensor, int, int]:
    """Resize where needed, normalise and cut into patches, as the checkpoint's image processor does.

    Args:
        images: uint8 [M, H, W, 3].
    Returns:
        float32 [M, rows · columns, 3 · patch²] in the order of the stock processor but without its repetition over time,
        and the numbers of patch rows and columns.
    """
    processor = grm.image_processor
    patch, merge = processor.patch_size, processor.merge_size
    height, width = images.shape[1:3]
    size = smart_resize(height, width, patch * merge, processor.size["shortest_edge"], processor.size["longest_edge"])
    if size != (height, width):
        images = np.stack([_resize(image, size) for image in images])
    device = grm.model.device
    mean = torch.tensor(processor.image_mean, device=device)
    scale = 1.0 / (255.0 * torch.tensor(processor.image_std, device=device))
    pixels = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() * scale - mean * 255.0 * scale
    rows, columns = size[0] // patch, size[1] // patch
    cut = pixels.view(len(images), rows // merge, merge, patch, columns // merge, merge, patch, 3)
    return cut.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(images), rows * columns, 3 * patch * patch), rows, columns


def _resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def encode_images(grm: GRM, images: NDArray[np.uint8]) -> ImageFeatures:
    """Encode M pictures of equal size in one batched pass.

    Args:
        images: uint8 [M, H, W, 3].
    Raises:
        BadInput: another shape or dtype.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] != 3 or 0 in images.shape:
        raise BadInput("images", (images.shape, images.dtype), "give uint8 pixels of shape [M, H, W, 3]")
    patches, rows, columns = pixels_to_patches(grm, images)
    tower = grm.model.model.visual
    merge = tower.spatial_merge_size
    if len(tower.fullatt_block_indexes) == len(tower.blocks):
        tokens = _encode_batched(tower, patches.to(tower.dtype), rows, columns)
    else:  # windowed attention: the stock pass, picture by picture
        grid = torch.tensor([[1, rows, columns]] * len(images), device=patches.device)
        repeated = patches.view(len(images) * rows * columns, 3, 1, -1).expand(
            -1, -1, tower.patch_embed.temporal_patch_size, -1
        )
        output = tower(repeated.reshape(len(images) * rows * columns, -1).to(tower.dtype), grid_thw=grid)
        tokens = output.pooler_output.view(len(images), -1, output.pooler_output.shape[-1])
    return ImageFeatures(tokens, rows // merge, columns // merge)


def _encode_batched(tower: Any, patches: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The stock vision tower's layers on [M, patches, C] at once: a still picture repeats in time, so its kernels may be summed."""
    kernel = tower.patch_embed.proj.weight.sum(dim=2).flatten(1)
    hidden = F.linear(patches, kernel)
    grid = torch.tensor([[1, rows, columns]], device=patches.device)
    rotary = tower.rotary_pos_emb(hidden, get_vision_position_ids(grid, tower.spatial_merge_size))
    for block in tower.blocks:
        hidden = hidden + _attend(block, block.norm1(hidden), rotary)
        hidden = hidden + block.mlp(block.norm2(hidden))
    count, length, width = hidden.shape
    unit = tower.spatial_merge_unit
    normed = tower.merger.ln_q(hidden).view(count, length // unit, unit * width)
    return tower.merger.mlp(normed)


def _attend(block: Any, hidden: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    attention = block.attn
    count, length, width = hidden.shape
    mixed = attention.qkv(hidden).view(count, length, 3, attention.num_heads, attention.head_dim)
    query, key, value = mixed.unbind(2)
    query, key = apply_rotary_pos_emb_vision(query, key, *rotary)
    mixed = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return attention.proj(mixed.transpose(1, 2).reshape(count, length, width))


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """The tokens of one prompt, the same for every prompt of equal instruction, views and picture size.

    Args:
        input_ids: int64 [L].
        positions: int64 [3, L], multimodal rotary positions.
        slots: int64 [(2 + 2V) · picture_tokens], where picture tokens stand, in the order of the contract.
        picture_tokens: tokens of one picture.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    picture_tokens: int


def prompt_layout(grm: GRM, instruction: str, views: int, rows: int, columns: int) -> Layout:
    """Lay out a prompt. Raises BadInput for an instruction or a number of views the template cannot take."""
    text = grm.template.render(instruction, views)
    pad = grm.model.config.image_token_id
    ids = torch.tensor(grm.tokenizer(text, add_special_tokens=False)["input_ids"])
    repeats = torch.where(ids == pad, rows * columns, 1)
    ids = ids.repeat_interleave(repeats)
    is_image = ids == pad
    merge = grm.model.model.visual.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, columns * merge]] * (2 + 2 * views))
    # Pictures are never adjacent (each stands between its vision tokens), so every run of pads is one picture.
    positions, _ = grm.model.model.get_rope_index(ids[None], is_image.int()[None], image_grid_thw=grid)
    device = grm.model.device
    return Layout(ids.to(device), positions[:, 0].to(device), is_image.nonzero()[:, 0].to(device), rows * columns)


def forward_logits(grm: GRM, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Answer N prompts about encoded pictures: float [N, 201] logits over hop bins.

    What prompts have in common is computed once: the references of an instruction, then each BEFORE on top of them, then
    each prompt's AFTER. The answer is the same as without sharing, since a causal model's beginning cannot see its end.

    Raises:
        BadInput: a prompt's instruction or number of views does not fit the template.
    """
    kinds: dict[tuple[str, int], list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        if len(prompt.before) != len(prompt.after):
            raise BadInput("prompt.after", prompt.after, f"give as many views as in before, {len(prompt.before)}")
        kinds[prompt.instruction, len(prompt.before)].append(place)
    parts, order = [], []
    for (instruction, views), places in kinds.items():
        layout = prompt_layout(grm, instruction, views, features.rows, features.columns)
        parts.append(_kind_logits(grm, layout, features, [prompts[place] for place in places]))
        order += places
    return torch.cat(parts)[torch.tensor(order, device=parts[0].device).argsort()]


def _kind_logits(grm: GRM, layout: Layout, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Logits [N, 201] of N prompts with one layout."""
    language = grm.model.model.language_model
    device = features.tokens.device
    cuts = _cuts(layout, 2, 2 + len(prompts[0].before))
    cache = DynamicCache(config=language.config)
    parents: list[tuple[int, ...]] = [()]
    hidden = features.tokens
    for start, stop, pictures in cuts:
        known = [prompt.images[: pictures.start] for prompt in prompts]
        nodes = [prompt.images[: pictures.stop] for prompt in prompts]
        if stop < len(layout.input_ids):
            pairs = dict(zip(nodes, known, strict=True))
            nodes, known = list(pairs), list(pairs.values())
        row = {parent: index for index, parent in enumerate(parents)}
        if start:
            cache.batch_select_indices(torch.tensor([row[parent] for parent in known], device=device))
        shown = torch.tensor([node[pictures] for node in nodes], device=device)
        inputs = _embed(language, layout, start, stop, features.tokens[shown].flatten(1, 2))
        positions = layout.positions[:, None, start:stop].expand(3, len(nodes), -1)
        output = language(inputs_embeds=inputs, position_ids=positions, past_key_values=cache, use_cache=True)
        hidden, parents = output.last_hidden_state, nodes
    return F.linear(hidden[:, -1], grm.model.lm_head.weight[grm.answer_ids.to(device)])


def _cuts(layout: Layout, *pictures: int) -> list[tuple[int, int, slice]]:
    """Cut a layout behind its first `pictures` pictures each: start and stop token, and the pictures in between."""
    count = len(layout.slots) // layout.picture_tokens
    ends = [int(layout.slots[number * layout.picture_tokens - 1]) + 1 for number in pictures]
    tokens = [0, *ends, len(layout.input_ids)]
    numbers = [0, *pictures, count]
    return [
        (tokens[part], tokens[part + 1], slice(numbers[part], numbers[part + 1])) for part in range(len(numbers) - 1)
    ]


def _embed(language: Any, layout: Layout, start: int, stop: int, pictures: torch.Tensor) -> torch.Tensor:
    """Embeddings [n, stop − start, D] of one part of a layout, with picture tokens [n, slots inside, D] in place."""
    text = language.embed_tokens(layout.input_ids[start:stop]).expand(len(pictures), -1, -1)
    slots = layout.slots[(layout.slots >= start) & (layout.slots < stop)] - start
    return text.index_copy(1, slots, pictures.to(text.dtype))


def binned_hops(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[H⁺], E[H⁻] and entropy (nats) of softmax(logits [N, 201]): three float32 [N]; NaN logits stay NaN.

    Source: METHOD.md section 2; the expectation is split at 0 because the inverse of a hop has a kink there.
    """
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    hops = torch.as_tensor(HOPS, dtype=p.dtype, device=p.device)
    return p @ hops.clamp(min=0), p @ (-hops).clamp(min=0), -(p * log_p).sum(dim=-1)
