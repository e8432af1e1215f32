"""The embedded engine: a transformers model in this process that computes nothing twice, answers read as distributions.

A newly scored frame costs its V pictures and what its prompts do not share with earlier ones. Features of pictures, and keys
and values of prompts' beginnings (the task with its references, then BEFORE), are kept from call to call, by content.
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

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.checkpoint import load_grm
from dopamine_rl.grm.layout import Layout, Pictures, missing_prefixes
from dopamine_rl.grm.model import GRM
from dopamine_rl.grm.readout import Reader, binned_hops
from dopamine_rl.interfaces import Prompt
from dopamine_rl.types import HopEstimates, check_views
from reward_service.engines.cache import TensorCache
from reward_service.engines.questions import asked, content_name

PICTURES_PER_PASS = 256
PROMPTS_PER_PASS = 64
"""Bounds of one forward pass; they bound memory, however large a batch the caller hands over."""

CACHE_BYTES = 256 * 2**20
"""Default bound of what an engine keeps; of the embedded model's prompts some ten thousand beginnings."""

GPU_SHARE = 0.25
"""The same on a GPU, as a share of its memory that is free once the model is there. An episode under way with a released model of 3
billion weights needs some 60 MB; with less room than that for each, every frame computes INIT and GOAL again."""


@dataclass(frozen=True, eq=False, slots=True)
class _Table:
    """The pictures of one call: pixels, their content's name, and for each the first index with equal content."""

    images: Sequence[NDArray[np.uint8]]
    content: list[bytes]
    first: list[int]


@dataclass(frozen=True, eq=False, slots=True)
class _Kind:
    """Questions of one pass that have one layout.

    Args:
        words: instruction and number of views.
        places: where in the pass they stand.
        questions: their pictures, by first index.
        known: keys and values of their beginnings; those that were kept, then those that were computed too.
    """

    words: tuple[str, int]
    layout: Layout
    places: list[int]
    questions: list[Pictures]
    known: dict[Pictures, torch.Tensor]


