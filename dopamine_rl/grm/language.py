"""The language model's forward pass over all uncached tokens of a batch of prompts.

A prompt has three parts: the task with its two references, BEFORE, and AFTER with the answers' common prefixes.
Attention is causal, so keys and values of the first two parts are the same in all prompts with the same prefix; they
are cached. The prompts form a tree, and one pass computes all new nodes of its three levels: matrix products run over
all new tokens, only attention runs level by level. The last layer computes only the tokens at forks of the answers.

The same code runs both architectures; Qwen3-VL normalises every query and key, has no biases, and adds deepstack
features.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from dopamine_rl.errors import CheckpointError
from dopamine_rl.grm.attention import attend, normalise, rotate, run
from dopamine_rl.grm.layout import Part, Pictures, PromptLayout, missing_prefixes
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.trie import AnswerTrie


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """The weights of a decoder layer; queries, keys and values are fused, all others are the stock tensors.

    Args:
        qkv: weight and bias.
        head_scale: [heads + key_heads, d], weights of the norm of each query and key; None if the model has none.
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
    """The language model in the form that `answer_logits` uses.

    Args:
        trie: of the answers.
        outputs: [R, D], rows of the output layer for the tokens that may follow the trie's forks.
        heads, key_heads, head_width, epsilon: of every layer's attention; epsilon belongs to the norm of its heads.
        recompute: gradient checkpointing of every layer.
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
    """Collect a model's weights; call it again after they have changed. Gradients flow back to them.

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
    """Concatenate linear modules: weight and bias, which is 0 for a module without bias."""
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
        part: the part of the prompt.
        nodes: n prefixes, each identified by all its images.
        span: positions of their n · len(part) tokens among all new tokens.
        past: keys and values [k, layers, start, 2 · key_heads, d] of cached nodes one level up; None if there are none.
        parents: int64 [n], each node's row among the cached and then the new nodes one level up; None at the root.
    """

    part: Part
    nodes: list[Pictures]
    span: slice
    past: torch.Tensor | None
    parents: torch.Tensor | None

    def split(self, tokens: torch.Tensor) -> torch.Tensor:
        """The values [n, len(part), ...] of these nodes among those of all new tokens."""
        return tokens[self.span].unflatten(0, (len(self.nodes), -1))


def _make_levels(
    layout: PromptLayout, questions: Sequence[Pictures], cache: Mapping[Pictures, torch.Tensor], device: torch.device
) -> list[_Level]:
    """The levels that have new nodes, from the root down."""
    levels: list[_Level] = []
    tokens = 0
    for part, nodes in zip(layout.parts, (*missing_prefixes(layout, questions, cache), list(questions)), strict=True):
        if not nodes:
            continue
        parent_of = [node[: part.pictures.start] for node in nodes]
        cached = [parent for parent in dict.fromkeys(parent_of) if parent in cache]
        row_of = {parent: row for row, parent in enumerate([*cached, *(levels[-1].nodes if levels else ())])}
        past = torch.stack([cache[parent] for parent in cached]) if part.start and cached else None
        parents = torch.tensor([row_of[parent] for parent in parent_of]).to(device) if part.start else None
        stop = tokens + len(nodes) * (part.stop - part.start)
        levels.append(_Level(part, nodes, slice(tokens, stop), past, parents))
        tokens = stop
    return levels


def answer_logits(
    decoder: Decoder,
    layout: PromptLayout,
    questions: Sequence[Pictures],
    tokens: torch.Tensor,
    row_of: Mapping[int, int] | Sequence[int],
    cache: MutableMapping[Pictures, torch.Tensor],
) -> torch.Tensor:
    """Log-probabilities [N, 201] of the answers to N prompts with one layout; arguments as for `fork_states`."""
    states = fork_states(decoder, layout, questions, tokens, row_of, cache)
    return decoder.trie.log_probabilities(F.linear(states, decoder.outputs))


def fork_states(
    decoder: Decoder,
    layout: PromptLayout,
    questions: Sequence[Pictures],
    tokens: torch.Tensor,
    row_of: Mapping[int, int] | Sequence[int],
    cache: MutableMapping[Pictures, torch.Tensor],
    tails: torch.Tensor | None = None,
) -> torch.Tensor:
    """Inputs of the output layer at the forks of N prompts with one layout, [N, F, D].

    Args:
        questions: the 2 + 2V images of each of N prompts.
        tokens: float [R, picture_tokens, (1 + K) · D], encoded images.
        row_of: row in `tokens` of every image that is not part of a cached prefix.
        cache: keys and values [layers, P, 2 · key_heads, d] of prefixes; those computed here are added.
        tails: int64 [N, n], tokens after each prompt that replace the layout's tail; None keeps that.
    """
    levels = _make_levels(layout, questions, cache, tokens.device)
    features = torch.cat([_picture_tokens(level, tokens, row_of) for level in levels]).to(decoder.embedding.dtype)
    pictures, *deepstack = features.split(decoder.embedding.shape[1], dim=-1)
    slots = torch.cat([_slots(level) for level in levels])
    input_ids = torch.cat([level.part.input_ids.repeat(len(level.nodes)) for level in levels])
    if tails is not None:
        levels[-1].split(input_ids)[:, -tails.shape[1] :] = tails
    hidden = F.embedding(input_ids, decoder.embedding).index_copy_(0, slots, pictures)
    cos, sin = (
        torch.cat([table.repeat(len(level.nodes), 1, 1) for level, table in zip(levels, tables, strict=True)])
        for tables in ([level.part.cos for level in levels], [level.part.sin for level in levels])
    )
    keys_values = []
    for number in range(len(decoder.layers) - 1):
        hidden, *new = run(decoder.recompute, _layer, decoder, levels, number, hidden, cos, sin)
        if number < len(deepstack):
            hidden = hidden.index_add(0, slots, deepstack[number])
        keys_values.append(new)
    hidden, *new = run(decoder.recompute, _last_layer, decoder, layout, levels, hidden, cos, sin)
    for level, *layers in zip(levels[:-1], *keys_values, new, strict=True):
        cache.update(zip(level.nodes, torch.stack(layers, dim=1), strict=True))
    return normalise(decoder.norm, hidden)


def _picture_tokens(level: _Level, tokens: torch.Tensor, row_of: Mapping[int, int] | Sequence[int]) -> torch.Tensor:
    """Picture tokens [n · slots, (1 + K) · D] of a level's nodes."""
    rows = torch.tensor([row_of[image] for node in level.nodes for image in node[level.part.pictures]])
    return tokens[rows.to(tokens.device)].flatten(0, 1)


