import subprocess
import sys
from pathlib import Path

import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.files import fingerprint
from experiments.runtime.resume import PhaseStore, only_run
from experiments.runtime.storage import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def counted(value):
    calls = []

    def work():
        calls.append(1)
        return value

    return work, calls


def test_a_phase_is_done_once_for_the_same_dependencies(folder):
    work, calls = counted({"version": "a"})
    kept = []
    for depends_on in ((1, "x"), (1, "x"), (2, "x"), (2, "x"), (1, "x")):
        value = PhaseStore(folder).run("clone", depends_on, work, lambda: kept.append(1))
        assert value == {"version": "a"}
    assert len(calls) == 3  # Once for (1, x), once for (2, x), and again for (1, x): one value a phase is kept.
    assert len(kept) == 2


def test_a_phase_that_failed_leaves_nothing_even_of_an_earlier_one(folder):
    store = PhaseStore(folder)
    store.run("train", 1, lambda: 5, lambda: None)
    with pytest.raises(ZeroDivisionError):
        store.run("train", 2, lambda: 1 / 0, lambda: None)
    work, calls = counted(6)
    assert store.run("train", 1, work, lambda: None) == 6
    assert calls


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "x"}', "null"])
def test_a_damaged_file_only_costs_its_phase(folder, text):
    store = PhaseStore(folder)
    store.run("gate", 1, lambda: 1, lambda: None)
    (folder.path / "phases" / "gate.json").write_text(text)
    work, calls = counted(2)
    assert store.run("gate", 1, work, lambda: None) == 2
    assert calls


def test_a_value_without_a_number_is_refused(folder):
    with pytest.raises(ValueError, match="JSON"):
        PhaseStore(folder).run("gate", 1, lambda: float("nan"), lambda: None)
    assert not (folder.path / "phases" / "gate.json").exists()


def test_the_fingerprint_follows_values_and_types():
    assert fingerprint((1, "a")) == fingerprint((1, "a"))
    assert len({fingerprint(value) for value in ((1, "a"), (1, "b"), (1.0, "a"), ("1", "a"))}) == 4


HOLD = """
import sys, time
from pathlib import Path
from experiments.runtime.resume import only_run
from experiments.runtime.storage import RunFolder
with only_run(RunFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_runs_do_not_work_in_one_folder_and_a_killed_one_lets_go(folder):
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another run"), only_run(folder):
            pass
        other.kill()
    with only_run(folder):
        assert (folder.path / ".lock").exists()


def test_what_a_killed_run_left_half_written_is_removed(folder):
    with only_run(folder):
        (folder.path / "demonstrations" / "0123abcd" / "gate" / ".expert_000001.0123abcd").mkdir(parents=True)
        (folder.path / "demonstrations" / ".keep").write_text("somebody's")
        (folder.path / ".policy.0123abcd.safetensors").write_text("half")
        (folder.path / ".notes.0123abcd.txt").write_text("somebody's")
        (folder.path / ".run.0123abcd.json").write_text("half")
    with only_run(folder):
        pass
    assert sorted(path.name for path in folder.path.rglob(".*")) == [".keep", ".lock", ".notes.0123abcd.txt"]
