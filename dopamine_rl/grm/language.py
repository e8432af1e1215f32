"""Prompts to answers: the stock language model's weights, run once over what is new of all prompts together.

A prompt has three parts: the task with its two references, BEFORE, and AFTER with the answers' shared beginnings. A causal
model's beginning cannot see its end, so keys and values of the first two parts are the same in every prompt that begins alike;
they are handed in where they are known and handed out where they had to be computed. The prompts are a tree, then, and one pass
computes all new nodes of its three levels: every product runs over all new tokens, only attention goes level by level. In the
last layer only those tokens are asked where answers part.

One path serves both architectures; Qwen3-VL norms every query and key, has no biases, and adds deepstack features.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.attention import attend, normalise, rotate, run
from dopamine_rl.grm.layout import Layout, Part, Pictures, missing_prefixes
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.trie import AnswerTrie


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """One decoder layer's weights; queries, keys and values are one product, all others are the stock tensors.

    Args:
        qkv: weight and bias.
        head_scale: [heads + key_heads, d], weights of the norm of each query and key; None where the model has none.
        out: weight and bias or None.
    """

    attention_norm: Any
    qkv: tuple[torch.Tensor, torch.Tensor]
    head_scale: torch.Tensor | None
    out: tuple[torch.Tensor, torch.Tensor | None]
    norm: Any
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    activation: Any


@dataclass(frozen=True, eq=False, slots=True)
class Decoder:
    """The language model as `answer_logits` needs it.

    Args:
        trie: the answers.
        outputs: [R, D], rows of the output layer for the tokens that may follow its forks.
        heads, key_heads, head_width, epsilon: of every layer's attention; epsilon belongs to the norm of its heads.
        recompute: keep no layer's inner values for the backward pass, compute them again.
    """

    embedding: torch.Tensor
    layers: tuple[Layer, ...]
    norm: Any
    trie: AnswerTrie
    outputs: torch.Tensor
    heads: int
    key_heads: int
    head_width: int
    epsilon: float
    recompute: bool


def make_decoder(grm: GRM, recompute: bool = False) -> Decoder:
    """Gather a model's weights. It must be made again after they have changed; gradients flow back to them.

    Raises:
        CheckpointError: a layer has sliding attention, which no released reward model has.
    """
    language = grm.model.model.language_model
    if "sliding_attention" in (getattr(language.config, "layer_types", None) or ()):
        raise CheckpointError("the language model has sliding attention: use a checkpoint with full attention")
    layers = []
    for layer in language.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layers.append(
            Layer(
                layer.input_layernorm,
                _joined((attention.q_proj, attention.k_proj, attention.v_proj)),
                _head_scale(language.config, attention),
                (attention.o_proj.weight, attention.o_proj.bias),
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
        grm.trie.to(grm.model.device),
        grm.model.lm_head.weight[grm.trie.outputs.to(grm.model.device)],
        language.config.num_attention_heads,
        language.config.num_key_value_heads,
        language.layers[0].self_attn.head_dim,
        language.config.rms_norm_eps,
        recompute,
    )


def _joined(linears: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Several linear modules as one: weight and bias, which is 0 where a module has none."""
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias for linear in linears
    ]
    return torch.cat([linear.weight for linear in linears]), torch.cat(biases)


def _head_scale(config: Any, attention: Any) -> torch.Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    norms = ((attention.q_norm, config.num_attention_heads), (attention.k_norm, config.num_key_value_heads))
    return torch.cat([norm.weight.expand(heads, -1) for norm, heads in norms])


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
    place: Mapping[int, int] | Sequence[int],
    known: MutableMapping[Pictures, torch.Tensor],
) -> torch.Tensor:
    """Log-probabilities [N, 201] of the answers to N questions with one layout; the arguments are those of `fork_states`."""
    states = fork_states(decoder, layout, questions, tokens, place, known)
    return decoder.trie.log_probabilities(F.linear(states, decoder.outputs))


