"""`dopamine convert`: the dataset holds what the raw episodes hold, and appears complete or not at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.parquet import column_names, read_columns, write_columns
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
from dopamine_rl.episodes.video import write_video
from experiments.commands import convert
from tests.dopamine_rl.test_raw_episodes import make_demonstration


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for i in range(3):
        write_demonstration(tmp_path / "raw", replace(make_demonstration(2, 7), episode_id=f"take_{i}"))
    return tmp_path / "raw"


def test_a_dataset_holds_the_episodes(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sets" / "one"
    convert.main([str(raw), str(out), "--lossless", "--episodes-per-file", "2"])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert (result["out"], result["episodes"], result["frames"]) == (str(out), 3, 21)
    assert "21 of 21 frames" in lines[-2]
    before, after = open_source(raw), open_source(out)
    for old, new in zip(before.episodes(), after.episodes(), strict=True):
        assert (new.instructions, new.stages) == (old.instructions[:1], old.stages)
        ids = np.arange(7)
        assert np.array_equal(before.frames(old.episode_id, ids), after.frames(new.episode_id, ids))
    convert.main([str(out), str(tmp_path / "again")])
    assert len(open_source(tmp_path / "again").episodes()) == 3


def test_an_instruction_is_for_episodes_without_a_task(raw: Path, tmp_path: Path) -> None:
    def tasks(data: Path, name: str, *words: str) -> set[tuple[str, ...]]:
        convert.main([str(data), str(tmp_path / name), *words])
        return {info.instructions for info in open_source(tmp_path / name).episodes()}

    assert tasks(raw, "own", "--instruction", "fold the towel") == {("put the peg in",)}
    (raw / "task_instruction.json").unlink()
    assert tasks(raw, "given", "--instruction", "fold the towel") == {("fold the towel",)}
    table = tmp_path / "own" / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    columns = read_columns(table, column_names(table))
    write_columns(table, {**columns, "tasks": [["put the peg in"], [""], []]})
    known = {("put the peg in",), ("fold the towel",)}
    assert tasks(tmp_path / "own", "some", "--instruction", "fold the towel") == known


def test_what_cannot_be_is_named_and_nothing_is_left(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
    (tmp_path / "a_file").touch()
    there.mkdir()
    write_demonstration(tmp_path / "one_camera", make_demonstration(1, 7))
    (tmp_path / "mixed").mkdir()
    for folder in (raw / "take_0", tmp_path / "one_camera" / "episode_001", raw / "task_instruction.json"):
        (tmp_path / "mixed" / folder.name).symlink_to(folder)

    def said(*words: object) -> str:
        with pytest.raises(SystemExit) as ended:
            convert.main([*map(str, words)])
        assert ended.value.code in (1, 2, 130)
        return capsys.readouterr().err

    new = tmp_path / "new"
    assert "OUT = " in said(raw, there)
    assert "DATA = " in said(tmp_path / "nothing", new)
    assert "--episodes-per-file = 0" in said(raw, new, "--episodes-per-file", 0)
    assert "take_0: cameras = 'cam_high, cam_left_wrist': give episodes of the same cameras" in said(
        tmp_path / "mixed", new
    )
    other = write_demonstration(raw, replace(make_demonstration(2, 7), episode_id="take_9"))
    for video in other.glob("*.mp4"):
        write_video(video, make_demonstration(1, 7).frames[:, 0], 17)
    assert "take_9: frames per second = 17.0: give episodes of the same frame rate" in said(raw, new)
    shutil.rmtree(other)
    assert f"{tmp_path}/a_file is a file" in said(raw, tmp_path / "a_file" / "new")
    assert "what is read must not change" in said(raw, raw / "new")
    assert "what is read must not change" in said(raw / "take_0", raw / "take_0" / "deep" / "new")
    assert "OUT = 's3://bucket/new'" in said(raw, "s3://bucket/new")
    (raw / "task_instruction.json").write_text('[" "]')
    assert f"{raw}/take_0: task = '': nobody said its task: write it into {raw}/task_instruction.json" in said(raw, new)
    assert "give it with --instruction" in said(raw, new, "--instruction", " ")
    (raw / "task_instruction.json").write_text('["again"]')

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RawSource, "frames", interrupted)
    assert "Nothing was written" in said(raw, new)
    assert not list(tmp_path.glob("*new*"))
    assert not list(there.iterdir())
