"""Balanced pairs as training items of the released pipeline, with the pictures they name; and what a file of items holds."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dopamine_rl.episodes.balance import CENTRAL
from dopamine_rl.episodes.items import TrainingItem, read_items, write_items
from dopamine_rl.episodes.pairs import HopPairs
from dopamine_rl.errors import BadInput
from dopamine_rl.files import write_folder_atomically
from dopamine_rl.grm.contract import RELEASED, RELEASED_LABELS
from dopamine_rl.grm.template import IMAGE_SLOT, SHORT_TEMPLATE, PromptTemplate, load_template
from dopamine_rl.interfaces import EpisodeSource
from dopamine_rl.progress import HOP_BINS, hop_bin
from dopamine_rl.texts import one_line
from dopamine_rl.types import EpisodeInfo
from experiments.console import Console

SUFFIXES = (".json", ".jsonl")
"""Of files of items: one list, or one item a line."""
CONTRACT = RELEASED["grm-2.0"]
"""Three views of BEFORE and of AFTER, and answers with one decimal."""
OURS = replace(
    SHORT_TEMPLATE,
    name="dopamine-items-1",
    text=SHORT_TEMPLATE.text.replace("whole percents", "tenths of a percent"),
    labels=RELEASED_LABELS,
)
"""Our wording of the released structure."""
FRAMES_AT_ONCE = 64
"""Frames of every camera held in memory while pictures are written."""
TASKS_SHOWN = 20
"""Tasks that are listed, the most frequent first."""


@dataclass(frozen=True, eq=False, slots=True)
class PairItems:
    """Pairs of some episodes, to be written as items.

    Args:
        source: has the pictures.
        episodes: what `HopPairs.episode_index` counts.
        blocks: the pairs.
        template: the wording of the questions.
    """

    source: EpisodeSource
    episodes: Sequence[EpisodeInfo]
    blocks: Sequence[HopPairs]
    template: PromptTemplate = OURS

    def write(self, out: Path, console: Console) -> int:
        """Write OUT.json and, beside it, OUT_pictures/EPISODE/CAMERA/FRAME.png; return how many pictures there are.

        Neither is left where the writing ends early. START and END are an episode's first and last keyframe, and its
        wordings of the task are used in turn.

        Raises:
            BadInput: one of the two is there already, or `template` does not fit; EpisodeError where a video is damaged.
        """
        check_new(out)
        pictures = _pictures(out)
        write_folder_atomically(pictures, lambda folder: self._write_pictures(folder, console))
        try:
            write_items(out, self._items(pictures.name))
        except BaseException:
            shutil.rmtree(pictures)
            raise
        return sum(1 for _ in pictures.glob("*/*/*.png"))

    def _write_pictures(self, folder: Path, console: Console) -> None:
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
                console.progress(f"pictures of {done} of {total} frames", done == total)

    def _frames(self) -> dict[int, list[int]]:
        """The frames of each episode that its items show, in order."""
        frames: dict[int, set[int]] = {}
        for pairs in self.blocks:
            for column in (pairs.before_index, pairs.after_index):
                for episode, frame in zip(pairs.episode_index.tolist(), column.tolist(), strict=True):
                    frames.setdefault(episode, set(_ends(self.episodes[episode]))).add(frame)
        return {episode: sorted(frames[episode]) for episode in sorted(frames)}

    def _items(self, folder: str) -> Iterator[TrainingItem]:
        number = 0
        for pairs in self.blocks:
            columns = (pairs.episode_index, pairs.before_index, pairs.after_index, pairs.hop)
            for episode, before, after, hop in zip(*(column.tolist() for column in columns), strict=True):
                info = self.episodes[episode]
                task = info.instructions[number % len(info.instructions)]
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
    """The user's turn of a template's prompt, with `<image>` for each of the eight pictures. Raises BadInput."""
    prompt = template.render(task, CONTRACT.views)
    turn = prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0]
    return turn.strip().replace(IMAGE_SLOT, "<image>")


def read_template(model: Path | None) -> PromptTemplate:
    """The wording of a model's folder, or ours. Raises CheckpointError."""
    return OURS if model is None else load_template(model)


def check_new(out: Path) -> None:
    """Raise BadInput unless items can be written to `out` and their pictures beside it."""
    if out.suffix not in SUFFIXES:
        raise BadInput("--items", str(out), f"name a file that ends with {' or '.join(SUFFIXES)}")
    for path in (out, _pictures(out)):
        if path.exists():
            raise BadInput("--items", str(out), f"{path} is there already: remove it, or choose another name")


def _pictures(out: Path) -> Path:
    return out.with_name(f"{out.stem}_pictures")


def _picture(info: EpisodeInfo, camera: str, frame: int) -> str:
    return f"{info.episode_id}/{camera}/{frame:06d}.png"


def _cameras(info: EpisodeInfo) -> tuple[str, ...]:
    """The cameras that items show: the front one and at most two more."""
    return info.cameras[: CONTRACT.views]


def _views(info: EpisodeInfo) -> tuple[int, ...]:
    """Which of the cameras each of the three views shows; one that is missing shows the front again."""
    return CONTRACT.fill(tuple(range(len(_cameras(info)))))


def _ends(info: EpisodeInfo) -> tuple[int, int]:
    return int(info.keyframes[0]), int(info.keyframes[-1])


def describe_items(path: Path) -> dict[str, Any]:
    """Print how many items a file holds, of which tasks, and how their hops are spread; return the same for programs.

    Raises:
        BadInput: there is no such file, or no item in it.
        EpisodeError: naming file, item and field of the first malformed item.
    """
    if not path.is_file():
        raise BadInput(
            "DATA", str(path), "there is no such file: name a file of training items, or a folder of episodes"
        )
    tasks: Counter[str] = Counter()
    counts, zeros = np.zeros(HOP_BINS, np.int64), 0
    for item in read_items(path):
        tasks[item.task] += 1
        counts[hop_bin(item.hop)] += 1
        zeros += item.hop == 0.0
    if not tasks:
        raise BadInput("DATA", str(path), "give a file with at least one item")
    held = counts[counts > 0]
    figures = {
        "items": tasks.total(), "tasks": dict(tasks.most_common()), "hop_counts": counts.tolist(), "zero_hops": zeros,
        "max_deviation": round(float(np.abs(held / held.mean() - 1.0).max()), 4),
        "central_share": round(float(counts[CENTRAL].sum() / counts.sum()), 4),
    }  # fmt: skip
    print("\n".join([f"{tasks.total()} items", *_task_lines(tasks), *_hop_lines(counts)]))
    print(f"hops of zero, in the middle bin: {zeros}")
    print(
        f"largest deviation of a hop bin from the mean of those that hold any: {100 * figures['max_deviation']:.1f} %"
    )
    print(f"share in the 3 central hop bins: {100 * figures['central_share']:.1f} % (evenly: {300 / HOP_BINS:.1f} %)")
    print(json.dumps(figures, ensure_ascii=False))
    return figures


def _task_lines(tasks: Counter[str]) -> list[str]:
    lines = [f"{count:>9}  {one_line(task)}" for task, count in tasks.most_common(TASKS_SHOWN)]
    return lines + ([f"           and {len(tasks) - TASKS_SHOWN} tasks more"] if len(tasks) > TASKS_SHOWN else [])


def _hop_lines(counts: np.ndarray) -> list[str]:
    edges = np.linspace(-100, 100, HOP_BINS + 1)
    rows = [f"{edges[i]:+6.0f} … {edges[i + 1]:+4.0f} %    {count:>9}" for i, count in enumerate(counts)]
    return ["hop bin                items", *rows]
