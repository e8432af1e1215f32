"""Prompts to logits: the stock language model's weights, run once over what is new of all prompts together.

A prompt has three parts: the task with its two references, BEFORE, and AFTER with the answer. A causal model's beginning cannot
see its end, so keys and values of the first two parts are the same in every prompt that begins alike; they are handed in where
they are known and handed out where they had to be computed. The prompts are a tree, then, and one pass computes all new nodes
of its three levels: every product runs over all new tokens, only attention goes level by level. In the last layer only
the answer's token is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.attention import attend, rms_norm, rotate
from dopamine_rl.grm.layout import Layout, Part, Pictures, missing_prefixes
from dopamine_rl.grm.model import GRM


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """One decoder layer's weights; queries, keys and values are one product, all others are the stock tensors."""

    attention_norm: Any
    qkv: tuple[torch.Tensor, torch.Tensor]
    out: torch.Tensor
    norm: Any
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    activation: Any


@dataclass(frozen=True, eq=False, slots=True)
class Decoder:
    """The language model as `answer_logits` needs it.

    Args:
        heads, key_heads, head_width: of every layer's attention.
        answers: [201, D], the answers' rows of the output layer.
    """

    embedding: torch.Tensor
    layers: tuple[Layer, ...]
    norm: Any
    answers: torch.Tensor
    heads: int
    key_heads: int
    head_width: int


def make_decoder(grm: GRM) -> Decoder:
    """Gather a model's weights. It must be made again after they have changed; gradients flow back to them.

    Raises:
        CheckpointError: a layer has sliding attention, which no released reward model has.
    """
    language = grm.model.model.language_model
    if language.has_sliding_layers:
        raise CheckpointError("the language model has sliding attention: use a checkpoint with full attention")
    layers = []
    for layer in language.layers:
        attention, mlp = layer.self_attn, layer.mlp
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        layers.append(
            Layer(
                layer.input_layernorm,
                (torch.cat([linear.weight for linear in inputs]), torch.cat([linear.bias for linear in inputs])),
                attention.o_proj.weight,
                layer.post_attention_layernorm,
                mlp.gate_proj.weight,
                mlp.up_proj.weight,
                mlp.down_proj.weight,
                mlp.act_fn,
            )
        )
    return Decoder(
        language.embed_tokens.weight,
        tuple(layers),
        language.norm,
        grm.model.lm_head.weight[grm.answer_ids.to(grm.model.device)],
        language.config.num_attention_heads,
        language.config.num_key_value_heads,
        language.layers[0].self_attn.head_dim,
    )


@dataclass(frozen=True, eq=False, slots=True)
class _Level:
    """The new nodes of one level of the tree.

    Args:
        part: what of the prompt they are.
        nodes: n, each named by all pictures up to its end.
        span: where their n · len(part) tokens stand among all new tokens.
        past: keys and values [k, layers, start, 2 · key_heads, d] of known nodes one level up; None if there are none.
        parents: int64 [n], each node's row among the known and then the new nodes one level up; None at the root.
    """

    part: Part
    nodes: list[Pictures]
    span: slice
    past: torch.Tensor | None
    parents: torch.Tensor | None

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """These nodes' share [n, len(part), ...] of what all new tokens have."""
        return tokens[self.span].unflatten(0, (len(self.nodes), -1))


def _grow(
    layout: Layout, questions: Sequence[Pictures], known: Mapping[Pictures, torch.Tensor], device: torch.device
) -> list[_Level]:
    """The levels that have new nodes, from the root on."""
    levels: list[_Level] = []
    tokens = 0
    for part, nodes in zip(layout.parts, (*missing_prefixes(layout, questions, known), list(questions)), strict=True):
        if not nodes:
            continue
        above = [node[: part.shown.start] for node in nodes]
        recalled = [parent for parent in dict.fromkeys(above) if parent in known]
        row = {parent: place for place, parent in enumerate([*recalled, *(levels[-1].nodes if levels else ())])}
        past = torch.stack([known[parent] for parent in recalled]) if part.start and recalled else None
        parents = torch.tensor([row[parent] for parent in above]).to(device) if part.start else None
        stop = tokens + len(nodes) * (part.stop - part.start)
        levels.append(_Level(part, nodes, slice(tokens, stop), past, parents))
        tokens = stop
    return levels


