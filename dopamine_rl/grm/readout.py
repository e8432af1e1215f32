"""From pixels to hops: each picture is encoded once, each prompt is read from where it is new, the answer is a distribution.

The stock modules' weights are used as they are; only the order of the work differs, so results agree with the stock forward
pass. The same functions answer in the reward service and carry gradients in training.
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
from dopamine_rl.grm.layout import Layout, Pictures, prompt_layout
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
"""float64 [201], the hop of each bin."""

_GAIN_LOSS = np.stack((HOPS.clip(min=0.0), (-HOPS).clip(min=0.0)), axis=1)

SHAPES = 64
"""How many layouts of prompts, and sizes of pictures, a reader remembers."""


class Reader:
    """A model made ready to answer: what depends only on its weights, or on shapes, is computed once.

    It must be made again after the weights have changed. Where gradients are on, they flow to all weights.

    Args:
        grm: the model.
        recompute: gradient checkpointing: values inside a layer are not kept for the backward pass but computed again.
    """

    def __init__(self, grm: GRM, recompute: bool = False) -> None:
        self.grm, self._recompute = grm, recompute
        self._grid = lru_cache(SHAPES)(partial(picture_grid, grm))
        self.grid_layout = lru_cache(SHAPES)(partial(prompt_layout, grm))

    @cached_property
    def _tower(self) -> Tower:
        return make_tower(self.grm, self._recompute)

    @cached_property
    def _decoder(self) -> Decoder:
        return make_decoder(self.grm, self._recompute)

    def layout(self, instruction: str, views: int, height: int, width: int) -> Layout:
        """The layout of a prompt whose pictures have height × width pixels.

        Raises:
            BadInput: the template does not take the instruction or the number of views, or the pictures are too narrow.
        """
        unit = self.grm.image_processor.patch_size * self.grm.image_processor.merge_size
        height, width = picture_size(self.grm.image_processor, height, width)
        return self.grid_layout(instruction, views, height // unit, width // unit)

    def encode(self, images: NDArray[np.uint8]) -> ImageFeatures:
        """Encode M pictures of equal size, uint8 [M, H, W, 3], in one batched pass."""
        patches, rows, columns = cut_patches(self.grm, images)
        tokens = encode_patches(self._tower, patches, self._grid(rows, columns))
        merge = self.grm.image_processor.merge_size
        return ImageFeatures(tokens, rows // merge, columns // merge)

    def logits(
        self,
        layout: Layout,
        questions: Sequence[Pictures],
        tokens: torch.Tensor,
        place: Mapping[int, int] | Sequence[int],
        known: MutableMapping[Pictures, torch.Tensor],
    ) -> torch.Tensor:
        """Log-probabilities [N, 201] of the hop bins; the arguments are those of `answer_logits`."""
        return answer_logits(self._decoder, layout, questions, tokens, place, known)

    def states(
        self, layout: Layout, questions: Sequence[Pictures], tokens: torch.Tensor, tails: torch.Tensor
    ) -> torch.Tensor:
        """What the output layer is given behind N questions and each of their tails, see `fork_states`."""
        return fork_states(self._decoder, layout, questions, tokens, range(len(tokens)), {}, tails)


def encode_images(grm: GRM, images: NDArray[np.uint8]) -> ImageFeatures:
    """Encode M pictures of equal size in one batched pass.

    Args:
        images: uint8 [M, H, W, 3].
    Raises:
        BadInput: another shape or dtype.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[-1] != 3 or 0 in images.shape:
        raise BadInput("images", (images.shape, images.dtype), "give uint8 pixels of shape [M, H, W, 3]")
    return Reader(grm).encode(images)


def forward_logits(grm: GRM, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Answer N prompts about encoded pictures: float32 [N, 201], log-probabilities of the hop bins.

    What prompts have in common is computed once: the references of an instruction, then each BEFORE on top of them, then
    each prompt's AFTER. Where the model's contract fixes more views than a prompt has, its front view is repeated.

    Raises:
        BadInput: a prompt's instruction or number of views does not fit the template.
    """
    return reader_logits(Reader(grm), features, prompts)


def reader_logits(reader: Reader, features: ImageFeatures, prompts: Sequence[Prompt]) -> torch.Tensor:
    """`forward_logits` by a reader that is there already."""
    place = range(len(features.tokens))
    prompts = [reader.grm.template.fill(prompt) for prompt in prompts]

    def answer(layout: Layout, numbers: Sequence[int]) -> torch.Tensor:
        return reader.logits(layout, [prompts[number].images for number in numbers], features.tokens, place, {})

    return by_layout(partial(reader.grid_layout, rows=features.rows, columns=features.columns), prompts, answer)


def by_layout(
    layout: Callable[[str, int], Layout],
    prompts: Sequence[Prompt],
    answer: Callable[[Layout, Sequence[int]], torch.Tensor],
) -> torch.Tensor:
    """Answer prompts layout by layout; the first axis of what comes back has their order.

    Args:
        layout: makes the layout of an instruction and a number of views.
        answer: gets a layout and the numbers of the n prompts that have it, gives [n, ...].
    Raises:
        BadInput: a prompt with other views before than after, or what `layout` raises.
    """
    kinds: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        if len(prompt.before) != len(prompt.after):
            raise BadInput("prompt.after", prompt.after, f"give as many views as in before, {len(prompt.before)}")
        kinds[prompt.instruction, len(prompt.before)].append(number)
    parts = torch.cat([answer(layout(*kind), numbers) for kind, numbers in kinds.items()])
    order = [number for numbers in kinds.values() for number in numbers]
    return parts[torch.tensor(order, device=parts.device).argsort()]


def binned_hops(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[H⁺], E[H⁻] and entropy (nats) of softmax(logits [N, 201]): three float32 [N]; NaN logits stay NaN.

    Source: METHOD.md section 2; the expectation is split at 0 because the inverse of a hop has a kink there.
    """
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    gain, loss = (p @ torch.as_tensor(_GAIN_LOSS, dtype=p.dtype, device=p.device)).unbind(dim=-1)
    return gain, loss, -(p * log_p).sum(dim=-1)
