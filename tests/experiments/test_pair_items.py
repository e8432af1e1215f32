"""`dopamine grm pairs` and training items: what is written is what was drawn, and what is read is counted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dopamine_rl.episodes import pair_items
from dopamine_rl.episodes.items import TrainingItem, read_items, write_items
from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.episodes.states import episode_states, state_progress
from dopamine_rl.grm.template import SHORT_TEMPLATE
from dopamine_rl.progress import hop
from experiments.commands import grm_pairs as pairs
from tests.dopamine_rl.test_raw_episodes import make_demonstration

OPTIONS = ["-n", "200", "--frames-per-state", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A success of two cameras and a failure."""
    for i in range(2):
        write_demonstration(tmp_path / "raw", replace(make_demonstration(2, 9), episode_id=f"take_{i}", success=i == 0))
    return tmp_path / "raw"


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_items_are_the_pairs_that_were_drawn(
    data: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pair_items, "FRAMES_AT_ONCE", 4)
    pairs.main([str(data), *OPTIONS, "--items", str(tmp_path / name)])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    items = list(read_items(tmp_path / name))
    assert len({item.item_id for item in items}) == len(items) == said["pairs"] == 200
    source = open_source(data)
    info = source.episodes()[0]
    frames = source.frames("take_0", np.arange(9))
    states = episode_states(info, 1)
    progress = dict(zip(states.tolist(), state_progress(len(states)), strict=True))
    for item in items:
        places = [re.fullmatch(r"items_pictures/take_0/(cam_\w+)/(\d{6})\.png", image) for image in item.images]
        shown = [(place[1], int(place[2])) for place in places if place]
        (_, before), (_, after) = shown[2], shown[5]
        ends = [("cam_high", int(info.keyframes[0])), ("cam_high", int(info.keyframes[-1]))]
        sides = [(camera, frame) for frame in (before, after) for camera in ("cam_high", "cam_left_wrist", "cam_high")]
        assert shown == ends + sides, "a view without a camera shows the front again"
        assert item.task in info.instructions
        if before in progress and after in progress:
            assert item.hop == pytest.approx(float(hop(progress[before], progress[after])), abs=0.0006)
    assert {item.task for item in items} == set(info.instructions)
    for camera, view in (("cam_high", 0), ("cam_left_wrist", 1)):
        for path in (tmp_path / "items_pictures" / "take_0" / camera).iterdir():
            assert np.array_equal(np.asarray(Image.open(path)), frames[int(path.stem), view])
    named = {image for item in items for image in item.images}
    assert said["pictures"] == len(list(tmp_path.glob("items_pictures/*/*/*.png")))
    assert named <= {str(path.relative_to(tmp_path)) for path in tmp_path.glob("items_pictures/*/*/*.png")}