def answer_logits(
    decoder: Decoder,
    layout: Layout,
    questions: Sequence[Pictures],
    tokens: torch.Tensor,
    place: Mapping[int, int],
    known: MutableMapping[Pictures, torch.Tensor],
) -> torch.Tensor:
    """Logits [N, 201] of N questions with one layout.

    Args:
        questions: N tuples of 2 + 2V pictures.
        tokens: float [R, picture_tokens, D], encoded pictures.
        place: row in `tokens` of every picture that the questions show outside known beginnings.
        known: keys and values [layers, P, 2 · key_heads, d] of beginnings; those computed here are added.
    """
    levels = _grow(layout, questions, known, tokens.device)
    hidden = torch.cat([_embed(decoder, level, tokens, place).flatten(0, 1) for level in levels])
    cos, sin = (
        torch.cat([table.repeat(len(level.nodes), 1, 1) for level, table in zip(levels, tables, strict=True)])
        for tables in ([level.part.cos for level in levels], [level.part.sin for level in levels])
    )
    memories = []
    for number, layer in enumerate(decoder.layers[:-1]):
        query, new = _attention_inputs(decoder, layer, rms_norm(layer.attention_norm, hidden), cos, sin)
        memories.append(_memory(levels, new, number))
        mixed = [
            _look(decoder, level.split(query), memory, level.part.mask).flatten(0, 1)
            for level, memory in zip(levels, memories[-1], strict=True)
        ]
        hidden = _finish(layer, hidden, torch.cat(mixed))
    hidden, memory = _last(decoder, decoder.layers[-1], levels, hidden, cos, sin)
    for level, *layers in zip(levels[:-1], *memories, memory, strict=False):
        known.update(zip(level.nodes, torch.stack(layers, dim=1), strict=True))
    return F.linear(rms_norm(decoder.norm, hidden), decoder.answers)


def _embed(decoder: Decoder, level: _Level, tokens: torch.Tensor, place: Mapping[int, int]) -> torch.Tensor:
    """Embeddings [n, len(part), D] of a level's nodes, with picture tokens in place."""
    part = level.part
    rows = torch.tensor([[place[name] for name in node[part.shown]] for node in level.nodes])
    text = F.embedding(part.input_ids, decoder.embedding).expand(len(level.nodes), -1, -1)
    return text.index_copy(1, part.slots, tokens[rows.to(tokens.device)].flatten(1, 2).to(text.dtype))


def _attention_inputs(
    decoder: Decoder, layer: Layer, normed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [T, heads, d] and keys with values [T, 2 · key_heads, d] of T tokens."""
    mixed = F.linear(normed, *layer.qkv).unflatten(-1, (-1, decoder.head_width))
    turned = rotate(mixed[:, : -decoder.key_heads], cos, sin)
    query, key = turned.split((decoder.heads, decoder.key_heads), dim=1)
    return query, torch.cat((key, mixed[:, -decoder.key_heads :]), dim=1)


def _memory(levels: Sequence[_Level], new: torch.Tensor, number: int) -> list[torch.Tensor]:
    """Keys and values [n, stop, 2 · key_heads, d] that each level's nodes look at in layer `number`."""
    memory: list[torch.Tensor] = []
    for level in levels:
        own = level.split(new)
        if level.parents is not None:
            above = ([] if level.past is None else [level.past[:, number]]) + memory[-1:]
            table = above[0] if len(above) == 1 else torch.cat(above)
            own = torch.cat((table[level.parents], own), dim=1)
        memory.append(own)
    return memory


def _look(decoder: Decoder, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    key, value = memory.split(decoder.key_heads, dim=2)
    return attend(query, key, value, mask)


def _last(
    decoder: Decoder, layer: Layer, levels: Sequence[_Level], hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The last layer: final states [N, D] of the questions' last tokens, and every level's keys and values."""
    normed = rms_norm(layer.attention_norm, hidden)
    (weight, bias), wide = layer.qkv, decoder.heads * decoder.head_width
    key, value = F.linear(normed, weight[wide:], bias[wide:]).unflatten(-1, (2, decoder.key_heads, -1)).unbind(1)
    memory = _memory(levels, torch.cat((rotate(key, cos, sin), value), dim=1), len(decoder.layers) - 1)
    answer = levels[-1]
    asked = F.linear(answer.split(normed)[:, -1], weight[:wide], bias[:wide]).unflatten(-1, (decoder.heads, -1))
    query = rotate(asked, answer.part.cos[-1], answer.part.sin[-1])
    mixed = _look(decoder, query[:, None], memory[-1], None)
    return _finish(layer, answer.split(hidden)[:, -1], mixed[:, 0]), memory


def _finish(layer: Layer, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """What a layer does once its tokens have looked around."""
    hidden = hidden + F.linear(mixed, layer.out)
    normed = rms_norm(layer.norm, hidden)
    return hidden + F.linear(layer.activation(F.linear(normed, layer.gate)) * F.linear(normed, layer.up), layer.down)
