"""`dopamine convert`: the dataset holds what the raw episodes hold, and appears complete or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dopamine_rl.episodes.listing import open_source
from dopamine_rl.episodes.raw import write_demonstration
from dopamine_rl.episodes.raw_source import RawSource
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


def test_what_cannot_be_is_named_and_nothing_is_left(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there"
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
    assert "same cameras" in said(tmp_path / "mixed", new)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RawSource, "frames", interrupted)
    assert "Nothing was written" in said(raw, new)
    assert not list(tmp_path.glob("*new*"))
    assert not list(there.iterdir())
