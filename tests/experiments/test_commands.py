"""Every command under bad conditions: in a submitted job, without UTF-8, on a full disk, with its output cut off."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from dopamine_rl.errors import BadInput
from experiments.cli import every_command
from experiments.runtime import ending
from experiments.runtime.arguments import RESULT, FolderArguments
from experiments.runtime.ending import USAGE, command, expand
from experiments.runtime.storage import lasting_path

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "experiments").rglob("*.py"))
PRINTER = "from experiments.runtime.ending import command\n@command\ndef main(argv=None):\n    {}\nmain()"
LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "", "PYTHONCOERCECLOCALE": "0"}


def module_of(source: Path) -> str:
    return ".".join(source.relative_to(ROOT).with_suffix("").parts)


def mains() -> dict[str, ast.FunctionDef]:
    """The `main` of every module below experiments/ that has one."""
    return {
        module_of(source): node
        for source in SOURCES
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    }


def short(module: str) -> str:
    """The last part of a module's name, which stays where a command moves; a package's own name for its __main__."""
    parts = module.split(".")
    return parts[-2] if parts[-1] == "__main__" else parts[-1]


# What each command is given inside a job, with a relative path for its result; None: it writes no result.
IN_JOB: dict[str, list[str] | None] = {
    "compare": ["--out", "results"],
    "audit": None,
    "cli": ["grm", "score", "episode", "--model", "grm-mini"],
    "convert": ["raw", "dataset"],
    "demos": ["PickCube", "-n", "1"],
    "grm_deploy": None,
    "env_check": None,
    "evaluate": None,
    "grm_eval": ["grm-mini", "raw"],
    "grm_probe": ["grm-mini", "--demo", "raw"],
    "grm_exploit": ["run", "--out", "found"],
    "grm_adapt": ["raw", "--out", "m2"],
    "grm_train": ["raw", "--out=m2"],
    "grm_import_template": ["clone", "checkpoint", "--out", "m2"],
    "grm_pairs": ["raw", "--items", "items.json"],
    "peg_insert": ["--out", "results"],
    "grm_score": ["episode", "--model", "grm-mini"],
    "robot_check": None,
    "robot_drive": None,
    "robot_limits": None,
    "robot_record": ["127.0.0.1:9", "--out", "raw", "--instruction", "insert", "--views", "front"],
    "robot_serve": None,
    "robot_twin": None,
    "serve": None,
    "show": ["run", "--write", "report.html"],
    "sweep": ["--storage", "runs"],
    "reward_service": ["--out", "journals"],
    "robot": None,
    "actors": None,
    "simulation": None,
    "dense_policy": ["LiftPegUpright-v1", "--out", "policy.safetensors"],
    "fusion": ["raw", "--model", "m", "--held-in", "b", "--demo", "c"],
    "learner": None,
    "reward_model": [],
    "scorer": None,
    "service": None,
    "training": None,
    "scaling": None,
    "doctor": None,
    "completion": None,
}


def test_every_command_has_the_shared_entry_and_says_what_it_does_inside_a_job() -> None:
    entries = mains()
    assert {short(module) for module in entries} == set(IN_JOB), "say above what a new command writes"
    for module, node in entries.items():
        decorators = [decorator.id for decorator in node.decorator_list if isinstance(decorator, ast.Name)]
        assert decorators == [command.__name__], module


def test_every_option_for_a_result_refuses_what_would_be_thrown_away() -> None:
    checked = 0
    for _, entry in every_command():
        arguments = import_module(entry.module).Arguments
        if issubclass(arguments, FolderArguments):  # RunFolder.resolve does it
            continue
        hints = get_type_hints(arguments, include_extras=True)
        for name in {"out", "items"} & set(hints):
            assert RESULT in hints[name].__metadata__, (entry.module, name)
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize("module", [module for module in mains() if IN_JOB.get(short(module)) is not None])
def test_inside_a_job_a_relative_result_is_refused(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(SystemExit) as ended:
        import_module(module).main(IN_JOB[short(module)])
    assert ended.value.code == USAGE
    assert "give an absolute path" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_inside_a_job_nothing_is_written_into_the_scratch_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert lasting_path("here") == Path("here")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for path, fix in (
        ("here", "an absolute path"),
        (copy / "here", "a path outside the job's working folder"),
        (copy / "below" / ".." / "here", "a path outside the job's working folder"),
    ):
        with pytest.raises(BadInput, match=f"--out = .*: give {fix}"):
            lasting_path(path)
    assert lasting_path(tmp_path / "there") == tmp_path / "there"
    assert lasting_path("~/there").is_absolute()


def test_results_go_to_local_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert lasting_path("~/models") == Path("/home/someone/models")
    assert lasting_path("file:///data/models") == Path("/data/models")
    for path in ("s3://bucket/models", "~nobody-of-this-name/models"):
        with pytest.raises(BadInput, match="--items"):
            lasting_path(path, "--items")


def test_a_tilde_is_expanded_wherever_a_word_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["--out=~/m", "~/raw", "--demo", "~", "--instruction=push ~ far", "-~", "--a=b=~/c", "--note=x"]
    expanded = ["--out=/home/someone/m", "/home/someone/raw", "--demo", "/home/someone"]
    assert [expand(word) for word in words] == [*expanded, *words[4:]]

    @command
    def main(argv: list[str]) -> None:
        assert argv == expanded[:1]

    main(words[:1])


# Output.


def program(body: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose main has this body."""
    code = "import os, signal, sys\nfrom experiments.runtime.ending import command, interruptible\n"
    code += "@command\ndef main(argv=None):\n"
    code += "\n".join(f"    {line}" for line in body.splitlines()) + "\nmain()\n"
    variables = {name: value for name, value in os.environ.items() if not name.startswith("LC_")} | environment
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, env=variables)