class TransformersEngine:
    """Implements `interfaces.Engine` with a transformers model, whose weights must not change from here on.

    Args:
        grm: a model, or the folder of one.
        threads: CPU threads for torch, process-wide; None leaves the process's setting.
        device: where the model runs, such as "cpu" or "cuda".
        cache_bytes: most memory for features, keys and values kept between calls; 0 keeps none. Answers do not depend on it. None
            takes CACHE_BYTES, or on a GPU a quarter of its free memory where that is more.
    Raises:
        BadInput: a setting is out of range, or torch cannot use the device.
        CheckpointError: the folder does not hold a usable model.
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
        place = usable_device(device)
        self._grm = grm if isinstance(grm, GRM) else load_grm(grm)
        self._version = self._grm.model_version
        self._grm.model.to(place).eval()
        self._kept = TensorCache(default_cache_bytes(place) if cache_bytes is None else cache_bytes)
        self._reader = Reader(self._grm)
        self._lock = threading.Lock()

    @property
    def model_version(self) -> str:
        """Content name of the weights, taken when the engine was made."""
        return self._version

    @property
    def cached_bytes(self) -> int:
        """Memory that features, keys and values take between calls."""
        return self._kept.bytes

    def estimate(self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]) -> HopEstimates:
        """Answer N prompts about M pictures. Implements `Engine.estimate`; calls from several threads wait in turn.

        A prompt is invalid, with its reason, where its pictures differ in size or cannot be cut into patches, its instruction
        does not fit the template, or the model's answer is not finite; nothing such an answer rests on alone is kept.
        """
        for index, image in enumerate(images):
            check_views(f"images[{index}]", image, 3)
        values = np.full((3, len(prompts)), np.nan, np.float32)
        prompts, reasons = asked(self._grm.template, images, prompts)
        sizes: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, prompt in enumerate(prompts):
            if not reasons[place]:
                sizes[images[prompt.before[0]].shape].append(place)
        table = _tabulate(images)
        with self._lock, torch.inference_mode():
            for places in sizes.values():
                for start in range(0, len(places), PROMPTS_PER_PASS):
                    chunk = places[start : start + PROMPTS_PER_PASS]
                    values[:, chunk], why = self._answer(table, [prompts[place] for place in chunk])
                    for place, reason in zip(chunk, why, strict=True):
                        reasons[place] = reason
        return HopEstimates(values[0], values[1], values[2], tuple(reasons))

    def _answer(self, table: _Table, prompts: Sequence[Prompt]) -> tuple[NDArray[np.float32], list[str]]:
        """Gain, loss and entropy, float32 [3, N], of prompts whose pictures all have one size, and why any has none."""
        values, reasons = np.full((3, len(prompts)), np.nan, np.float32), [""] * len(prompts)
        groups: dict[tuple[str, int], list[int]] = defaultdict(list)
        for place, prompt in enumerate(prompts):
            groups[prompt.instruction, len(prompt.before)].append(place)
        kinds = []
        for words, places in groups.items():
            try:
                layout = self._reader.layout(*words, *table.images[prompts[0].before[0]].shape[:2])
            except BadInput as error:
                for place in places:
                    reasons[place] = str(error)
            else:
                questions = [tuple(table.first[index] for index in prompts[place].images) for place in places]
                kinds.append(_Kind(words, layout, places, questions, self._recall(table, words, layout, questions)))
        features = self._features(table, sorted({name for kind in kinds for name in _shown(kind)}))
        for kind in kinds:
            recalled = set(kind.known)
            logits = self._reader.logits(kind.layout, kind.questions, *features, kind.known)
            answered = torch.stack(binned_hops(logits)).float().cpu().numpy()
            sound = []
            for place, question, column in zip(kind.places, kind.questions, answered.T, strict=True):
                if np.isfinite(column).all():
                    values[:, place] = column
                    sound.append(question)
                else:
                    reasons[place] = "the model's answer is not finite"
            self._keep(table, kind, sound, recalled, *features)
        return values, reasons

    def _recall(
        self, table: _Table, words: tuple[str, int], layout: Layout, questions: Sequence[Pictures]
    ) -> dict[Pictures, torch.Tensor]:
        """What is kept of the questions' beginnings."""
        known = {}
        for prefix in itertools.chain(*missing_prefixes(layout, questions, {})):
            found = self._kept.get(_key(table, words, prefix))
            if found is not None:
                known[prefix] = found
        return known

    def _features(self, table: _Table, names: Sequence[int]) -> tuple[torch.Tensor, dict[int, int]]:
        """Features [R, tokens, D] of pictures, encoded unless they are kept, and the row of each."""
        kept = {name: self._kept.get(table.content[name]) for name in names}
        new = [name for name in names if kept[name] is None]
        parts = [
            self._reader.encode(
                np.stack([table.images[name] for name in new[start : start + PICTURES_PER_PASS]])
            ).tokens
            for start in range(0, len(new), PICTURES_PER_PASS)
        ]
        old = {name: features for name, features in kept.items() if features is not None}
        if old:
            parts.append(torch.stack(list(old.values())))
        return torch.cat(parts) if parts else torch.empty(0), {name: row for row, name in enumerate([*new, *old])}

    def _keep(
        self,
        table: _Table,
        kind: _Kind,
        questions: Sequence[Pictures],
        recalled: set[Pictures],
        tokens: torch.Tensor,
        place: dict[int, int],
    ) -> None:
        """Keep what was computed for questions with sound answers."""
        for name in dict.fromkeys(itertools.chain(*questions)):
            if name in place:
                self._kept.put(table.content[name], tokens[place[name]])
        for prefix in itertools.chain(*missing_prefixes(kind.layout, questions, {})):
            if prefix in kind.known and prefix not in recalled:
                self._kept.put(_key(table, kind.words, prefix), kind.known[prefix])


def usable_device(name: str, field: str = "engine.device") -> torch.device:
    """The device of that name. Raises BadInput, naming `field`, where torch cannot use it here."""
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise BadInput(field, name, f"give one that torch can use here, such as cpu ({why})") from error


def default_cache_bytes(device: torch.device) -> int:
    """Room for what an engine keeps on a device between calls, once its model is there."""
    if device.type != "cuda":
        return CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(CACHE_BYTES, int(free * GPU_SHARE))


def _tabulate(images: Sequence[NDArray[np.uint8]]) -> _Table:
    """Name pictures by content: equal pixels and equal shape are one picture."""
    content = [content_name(image) for image in images]
    seen: dict[bytes, int] = {}
    return _Table(images, content, [seen.setdefault(name, index) for index, name in enumerate(content)])


def _key(table: _Table, words: tuple[str, int], prefix: Pictures) -> tuple[object, ...]:
    return (*words, *(table.content[name] for name in prefix))


def _shown(kind: _Kind) -> set[int]:
    """The pictures that must be looked at: those outside known beginnings."""
    levels = (*missing_prefixes(kind.layout, kind.questions, kind.known), kind.questions)
    return {
        name
        for part, questions in zip(kind.layout.parts, levels, strict=True)
        for question in questions
        for name in question[part.shown]
    }
