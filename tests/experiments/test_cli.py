"""The `dopamine` command: it lists what there is, quickly, and hands the rest of its words to the command named."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from experiments import cli

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "ray", "matplotlib", "mani_skill", "requests", "starlette")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["grm"]),
        (["--help"], ["grm", "General Reward Model"]),
        (["grm", "--help"], ["score", "progress and reward videos"]),
        (["demos", "--help"], ["PickCube", "StackCube", "PullCube", "PegInsertionSide", "PlugCharger", "near_miss"]),
        (["demos", "--help"], ["--trajectories FILE.h5", "[-n N]", "control mode"]),
        (["convert", "--help"], ["RAW OUT", "--lossless", "LeRobotDataset v3", "dopamine convert"]),
        (["grm", "pairs", "--help"], ["DATA", "--items OUT.json", "--wording", "not the mix", "dopamine grm pairs"]),
        (["grm", "score", "--help"], ["EPISODE", "--model", "--url", "--app", "--demo", "--out", "dopamine grm score"]),
        (
            ["grm", "train", "--help"],
            ["DATA", "--start-from", "--held-out", "--local", "--sft.train.loss", "grm train"],
        ),
        (["grm", "adapt", "--help"], ["DATA", "--shots", "one demonstration", "(default: grm-mini)", "grm adapt"]),
        (["grm", "import-template", "--help"], ["CLONE CHECKPOINT", "--constant", "--text", "--out", "grm-2.0"]),
        (["grm", "eval", "--help"], ["CHECKPOINT DATA", "--demo", "--views", "--bounds", "--url", "dopamine grm eval"]),
    ],
)
def test_help_is_quick_and_says_what_there_is(words: list[str], told: list[str]) -> None:
    code = f"import sys; from experiments.cli import main\ntry:\n    main({words!r})\n"
    code += "except SystemExit as end:\n    assert not end.code\n"
    code += f"sys.exit(len({set(HEAVY)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in told:
        assert word in done.stdout


@pytest.mark.parametrize("words", [["gmr"], ["grm", "scores"]])
def test_a_word_that_is_no_command_is_named(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_the_installed_command_is_this_one_and_every_entry_can_be_called() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["dopamine"].split(":")
    assert getattr(import_module(module), function) is cli.main
    groups = [cli.DOPAMINE]
    while groups:
        for entry in groups.pop().commands.values():
            assert entry.about
            if isinstance(entry, cli.Group):
                groups.append(entry)
            else:
                assert callable(import_module(entry.module).main)
