"""Saving, loading and versioning of model folders.

A folder is a Hugging Face checkpoint (`AutoModelForImageTextToText`, `AutoTokenizer` and `AutoImageProcessor` load it)
plus `template.json`, `grm.json` and a model card. A released Qwen2.5-VL or Qwen3-VL checkpoint only needs a
`template.json` (`dopamine grm import-template`); its `preprocessor_config.json` sets the image size limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from dopamine_rl.errors import CheckpointError
from dopamine_rl.files import ESCAPED, write_folder_atomically
from dopamine_rl.grm.adapters import load_adapter
from dopamine_rl.grm.folder import ARCHITECTURES, GRM_FILE, GRM_FORMAT, check_format, is_adapter
from dopamine_rl.grm.hub import model_folder
from dopamine_rl.grm.lora import merged_weights
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.score import HOP_BINS
from dopamine_rl.grm.template import IMAGE_TOKEN, load_template
from dopamine_rl.grm.trie import answer_trie
from dopamine_rl.grm.version import folder_documents, folder_version
from dopamine_rl.texts import code, readable


def save_grm(grm: GRM, folder: str | Path, card: Mapping[str, Any]) -> str:
    """Write a model folder under a temporary name and rename it; a folder of that name is replaced.

    Args:
        grm: the model; adapters are merged into its weights.
        folder: path of the folder.
        card: content of the model card as JSON values: training data, seed, command, metrics.
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
    """The README of the folder."""
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---",
        f"# Reward model {version}\n",
        f"{ARCHITECTURES[grm.model.config.model_type]} architecture, {grm.parameters / 1e6:.2f} M parameters, prompt "
        f"`{grm.template.name}`. It compares two frames of a robot episode and answers with a hop: "
        "`<score>+33%</score>`.\n",
    ]
    lines += [f"- **{key}**: {code(readable(value))}" for key, value in card.items()]
    return "\n".join(lines) + "\n"


def load_grm(folder: str | Path) -> GRM:
    """Load a model, or an adapter with its base, on the CPU, in the saved precision, ready for inference.

    Args:
        folder: of the model, or its hub id.
    Raises:
        CheckpointError: a file is missing, truncated or of the wrong kind, or the content does not match the version in
            `grm.json`; the message names the file and the fix.
    """
    folder = model_folder(folder)
    if is_adapter(folder):
        return load_adapter(folder, load_grm)
    recorded = check_format(folder)
    template = load_template(folder)
    loaded: list[Any] = []
    for name, load in (
        ("config.json or model.safetensors", _load_weights),
        ("tokenizer.json", AutoTokenizer.from_pretrained),
        ("preprocessor_config.json", AutoImageProcessor.from_pretrained),
    ):
        try:
            loaded.append(load(folder, local_files_only=True))
        except Exception as error:  # transformers, tokenizers and safetensors raise errors of their own
            raise CheckpointError(
                f"{folder / name} cannot be read ({error}): copy the whole model folder again, or train a new one"
            ) from error
    model, tokenizer, processor = loaded
    if recorded is not None and (version := folder_version(folder)) != recorded:
        raise CheckpointError(
            f"{folder} has version {version}, but its {GRM_FILE} says {recorded}: a file is corrupt or was replaced, "
            "copy the whole model folder again"
        )
    where = str(folder / "tokenizer.json")
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) != model.config.image_token_id:
        raise CheckpointError(f"{where} has no {IMAGE_TOKEN} as in config.json: use the tokenizer of the checkpoint")
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
    """Hide progress bars: loading a small model takes milliseconds, and they clutter logs."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def model_version(folder: str | Path) -> str:
    """The version of a model folder or hub id: 12 hexadecimal digits.

    It is computed from weights, configuration, tokenizer and template, so it is the same on every machine and changes
    with any weight.

    Raises:
        CheckpointError: as for `load_grm`.
    """
    folder = model_folder(folder)
    return load_grm(folder).model_version if is_adapter(folder) else folder_version(folder)
