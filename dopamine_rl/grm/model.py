"""The General Reward Model: building a small one, saving it, loading any, and naming it by its content.

The embedded model is a real Qwen2.5-VL of a few million parameters. Its folder is a plain Hugging Face checkpoint
(`AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` load it) with `template.json`, `grm.json` and a
model card beside the weights. A released Qwen2.5-VL or Qwen3-VL checkpoint is used as it is, with a `template.json` beside it
(`dopamine grm import-template`); its `preprocessor_config.json` says how many pixels a picture may have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging

from dopamine_rl.errors import CheckpointError
from dopamine_rl.files import ESCAPED, write_folder_atomically
from dopamine_rl.grm.adapters import is_adapter, load_adapter
from dopamine_rl.grm.config import GRMConfig
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.lora import merged_weights
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.template import IMAGE_TOKEN, SHORT_TEMPLATE, PromptTemplate, load_template
from dopamine_rl.grm.tokenizer import build_tokenizer
from dopamine_rl.grm.trie import AnswerTrie, answer_trie
from dopamine_rl.grm.version import GRM_FILE, GRM_FORMAT, content_version, folder_documents, folder_version
from dopamine_rl.texts import code

INIT_GAIN, EMBED_STD, ANSWER_STD, SMOOTH_ORDERS, ROPE_THETA = 1.4, 0.5, 0.04, 12, 5.0
ARCHITECTURES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
"""What can be loaded, by `model_type` of `config.json`, and what people call it."""
MODEL_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json")
"""What a model folder must hold beside its template and its weights (`model.safetensors`, or shards and their index)."""


@dataclass(eq=False)
class GRM:
    """A reward model ready to answer.

    Args:
        model: the weights, a stock Qwen2_5_VLForConditionalGeneration or Qwen3VLForConditionalGeneration.
        tokenizer, image_processor: of the same checkpoint. (Types of transformers that do not describe themselves.)
        template: the wording the model was trained with.
        trie: the 201 answers as this tokenizer spells them.
        documents: configuration, tokenizer, image processor and template as a model folder holds them.
        folder: where it was loaded from; None for a model that lies nowhere yet.
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
        """12 hexadecimal digits that name the present weights with their adapters, configuration, tokenizer and template."""
        return content_version(merged_weights(self.model), *self.documents)

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
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
    # One pixel row of slack below: the stock resize rounds down, and would lose a whole row of tokens at exact limits. Above,
    # room for a picture up to 16:9 to keep its height; a square one still gets the same side.
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
    """Draw weights that a model this small learns from at once.

    With the usual small weights the answer hardly depends on the pictures at first, and training spends hundreds of updates on
    a plateau. Here signals keep their size from layer to layer, and the answers' rows vary smoothly with the hop, so that
    what is learned for one bin serves its neighbours.
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


def save_grm(grm: GRM, folder: str | Path, card: Mapping[str, Any]) -> str:
    """Write a model folder under a temporary name and rename it; a folder of that name is replaced.

    Args:
        grm: the model; adapters become part of its weights.
        folder: where it shall lie.
        card: what a reader must know of it, JSON values: training data, seed, command, metrics.
    Returns:
        The model version of the folder.
    """

    def fill(partial: Path) -> None:
        with _no_progress_bar():
            grm.model.save_pretrained(partial, state_dict=merged_weights(grm.model))
        grm.tokenizer.save_pretrained(partial)
        grm.image_processor.save_pretrained(partial)
        grm.template.save(partial)
        version = folder_version(partial)
        content = {"format": GRM_FORMAT, "hop_bins": HOP_BINS, "model_version": version, "card": dict(card)}
        (partial / GRM_FILE).write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors=ESCAPED
        )
        (partial / "README.md").write_text(_model_card(grm, version, card), encoding="utf-8", errors=ESCAPED)

    return folder_version(write_folder_atomically(Path(folder), fill))


def _model_card(grm: GRM, version: str, card: Mapping[str, Any]) -> str:
    """A README for the folder."""
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---",
        f"# Reward model {version}\n",
        f"{ARCHITECTURES[grm.model.config.model_type]} architecture, {grm.parameters / 1e6:.2f} M parameters, prompt "
        f"`{grm.template.name}`. It compares two moments of a robot episode and answers with a hop: `<score>+33%</score>`.\n",
    ]
    lines += [f"- **{key}**: {code(json.dumps(value, ensure_ascii=False))}" for key, value in card.items()]
    return "\n".join(lines) + "\n"


def load_grm(folder: str | Path) -> GRM:
    """Load a model by its own `config.json`, or an adapter with its base, on the CPU, in the precision it was saved in, ready to answer.

    Args:
        folder: of the model, or its hub id.

    Raises:
        CheckpointError: a file is missing, cut short or of another kind, or the content is not what `grm.json`, where there is
            one, says it is; the message names what and the fix.
    """
    folder = model_folder(folder)
    if is_adapter(folder):
        return load_adapter(folder, load_grm)
    recorded = _check_format(folder)
    template = load_template(folder)
    loaded: list[Any] = []
    for name, load in (
        ("config.json or model.safetensors", _load_weights),
        ("tokenizer.json", AutoTokenizer.from_pretrained),
        ("preprocessor_config.json", AutoImageProcessor.from_pretrained),
    ):
        try:
            loaded.append(load(folder, local_files_only=True))
        except Exception as error:  # transformers, tokenizers and safetensors each raise kinds of their own
            raise CheckpointError(
                f"{folder / name} cannot be read ({error}): copy the whole model folder again, or train a new one"
            ) from error
    model, tokenizer, processor = loaded
    if recorded is not None and (found := folder_version(folder)) != recorded:
        raise CheckpointError(
            f"{folder} has the content {found}, but its {GRM_FILE} says {recorded}: a file is corrupt or was exchanged, copy "
            "the whole model folder again"
        )
    where = str(folder / "tokenizer.json")
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) != model.config.image_token_id:
        raise CheckpointError(
            f"{where} knows no {IMAGE_TOKEN} as config.json does: use the tokenizer of the checkpoint"
        )
    trie = answer_trie(tokenizer, where)
    return GRM(model.eval(), tokenizer, processor, template, trie, folder_documents(folder), folder.resolve())


def _load_weights(folder: Path, **options: Any) -> Any:
    with _no_progress_bar():
        load: Any = AutoModelForImageTextToText.from_pretrained
        model, info = load(folder, dtype="auto", output_loading_info=True, **options)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"weights do not fit config.json: {sorted(info['missing_keys'])[:3]}")
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Loading a small model takes milliseconds; its progress bars would only clutter logs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def model_type(folder: Path) -> str:
    """The architecture of a model folder, a key of `ARCHITECTURES`. Raises CheckpointError where it is no model folder."""
    for name in MODEL_FILES:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing: copy the whole model folder again, or train a new one")
    (architecture,) = _values(folder / "config.json", "model_type")
    if architecture not in ARCHITECTURES:
        known = " or ".join(ARCHITECTURES.values())
        raise CheckpointError(f"{folder / 'config.json'} is of a {architecture} model: use a {known} checkpoint")
    return str(architecture)


def _check_format(folder: Path) -> str | None:
    """Refuse what transformers would take for something else, or replace by defaults; returns the version in `grm.json`."""
    model_type(folder)
    path = folder / "preprocessor_config.json"
    # How many pixels a picture may have is said in an old way or a new one.
    limits = ("min_pixels", "max_pixels") if b'"min_pixels"' in path.read_bytes() else ("size",)
    _values(path, "patch_size", "image_mean", *limits)
    if not (folder / GRM_FILE).is_file():
        return None
    form, version = _values(folder / GRM_FILE, "format", "model_version")
    if form != GRM_FORMAT:
        raise CheckpointError(f"{folder / GRM_FILE} has format {form}, not {GRM_FORMAT}: train the model again")
    return str(version)


def _values(path: Path, *keys: str) -> list[Any]:
    """Values of a JSON file. Raises CheckpointError if it cannot be read or lacks one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [content[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}): copy the whole model folder again") from error


def model_version(folder: str | Path) -> str:
    """The version of a model, by its folder or hub id: 12 hexadecimal digits of its weights, configuration, tokenizer and template.

    It is computed from the content, never read from a name, so it is the same on every machine and changes with any weight.
    Raises: CheckpointError.
    """
    folder = model_folder(folder)
    return load_grm(folder).model_version if is_adapter(folder) else folder_version(folder)
