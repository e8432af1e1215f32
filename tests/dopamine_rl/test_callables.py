"""What a user names as MODULE:CALLABLE, and its keywords."""

import os
import sys
from pathlib import Path

import pytest

from dopamine_rl.callables import load_callable, read_keywords
from dopamine_rl.errors import BadInput
from tests.actors.reaching import Reaching


def test_a_callable_is_found_by_its_name() -> None:
    assert load_callable("env.make", "tests.actors.reaching:Reaching") is Reaching
    assert load_callable("env.make", "os:path.join") is os.path.join


def test_a_module_in_the_working_folder_is_found_here_and_by_the_processes_started_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "robot_of_a_user.py").write_text("def make():\n    return 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert load_callable("env.make", "robot_of_a_user:make")() == 7
    assert os.environ["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/elsewhere"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("", "write MODULE:CALLABLE"),
        ("tests.actors.reaching", "write MODULE:CALLABLE"),
        ("no_such_robot:make", "there is no module no_such_robot: start where it lies"),
        ("tests.actors.no_such:make", "mend its import .ModuleNotFoundError"),
        ("tests.actors.reaching:Reachin", "the module has no Reachin: write tests.actors.reaching:Reaching"),
        ("tests.actors.reaching:zzz", "the module has no zzz: define zzz in"),
        ("tests.actors.reaching:NAMES", "name a function or a class: this is tuple"),
    ],
)
def test_a_name_that_cannot_be_used_says_why(name: str, fix: str) -> None:
    with pytest.raises(BadInput, match=f"env.make = .*: {fix}"):
        load_callable("env.make", name)


def test_keywords_are_a_json_object() -> None:
    assert read_keywords("env.kwargs", '{"camera": "front", "size": 32}') == {"camera": "front", "size": 32}
    for text in ("{camera: front}", "[1]", '{"two words": 1}', ""):
        with pytest.raises(BadInput, match=r"env.kwargs = .*write a JSON object"):
            read_keywords("env.kwargs", text)