@pytest.mark.parametrize("encoding", [LATIN, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONUTF8": "1"}])
def test_any_text_is_printed_in_any_locale_and_its_json_is_kept(encoding: dict[str, str]) -> None:
    text = "τ Φ* ± – ✓ 推 🤖 \udce9"
    done = program(
        f"import json\nprint(json.dumps({text!a}, ensure_ascii=False))\nprint({text!a}, file=sys.stderr)", **encoding
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("utf-8" if "PYTHONUTF8" in encoding else "latin-1")) == text


@pytest.mark.parametrize(
    "words", [["grm", "score", "--help"], ["grm", "eval", "--help"], ["grm", "train", "--help"], ["--help"]]
)
def test_help_is_printed_without_utf_8(words: list[str]) -> None:
    command_line = [sys.executable, "-m", "experiments.cli", *words]
    done = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, env=os.environ | LATIN)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.parametrize("module", sorted(mains()))
def test_every_help_can_be_printed_without_utf_8(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as out:
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as ended:
            import_module(module).main(["--help"])
    assert not ended.value.code
    assert (tmp_path / "out").read_text(encoding="ascii")


def test_a_reader_that_went_away_ends_a_command_without_a_word() -> None:
    line = (
        f"{sys.executable} -c '{PRINTER.format('for i in range(10**6): print(i)')}' | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["0", str(ending.UNREAD)]
    assert not done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "body",
    [
        "print('a result')",
        "print('a result', flush=True)",
        "print('a result'); raise SystemExit(0)",
        "import pathlib, dopamine_rl.files as files; "
        "files.write_atomically(pathlib.Path('innocent'), lambda path: print('meanwhile', flush=True))",
    ],
)
def test_output_onto_a_full_disk_is_said_in_one_line(body: str, unbuffered: str) -> None:
    line = f"{sys.executable} -c '{PRINTER.format(body.replace(chr(39), chr(34)))}' >/dev/full"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert "output = 'standard output': it could not be written (No space left on device): free disk space" in said


def test_a_closed_output_costs_no_result(tmp_path: Path) -> None:
    line = f"{sys.executable} -c '{PRINTER.format('print(1, flush=True)')}' >&-"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Errors of the system.


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device: free disk space"),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/data/m"),
            "'/data/m': Disk quota exceeded: free space in your quota",
        ),
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/m"),
            "'/data/m': Read-only file system: write to another folder",
        ),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), "ulimit -n"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/data/m"), "give a shorter name"),
        (OSError("something that a library made up"), "something that a library made up"),
        (PermissionError(errno.EACCES, "Permission denied", b"/data/m"), "'/data/m': give a usable path"),
        (BadInput("a\nb/file: field", 1, "write\n2"), r"a\nb/file: field = 1: write\n2"),
    ],
)
def test_what_the_system_refuses_is_one_line(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: list[str]) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert told in said


@pytest.mark.parametrize(
    "wait",
    [
        "signal.raise_signal(signal.{name})",
        "with interruptible('Interrupted: kept.'):\n    signal.raise_signal(signal.{name})",
    ],
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_command_says_one_line(wait: str, name: str) -> None:
    done = program(wait.format(name=name))
    assert done.returncode == ending.INTERRUPTED
    [said] = done.stderr.decode().splitlines()
    assert said.startswith("Interrupted")


def full(_: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def hidden(path: Path) -> None:
    """As torch does it: the system's reason stays inside the library."""
    path.write_bytes(b"partial")
    raise RuntimeError("PytorchStreamWriter failed writing file")


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    from dopamine_rl.files import write_atomically, write_folder_atomically

    writers: tuple[Callable[[Path, Callable[[Path], None]], object], ...] = (write_atomically, write_folder_atomically)
    for write in writers:
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / "result", full)
        assert caught.value.filename == str(tmp_path / "result")
    with pytest.raises(RuntimeError, match="failed writing"):  # there is room: it was something else
        write_atomically(tmp_path / "result", hidden)
    assert not any(tmp_path.iterdir())


def test_a_name_of_any_length_and_bytes_that_are_no_text_are_written(tmp_path: Path) -> None:
    from dopamine_rl.files import write_text

    for stem in ("n" * 250, "推" * 83, "caf\udce9"):
        path = write_text(tmp_path / f"{stem}.json", json.dumps({"name": stem}, ensure_ascii=False))
        assert json.loads(path.read_text(encoding="utf-8")) == {"name": stem}
