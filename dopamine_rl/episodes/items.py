"""Training items of the released pipeline: a question in words about eight pictures by path, and the right answer.

    {"id", "image" (or "images"): [8 paths], "task", "conversations": [{"from": "human", "value": prompt},
                                                         {"from": "gpt", "value": "<score>+12.5%</score>"}]}

A file holds one JSON list of them, or one item a line. Either is read and written item by item, so its size is no limit.
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

IMAGES = 8
"""START and END, front views; then BEFORE and AFTER: front, left wrist, right wrist."""
PIECE = 1 << 16
"""Characters read at a time."""
LONGEST = 1 << 24
"""Characters of one item: what is longer is no item, and would be read into memory as a whole."""


@dataclass(frozen=True, slots=True)
class TrainingItem:
    """One question and its answer.

    Args:
        item_id: unique within its file.
        images: 8 paths in the order of the contract: START, END, BEFORE and AFTER front, left wrist, right wrist.
        task: the task in words.
        prompt: the whole question.
        hop: the right answer, in [−1, 1]; it is written in percent with one decimal.
    """

    item_id: str
    images: tuple[str, ...]
    task: str
    prompt: str
    hop: float


def read_items(path: Path) -> Iterator[TrainingItem]:
    """Read a file of either form, item by item.

    Raises:
        EpisodeError: naming file, item and field, when the malformed item is reached. An id that is not a string, such as
            a number, is read as its text.
    """
    with path.open(encoding="utf-8-sig") as file:
        values = _Values(file)
        try:
            for place, content in enumerate(values.listed() if values.next() == "[" else values.lines()):
                yield _item(path, place, content)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise EpisodeError(
                f"{path.name}: content", str(error), "give one JSON list of items, or one a line"
            ) from error


def write_items(path: Path, items: Iterable[TrainingItem]) -> int:
    """Write items as one JSON list, or one a line where the name ends with `.jsonl`; the file appears complete.

    Returns:
        How many there are.
    Raises:
        BadInput: an item does not have 8 pictures, or its answer is no hop.
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
    said = [{"from": "human", "value": item.prompt}, {"from": "gpt", "value": format_decimal_score(item.hop)}]
    return {"id": item.item_id, "image": list(item.images), "task": item.task, "conversations": said}


class _Values:
    """JSON values one after another from a file; little more than one of them is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._decoder = file, "", json.JSONDecoder()

    def listed(self) -> Iterator[Any]:
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

    def lines(self) -> Iterator[Any]:
        """The values of lines."""
        while self.next():
            yield self.value()

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
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


def _item(path: Path, place: int, content: Any) -> TrainingItem:
    if not isinstance(content, dict):
        raise EpisodeError(f"{path.name}: [{place}]", content, "give an object")
    name = f"{path.name}: [{place}] {content.get('id', '')}".rstrip()

    def bad(field: str, value: object, fix: str) -> EpisodeError:
        return EpisodeError(f"{name}: {field}", value, fix)

    item_id, images, task, said = (content.get(key) for key in ("id", "image", "task", "conversations"))
    images = content.get("images") if images is None else images  # some releases call them so
    if not isinstance(item_id, str | int) or isinstance(item_id, bool) or item_id == "":
        raise bad("id", item_id, "give a unique name")
    if not isinstance(images, list) or len(images) != IMAGES or not all(isinstance(i, str) and i for i in images):
        raise bad("image", images, f"give {IMAGES} paths in the order of the contract")
    if not isinstance(task, str) or not task.strip():
        raise bad("task", task, "say the task in words")
    if not isinstance(said, list) or len(said) != 2 or not all(isinstance(turn, dict) for turn in said):
        raise bad("conversations", said, "give two turns: human, gpt")
    for turn, who in zip(said, ("human", "gpt"), strict=True):
        if turn.get("from") != who:
            raise bad("conversations.from", turn.get("from"), f"write {who}: the question comes first, then the answer")
        if not isinstance(turn.get("value"), str) or not turn["value"].strip():
            raise bad("conversations.value", turn.get("value"), "give text")
    try:
        answer = parse_score(said[1]["value"])
    except BadInput as error:
        raise bad("conversations.value", error.value, error.fix) from error
    return TrainingItem(str(item_id), tuple(images), task, said[0]["value"], answer)
