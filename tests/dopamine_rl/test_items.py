"""Training items of the released pipeline: both forms read and written item by item, and what is malformed is named."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dopamine_rl.episodes import items
from dopamine_rl.episodes.items import TrainingItem, read_items, write_items
from dopamine_rl.errors import BadInput, EpisodeError
from dopamine_rl.grm.score import format_decimal_score, parse_score


def make_items(count: int) -> list[TrainingItem]:
    return [
        TrainingItem(
            f"take_1-{i}",
            tuple(f"takes/{i}/{j}.png" for j in range(8)),
            "räum auf",
            f"How far? {i} <image>",
            parse_score(format_decimal_score(i / 1000 - 1)),
        )
        for i in range(count)
    ]


def content(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "image": [f"{i}.jpg" for i in range(8)],
        "task": "clean the table",
        "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "<score>+12.5%</score>"}],
        **changes,
    }


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_items_come_back(tmp_path: Path, name: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "PIECE", piece)
    for count in (0, 1, 12):
        assert write_items(tmp_path / name, make_items(count)) == count
        assert list(read_items(tmp_path / name)) == make_items(count)
    text = (tmp_path / name).read_text()
    read = json.loads(text) if name.endswith("json") else [json.loads(line) for line in text.splitlines()]
    assert set(read[3]) == {"id", "image", "task", "conversations"}
    assert read[3]["conversations"][1] == {"from": "gpt", "value": "<score>-99.7%</score>"}


def test_a_pretty_printed_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps([content(), content(id=7)], indent=4))
    assert [(item.item_id, item.hop) for item in read_items(tmp_path / "items.json")] == [("a", 0.125), ("7", 0.125)]


def test_pictures_may_be_called_images_and_the_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    renamed = {"images" if name == "image" else name: value for name, value in content().items()}
    for name, text in (("a.json", json.dumps([renamed])), ("a.jsonl", json.dumps(renamed) + "\n")):
        for encoding in ("utf-8", "utf-8-sig"):
            (tmp_path / name).write_text(text, encoding=encoding)
            [item] = read_items(tmp_path / name)
            assert item.images == tuple(content()["image"])
    (tmp_path / "bad.json").write_text(json.dumps([renamed | {"images": []}]), encoding="utf-8")
    with pytest.raises(EpisodeError, match=r"bad\.json: \[0\] a: image"):
        list(read_items(tmp_path / "bad.json"))


@pytest.mark.parametrize("hop", [-1.0, -0.125, -0.0004, 0.0, 0.0004, 0.333, 1.0])
def test_answers_keep_one_decimal(hop: float) -> None:
    assert parse_score(format_decimal_score(hop)) == pytest.approx(hop, abs=0.0005)
    with pytest.raises(BadInput, match="hop"):
        format_decimal_score(float("nan"))


def test_items_are_read_before_the_file_ends(tmp_path: Path) -> None:
    """Size is no limit: the first items come although the file never gets complete."""
    path = tmp_path / "items.json"
    path.write_text("[" + json.dumps(content()) + "," + json.dumps(content())[:-9])
    reading = read_items(path)
    assert next(reading).item_id == "a"
    with pytest.raises(EpisodeError, match=r"items\.json: content"):
        next(reading)


def test_a_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.json"
    write_items(path, make_items(2000))
    read = 0
    opened = Path.open

    def counting(self: Path, *args: Any, **kwargs: Any) -> Any:
        file = opened(self, *args, **kwargs)
        real = file.read

        class Counting:
            def __enter__(self) -> Counting:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def read(self, size: int) -> str:
                nonlocal read
                text: str = real(size)
                read += len(text)
                return text

        return Counting()

    monkeypatch.setattr(Path, "open", counting)
    assert len(list(islice(read_items(path), 5))) == 5
    assert read <= items.PIECE < path.stat().st_size / 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": None}, "id"),
        ({"id": True}, "id"),
        ({"image": ["a.png"] * 7}, "image"),
        ({"image": "a.png"}, "image"),
        ({"image": ["a.png"] * 7 + [3]}, "image"),
        ({"task": " "}, "task"),
        ({"conversations": []}, "conversations"),
        ({"conversations": [{"from": "gpt", "value": "?"}] * 2}, "conversations.from"),
        ({"conversations": [{"from": "human", "value": ""}, {"from": "gpt", "value": "?"}]}, "conversations.value"),
        *(
            (
                {"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]},
                "conversations.value",
            )
            for answer in ("12", "<score>nan%</score>", "<score>+101%</score>", "<score>+1%</score><score>+2%</score>")
        ),
    ],
)
@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_malformed_items_are_named_by_file_item_and_field(
    tmp_path: Path, changes: dict[str, Any], field: str, form: str
) -> None:
    path = tmp_path / f"items.{form}"
    good, bad = content(id="good"), content(**changes)
    path.write_text(json.dumps([good, bad]) if form == "json" else f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    reading = read_items(path)
    assert next(reading).item_id == "good"
    with pytest.raises(EpisodeError) as caught:
        next(reading)
    assert caught.value.field.startswith(f"{path}: [1]")
    assert caught.value.field.endswith(f": {field}")


@pytest.mark.parametrize("text", ["[", "[{}", "[3]", "[{} {}]", "[]]", "{", "nonsense", "[1,]", "3"])
def test_what_is_no_file_of_items_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "items.json").write_text(text)
    with pytest.raises(EpisodeError, match=r"items\.json"):
        list(read_items(tmp_path / "items.json"))


def test_items_without_eight_pictures_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"x\.images"):
        write_items(tmp_path / "items.json", [TrainingItem("x", ("a.png",), "t", "?", 0.0)])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_key_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    item = content(id="good")
    item["tasks"] = item.pop("task")
    (tmp_path / "items.json").write_text(json.dumps([item]))
    with pytest.raises(EpisodeError, match=r"\[0\] good: task = 'missing': rename the key tasks to task; found: id, "):
        next(read_items(tmp_path / "items.json"))
