"""The General Reward Model in memory, and construction of a small one.

The embedded model is a Qwen2.5-VL with a few million parameters, of the same classes as the released checkpoints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.lora import merged_weights
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.template import SHORT_TEMPLATE, PromptTemplate
from dopamine_rl.grm.tokenizer import build_tokenizer
from dopamine_rl.grm.trie import AnswerTrie, answer_trie
from dopamine_rl.grm.version import content_version

INIT_GAIN, EMBED_STD, ANSWER_STD, SMOOTH_ORDERS, ROPE_THETA = 1.4, 0.5, 0.04, 12, 5.0


@dataclass(frozen=True, eq=False, slots=True)
class VisionModel:
    """The part of a checkpoint that encodes images.

    Args:
        visual: the stock vision tower.
        image_processor: of the checkpoint, or what has its patch_size, merge_size, size, image_mean and image_std.
    """

    visual: Any
    image_processor: Any

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.visual.parameters()).device
        return device


@dataclass(eq=False)
class GRM:
    """A reward model ready for inference.

    Args:
        model: the weights, a stock Qwen2_5_VLForConditionalGeneration or Qwen3VLForConditionalGeneration.
        tokenizer, image_processor: of the same checkpoint.
        template: the wording the model was trained with.
        trie: the 201 answers in this tokenizer.
        documents: configuration, tokenizer, image processor and template as stored in a model folder.
        folder: where it was loaded from; None for a model that is not saved.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    template: PromptTemplate
    trie: AnswerTrie
    documents: tuple[Any, ...]
    folder: Path | None = None

    @property
    def model_version(self) -> str:
        """12 hexadecimal digits that identify weights with adapters, configuration, tokenizer and template."""
        return content_version(merged_weights(self.model), *self.documents)

    @property
    def vision(self) -> VisionModel:
        """The vision tower, with the checkpoint's image processor."""
        return VisionModel(self.model.model.visual, self.image_processor)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.model.parameters())


def build_grm(config: GRMConfig, template: PromptTemplate = SHORT_TEMPLATE) -> GRM:
    """Build an untrained embedded model; the same config gives the same weights on every machine."""
    tokenizer = build_tokenizer(template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen2_5_VLForConditionalGeneration(_hf_config(config, tokenizer))
        trie = answer_trie(tokenizer, "the tokenizer")
        _initialise(model, trie.outputs)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    pixels = config.image_size**2
    # One pixel row of slack below: the stock resize rounds down and would lose a row of tokens at the exact limit. The
    # upper limit lets images up to 16:9 keep their height; square ones still get `image_size`.
    processor = Qwen2VLImageProcessorPil(
        patch_size=config.patch,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": pixels - config.image_size, "longest_edge": int(1.9 * pixels)},
    )
    documents = (
        json.loads(model.config.to_json_string()),
        json.loads(tokenizer.backend_tokenizer.to_str()),
        json.loads(processor.to_json_string()),
        template.document(),
    )
    return GRM(model.eval(), tokenizer, processor, template, trie, documents)


@torch.no_grad()
def _initialise(model: Qwen2_5_VLForConditionalGeneration, answer_ids: torch.Tensor) -> None:
    """Initialise the weights so that a small model learns without an initial plateau.

    With the usual small weights the answer hardly depends on the images at first, and training spends hundreds of
    updates on a plateau. Here activations keep their scale from layer to layer, and the output rows of the answers vary
    smoothly with the hop, so that neighbouring bins learn together.
    """
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0.0, INIT_GAIN * weight[0].numel() ** -0.5)
    model.model.language_model.embed_tokens.weight.normal_(0.0, EMBED_STD)
    hops = torch.linspace(-1.0, 1.0, HOP_BINS)
    orders = torch.arange(1, SMOOTH_ORDERS + 1)
    waves = torch.cos(torch.pi * orders * (hops[:, None] + 1.0) / 2.0) * orders**-0.5
    rows = waves @ torch.randn(SMOOTH_ORDERS, model.lm_head.in_features)
    model.lm_head.weight[answer_ids] = ANSWER_STD * rows / rows.std()


def _hf_config(config: GRMConfig, tokenizer: Any) -> Qwen2_5_VLConfig:
    head = config.text_width // config.text_heads
    rotary = head // 2
    token = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": config.vision_depth,
            "hidden_size": config.vision_width,
            "num_heads": config.vision_heads,
            "intermediate_size": int(config.vision_width * config.mlp_ratio),
            "out_hidden_size": config.text_width,
            "patch_size": config.patch,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": config.image_size,
            "fullatt_block_indexes": list(range(config.vision_depth)),
            "initializer_range": 0.04,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": config.text_width,
            "intermediate_size": int(config.text_width * config.mlp_ratio),
            "num_hidden_layers": config.text_depth,
            "num_attention_heads": config.text_heads,
            "num_key_value_heads": max(1, config.text_heads // 4),
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "mrope_section": [rotary - 2 * (3 * rotary // 8), 3 * rotary // 8, 3 * rotary // 8],
            },
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.04,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
