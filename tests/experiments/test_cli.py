"""The `dopamine` command: every command by one parser, help at once, one line for what a command line gets wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import experiments
from experiments import cli
from experiments.commands import completion
from experiments.runtime import arguments
from experiments.runtime.ending import USAGE

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "ray", "matplotlib", "mani_skill", "requests", "starlette")
COMMANDS = {" ".join(path): entry.module for path, entry in cli.every_command()}


def told(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command line that ends before anything is done."""
    status = 0
    try:
        cli.main(list(words))
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, *capsys.readouterr()


def options_of(module: str) -> dict[str, Any]:
    imported = import_module(module)
    names = dict(arguments.option_names(imported.Arguments))
    return names | dict(arguments.option_names(imported.Settings)) if hasattr(imported, "Settings") else names


def test_the_first_screen_names_every_command_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        status, out, _ = told(words, capsys)
        lines = out.splitlines()
        assert (status, len(lines) <= 24, max(map(len, lines)) <= 80) == (0, True, True)
        assert all(f"\n  {name} " in out for name in cli.DOPAMINE.commands)
    for group in ("grm", "bench"):
        status, out, _ = told([group], capsys)
        assert (status, len(out.splitlines()) <= 24) == (0, True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_a_dataclass_with_a_sentence_for_every_option(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    module = import_module(COMMANDS[name])
    assert is_dataclass(module.Arguments)
    parsed: list[type] = []
    with monkeypatch.context() as patch:
        import tyro

        real = tyro.cli
        patch.setattr(tyro, "cli", lambda cls, **rest: (parsed.append(cls), real(cls, **rest))[1])
        status, out, _ = told([*name.split(), "--help"], capsys)
    assert status == 0
    assert len(parsed) == 1  # the parser is tyro's, and no other
    assert f"usage: dopamine {name}" in out
    missing = [option for option in options_of(COMMANDS[name]) if option not in out]
    assert missing == []
    for cls in (module.Arguments, getattr(module, "Settings", None)):
        assert [field for field in sentences(cls) if not field[1].strip()] == []


def sentences(cls: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every field of a tree of dataclasses with the text that tyro finds for it: of a shared option, or below it."""
    from tyro._docstrings import get_field_docstring

    texts = []
    for field in fields(cls) if cls is not None else ():
        hint = get_type_hints(cls)[field.name]
        extras = getattr(get_type_hints(cls, include_extras=True)[field.name], "__metadata__", ())
        about = next((extra.help for extra in extras if getattr(extra, "help", None)), "")
        if is_dataclass(hint):
            texts += sentences(hint, f"{prefix}{field.name}.")
        elif field.init:
            texts.append((prefix + field.name, about or get_field_docstring(cls, field.name, ()) or ""))
    return texts


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_line_with_status_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = told([*name.split(), "--no-such-option=3"], capsys)
    assert (status, out, len(err.splitlines())) == (USAGE, "", 1)
    assert err.startswith("error: --no-such-option = '3': ")
    longest = max(options_of(COMMANDS[name]), key=len, default="")
    if len(longest) > 6:  # misspelt, the nearest one is the fix
        status, _, err = told([*name.split(), longest[:-2] + longest[-1]], capsys)
        assert (status, err) == (USAGE, f"error: {longest[:-2] + longest[-1]} = None: write {longest}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_value_of_another_type_is_named_with_status_2(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [
        option for option, kind in options_of(COMMANDS[name]).items() if kind in (int, float) and len(option) > 2
    ]
    for option in numbers[:2]:
        places = ["a", "b"] if name in ("convert", "grm import-template") else ["raw"]
        required = {"grm score": ["--url", "u"], "grm train": ["--out", "o"], "grm adapt": ["--out", "o"]}.get(name, [])
        required = required or (["--model", "m", "--held-in", "h", "--demo", "d"] if name == "bench fusion" else [])
        places = (
            []
            if name.split()[0] in ("train", "sweep", "compare", "bench", "chaos") and name != "bench fusion"
            else places
        )
        places = [] if name == "robot twin" else places
        required = ["--out", "o", "--instruction", "t", "--views", "front"] if name == "robot record" else required
        status, out, err = told([*name.split(), *places, *required, option, "many"], capsys)
        assert (status, out, len(err.splitlines())) == (USAGE, "", 1)
        assert err.startswith(f"error: {option} = 'many': give a")


def test_the_version_names_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = told(["--version"], capsys)
    assert status == 0
    assert re.fullmatch(r"dopamine-rl \S+ \((commit [0-9a-f]{7}(, changed)?|files [0-9a-f]{16})\)\n", out)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["gmr"], "COMMAND = 'gmr': write grm"),
        (["score"], "COMMAND = 'score': use dopamine grm score"),
        (["grm", "scores"], "COMMAND = 'scores': write score"),
        (["zzz"], "COMMAND = 'zzz': give one of train, sweep"),
    ],
)
def test_a_word_that_is_no_command_is_named(words: list[str], fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = told(words, capsys)
    assert status == USAGE
    assert fix in err


def test_the_first_screen_and_every_help_import_nothing_heavy() -> None:
    """One process for all: what one imports the others have."""
    code = f"""
import contextlib, io, json, sys
from experiments.cli import main
loaded = {{}}
for words in {[["--help"], *([*name.split(), "--help"] for name in COMMANDS)]!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(words)
    loaded[" ".join(words)] = sorted(set({HEAVY!r}) & set(sys.modules))
    if words == ["--help"]:
        loaded["light"] = sorted({{"numpy", "tyro"}} & set(sys.modules))
print(json.dumps(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert {name: heavy for name, heavy in loaded.items() if heavy} == {}
    assert loaded["light"] == loaded["--help"] == []


def test_the_installed_command_is_this_one() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, function = scripts["dopamine"].split(":")
    assert getattr(import_module(module), function) is cli.main


@pytest.mark.parametrize("module", ["arms", "score", "evaluate_grm"])
def test_what_moved_says_what_replaces_it(module: str) -> None:
    command = [sys.executable, "-m", f"experiments.{module}", "--seeds", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == USAGE
    assert (
        done.stdout + done.stderr
        == f"error: python -m experiments.{module}: use dopamine {experiments.MOVED[module]}\n"
    )


def test_what_moved_is_a_command_now_and_its_module_is_gone() -> None:
    assert set(experiments.MOVED.values()) <= set(COMMANDS)
    assert not [name for name in experiments.MOVED if (ROOT / "experiments" / f"{name}.py").exists()]


@pytest.mark.parametrize(
    ("module", "words"),
    [("experiments.benchmarks.scorer", []), ("experiments.peg_insert", []), ("experiments.chaos.robot", [])],
)
def test_modules_that_are_entry_points_can_still_be_started(module: str, words: list[str]) -> None:
    command = [sys.executable, "-m", module, *words, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: dopamine" in done.stdout


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    members, options = completion.groups(), completion.options()
    return {shell: completion.script(shell, members, options) for shell in ("bash", "zsh")}


@pytest.mark.parametrize(
    ("line", "wanted", "unwanted"),
    [
        ("dopamine ", {"train", "grm", "doctor"}, {"score", "--help"}),
        ("dopamine gr", {"grm"}, {"train"}),
        ("dopamine grm ", {"score", "import-template"}, {"train-all", "sweep"}),
        ("dopamine grm score --mo", {"--model"}, {"--url"}),
        ("dopamine grm score runs/x --fusion ", {"mean", "consistency"}, {"--model"}),
        ("dopamine train --learner.no-", {"--learner.no-critic-sees-potential"}, {"--seed"}),
        ("dopamine completion ", set(), {"--help"}),
        ("dopamine grm score ", set(), {"score", "--model"}),
    ],
)
def test_bash_completes_groups_commands_options_and_choices(
    line: str, wanted: set[str], unwanted: set[str], scripts: dict[str, str]
) -> None:
    words = line.split(" ")
    listed = " ".join(f"'{word}'" for word in words)
    program = f"{scripts['bash']}\nCOMP_WORDS=({listed})\nCOMP_CWORD={len(words) - 1}\n_dopamine\n"
    program += 'printf "%s\\n" "${COMPREPLY[@]}"\ncomplete -p dopamine >&2\n'
    done = subprocess.run(["bash", "--norc", "-c", program], capture_output=True, text=True, check=True)
    assert "-F _dopamine dopamine" in done.stderr
    offered = set(done.stdout.split())
    assert wanted <= offered
    assert not unwanted & offered


def test_completion_prints_a_script(capsys: pytest.CaptureFixture[str], scripts: dict[str, str]) -> None:
    for shell in ("bash", "zsh"):
        status, out, _ = told(["completion", shell], capsys)
        assert (status, out) == (0, scripts[shell] + "\n")
    assert "#compdef dopamine" in scripts["zsh"]
    assert told(["completion", "fish"], capsys)[2] == "error: SHELL = 'fish': give one of bash, zsh\n"


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [("grm sc", "import-template"), ("grm score --mo", "--model"), ("grm score --fusion ''", "mean")],
)
def test_zsh_completes_too(words: str, wanted: str, scripts: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "_dopamine").write_text(scripts["zsh"], encoding="utf-8")
    program = f"autoload -U compinit; compinit -D; source {tmp_path}/_dopamine; compadd() {{ print -l -- $@ }}\n"
    program += f"words=(dopamine {words}); CURRENT=$#words; _dopamine"
    done = subprocess.run(["zsh", "-fc", program], capture_output=True, text=True, check=True)
    assert wanted in done.stdout.split()
