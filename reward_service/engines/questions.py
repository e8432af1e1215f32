"""What every engine must know of a call before its model does: which pictures are equal, and which prompts ask nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dopamine_rl.grm.template import PromptTemplate
from dopamine_rl.interfaces import Prompt


def asked(
    template: PromptTemplate, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
) -> tuple[list[Prompt], list[str]]:
    """The prompts as the model's contract has them, and for each why its pictures make no question, or "".

    A view that the contract has and no camera shows is the front view again: the same picture by the same index, so it is
    encoded once.
    """
    return [template.fill(prompt) for prompt in prompts], [_unfit(images, prompt) for prompt in prompts]


def _unfit(images: Sequence[NDArray[np.uint8]], prompt: Prompt) -> str:
    """Why a prompt's pictures make no question, or ""."""
    if not all(0 <= index < len(images) for index in prompt.images):
        return f"a picture index is outside 0 … {len(images) - 1}"
    if len(prompt.before) != len(prompt.after):
        return "before and after have different numbers of views"
    if len({images[index].shape for index in prompt.images}) > 1:
        return "its pictures differ in size"
    return ""


def content_name(image: NDArray[np.uint8]) -> bytes:
    """Name a picture by its content: pictures of equal pixels and equal shape have one name."""
    name = hashlib.sha256(repr(image.shape).encode())
    name.update(np.ascontiguousarray(image).data)
    return name.digest()
