"""Checks of an engine call before its model runs: which prompts are valid, and which pictures are equal."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from dopamine_rl.grm.template import PromptTemplate
from dopamine_rl.interfaces import Prompt
from dopamine_rl.tokens import EncodedImage, Image


def prepare_prompts(
    template: PromptTemplate, images: Sequence[Image], prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[str]]:
    """Complete the prompts to the model's number of views, and check them: for each "" or why it is invalid.

    A view that the model expects but no camera provides is filled with the front view. It has the same index, so the
    picture is encoded once.
    """
    return [template.fill(prompt) for prompt in prompts], [_fault(images, prompt) for prompt in prompts]


def _fault(images: Sequence[Image], prompt: Prompt) -> str:
    """Why a prompt's pictures are invalid, or ""."""
    if not all(0 <= index < len(images) for index in prompt.images):
        return f"a picture index is outside 0 … {len(images) - 1}"
    if len(prompt.before) != len(prompt.after):
        return "before and after have different numbers of views"
    if len({images[index].shape for index in prompt.images}) > 1:
        return "its pictures differ in size"
    return ""


def content_name(image: Image) -> bytes:
    """A hash of an image's shape and pixels, or of its tokens: never the same for both, whatever a client sends."""
    if isinstance(image, EncodedImage):
        tokens = image.tokens
        name = hashlib.sha256(f"tokens {image.shape} {tokens.dtype.str} {tokens.shape}".encode())
        name.update(np.ascontiguousarray(tokens).data)
        return name.digest()
    name = hashlib.sha256(repr(image.shape).encode())
    name.update(np.ascontiguousarray(image).data)
    return name.digest()
