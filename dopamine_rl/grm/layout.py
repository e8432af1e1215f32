"""Where words and pictures of a prompt stand, and which of its beginnings are new.

A prompt has three parts: the task with its two references, BEFORE, and AFTER with the answers' shared beginnings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from dopamine_rl.grm.attention import rotation
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.trie import Tail

Pictures = tuple[int, ...]
"""Names of the pictures that a prompt begins with, in the order of the contract."""


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """One part of a layout, from the token `start` up to `stop`.

    Args:
        input_ids: int64 [n].
        slots: int64 [shown · picture_tokens], where in this part picture tokens stand.
        shown: which of the prompt's pictures stand here.
        cos, sin: [n, 1, d], prepared rotary angles in the model's precision.
        mask: [n · heads / key_heads, stop], 0 where a token and head may look, −∞ elsewhere, in the model's precision.
    """

    start: int
    stop: int
    input_ids: torch.Tensor
    slots: torch.Tensor
    shown: slice
    cos: torch.Tensor
    sin: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Layout:
    """The tokens of one prompt, the same for every prompt of equal instruction, views and picture size.

    Args:
        input_ids: int64 [L], up to where the answer begins.
        parts: the references, BEFORE, and AFTER, behind which stands the tail.
        forks: int64 [F], the tokens of the last part that are asked what follows.
        fork_mask: like the last part's mask, for these tokens only; None where they see everything.
    """

    input_ids: torch.Tensor
    parts: tuple[Part, Part, Part]
    forks: torch.Tensor
    fork_mask: torch.Tensor | None


def prompt_layout(grm: GRM, instruction: str, views: int, rows: int, columns: int, tail: Tail | None = None) -> Layout:
    """Lay out a prompt whose pictures have rows · columns tokens each, and behind it a tail: the answers' trie if None.

    Raises:
        BadInput: the template cannot take the instruction or the number of views.
    """
    text = grm.template.render(instruction, views)
    pad = grm.model.config.image_token_id
    ids = torch.tensor(grm.tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = ids.repeat_interleave(torch.where(ids == pad, rows * columns, 1))
    is_image = ids == pad
    merge = grm.model.model.visual.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, columns * merge]] * (2 + 2 * views))
    # Pictures are never adjacent (each stands between its vision tokens), so every run of pads is one picture.
    positions, _ = grm.model.model.get_rope_index(ids[None], is_image.int()[None], image_grid_thw=grid)
    tail = tail or grm.trie
    blocked = torch.ones(len(ids) + len(tail.tokens), len(ids) + len(tail.tokens), dtype=torch.bool).triu(1)
    blocked[len(ids) :, len(ids) :] = ~tail.sight
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
    return Layout(ids.to(grm.model.device), (first, second, third), forks, fork_mask if len(tail.tokens) else None)


def _part(
    grm: GRM, ids: torch.Tensor, positions: torch.Tensor, blocked: torch.Tensor, span: slice, shown: slice
) -> Part:
    start, stop = span.start, span.stop
    language, device = grm.model.model.language_model, grm.model.device
    weight = language.embed_tokens.weight
    cos, sin = language.rotary_emb(weight, positions[:, :, start:stop].to(device))
    cos, sin = rotation(cos[0], sin[0])
    shared = language.config.num_attention_heads // language.config.num_key_value_heads
    hidden = blocked[start:stop, :stop].repeat_interleave(shared, 0).to(device)
    mask = torch.zeros(hidden.shape, dtype=weight.dtype, device=device).masked_fill(hidden, -torch.inf)
    slots = (ids[start:stop] == grm.model.config.image_token_id).nonzero()[:, 0].to(device)
    return Part(start, stop, ids[start:stop].to(device), slots, shown, cos, sin, mask)


def missing_prefixes(
    layout: Layout, questions: Sequence[Pictures], known: Mapping[Pictures, torch.Tensor]
) -> tuple[list[Pictures], list[Pictures]]:
    """What of the questions' beginnings must be computed: references, and references with BEFORE, each once."""
    references, before, _ = (part.shown.stop for part in layout.parts)
    deep = [prefix for prefix in dict.fromkeys(question[:before] for question in questions) if prefix not in known]
    roots = [prefix for prefix in dict.fromkeys(prefix[:references] for prefix in deep) if prefix not in known]
    return roots, deep
