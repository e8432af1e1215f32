"""Randomly initialised models for the benchmarks; only their speed and the agreement of two arms are meaningful."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from dopamine_rl.grm.model import GRM
    from dopamine_rl.grm.template import PromptTemplate

ARCHITECTURES = ("embedded", "released", "3b")
"""An embedded model of the default size; one with the width of the released 3B model but two vision layers (one with
windows) and two language layers; and the full released 3B architecture."""

WIDTH: dict[str, dict[str, Any]] = {
    "vision": {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048},
    "text": {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2},
}
DEPTH: dict[str, dict[str, Any]] = {
    "vision": {"depth": 32, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]},
    "text": {"num_hidden_layers": 36, "vocab_size": 151_936, "max_position_embeddings": 128_000},
}
"""The released 3B models. Source: `config.json` of Qwen2.5-VL-3B."""

ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}

WEIGHT_GAIN = 1.4
"""Larger than usual, so that random answers depend on the images."""

RULES = (
    "The two references show the task before it begins and once it is done; they may come from another recording. "
    "Compare what the robot holds, where it stands and how far the parts still are from their places. "
    "Say how much of the way that remained was gained, or how much of the way behind was lost. "
    "A gripper that moves without the object has gained nothing. "
    "Shadows, light and other things on the table count for nothing. "
    "Trust the view that shows the contact best where the views differ; a hidden view says nothing. "
    "Both moments belong to one episode or to two; between them the robot may have gone forward, back, or nowhere. "
    "Small steps get small numbers, and only a finished task gets all of what remained. "
    "First look at the goal, then at both moments, then decide which of them is closer to it and by how much. "
    "Answer with one signed whole percent: "
    "<score>+N%</score> for a gain, <score>-N%</score> for a loss, <score>0%</score> for none. "
)
"""Made-up rules after the images, about as long as those of the released prompt."""


def make_grm(architecture: str, dtype: torch.dtype, device: str) -> GRM:
    """A model of one of `ARCHITECTURES`."""
    from dopamine_rl.grm.config import GRMConfig
    from dopamine_rl.grm.model import build_grm

    if architecture == "3b":
        return _make_3b(dtype, device)
    grm = build_grm(GRMConfig()) if architecture == "embedded" else _make_narrow()
    grm.model.to(device=device, dtype=dtype)
    return grm


def _make_narrow() -> GRM:
    from transformers import Qwen2_5_VLForConditionalGeneration

    from dopamine_rl.grm.config import GRMConfig
    from dopamine_rl.grm.model import build_grm

    grm = build_grm(GRMConfig(image_size=168, patch=14, vision_width=16, text_width=32, text_heads=4))
    config = grm.model.config
    for part, values in (("vision_config", WIDTH["vision"] | {"depth": 2}), ("text_config", WIDTH["text"])):
        for key, value in values.items():
            setattr(getattr(config, part), key, value)
    config.vision_config.window_size, config.vision_config.fullatt_block_indexes = 112, [1]
    text = config.text_config
    text.num_hidden_layers, text.layer_types, text.rope_parameters = 2, ["full_attention"] * 2, ROPE
    build: Any = Qwen2_5_VLForConditionalGeneration
    grm.model = build(config).eval()
    return grm


def _make_3b(dtype: torch.dtype, device: str) -> GRM:
    """A Qwen2.5-VL-3B with the contract and the image budget of the released reward models."""
    import torch
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from dopamine_rl.grm.contract import MAX_PIXELS, MIN_PIXELS
    from dopamine_rl.grm.model import GRM
    from dopamine_rl.grm.template import SHORT_TEMPLATE
    from dopamine_rl.grm.tokenizer import build_tokenizer
    from dopamine_rl.grm.trie import answer_trie

    template = _long_template()
    tokenizer = build_tokenizer(SHORT_TEMPLATE)  # it has no tokens for whole phrases of the long template
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    keys = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids: dict[str, Any] = {
        key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names, strict=True)
    }
    vision, text = (WIDTH[part] | DEPTH[part] for part in ("vision", "text"))
    config = Qwen2_5_VLConfig(
        vision_config=vision | {"patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2},
        text_config={
            "rms_norm_eps": 1e-6,
            "rope_parameters": ROPE,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }
        | text,
        tie_word_embeddings=True,
        **ids,
    )
    build: Any = AutoModelForImageTextToText.from_config
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = build(config, dtype=dtype).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, WEIGHT_GAIN * weight[0].numel() ** -0.5)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    processor = Qwen2VLImageProcessorPil(
        patch_size=14,
        temporal_patch_size=2,
        merge_size=2,
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    )
    return GRM(model, tokenizer, processor, template, answer_trie(tokenizer, "the tokenizer"), (template.document(),))


def _long_template() -> PromptTemplate:
    """Made-up words in the structure and of the length of the released prompt."""
    from dopamine_rl.grm.contract import RELEASED, RELEASED_LABELS
    from dopamine_rl.grm.template import PromptTemplate

    before, after = (
        "".join(f"{moment} {label} {{{moment.lower()}}}\n" for label in RELEASED_LABELS)
        for moment in ("BEFORE", "AFTER")
    )
    text = (
        "<|im_start|>user\nCompare two moments of a robot's work.\n"
        f"<Task>{{instruction}}\nSTART{{start}}END{{end}}</Task>\n"
        f"{before}{after}{RULES}<|im_end|>\n<|im_start|>assistant\n"
    )
    return PromptTemplate("benchmark-3b", text, "{image}", RELEASED_LABELS, RELEASED["grm-3b"])


def spell(grm: GRM) -> None:
    """Remove the single-token answers from a model's tokenizer, so that answers are spelled."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from dopamine_rl.grm.score import answers
    from dopamine_rl.grm.trie import answer_trie

    content, whole = json.loads(grm.tokenizer.backend_tokenizer.to_str()), set(answers())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in whole]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    build: Any = PreTrainedTokenizerFast
    grm.tokenizer = build(tokenizer_object=tokenizer, eos_token=grm.tokenizer.eos_token)
    grm.trie = answer_trie(grm.tokenizer, "the tokenizer")
