"""The embedded engine: a transformers model in this process, each picture encoded once, answers read from hop bins."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.model import GRM, load_grm
from dopamine_rl.grm.readout import ImageFeatures, binned_hops, encode_images, forward_logits
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates, check_views

PICTURES_PER_PASS = 256
PROMPTS_PER_PASS = 64
"""Bounds of one forward pass; they bound memory, however large a batch the caller hands over."""


class TransformersEngine:
    """Implements `interfaces.Engine` with a transformers model.

    Args:
        grm: a model, or the folder of one.
        threads: CPU threads for torch, process-wide; None leaves the process's setting.
        device: where the model runs.
    Raises:
        CheckpointError: the folder does not hold a usable model.
    """

    def __init__(self, grm: GRM | str | Path, threads: int | None = None, device: str = "cpu") -> None:
        if threads is not None:
            if threads < 1:
                raise BadInput("engine.threads", threads, "give at least 1, or leave it out")
            torch.set_num_threads(threads)
        self._grm = grm if isinstance(grm, GRM) else load_grm(grm)
        self._version = self._grm.model_version
        self._grm.model.to(device).eval()
        self._lock = threading.Lock()

    @property
    def model_version(self) -> str:
        """Content name of the weights, taken when the engine was made."""
        return self._version

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M pictures. Implements `Engine.estimate`; calls from several threads wait in turn.

        A prompt is invalid, with its reason, where its pictures differ in size, its instruction does not fit the template,
        or the model's answer is not finite.
        """
        for index, image in enumerate(images):
            check_views(f"images[{index}]", image, 3)
        values = np.full((3, len(prompts)), np.nan, np.float32)
        reasons = [self._unanswerable(images, prompt) for prompt in prompts]
        sizes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, prompt in enumerate(prompts):
            if not reasons[place]:
                sizes[images[prompt.before[0]].shape].append(place)
        with self._lock, torch.inference_mode():
            for places in sizes.values():
                answered = self._answer(images, [prompts[place] for place in places])
                for column, place in enumerate(places):
                    if np.isfinite(answered[:, column]).all():
                        values[:, place] = answered[:, column]
                    else:
                        reasons[place] = "the model's answer is not finite"
        return HopEstimates(values[0], values[1], values[2], tuple(reasons))

    def _unanswerable(self, images: Sequence[NDArray[np.uint8]], prompt: Prompt) -> str:
        """Why a prompt cannot be asked at all, or ""."""
        if not all(0 <= index < len(images) for index in prompt.images):
            return f"a picture index is outside 0 … {len(images) - 1}"
        if len(prompt.before) != len(prompt.after):
            return "before and after have different numbers of views"
        if len({images[index].shape for index in prompt.images}) > 1:
            return "its pictures differ in size"
        try:
            self._grm.template.render(prompt.instruction, len(prompt.before))
        except BadInput as error:
            return str(error)
        return ""

    def _answer(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """Gain, loss and entropy, float32 [3, N], of prompts whose pictures all have one size."""
        used = sorted({index for prompt in prompts for index in prompt.images})
        place = {index: row for row, index in enumerate(used)}
        chunks = [
            encode_images(self._grm, np.stack([images[index] for index in used[start : start + PICTURES_PER_PASS]]))
            for start in range(0, len(used), PICTURES_PER_PASS)
        ]
        features = ImageFeatures(torch.cat([chunk.tokens for chunk in chunks]), chunks[0].rows, chunks[0].columns)
        moved = [prompt.moved(place) for prompt in prompts]
        parts = []
        for start in range(0, len(moved), PROMPTS_PER_PASS):
            logits = forward_logits(self._grm, features, moved[start : start + PROMPTS_PER_PASS])
            parts.append(torch.stack(binned_hops(logits)).cpu().numpy())
        return np.concatenate(parts, axis=1)