def test_mismatched_items_say_another_task_and_no_progress(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["open the drawer", "fold the cloth"]
    wrong = ["--mismatched", "0.25", "--other-instructions", *others]
    pairs.main([str(data), *OPTIONS, *wrong, "--items", str(tmp_path / "items.jsonl")])
    out = capsys.readouterr().out
    said = json.loads(out.splitlines()[-1])
    assert (said["mismatched"], 0 < said["mismatched_from_goal"] < 50) == (50, True)
    assert f"under another task's instruction: 50, of which {said['mismatched_from_goal']} start at the goal" in out
    items = [item for item in read_items(tmp_path / "items.jsonl") if item.task in others]
    assert len(items) == 50
    assert {item.task for item in items} == set(others)
    goal = f"{open_source(data).episodes()[0].keyframes[-1]:06d}.png"
    for item in items:
        assert item.task in item.prompt
        assert item.hop == (-1.0 if item.images[2].endswith(goal) else 0.0)
    with pytest.raises(SystemExit):
        pairs.main([str(data), *OPTIONS, "--mismatched", "0.1", "--items", str(tmp_path / "none.json")])
    assert "--other-instructions = (): give the instruction of another task than" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


def test_a_question_shows_eight_pictures_in_the_words_of_a_model(data: Path, tmp_path: Path) -> None:
    ours = pair_items.question(pair_items.OURS, "räum auf")
    assert ours.count("<image>") == 8
    assert "tenths of a percent" in ours
    assert "<|" not in ours
    assert "räum auf" in ours
    text = SHORT_TEMPLATE.text.replace("Judge this robot's progress", "Be an evaluator")
    replace(SHORT_TEMPLATE, text=text).save(tmp_path)
    pairs.main([str(data), *OPTIONS, "--items", str(tmp_path / "items.json"), "--wording", str(tmp_path)])
    assert {item.prompt[:15] for item in read_items(tmp_path / "items.json")} == {"Be an evaluator"}


def test_extreme_shares_and_states_give_pairs(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, zeros in ((["--zero-share", "0.99"], 10), (["--frames-per-state", "0.01"], 0)):
        pairs.main([str(data), "-n", "10", *words])
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["zero_hops"] == zeros


def test_items_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hops = [-1.0, -0.05, 0.0, 0.0, 0.05, 0.99]
    images = tuple("abcdefgh")
    write_items(
        tmp_path / "items.json",
        (TrainingItem(str(i), images, "sweep" if i else "mop", "?", hop) for i, hop in enumerate(hops)),
    )
    pairs.main([str(tmp_path / "items.json")])
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert figures["items"] == 6
    assert figures["tasks"] == {"sweep": 5, "mop": 1}
    assert {i: n for i, n in enumerate(figures["hop_counts"]) if n} == {0: 1, 11: 1, 12: 2, 13: 1, 24: 1}
    assert figures["zero_hops"] == 2
    assert figures["central_share"] == pytest.approx(4 / 6, abs=1e-4)
    assert figures["max_deviation"] == pytest.approx(2 / (6 / 5) - 1, abs=1e-4)
    assert lines[0] == "6 items"


def test_what_cannot_be_is_named_and_nothing_is_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            pairs.main([*map(str, words), *(OPTIONS if words[0] == data else [])])
        assert ended.value.code in (1, 2)
        return capsys.readouterr().err

    items = tmp_path / "items.json"
    (tmp_path / "there_pictures").mkdir()
    assert "ends with .json or .jsonl" in said(data, "--items", tmp_path / "items")
    assert "there_pictures exists already" in said(data, "--items", tmp_path / "there.json")
    assert "no such file" in said(items)
    assert "template.json is missing" in said(data, "--items", items, "--wording", data)
    (tmp_path / "none.json").write_text("[]")
    assert "at least one item" in said(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('[{"id": "x", "image": []}]')
    assert "bad.json: [0] x: image = []" in said(tmp_path / "bad.json")
    for option, value in (("--items", items), ("-n", 5), ("--seed", 1), ("--rule", "released"), ("--zero-share", 0.1)):
        shown = repr(value) if isinstance(value, int | float) else f"'{value}'"
        assert f"{option} = {shown}: leave it out" in said(tmp_path / "bad.json", option, value)
    assert "give --items" in said(data, "--wording", data)
    assert "--items = 's3://bucket/items.json'" in said(data, "--items", "s3://bucket/items.json")
    assert str(tmp_path / "bad.json") in said(data, "--items", tmp_path / "bad.json" / "items.json")
    assert "'/proc/items_pictures'" in said(data, "--items", "/proc/items.json")
    (tmp_path / "bad.json").write_text(100_000 * "[")
    assert "bad.json: content = " in said(tmp_path / "bad.json")
    for option, value in (("--frames-per-state", "0"), ("--frames-per-state", "inf"), ("--zero-share", "1")):
        with pytest.raises(SystemExit):
            pairs.main([str(data), option, value])
        assert f"{option} = {float(value)}" in capsys.readouterr().err

    good = RawSource.episodes

    def other_words(self: RawSource) -> list:
        return [replace(info, instructions=("a <|control|> token",)) for info in good(self)]

    monkeypatch.setattr(RawSource, "episodes", other_words)
    assert "instruction = " in said(data, "--items", items)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "none.json", "raw", "there_pictures"]
