"""What a run may touch: nothing but an empty folder or a run, and there nothing but what a run wrote."""

import json
import os
import shutil

import pytest

from dopamine_rl import provenance
from dopamine_rl.errors import BadInput
from experiments import peg_insert, sweep
from experiments.commands import compare
from experiments.runtime import ownership
from experiments.runtime.resume import PhaseStore, only_run
from experiments.runtime.storage import RunFolder


def tree(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


@pytest.fixture
def home(tmp_path):
    """A folder with somebody's work in it, some of it called like ours."""
    home = tmp_path / "home"
    write(home, "thesis.tex", "records/song.npz", ".cache.0123abcd", "pictures/.draft.0123abcd.png", "result.json")
    return home


@pytest.mark.parametrize("main", [peg_insert.main, sweep.main, compare.main])
@pytest.mark.parametrize("flags", [[], ["--fresh"]])
def test_a_folder_that_is_no_run_is_not_touched(home, main, flags, capsys):
    before = tree(home)
    settings = [] if main is compare.main else ["--preset", "smoke"]
    with pytest.raises(SystemExit) as caught:
        main([*settings, "--out", str(home), *flags])
    assert caught.value.code == 1
    assert tree(home) == before
    [line] = capsys.readouterr().err.strip().splitlines()
    assert str(home) in line
    assert "give a new folder" in line


@pytest.mark.parametrize(
    "marker", ["", "{", "[]", '{"project": "another", "format": 2}', '{"project": "dopamine-rl"}', '{"format": 2}']
)
def test_a_marker_of_something_else_is_not_believed(home, marker):
    (home / "run.json").write_text(marker)
    before = tree(home)
    with pytest.raises(BadInput, match="other files"), only_run(RunFolder(home), fresh=True):
        pass
    assert tree(home) == before


def test_settings_of_a_user_do_not_make_a_folder_a_run(home):
    from dopamine_rl.config import dump_toml
    from experiments.settings import ExperimentConfig

    (home / "config.toml").write_text(dump_toml(ExperimentConfig()))
    with pytest.raises(BadInput, match="other files"), only_run(RunFolder(home), fresh=True):
        pass
    assert (home / "config.toml").exists()


def begun(folder):
    """A run that has written a file of every kind."""
    folder.mkdir()
    with only_run(RunFolder(folder)):
        write(
            folder,
            "config.toml",
            "result.json",
            "report.md",
            "bc_128x128.safetensors",
            "policy.mp4",
            "grm/grm.json",
            "demonstrations/0123abcd/gate/expert_002000/front.mp4",
            "checkpoint/algorithm/state.pkl",
            "records/a.npz",
            "records/references/0123abcd.npz",
            "tensorboard/events.out.tfevents.1",
            "units/grm-0/phases/train.json",
            "units/grm-0/policy.safetensors",
            "units/grm-0/policies/000001000.safetensors",
            "prepared/0-0123abcd/grm/grm.json",
            "results/grm-0.json",
            "curves.png",
            "tune/20260101-000000/trial_000/curve.jsonl",
            "curve.jsonl",
            "grm.train/state.pt",
            "sweep.json",
            ".policy.0123abcd.safetensors",
            "units/.grm-0.0123abcd/x",
        )
        PhaseStore(RunFolder(folder)).run("gate", 1, lambda: 1, lambda: None)


def test_fresh_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    folder, said = tmp_path / "run", []
    begun(folder)
    mine = [
        "notes.txt",
        "records/notes.txt",
        "units/grm-0/notes.txt",
        "units/other/policy.safetensors",
        "best/policy.mp4",
    ]
    write(folder, *mine)
    with only_run(RunFolder(folder), fresh=True, on_progress=lambda text, _: said.append(text)):
        files = {name for name in tree(folder) if (folder / name).is_file()}
        assert files == {".lock", "run.json", *mine}
    assert "notes.txt" in said[0]
    assert "units/other" in said[0]


def test_fresh_leaves_no_folder_of_a_run_alone(tmp_path):
    begun(tmp_path / "run")
    with only_run(RunFolder(tmp_path / "run"), fresh=True):
        assert tree(tmp_path / "run") == {".lock", "run.json"}


def test_links_are_removed_and_not_followed(tmp_path):
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    begun(folder)
    write(elsewhere, "expert_000001/front.mp4", "a.npz", ".a.0123abcd.npz", "policy.safetensors")
    before = tree(elsewhere)
    for name in ("demonstrations", "records", "grm", "policy.safetensors"):
        ownership.remove(folder / name)
    for name in ("demonstrations", "records", "grm"):
        (folder / name).symlink_to(elsewhere)
    (folder / ".checkpoint.0123abcd").symlink_to(elsewhere)
    (folder / "policy.safetensors").symlink_to(elsewhere / "policy.safetensors")
    with only_run(RunFolder(folder)):  # leftovers
        assert not (folder / ".checkpoint.0123abcd").is_symlink()
    assert tree(elsewhere) == before
    with only_run(RunFolder(folder), fresh=True):
        assert tree(folder) == {".lock", "run.json"}
    assert tree(elsewhere) == before


def test_a_run_folder_may_be_a_link_to_a_larger_disk(tmp_path):
    begun(tmp_path / "disk")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with only_run(RunFolder(tmp_path / "run"), fresh=True):
        assert tree(tmp_path / "disk") == {".lock", "run.json"}
    assert (tmp_path / "run").is_symlink()


def test_a_lock_that_is_a_link_does_not_empty_what_it_points_to(tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path, "letter")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "letter")
    with only_run(RunFolder(tmp_path / "run")):
        pass
    assert (tmp_path / "letter").read_text() == "x"


