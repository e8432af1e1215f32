"""Prompts to logits: the stock language model's weights, run over what is new of each prompt.

A prompt has three parts: the task with its two references, BEFORE, and AFTER with the answer. A causal model's beginning cannot
see its end, so keys and values of the first two parts are the same in every prompt that begins alike; they are handed in where
they are known and handed out where they had to be computed. In the last layer only the answer's token is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.attention import attend, rms_norm, rotate, rotation
from dopamine_rl.grm.model import GRM

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
        mask: bool [n · heads / key_heads, stop], what each token and head may look at.
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
        input_ids: int64 [L].
        parts: the references, BEFORE, and AFTER with the answer.
    """

    input_ids: torch.Tensor
    parts: tuple[Part, Part, Part]


def prompt_layout(grm: GRM, instruction: str, views: int, rows: int, columns: int) -> Layout:
    """Lay out a prompt whose pictures have rows · columns tokens each.

    Raises:
        BadInput: the template cannot take the instruction or the number of views.
        CheckpointError: a layer has sliding attention, which no released reward model has.
    """
    if grm.model.model.language_model.has_sliding_layers:
        raise CheckpointError("the language model has sliding attention: use a checkpoint with full attention")
    text = grm.template.render(instruction, views)
    pad = grm.model.config.image_token_id
    ids = torch.tensor(grm.tokenizer(text, add_special_tokens=False)["input_ids"])
    ids = ids.repeat_interleave(torch.where(ids == pad, rows * columns, 1))
    is_image = ids == pad
    merge = grm.model.model.visual.spatial_merge_size
    grid = torch.tensor([[1, rows * merge, columns * merge]] * (2 + 2 * views))
    # Pictures are never adjacent (each stands between its vision tokens), so every run of pads is one picture.
    positions, _ = grm.model.model.get_rope_index(ids[None], is_image.int()[None], image_grid_thw=grid)
    ends = is_image.nonzero()[rows * columns - 1 :: rows * columns, 0].tolist()
    cuts = [0, ends[1] + 1, ends[1 + views] + 1, len(ids)]
    pictures = [0, 2, 2 + views, 2 + 2 * views]
    parts = [
        _part(grm, ids, positions, slice(cuts[i], cuts[i + 1]), slice(pictures[i], pictures[i + 1])) for i in range(3)
    ]
    return Layout(ids.to(grm.model.device), (parts[0], parts[1], parts[2]))


def _part(grm: GRM, ids: torch.Tensor, positions: torch.Tensor, span: slice, shown: slice) -> Part:
    start, stop = span.start, span.stop
    language, device = grm.model.model.language_model, grm.model.device
    weight = language.embed_tokens.weight
    cos, sin = language.rotary_emb(weight, positions[:, :, start:stop].to(device))
    cos, sin = rotation(cos[0], sin[0])
    shared = language.config.num_attention_heads // language.config.num_key_value_heads
    mask = torch.ones(stop - start, stop, dtype=torch.bool, device=device).tril(start).repeat_interleave(shared, 0)
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


def answer_logits(
    grm: GRM,
    layout: Layout,
    questions: Sequence[Pictures],
    tokens: torch.Tensor,
    place: Mapping[int, int],
    known: MutableMapping[Pictures, torch.Tensor],
    answers: torch.Tensor,
) -> torch.Tensor:
    """Logits [N, 201] of N questions with one layout.

    Args:
        questions: N tuples of 2 + 2V pictures.
        tokens: float [R, picture_tokens, D], encoded pictures.
        place: row in `tokens` of every picture that the questions show outside known prefixes.
        known: keys and values [layers, 2, P, key_heads, d] of beginnings; those computed here are added.
        answers: [201, D], the answers' rows of the output layer.
    """
    language = grm.model.model.language_model
    for part, prefixes in zip(layout.parts, missing_prefixes(layout, questions, known), strict=False):
        if prefixes:
            inputs = _embed(language, part, prefixes, tokens, place)
            known.update(zip(prefixes, _remember(language, part, inputs, _past(part, prefixes, known)), strict=True))
    part = layout.parts[-1]
    inputs = _embed(language, part, questions, tokens, place)
    return F.linear(_answer(language, part, inputs, _past(part, questions, known)), answers)


def _embed(
    language: Any, part: Part, questions: Sequence[Pictures], tokens: torch.Tensor, place: Mapping[int, int]
) -> torch.Tensor:
    """Embeddings [N, n, D] of one part of N questions, with picture tokens in place."""
    rows = torch.tensor([[place[name] for name in question[part.shown]] for question in questions])
    text = language.embed_tokens(part.input_ids).expand(len(questions), -1, -1)
    return text.index_copy(1, part.slots, tokens[rows.to(tokens.device)].flatten(1, 2).to(text.dtype))


def _past(part: Part, questions: Sequence[Pictures], known: Mapping[Pictures, torch.Tensor]) -> torch.Tensor | None:
    """Keys and values [N, layers, 2, start, key_heads, d] of what stands before a part."""
    return torch.stack([known[question[: part.shown.start]] for question in questions]) if part.start else None


def _remember(language: Any, part: Part, hidden: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
    """Keys and values [N, layers, 2, stop, key_heads, d] up to the end of a part."""
    kept = []
    for number, layer in enumerate(language.layers):
        normed = rms_norm(layer.input_layernorm, hidden)
        key, value = _keys_values(layer.self_attn, part, normed, past, number)
        kept.append(torch.stack((key, value), dim=1))
        if number + 1 < len(language.layers):
            query = rotate(_heads(layer.self_attn.q_proj, normed, layer.self_attn), part.cos, part.sin)
            hidden = _finish(layer, hidden, attend(query, key, value, part.mask))
    return torch.stack(kept, dim=1)


def _answer(language: Any, part: Part, hidden: torch.Tensor, past: torch.Tensor | None) -> torch.Tensor:
    """Final state [N, D] of the last token."""
    mask: torch.Tensor | None = part.mask
    cos, sin = part.cos, part.sin
    for number, layer in enumerate(language.layers):
        normed = rms_norm(layer.input_layernorm, hidden)
        key, value = _keys_values(layer.self_attn, part, normed, past, number)
        if number + 1 == len(language.layers):  # nothing reads what the other tokens would become
            hidden, normed, cos, sin, mask = hidden[:, -1:], normed[:, -1:], cos[-1:], sin[-1:], None
        query = rotate(_heads(layer.self_attn.q_proj, normed, layer.self_attn), cos, sin)
        hidden = _finish(layer, hidden, attend(query, key, value, mask))
    return rms_norm(language.norm, hidden[:, -1])


def _keys_values(
    attention: Any, part: Part, normed: torch.Tensor, past: torch.Tensor | None, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [N, stop, key_heads, d] of one layer, those of the past in front."""
    key = rotate(_heads(attention.k_proj, normed, attention), part.cos, part.sin)
    value = _heads(attention.v_proj, normed, attention)
    if past is None:
        return key, value
    return torch.cat((past[:, number, 0], key), dim=1), torch.cat((past[:, number, 1], value), dim=1)


def _heads(projection: Any, normed: torch.Tensor, attention: Any) -> torch.Tensor:
    return projection(normed).unflatten(-1, (-1, attention.head_dim))


def _finish(layer: Any, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """What a layer does once its tokens have looked around."""
    hidden = hidden + layer.self_attn.o_proj(mixed)
    return hidden + layer.mlp(rms_norm(layer.post_attention_layernorm, hidden))