def _slots(level: _Level) -> torch.Tensor:
    """int64 [n · slots], positions of a level's picture tokens among all new tokens."""
    part, slots = level.part, level.part.slots
    starts = torch.arange(level.span.start, level.span.stop, part.stop - part.start, device=slots.device)
    return (starts[:, None] + slots).flatten()


def _attention_inputs(
    decoder: Decoder, layer: Layer, normed: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [T, heads, d], and keys and values [T, 2 · key_heads, d] of T tokens."""
    mixed = F.linear(normed, *layer.qkv).unflatten(-1, (-1, decoder.head_width))
    rotated = rotate(_scaled(decoder, mixed[:, : -decoder.key_heads], layer.head_scale), cos, sin)
    query, key = rotated.split((decoder.heads, decoder.key_heads), dim=1)
    return query, torch.cat((key, mixed[:, -decoder.key_heads :]), dim=1)


def _scaled(decoder: Decoder, heads: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Normalise each of the heads [..., n, d] if the model does so."""
    return heads if scale is None else F.rms_norm(heads, heads.shape[-1:], eps=decoder.epsilon) * scale


def _keys_values(levels: Sequence[_Level], new: torch.Tensor, number: int) -> list[torch.Tensor]:
    """Keys and values [n, stop, 2 · key_heads, d] that each level's nodes attend to in layer `number`."""
    keys_values: list[torch.Tensor] = []
    for level in levels:
        own = level.split(new)
        if level.parents is not None:
            above = ([] if level.past is None else [level.past[:, number]]) + keys_values[-1:]
            table = above[0] if len(above) == 1 else torch.cat(above)
            own = torch.cat((table[level.parents], own), dim=1)
        keys_values.append(own)
    return keys_values


def _attend(
    decoder: Decoder, query: torch.Tensor, keys_values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    key, value = keys_values.split(decoder.key_heads, dim=2)
    return attend(query, key, value, mask)


def _layer(
    decoder: Decoder, levels: Sequence[_Level], number: int, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The output of layer `number` for all new tokens, and the keys and values of every level except the last."""
    layer = decoder.layers[number]
    query, new = _attention_inputs(decoder, layer, normalise(layer.attention_norm, hidden), cos, sin)
    keys_values = _keys_values(levels, new, number)
    mixed = [
        _attend(decoder, level.split(query), visible, level.part.mask).flatten(0, 1)
        for level, visible in zip(levels, keys_values, strict=True)
    ]
    return _feed_forward(layer, hidden, torch.cat(mixed)), *keys_values[:-1]


def _last_layer(
    decoder: Decoder,
    layout: PromptLayout,
    levels: Sequence[_Level],
    hidden: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """The last layer's output [N, F, D] at the forks, and the keys and values of every level except the last."""
    layer = decoder.layers[-1]
    normed = normalise(layer.attention_norm, hidden)
    (weight, bias), wide = layer.qkv, decoder.heads * decoder.head_width
    key, value = F.linear(normed, weight[wide:], bias[wide:]).unflatten(-1, (2, decoder.key_heads, -1)).unbind(1)
    scale = (None, None) if layer.head_scale is None else layer.head_scale.tensor_split((decoder.heads,))
    key = rotate(_scaled(decoder, key, scale[1]), cos, sin)
    keys_values = _keys_values(levels, torch.cat((key, value), dim=1), len(decoder.layers) - 1)
    answer = levels[-1]
    query = F.linear(answer.split(normed)[:, layout.forks], weight[:wide], bias[:wide])
    query = _scaled(decoder, query.unflatten(-1, (decoder.heads, -1)), scale[0])
    query = rotate(query, answer.part.cos[layout.forks], answer.part.sin[layout.forks])
    mixed = _attend(decoder, query, keys_values[-1], layout.fork_mask)
    return _feed_forward(layer, answer.split(hidden)[:, layout.forks], mixed), *keys_values[:-1]


def _feed_forward(layer: Layer, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """The rest of a layer after attention: output projection and feed-forward block."""
    hidden = hidden + F.linear(mixed, *layer.out)
    normed = normalise(layer.norm, hidden)
    return hidden + F.linear(layer.activation(F.linear(normed, layer.gate)) * F.linear(normed, layer.up), layer.down)