def fork_states(
    decoder: Decoder,
    layout: Layout,
    questions: Sequence[Pictures],
    tokens: torch.Tensor,
    place: Mapping[int, int] | Sequence[int],
    known: MutableMapping[Pictures, torch.Tensor],
    tails: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the output layer is given at the forks of N questions with one layout, [N, F, D].

    Args:
        questions: N tuples of 2 + 2V pictures.
        tokens: float [R, picture_tokens, (1 + K) · D], encoded pictures.
        place: row in `tokens` of every picture that the questions show outside known beginnings.
        known: keys and values [layers, P, 2 · key_heads, d] of beginnings; those computed here are added.
        tails: int64 [N, n], what stands behind each question in place of the layout's tail; None keeps that.
    """
    levels = _grow(layout, questions, known, tokens.device)
    shown = torch.cat([_shown(level, tokens, place) for level in levels]).to(decoder.embedding.dtype)
    pictures, *deepstack = shown.split(decoder.embedding.shape[1], dim=-1)
    slots = torch.cat([_slots(level) for level in levels])
    words = torch.cat([level.part.input_ids.repeat(len(level.nodes)) for level in levels])
    if tails is not None:
        levels[-1].split(words)[:, -tails.shape[1] :] = tails
    hidden = F.embedding(words, decoder.embedding).index_copy_(0, slots, pictures)
    cos, sin = (
        torch.cat([table.repeat(len(level.nodes), 1, 1) for level, table in zip(levels, tables, strict=True)])
        for tables in ([level.part.cos for level in levels], [level.part.sin for level in levels])
    )
    memories = []
    for number in range(len(decoder.layers) - 1):
        hidden, *memory = run(decoder.recompute, _layer, decoder, levels, number, hidden, cos, sin)
        if number < len(deepstack):
            hidden = hidden.index_add(0, slots, deepstack[number])
        memories.append(memory)
    hidden, *memory = run(decoder.recompute, _last, decoder, layout, levels, hidden, cos, sin)
    for level, *layers in zip(levels[:-1], *memories, memory, strict=True):
        known.update(zip(level.nodes, torch.stack(layers, dim=1), strict=True))
    return normalise(decoder.norm, hidden)


def _shown(level: _Level, tokens: torch.Tensor, place: Mapping[int, int] | Sequence[int]) -> torch.Tensor:
    """Picture tokens [n · slots, (1 + K) · D] of a level's nodes."""
    rows = torch.tensor([place[name] for node in level.nodes for name in node[level.part.shown]])
    return tokens[rows.to(tokens.device)].flatten(0, 1)


def _slots(level: _Level) -> torch.Tensor:
    """int64 [n · slots], where a level's picture tokens stand among all new tokens."""
    part, slots = level.part, level.part.slots
    starts = torch.arange(level.span.start, level.span.stop, part.stop - part.start, device=slots.device)
    return (starts[:, None] + slots).flatten()


def _attention_inputs(
    decoder: Decoder, layer: Layer, normed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [T, heads, d] and keys with values [T, 2 · key_heads, d] of T tokens."""
    mixed = F.linear(normed, *layer.qkv).unflatten(-1, (-1, decoder.head_width))
    turned = rotate(_scaled(decoder, mixed[:, : -decoder.key_heads], layer.head_scale), cos, sin)
    query, key = turned.split((decoder.heads, decoder.key_heads), dim=1)
    return query, torch.cat((key, mixed[:, -decoder.key_heads :]), dim=1)


def _scaled(decoder: Decoder, heads: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Heads [..., n, d] after the norm of each, where the model has one."""
    return heads if scale is None else F.rms_norm(heads, heads.shape[-1:], eps=decoder.epsilon) * scale


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


def _layer(
    decoder: Decoder, levels: Sequence[_Level], number: int, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """What layer `number` makes of all new tokens, and the keys and values of every level but the last."""
    layer = decoder.layers[number]
    query, new = _attention_inputs(decoder, layer, normalise(layer.attention_norm, hidden), cos, sin)
    memory = _memory(levels, new, number)
    mixed = [
        _look(decoder, level.split(query), seen, level.part.mask).flatten(0, 1)
        for level, seen in zip(levels, memory, strict=True)
    ]
    return _finish(layer, hidden, torch.cat(mixed)), *memory[:-1]


def _last(
    decoder: Decoder,
    layout: Layout,
    levels: Sequence[_Level],
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The last layer: states [N, F, D] of the forks, and the keys and values of every level but the last."""
    layer = decoder.layers[-1]
    normed = normalise(layer.attention_norm, hidden)
    (weight, bias), wide = layer.qkv, decoder.heads * decoder.head_width
    key, value = F.linear(normed, weight[wide:], bias[wide:]).unflatten(-1, (2, decoder.key_heads, -1)).unbind(1)
    scale = (None, None) if layer.head_scale is None else layer.head_scale.tensor_split((decoder.heads,))
    key = rotate(_scaled(decoder, key, scale[1]), cos, sin)
    memory = _memory(levels, torch.cat((key, value), dim=1), len(decoder.layers) - 1)
    answer = levels[-1]
    asked = F.linear(answer.split(normed)[:, layout.forks], weight[:wide], bias[:wide])
    asked = _scaled(decoder, asked.unflatten(-1, (decoder.heads, -1)), scale[0])
    query = rotate(asked, answer.part.cos[layout.forks], answer.part.sin[layout.forks])
    mixed = _look(decoder, query, memory[-1], layout.fork_mask)
    return _finish(layer, answer.split(hidden)[:, layout.forks], mixed), *memory[:-1]


def _finish(layer: Layer, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """What a layer does once its tokens have looked around."""
    hidden = hidden + F.linear(mixed, *layer.out)
    normed = normalise(layer.norm, hidden)
    return hidden + F.linear(layer.activation(F.linear(normed, layer.gate)) * F.linear(normed, layer.up), layer.down)
