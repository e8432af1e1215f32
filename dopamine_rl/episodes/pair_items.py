"""Write balanced pairs as training items of the released pipeline, with their images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dopamine_rl.episodes.items import TrainingItem, write_items
from dopamine_rl.episodes.mismatch import other_wordings, wordings_of_tasks
from dopamine_rl.episodes.pairs import HopPairs
from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_folder_atomically
from dopamine_rl.grm.contract import RELEASED, RELEASED_LABELS
from dopamine_rl.grm.template import IMAGE_SLOT, SHORT_TEMPLATE, PromptTemplate, load_template
from dopamine_rl.interfaces import EpisodeSource, OnProgress
from dopamine_rl.types import EpisodeInfo

SUFFIXES = (".json", ".jsonl")
"""Of item files: one JSON list, or one item per line."""
CONTRACT = RELEASED["grm-2.0"]
"""Three views of BEFORE and of AFTER, and answers with one decimal."""
OURS = replace(
    SHORT_TEMPLATE,
    name="dopamine-items-1",
    text=SHORT_TEMPLATE.text.replace("whole percents", "tenths of a percent"),
    labels=RELEASED_LABELS,
)
"""Our wording of the released prompt."""
FRAMES_AT_ONCE = 64
"""Frames per camera in memory while images are written."""


@dataclass(frozen=True, eq=False, slots=True)
class PairItems:
    """Pairs to be written as items.

    Args:
        source: of the images.
        episodes: that `HopPairs.episode_index` refers to.
        blocks: the pairs.
        template: wording of the prompts.
        others: instructions of other tasks for mismatched pairs, besides those of the episodes.
    """

    source: EpisodeSource
    episodes: Sequence[EpisodeInfo]
    blocks: Sequence[HopPairs]
    template: PromptTemplate = OURS
    others: Sequence[str] = ()

    def write(self, out: Path, on_progress: OnProgress) -> int:
        """Write OUT.json and, beside it, OUT_pictures/EPISODE/CAMERA/FRAME.png; return the number of images.

        Both are removed if writing fails. START and END are an episode's first and last keyframes; the wordings of its
        task are used in turn.

        Raises:
            BadInput: an output exists already, `template` does not fit, or there is no other task's instruction for a
                mismatched pair. EpisodeError: a video is damaged.
        """
        check_new(out)
        self._others_of_tasks()
        pictures = _pictures(out)
        try:
            write_folder_atomically(pictures, lambda folder: self._write_pictures(folder, on_progress), replace=False)
        except FileExistsError:
            check_new(out)  # made by another process meanwhile
            raise
        try:
            write_items(out, self._items(pictures.name))
        except BaseException:
            shutil.rmtree(pictures)
            raise
        return sum(1 for _ in pictures.glob("*/*/*.png"))

    def _write_pictures(self, folder: Path, on_progress: OnProgress) -> None:
        from PIL import Image

        frames = self._frames()
        done, total = 0, sum(map(len, frames.values()))
        for episode, ids in frames.items():
            info = self.episodes[episode]
            for first in range(0, len(ids), FRAMES_AT_ONCE):
                part = ids[first : first + FRAMES_AT_ONCE]
                for frame, views in zip(part, self.source.frames(info.episode_id, np.array(part)), strict=True):
                    for camera, picture in zip(_cameras(info), views, strict=False):
                        path = folder / _picture(info, camera, frame)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(picture).save(path)
                done += len(part)
                on_progress(f"images of {done} of {total} frames", done == total)

    def _frames(self) -> dict[int, list[int]]:
        """The frames of each episode that its items use, in order."""
        frames: dict[int, set[int]] = {}
        for pairs in self.blocks:
            for column in (pairs.before_index, pairs.after_index):
                for episode, frame in zip(pairs.episode_index.tolist(), column.tolist(), strict=True):
                    frames.setdefault(episode, set(_ends(self.episodes[episode]))).add(frame)
        return {episode: sorted(frames[episode]) for episode in sorted(frames)}

    def _others_of_tasks(self) -> dict[str, list[str]]:
        """The instructions of other tasks for each task; {} if no pair needs one."""
        if not any(pairs.mismatched.any() for pairs in self.blocks):
            return {}
        tasks = wordings_of_tasks(info.instructions for info in self.episodes)
        return other_wordings(tasks, self.others, "--other-instructions")

    def _items(self, folder: str) -> Iterator[TrainingItem]:
        number, others = 0, self._others_of_tasks()
        for pairs in self.blocks:
            columns = (pairs.episode_index, pairs.before_index, pairs.after_index, pairs.hop, pairs.mismatched)
            for episode, before, after, hop, mismatched in zip(*(column.tolist() for column in columns), strict=True):
                info = self.episodes[episode]
                wordings = others[info.instructions[0]] if mismatched else info.instructions
                task = wordings[number % len(wordings)]
                images = [_picture(info, _cameras(info)[0], frame) for frame in _ends(info)]
                for frame in (before, after):
                    images += [_picture(info, _cameras(info)[view], frame) for view in _views(info)]
                yield TrainingItem(
                    f"{info.episode_id}-{number:06d}",
                    tuple(f"{folder}/{image}" for image in images),
                    task,
                    question(self.template, task),
                    max(-1.0, min(1.0, hop)),
                )
                number += 1


def question(template: PromptTemplate, task: str) -> str:
    """The user turn of a template's prompt, with `<image>` for each of the eight images. Raises BadInput."""
    prompt = template.render(task, CONTRACT.views)
    turn = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    return turn.strip().replace(IMAGE_SLOT, "<image>")


def read_template(model: Path | None) -> PromptTemplate:
    """The template of a model folder, or ours. Raises CheckpointError."""
    return OURS if model is None else load_template(model)


def check_new(out: Path) -> None:
    """Raise BadInput unless items can be written to `out` and their images next to it."""
    if out.suffix not in SUFFIXES:
        raise BadInput("--items", str(out), f"name a file that ends with {' or '.join(SUFFIXES)}")
    for path in (out, _pictures(out)):
        if path.exists():
            raise BadInput("--items", str(out), f"{path} exists already: remove it, or choose another name")


def _pictures(out: Path) -> Path:
    return out.with_name(f"{out.stem}_pictures")


def _picture(info: EpisodeInfo, camera: str, frame: int) -> str:
    return f"{info.episode_id}/{camera}/{frame:06d}.png"


def _cameras(info: EpisodeInfo) -> tuple[str, ...]:
    """The cameras used in items: the front camera and at most two more."""
    return info.cameras[: CONTRACT.views]


def _views(info: EpisodeInfo) -> tuple[int, ...]:
    """The camera of each of the three views; a missing view repeats the front camera."""
    return CONTRACT.fill(tuple(range(len(_cameras(info)))))


def _ends(info: EpisodeInfo) -> tuple[int, int]:
    return int(info.keyframes[0]), int(info.keyframes[-1])
