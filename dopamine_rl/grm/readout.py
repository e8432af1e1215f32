"""From images to distributions over hops: each image is encoded once, common prefixes of prompts are computed once.

The weights are those of the stock modules; only the order of computation differs, so results agree with the stock
forward pass. The reward service and training use the same functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from functools import cached_property, lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.language import Decoder, answer_logits, fork_states, make_decoder
from dopamine_rl.grm.layout import Pictures, PromptLayout, prompt_layout
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.vision import (
    ImageFeatures,
    Tower,
    cut_patches,
    encode_patches,
    make_tower,
    picture_grid,
    picture_size,
)
from dopamine_rl.interfaces import Prompt

HOPS = np.linspace(-1.0, 1.0, HOP_BINS)
"""float64 [201], hop of each bin."""

_GAIN_LOSS = np.stack((HOPS.clip(min=0.0), (-HOPS).clip(min=0.0)), axis=1)

SHAPES = 64
"""Number of prompt layouts, and of image sizes, that a reader caches."""


class Reader:
    """A model prepared for inference: everything that depends only on weights or shapes is computed once.

    Create a new one after the weights have changed. If gradients are enabled, they flow to all weights.

    Args:
        grm: the model.
        recompute: gradient checkpointing: recompute the values inside a layer in the backward pass instead of storing
            them.
    """

    def __init__(self, grm: GRM, recompute: bool = False) -> None:
        self.grm, self._recompute = grm, recompute
        self._grid = lru_cache(SHAPES)(partial(picture_grid, grm.vision))
        self.grid_layout = lru_cache(SHAPES)(partial(prompt_layout, grm))

    @cached_property
    def _tower(self) -> Tower:
        return make_tower(self.grm.vision, self._recompute)

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self.grm, self._recompute)

    def layout(self, instruction: str, views: int, height: int, width: int) -> PromptLayout:
        """The layout of a prompt whose images have height × width pixels.

        Raises:
            BadInput: instruction or number of views do not fit the template, or the images are too narrow.
        """
        unit = self.grm.image_processor.patch_size * self.grm.image_processor.merge_size
        height, width = picture_size(self.grm.image_processor, height, width)
        return self.grid_layout(instruction, views, height // unit, width // unit)

    def encode(self, images: NDArray[np.uint8]) -> ImageFeatures:
        """Encode M images of equal size, uint8 [M, H, W, 3], in one batch."""
        patches, rows, columns = cut_patches(self.grm.vision, images)
        tokens = encode_patches(self._tower, patches, self._grid(rows, columns))
        merge = self.grm.image_processor.merge_size
        return ImageFeatures(tokens, rows // merge, columns // merge)

    def logits(
        self,
        layout: PromptLayout,
        questions: Sequence[Pictures],
        tokens: torch.Tensor,
        row_of: Mapping[int, int] | Sequence[int],
        cache: MutableMapping[Pictures, torch.Tensor],
    ) -> torch.Tensor:
        """Log-probabilities [N, 201] of the hop bins; arguments as for `answer_logits`."""
        return answer_logits(self._decoder, layout, questions, tokens, row_of, cache)

    def states(
        self, layout: PromptLayout, questions: Sequence[Pictures], tokens: torch.Tensor, tails: torch.Tensor
    ) -> torch.Tensor:
        """Inputs of the output layer after N prompts and at each token of their tails, see `fork_states`."""
        return fork_states(self._decoder, layout, questions, tokens, range(len(tokens)), {}, tails)


def encode_images(grm: GRM, images: NDArray[np.uint8]) -> ImageFeatures:
    """Encode M images of equal size in one batch.

    Args:
        images: uint8 [M, H, W, 3].
    Raises:
        BadInput: wrong shape or dtype.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] != 3 or 0 in images.shape:
        raise BadInput("images", (images.shape, images.dtype), "give uint8 pixels of shape [M, H, W, 3]")
    return Reader(grm).encode(images)


def forward_logits(grm: GRM, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Answer N prompts about encoded images: log-probabilities of the hop bins, float32 [N, 201].

    Common prefixes are computed once: the references of an instruction, then each BEFORE, then each prompt's AFTER. If
    the model's contract has more views than a prompt, the front view is repeated.

    Raises:
        BadInput: a prompt's instruction or number of views does not fit the template.
    """
    return reader_logits(Reader(grm), features, prompts)


def reader_logits(reader: Reader, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """`forward_logits` with an existing reader."""
    row_of = range(len(features.tokens))
    prompts = [reader.grm.template.fill(prompt) for prompt in prompts]

    def answer(layout: PromptLayout, indices: Sequence[int]) -> torch.Tensor:
        return reader.logits(layout, [prompts[index].images for index in indices], features.tokens, row_of, {})

    return by_layout(partial(reader.grid_layout, rows=features.rows, columns=features.columns), prompts, answer)


def by_layout(
    layout: Callable[[str, int], PromptLayout],
    prompts: Sequence[Prompt],
    answer: Callable[[PromptLayout, Sequence[int]], torch.Tensor],
) -> torch.Tensor:
    """Answer prompts layout by layout; the first axis of the result is in the order of the prompts.

    Args:
        layout: maps an instruction and a number of views to a layout.
        answer: maps a layout and the indices of its n prompts to a tensor [n, ...].
    Raises:
        BadInput: a prompt with different numbers of BEFORE and AFTER views, or as raised by `layout`.
    """
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        if len(prompt.before) != len(prompt.after):
            raise BadInput("prompt.after", prompt.after, f"give as many views as in before, {len(prompt.before)}")
        groups[prompt.instruction, len(prompt.before)].append(index)
    parts = torch.cat([answer(layout(*key), indices) for key, indices in groups.items()])
    order = [index for indices in groups.values() for index in indices]
    return parts[torch.tensor(order, device=parts.device).argsort()]


def binned_hops(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[H⁺], E[H⁻] and entropy (nats) of softmax(logits [N, 201]): three float32 [N]; NaN logits stay NaN.

    Source: METHOD.md section 2; the expectation is split at 0 because the inverse of a hop has a kink there.
    """
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    gain, loss = (p @ torch.as_tensor(_GAIN_LOSS, dtype=p.dtype, device=p.device)).unbind(dim=-1)
    return gain, loss, -(p * log_p).sum(dim=-1)
