"""Training items of the released pipeline: a prompt about eight images given by path, and the true answer.

    {"id", "image" (or "images"): [8 paths], "task", "conversations": [{"from": "human", "value": prompt},
                                                         {"from": "gpt", "value": "<score>+12.5%</score>"}]}

A file is a JSON list of items, or has one item per line. It is read and written item by item, so it may have any size.
Source: METHOD.md section 6.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.files import ESCAPED, write_atomically
from dopamine_rl.grm.score import format_decimal_score, parse_score
from dopamine_rl.texts import missing_key

IMAGES = 8
"""START and END (front view); then front, left wrist and right wrist of BEFORE and of AFTER."""
KEYS = ("id", "image", "images", "task", "conversations")
"""Keys of an item; some releases have `images` for `image`."""
PIECE = 1 << 16
"""Characters to read at a time."""
LONGEST = 1 << 24
"""Longest item in characters, because an item is read into memory as a whole."""


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One prompt and its answer.

    Args:
        item_id: unique within its file.
        images: 8 paths in the order of the contract: START, END, BEFORE and AFTER front, left wrist, right wrist.
        task: the task in words.
        prompt: the whole prompt.
        hop: the true hop, in [−1, 1]; written in percent with one decimal.
    """

    item_id: str
    images: tuple[str, ...]
    task: str
    prompt: str
    hop: float


def read_items(path: Path) -> Iterator[TrainingItem]:
    """Read a file of either form, item by item.

    Raises:
        EpisodeError: naming file, item and field, when a malformed item is reached. A number as id is read as text.
    """
    with path.open(encoding="utf-8-sig") as file:
        values = _Values(file)
        try:
            for index, content in enumerate(values.from_list() if values.next() == "[" else values.from_lines()):
                yield _item(path, index, content)
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            fix = "give one JSON list of items, or one item per line"
            raise EpisodeError(f"{path}: content", str(error), fix) from error


def write_items(path: Path, items: Iterable[TrainingItem]) -> int:
    """Write items atomically as a JSON list, or one per line if the name ends with `.jsonl`.

    Returns:
        The number of items.
    Raises:
        BadInput: an item does not have 8 images, or its hop is not in [−1, 1].
    """
    lines = path.suffix == ".jsonl"
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with temporary.open("w", encoding="utf-8", errors=ESCAPED) as file:
            if not lines:
                file.write("[")
            for item in items:
                file.write("" if lines else ",\n" if count else "\n")
                file.write(json.dumps(_content(item), ensure_ascii=False) + ("\n" if lines else ""))
                count += 1
            if not lines:
                file.write("\n]\n")

    write_atomically(path, write)
    return count


def _content(item: TrainingItem) -> dict[str, Any]:
    if len(item.images) != IMAGES:
        raise BadInput(f"{item.item_id}.images", item.images, f"give {IMAGES} paths in the order of the contract")
    turns = [{"from": "human", "value": item.prompt}, {"from": "gpt", "value": format_decimal_score(item.hop)}]
    return {"id": item.item_id, "image": list(item.images), "task": item.task, "conversations": turns}


class _Values:
    """Reads JSON values one after another from a file, with little more than one of them in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._decoder = file, "", json.JSONDecoder()

    def from_list(self) -> Iterator[Any]:
        """The values of a list."""
        self._take("[")
        while self.next() != "]":
            yield self.value()
            if self.next() != "]":
                self._take(",")
                if self.next() == "]":
                    raise self._error("a value is missing before the end")
        self._take("]")
        if self.next():
            raise self._error("there is more after the list")

    def from_lines(self) -> Iterator[Any]:
        """One value per line."""
        while self.next():
            yield self.value()

    def next(self) -> str:
        """The next character other than white space; "" at the end."""
        self._text = self._text.lstrip()
        while not self._text and (piece := self._file.read(PIECE)):
            self._text = piece.lstrip()
        return self._text[:1]

    def value(self) -> Any:
        """The next value."""
        while True:
            try:
                content, end = self._decoder.raw_decode(self._text)
            except json.JSONDecodeError:
                piece = self._file.read(PIECE)
                if not piece or len(self._text) > LONGEST:
                    raise
                self._text += piece
            else:
                self._text = self._text[end:]
                return content

    def _take(self, character: str) -> None:
        if self.next() != character:
            raise self._error(f"{character} is missing")
        self._text = self._text[1:]

    def _error(self, message: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(message, self._text[:80], 0)


def _item(path: Path, index: int, content: Any) -> TrainingItem:
    if not isinstance(content, dict):
        raise EpisodeError(f"{path}: [{index}]", content, "give an object")
    name = f"{path}: [{index}] {content.get('id', '')}".rstrip()

    def bad(field: str, value: object, fix: str) -> EpisodeError:
        if value is None and field in KEYS and field not in content:
            value, fix = "missing", missing_key(field, content, KEYS)
        return EpisodeError(f"{name}: {field}", value, fix)

    item_id, images, task, turns = (content.get(key) for key in ("id", "image", "task", "conversations"))
    images = content.get("images") if images is None else images
    if not isinstance(item_id, str | int) or isinstance(item_id, bool) or item_id == "":
        raise bad("id", item_id, "give a unique name")
    if not isinstance(images, list) or len(images) != IMAGES or not all(isinstance(i, str) and i for i in images):
        raise bad("image", images, f"give {IMAGES} paths in the order of the contract")
    if not isinstance(task, str) or not task.strip():
        raise bad("task", task, "describe the task in words")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        raise bad("conversations", turns, "give two turns: human, gpt")
    for turn, speaker in zip(turns, ("human", "gpt"), strict=True):
        if turn.get("from") != speaker:
            fix = f"write {speaker}: the prompt comes first, then the answer"
            raise bad("conversations.from", turn.get("from"), fix)
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise bad("conversations.value", turn.get("value"), "give text")
    try:
        answer = parse_score(turns[1]["value"])
    except BadInput as error:
        raise bad("conversations.value", error.value, error.fix) from error
    return TrainingItem(str(item_id), tuple(images), task, turns[0]["value"], answer)
