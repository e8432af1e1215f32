"""Tiny models with random weights in the layout of the released checkpoints, and the slow, obvious way to ask them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from dopamine_rl.grm.layout import prompt_layout
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.score import answers, decimal_answers
from dopamine_rl.grm.template import SHORT_TEMPLATE
from dopamine_rl.grm.tokenizer import SPECIAL_TOKENS
from dopamine_rl.interfaces import Prompt

Architecture = Literal["qwen2_5_vl", "qwen3_vl"]
ARCHITECTURES: tuple[Architecture, ...] = ("qwen2_5_vl", "qwen3_vl")
INSTRUCTION = "insert the peg into the hole"
MIN_PIXELS, MAX_PIXELS = 12_544, 76_800
"""The image budget of the released reward models."""

CLONED_WORDING = """
Compare two moments of a robot's work.

<Task>
`{task}`
- REFERENCE START front: <image>
- REFERENCE END front: <image>
</Task>

BEFORE front <image>
BEFORE left <image>
BEFORE right <image>

AFTER front <image>
AFTER left <image>
AFTER right <image>

Rules
- Gains count against what remained, losses against what was done, in whole percents.
- Only {task} matters.

Answer in one line: <score>+N%</score>
"""
"""Words of our own in the structure of the released prompt, as a made-up clone of its repository holds them."""

CHAT_TURNS = {
    "qwen2_5_vl": "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
    "qwen3_vl": "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
}
"""What the chat templates make of a user's words: Qwen2.5-VL's begins with a system turn, Qwen3-VL's has none."""

CHAT_TEMPLATE = (
    "{%% for message in messages %%}{%% if loop.first and message.role != 'system' %%}%s{%% endif %%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%% for part in message.content %%}"
    "{%% if part.type == 'image' %%}<|vision_start|><|image_pad|><|vision_end|>{%% else %%}{{ part.text }}{%% endif %%}"
    "{%% endfor %%}{{ '<|im_end|>\n' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\n' }}{%% endif %%}"
)


@cache
def tokenizer_json() -> str:
    """Byte-level BPE with the words split as released tokenizers split them: every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SHORT_TEMPLATE.phrases(), INSTRUCTION, *answers()], trainer)
    return tokenizer.to_str()


def released_folder(folder: Path, architecture: Architecture, template: bool = True, dtype: str = "float32") -> Path:
    """A Hugging Face folder as the authors of a checkpoint publish it, with our template beside it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer_json()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )
    torch.manual_seed(0)
    model = _qwen2_5(tokenizer) if architecture == "qwen2_5_vl" else _qwen3(tokenizer)
    _shake(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    named = json.loads((folder / "tokenizer_config.json").read_text())
    chat = CHAT_TEMPLATE % CHAT_TURNS[architecture].split("<|im_start|>user")[0]
    said = {"chat_template": chat} if architecture == "qwen2_5_vl" else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"tokenizer_class": "Qwen2Tokenizer"} | said))
    if not said:
        (folder / "chat_template.jinja").write_text(chat)
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(architecture)))
    if template:
        SHORT_TEMPLATE.save(folder)
    return folder


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)}


def _qwen2_5(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLForConditionalGeneration:
    vision: dict[str, Any] = {
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 128,
    }
    text: dict[str, Any] = {
        "hidden_size": 128,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config=vision | {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
            text_config=text | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_parameters": rope},
            tie_word_embeddings=True,
            **_ids(tokenizer),
        )
    )


def _qwen3(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLForConditionalGeneration:
    vision: dict[str, Any] = {
        "depth": 3,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 48,
        "out_hidden_size": 48,
    }
    text: dict[str, Any] = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 32,
    }
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            vision_config=vision
            | {"patch_size": 16, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]},
            text_config=text | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "rope_parameters": rope},
            tie_word_embeddings=False,
            **_ids(tokenizer),
        )
    )


@torch.no_grad()
def _shake(model: torch.nn.Module) -> None:
    """Weights with which everything matters: no bias is 0, no norm is 1, signals keep their size."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, 0.3 if "embed" in name else 1.2 * weight[0].numel() ** -0.5)
        else:
            weight.add_(torch.randn_like(weight), alpha=0.2)


def _preprocessor(architecture: Architecture) -> dict[str, object]:
    common = {"temporal_patch_size": 2, "merge_size": 2, "image_processor_type": "Qwen2VLImageProcessor"}
    if architecture == "qwen2_5_vl":
        normalisation = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276]}
        return common | normalisation | {"patch_size": 14, "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}
    normalisation = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    return (
        common | normalisation | {"patch_size": 16, "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}}
    )


def stock_answers(grm: GRM, images: np.ndarray, prompt: Prompt) -> torch.Tensor:
    """Log-probabilities [201] of the hop bins by the model as it comes, one whole prompt after the other.

    After each beginning of an answer the softmax runs over the tokens with which some answer goes on there.
    """
    bins = {answer: place for place, answer in enumerate(answers())} | decimal_answers()
    spelled = [tuple(ids) for ids in grm.tokenizer(list(bins), add_special_tokens=False)["input_ids"]]
    inputs = grm.image_processor(images=[images[index] for index in prompt.images], return_tensors="pt")
    pixels, grid = inputs["pixel_values"].to(grm.model.dtype), inputs["image_grid_thw"]
    _, rows, columns = (grid[0] // grm.model.config.vision_config.spatial_merge_size).tolist()
    begin = prompt_layout(grm, prompt.instruction, len(prompt.before), rows, columns).input_ids.tolist()

    def after(said: tuple[int, ...]) -> torch.Tensor:
        """Probabilities [201] once some tokens have been said."""
        possible = {ids: place for ids, place in zip(spelled, bins.values(), strict=True) if ids[: len(said)] == said}
        if len(reached := set(possible.values())) == 1:
            return torch.eye(201, dtype=torch.float64)[reached.pop()]
        whole = torch.tensor([[*begin, *said]])
        kinds = (whole == grm.model.config.image_token_id).int()
        asked = {"pixel_values": pixels, "image_grid_thw": grid, "mm_token_type_ids": kinds}
        following = sorted({ids[len(said)] for ids in possible})
        chances = grm.model(input_ids=whole, **asked).logits[0, -1, following].double().softmax(dim=-1)
        return sum(chance * after((*said, token)) for chance, token in zip(chances, following, strict=True))

    return after(()).log().float()
