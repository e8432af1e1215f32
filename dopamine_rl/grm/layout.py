"""The token layout of a prompt, and which of its prefixes are not cached yet.

A prompt has three parts: the task with its two references, BEFORE, and AFTER followed by the answers' common prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dopamine_rl.grm.attention import rotation
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.trie import Tail

Pictures = tuple[int, ...]
"""Ids of the images that a prompt, or a prefix of one, contains, in the order of the contract."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """One part of a prompt: its tokens `start` to `stop`.

    Args:
        input_ids: int64 [n].
        slots: int64 [pictures · picture_tokens], positions of picture tokens within this part.
        pictures: which of the prompt's images are in this part.
        cos, sin: [n, 1, d], prepared rotary angles in the model's precision.
        mask: [n · heads / key_heads, stop], 0 where a token and head may attend, −∞ elsewhere, in the model's
            precision.
    """

    start: int
    stop: int
    input_ids: torch.Tensor
    slots: torch.Tensor
    pictures: slice
    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class PromptLayout:
    """The tokens of a prompt; the same for all prompts with equal instruction, number of views and image size.

    Args:
        input_ids: int64 [L], up to the start of the answer.
        parts: the references, BEFORE, and AFTER followed by the tail.
        forks: int64 [F], tokens of the last part at which the next token is predicted.
        fork_mask: like the last part's mask, for these tokens only; None if they attend to everything.
    """

    input_ids: torch.Tensor
    parts: tuple[Part, Part, Part]
    forks: torch.Tensor
    fork_mask: torch.Tensor | None


def prompt_layout(
    grm: GRM, instruction: str, views: int, rows: int, columns: int, tail: Tail | None = None
) -> PromptLayout:
    """Lay out a prompt whose images have rows · columns tokens each, followed by a tail (default: the trie of answers).

    Raises:
        BadInput: the instruction or the number of views does not fit the template.
    """
    text = grm.template.render(instruction, views)
    pad = grm.model.config.image_token_id
    ids = torch.tensor(grm.tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = ids.repeat_interleave(torch.where(ids == pad, rows * columns, 1))
    is_image = ids == pad
    merge = grm.model.model.visual.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, columns * merge]] * (2 + 2 * views))
    # Images are never adjacent (each is enclosed in vision tokens), so every run of pad tokens is one image.
    positions, _ = grm.model.model.get_rope_index(ids[None], is_image.int()[None], image_grid_thw=grid)
    tail = tail or grm.trie
    blocked = torch.ones(len(ids) + len(tail.tokens), len(ids) + len(tail.tokens), dtype=torch.bool).triu(1)
    blocked[len(ids) :, len(ids) :] = ~tail.visible
    everything = torch.cat((ids, tail.tokens))
    positions = torch.cat((positions, positions[:, :, -1:] + tail.depths), dim=2)
    ends = is_image.nonzero()[rows * columns - 1 :: rows * columns, 0].tolist()
    cuts = [0, ends[1] + 1, ends[1 + views] + 1, len(everything)]
    pictures = [0, 2, 2 + views, 2 + 2 * views]
    first, second, third = (
        _part(grm, everything, positions, blocked, slice(*cuts[i : i + 2]), slice(*pictures[i : i + 2]))
        for i in range(3)
    )
    forks = len(ids) - 1 - third.start + tail.forks.to(grm.model.device)
    fork_mask = third.mask.unflatten(0, (third.stop - third.start, -1))[forks].flatten(0, 1)
    return PromptLayout(
        ids.to(grm.model.device), (first, second, third), forks, fork_mask if len(tail.tokens) else None
    )


def _part(
    grm: GRM, ids: torch.Tensor, positions: torch.Tensor, blocked: torch.Tensor, span: slice, pictures: slice
) -> Part:
    start, stop = span.start, span.stop
    language, device = grm.model.model.language_model, grm.model.device
    weight = language.embed_tokens.weight
    cos, sin = language.rotary_emb(weight, positions[:, :, start:stop].to(device))
    cos, sin = rotation(cos[0], sin[0])
    heads_per_key = language.config.num_attention_heads // language.config.num_key_value_heads
    hidden = blocked[start:stop, :stop].repeat_interleave(heads_per_key, 0).to(device)
    mask = torch.zeros(hidden.shape, dtype=weight.dtype, device=device).masked_fill(hidden, -torch.inf)
    slots = (ids[start:stop] == grm.model.config.image_token_id).nonzero()[:, 0].to(device)
    return Part(start, stop, ids[start:stop].to(device), slots, pictures, cos, sin, mask)


def missing_prefixes(
    layout: PromptLayout, questions: Sequence[Pictures], cache: Mapping[Pictures, torch.Tensor]
) -> tuple[list[Pictures], list[Pictures]]:
    """The prefixes of some prompts that are not cached: references, and references with BEFORE, each once."""
    references, before, _ = (part.pictures.stop for part in layout.parts)
    deep = [prefix for prefix in dict.fromkeys(question[:before] for question in questions) if prefix not in cache]
    roots = [prefix for prefix in dict.fromkeys(prefix[:references] for prefix in deep) if prefix not in cache]
    return roots, deep