def test_killed_while_it_forgets_a_run_it_is_still_a_run(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    begun(folder)
    removed = []

    def failing(path):
        if len(removed) == 3:
            raise KeyboardInterrupt
        removed.append(path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    monkeypatch.setattr(ownership, "remove", failing)
    with pytest.raises(KeyboardInterrupt), only_run(RunFolder(folder), fresh=True):
        pass
    monkeypatch.undo()
    with only_run(RunFolder(folder), fresh=True):
        assert tree(folder) == {".lock", "run.json"}


def test_a_run_of_newer_code_is_not_gone_on_with(tmp_path):
    begun(tmp_path / "run")
    marker = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(marker | {"format": ownership.FORMAT + 1}))
    before = tree(tmp_path / "run")
    with pytest.raises(BadInput, match="update the code, or give --fresh"), only_run(RunFolder(tmp_path / "run")):
        pass
    assert tree(tmp_path / "run") == before
    with only_run(RunFolder(tmp_path / "run"), fresh=True):
        assert ownership.run_format(tmp_path / "run") == ownership.FORMAT


def test_a_run_gone_on_with_by_other_code_says_so_once(tmp_path, monkeypatch):
    begun(tmp_path / "run")
    first, said = provenance.code(), []
    other = first | {"commit": "f" * 40, "sources": "0" * 16, "packages": first["packages"] | {"torch": "9.9"}}
    monkeypatch.setattr(provenance, "code", lambda: other)
    for _ in range(2):
        with only_run(RunFolder(tmp_path / "run"), on_progress=lambda text, _: said.append(text)):
            pass
    [line] = said
    assert "code that differs" in line
    assert "now 9.9" in line
    assert ownership.earlier_codes(tmp_path / "run") == [first, other]


def test_the_same_code_says_nothing(tmp_path):
    begun(tmp_path / "run")
    said = []
    with only_run(RunFolder(tmp_path / "run"), on_progress=lambda text, _: said.append(text)):
        pass
    assert said == []


def test_a_volume_with_nothing_in_it_is_empty(tmp_path):
    (tmp_path / "lost+found").mkdir()
    with only_run(RunFolder(tmp_path)):
        assert ownership.run_format(tmp_path) == ownership.FORMAT
    assert os.listdir(tmp_path / "lost+found") == []
