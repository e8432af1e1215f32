"""The embedded engine: a transformers model in this process, with cached features and prompt prefixes.

A new frame costs its V pictures and the part of its prompts that no earlier prompt shares. Picture features, and keys
and values of prompt prefixes (task and references, then BEFORE), are cached across calls by content.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dopamine_rl.encoders.tower import TowerEncoder
from dopamine_rl.errors import BadInput
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.layout import Pictures, PromptLayout, missing_prefixes
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import Reader, binned_hops
from dopamine_rl.interfaces import Prompt
from dopamine_rl.tokens import EncodedImage, Image
from dopamine_rl.types import HopEstimates, check_views
from reward_service.engines.cache import TensorCache
from reward_service.engines.questions import content_name, prepare_prompts

PICTURES_PER_PASS = 256
PROMPTS_PER_PASS = 64
"""Limits of one forward pass; they bound memory, however large the batch."""

CACHE_BYTES = 256 * 2**20
"""Default cache size; holds some ten thousand prompt prefixes of the embedded model."""

GPU_SHARE = 0.25
"""Default cache size on a GPU, as a share of the memory that is free after loading the model. A running episode needs
some 60 MB with a released model of 3 billion parameters; with less, every frame computes INIT and GOAL again."""


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """The images of one call: pixels or tokens, content hashes, and for each the first index with equal content."""

    images: Sequence[Image]
    content: list[bytes]
    first: list[int]


@dataclass(frozen=True, eq=False, slots=True)
class _Group:
    """The prompts of one pass that share a layout.

    Args:
        words: instruction and number of views.
        layout: of the prompts.
        indices: of the prompts in the pass.
        questions: their pictures, by first index.
        prefixes: keys and values of their prefixes: first the cached ones, then also the computed ones.
    """

    words: tuple[str, int]
    layout: PromptLayout
    indices: list[int]
    questions: list[Pictures]
    prefixes: dict[Pictures, torch.Tensor]


class TransformersEngine:
    """Implements `interfaces.TokenEngine` with a transformers model, whose weights must not change any more.

    Args:
        grm: a model, or the folder of one.
        threads: CPU threads of torch, process-wide; None leaves the current setting.
        device: of the model, such as "cpu" or "cuda".
        cache_bytes: cache size for features, keys and values; 0 disables the cache. Answers do not depend on it. None
            means CACHE_BYTES, or on a GPU a quarter of its free memory if that is more.
    Raises:
        BadInput: a setting is out of range, or torch cannot use the device.
        CheckpointError: the folder holds no usable model.
    """

    def __init__(
        self,
        grm: GRM | str | Path,
        threads: int | None = None,
        device: str = "cpu",
        cache_bytes: int | None = None,
    ) -> None:
        if threads is not None:
            if threads < 1:
                raise BadInput("engine.threads", threads, "give at least 1, or leave it out")
            torch.set_num_threads(threads)
        usable = usable_device(device)
        self._grm = grm if isinstance(grm, GRM) else load_grm(grm)
        self._version = self._grm.model_version
        encoder = TowerEncoder(self._grm.vision)
        # An actor's tower computes in single precision; one that rounds more gives other tokens.
        self._tower_version = encoder.saved().version if self._grm.model.dtype == torch.float32 else ""
        self._token_shape = encoder.token_shape
        self._grm.model.to(usable).eval()
        self._cache = TensorCache(default_cache_bytes(usable) if cache_bytes is None else cache_bytes)
        self._reader = Reader(self._grm)
        self._lock = threading.Lock()

    @property
    def model_version(self) -> str:
        """Content hash of the weights, computed at construction."""
        return self._version

    @property
    def tower_version(self) -> str:
        """Content hash of the vision tower; "" for a model in half precision, which takes pixels alone."""
        return self._tower_version

    @property
    def cached_bytes(self) -> int:
        """Current size of the cache."""
        return self._cache.bytes

    def estimate(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M pictures. Implements `Engine.estimate`; concurrent calls run one at a time.

        A prompt is invalid, with a reason, if its pictures differ in size or cannot be cut into patches, tokens have
        another shape than the tower's, its instruction does not fit the template, or the model's answer is not finite;
        intermediate results used only by such answers are not cached.
        """
        for index, image in enumerate(images):
            if not isinstance(image, EncodedImage):
                check_views(f"images[{index}]", image, 3)
        values = np.full((3, len(prompts)), np.nan, np.float32)
        prompts, reasons = prepare_prompts(self._grm.template, images, prompts)
        misfits = self._misfits(images)
        for index, prompt in enumerate(prompts):
            if not reasons[index] and not misfits.keys().isdisjoint(prompt.images):
                reasons[index] = next(misfits[image] for image in prompt.images if image in misfits)
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            if not reasons[index]:
                by_size[images[prompt.before[0]].shape].append(index)
        table = _tabulate(images)
        with self._lock, torch.inference_mode():
            for indices in by_size.values():
                for start in range(0, len(indices), PROMPTS_PER_PASS):
                    chunk = indices[start : start + PROMPTS_PER_PASS]
                    values[:, chunk], why = self._answer(table, [prompts[index] for index in chunk])
                    for index, reason in zip(chunk, why, strict=True):
                        reasons[index] = reason
        return HopEstimates(values[0], values[1], values[2], tuple(reasons))

    def _misfits(self, images: Sequence[Image]) -> dict[int, str]:
        """What is wrong with images whose tokens have another shape than the tower gives them, by index."""
        misfits = {}
        for index, image in enumerate(images):
            if isinstance(image, EncodedImage):
                try:
                    expected = self._token_shape(*image.shape[:2])
                except BadInput as error:
                    misfits[index] = str(error)
                else:
                    if image.tokens.shape != expected:
                        misfits[index] = f"its tokens have shape {image.tokens.shape}, not {expected}"
        return misfits

    def _answer(self, table: _Table, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float32], list[str]]:
        """Gain, loss and entropy, float32 [3, N], of prompts with pictures of one size; and reasons of invalid ones."""
        values, reasons = np.full((3, len(prompts)), np.nan, np.float32), [""] * len(prompts)
        groups = self._group(table, prompts, reasons)
        features = self._features(
            table, sorted({picture for group in groups for picture in _pictures_to_encode(group)})
        )
        for group in groups:
            cached = set(group.prefixes)
            logits = self._reader.logits(group.layout, group.questions, *features, group.prefixes)
            estimates = torch.stack(binned_hops(logits)).float().cpu().numpy()
            valid = []
            for index, question, column in zip(group.indices, group.questions, estimates.T, strict=True):
                if np.isfinite(column).all():
                    values[:, index] = column
                    valid.append(question)
                else:
                    reasons[index] = "the model's answer is not finite"
            self._store(table, group, valid, cached, *features)
        return values, reasons

    def _group(self, table: _Table, prompts: Sequence[Prompt], reasons: list[str]) -> list[_Group]:
        """Group prompts by layout; those that do not fit the template get their reason."""
        by_words: dict[tuple[str, int], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            by_words[prompt.instruction, len(prompt.before)].append(index)
        groups = []
        for words, indices in by_words.items():
            try:
                layout = self._reader.layout(*words, *table.images[prompts[0].before[0]].shape[:2])
            except BadInput as error:
                for index in indices:
                    reasons[index] = str(error)
            else:
                questions = [tuple(table.first[image] for image in prompts[index].images) for index in indices]
                prefixes = self._cached_prefixes(table, words, layout, questions)
                groups.append(_Group(words, layout, indices, questions, prefixes))
        return groups

    def _cached_prefixes(
        self, table: _Table, words: tuple[str, int], layout: PromptLayout, questions: Sequence[Pictures]
    ) -> dict[Pictures, torch.Tensor]:
        """Cached keys and values of the questions' prefixes."""
        prefixes = {}
        for prefix in itertools.chain(*missing_prefixes(layout, questions, {})):
            tensor = self._cache.get(_key(table, words, prefix))
            if tensor is not None:
                prefixes[prefix] = tensor
        return prefixes

    def _features(self, table: _Table, names: Sequence[int]) -> tuple[torch.Tensor, dict[int, int]]:
        """Features [R, tokens, D] of images: given as tokens, from the cache or encoded; and each image's row."""
        old, pixels = {}, {}
        for name in names:
            image = table.images[name]
            if isinstance(image, EncodedImage):
                old[name] = torch.tensor(image.tokens, dtype=torch.float32, device=self._grm.model.device)
            elif (features := self._cache.get(table.content[name])) is not None:
                old[name] = features
            else:
                pixels[name] = image
        new = list(pixels)
        parts = [
            self._reader.encode(np.stack([pixels[name] for name in new[start : start + PICTURES_PER_PASS]])).tokens
            for start in range(0, len(new), PICTURES_PER_PASS)
        ]
        if old:
            parts.append(torch.stack(list(old.values())))
        return torch.cat(parts) if parts else torch.empty(0), {name: row for row, name in enumerate([*new, *old])}

    def _store(
        self,
        table: _Table,
        group: _Group,
        questions: Sequence[Pictures],
        cached: set[Pictures],
        features: torch.Tensor,
        rows: dict[int, int],
    ) -> None:
        """Cache the features and prefixes of questions with valid answers."""
        for name in dict.fromkeys(itertools.chain(*questions)):
            if name in rows and not isinstance(table.images[name], EncodedImage):  # tokens come with every request
                self._cache.put(table.content[name], features[rows[name]])
        for prefix in itertools.chain(*missing_prefixes(group.layout, questions, {})):
            if prefix in group.prefixes and prefix not in cached:
                self._cache.put(_key(table, group.words, prefix), group.prefixes[prefix])


def usable_device(name: str, field: str = "engine.device") -> torch.device:
    """The torch device of that name. Raises BadInput for `field` if torch cannot use it here."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise BadInput(field, name, f"give one that torch can use here, such as cpu ({why})") from error


def default_cache_bytes(device: torch.device) -> int:
    """Default cache size on a device, after the model was loaded."""
    if device.type != "cuda":
        return CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(CACHE_BYTES, int(free * GPU_SHARE))


def _tabulate(images: Sequence[Image]) -> _Table:
    """Hash the pictures and find the first of each content."""
    content = [content_name(image) for image in images]
    first: dict[bytes, int] = {}
    return _Table(images, content, [first.setdefault(name, index) for index, name in enumerate(content)])


def _key(table: _Table, words: tuple[str, int], prefix: Pictures) -> tuple[object, ...]:
    return (*words, *(table.content[name] for name in prefix))


def _pictures_to_encode(group: _Group) -> set[int]:
    """The pictures outside cached prefixes."""
    levels = (*missing_prefixes(group.layout, group.questions, group.prefixes), group.questions)
    return {
        name
        for part, questions in zip(group.layout.parts, levels, strict=True)
        for question in questions
        for name in question[part.pictures]
    }
