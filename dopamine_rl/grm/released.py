"""Prepare a released checkpoint for use: write its prompt template and image size limits next to the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dopamine_rl.errors import BadInput, CheckpointError
from dopamine_rl.files import write_atomically, write_folder_atomically
from dopamine_rl.grm.contract import MAX_PIXELS, MIN_PIXELS, PRESET_OF, RELEASED, RELEASED_LABELS
from dopamine_rl.grm.folder import GRM_FILE, check_without_template, model_type
from dopamine_rl.grm.template import IMAGE_SLOT, TEMPLATE_FILE, PromptTemplate
from dopamine_rl.grm.wording import Wording

PROCESSOR_FILE, WEIGHTS = "preprocessor_config.json", "*.safetensors"


def check_released(folder: Path) -> str:
    """The `model_type` of a released checkpoint. Raises CheckpointError if the folder is not one."""
    kind = model_type(folder)
    if (folder / GRM_FILE).exists():
        raise CheckpointError(
            f"{folder} was written by this project and already has a template, which is part of its version"
        )
    check_without_template(folder)
    return kind


def released_template(folder: Path, wording: Wording, preset: str | None = None) -> PromptTemplate:
    """The template of a released checkpoint: the wording rendered with the checkpoint's chat template.

    Args:
        folder: of the checkpoint.
        wording: from its authors' repository.
        preset: one of `contract.RELEASED`; None chooses by architecture.
    Raises:
        CheckpointError: the folder is not a released checkpoint, or has no usable chat template.
        BadInput: the wording contains the name of a template slot.
    """
    name = preset or PRESET_OF[check_released(folder)]
    contract = RELEASED[name]
    turn = _chat_turn(folder, wording)
    slots = ("{start}", "{end}", *["{before}"] * contract.views, *["{after}"] * contract.views)
    between = turn.split(IMAGE_SLOT)
    if len(between) != len(slots) + 1:
        raise CheckpointError(
            f"{folder}: its chat template renders {len(between) - 1} of {len(slots)} images as {IMAGE_SLOT}: use the "
            "chat template of a Qwen2.5-VL or Qwen3-VL checkpoint"
        )
    text = between[0] + "".join(slot + after for slot, after in zip(slots, between[1:], strict=True))
    try:
        return PromptTemplate(name, text, "{image}", RELEASED_LABELS, contract)
    except BadInput as error:
        fix = f"remove the words in braces that are names of template slots ({error.fix})"
        raise BadInput("wording", wording.origin, fix) from error


def _chat_turn(folder: Path, wording: Wording) -> str:
    """Render one user turn with the wording, up to the start of the answer, with the checkpoint's chat template."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(wording.pieces):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    from transformers import AutoTokenizer  # seconds, which a wrong argument need not cost

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Older checkpoints store it next to the processor.
        path = folder / "chat_template.json"
        chat = tokenizer.chat_template or (
            json.loads(path.read_text("utf-8"))["chat_template"] if path.exists() else None
        )
        if chat is None:
            raise ValueError("there is none")
        turn = [{"role": "user", "content": parts}]
        return str(tokenizer.apply_chat_template(turn, chat_template=chat, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # transformers, tokenizers and jinja raise errors of their own
        raise CheckpointError(
            f"{folder}: its chat template cannot be used ({error}): copy tokenizer_config.json, chat_template.json or "
            "chat_template.jinja from the original checkpoint"
        ) from error


def limit_pixels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Set the image size limits of released models in a `preprocessor_config.json`, in its old or new form."""
    limits = {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}
    limited = dict(config) | {key: value for key, value in limits.items() if key in config}
    if "size" in config or not limits.keys() <= config.keys():
        limited["size"] = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return limited


def install(folder: Path, template: PromptTemplate, pixels: bool = True) -> list[str]:
    """Write `template.json` and the image size limits into a checkpoint's folder, each file atomically.

    Args:
        pixels: also set the image size limits.
    Returns:
        The names of the files that changed.
    """
    path = folder / PROCESSOR_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    limited = limit_pixels(config) if pixels else config
    changed = []
    if limited != config:
        text = json.dumps(limited, indent=2, ensure_ascii=False) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        changed.append(path.name)
    # The template is written last, because a folder without it is refused.
    if template.save(folder):
        changed.append(TEMPLATE_FILE)
    return changed


def _made_beside(out: Path, folder: Path) -> bool:
    """Whether a folder was made by `install_beside` from this checkpoint."""
    entries = list(out.iterdir()) if out.is_dir() else []
    weights = [path for path in entries if path.match(WEIGHTS)]
    small = {path.name for path in entries} - {path.name for path in weights}
    linked = bool(weights) and all(path.is_symlink() for path in weights)
    unexpected = small - {path.name for path in folder.iterdir()} - {TEMPLATE_FILE}
    return linked and (out / TEMPLATE_FILE).is_file() and not unexpected and out.resolve() != folder.resolve()


def install_beside(folder: Path, out: Path, template: PromptTemplate, pixels: bool = True) -> list[str]:
    """`install` into a new folder with links to the checkpoint's weights and copies of its small files.

    Raises:
        BadInput: `out` exists and was not made by this function.
    """
    changed: list[str] = []
    ours = out.exists()
    if ours and not _made_beside(out, folder):
        raise BadInput("--out", str(out), "name a folder that does not exist yet")

    def fill(partial: Path) -> None:
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            if path.match(WEIGHTS):
                (partial / path.name).symlink_to(path.resolve())
            else:
                shutil.copyfile(path, partial / path.name)
        changed.extend(install(partial, template, pixels))

    write_folder_atomically(out, fill, replace=ours)
    return changed
