"""The console: plain lines where it is piped, a live line with a bar on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import rich.console

from dopamine_rl.episodes.raw import write_demonstration
from experiments.reports.tables import aligned, show
from experiments.runtime.console import Console
from tests.dopamine_rl.test_raw_episodes import make_demonstration


def test_piped_there_are_plain_lines_and_not_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(interval_s=1e6)
    with console.phase("labels", "Labelling [all]"):
        console.progress("1 of 3 frames")
        console.progress("3 of 3 frames", matters=True)
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == ["Labelling [all]", "  3 of 3 frames"]
    assert lines[2].startswith("  labels took ")
    assert list(console.phase_seconds) == ["labels"]


def test_on_a_terminal_a_live_line_counts_and_goes() -> None:
    screen = io.StringIO()
    console = Console(terminal=rich.console.Console(file=screen, force_terminal=True, width=100, highlight=False))
    with console.phase("labels", "Labelling [all]"):
        console.progress("1 of 4 [frames]")
        console.progress("4 of 4 [frames]", matters=True)
    text = screen.getvalue()
    assert "━" in text
    assert "Labelling [all]" in text
    assert "4 of 4 [frames]" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is hidden, and shown again
    assert text.splitlines()[-1].endswith(" s")


def test_on_a_terminal_a_note_is_a_line_that_stays() -> None:
    screen = io.StringIO()
    console = Console(terminal=rich.console.Console(file=screen, force_terminal=True, width=100, highlight=False))
    console.progress("a note", matters=True)
    assert screen.getvalue().endswith("]   a note\n")
    assert "\x1b[?25l" not in screen.getvalue()  # no live line was begun


def test_tables_are_aligned_and_take_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [["name", "value"], ["a [bold]b", "1"], ["c", "22"]]
    assert aligned(rows) == "  name       value\n  a [bold]b  1\n  c          22"
    show(rows)
    assert capsys.readouterr().out == "name       value\na [bold]b  1\nc          22\n"


def test_a_name_that_would_break_its_line_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_demonstration(tmp_path, make_demonstration(1, 5))
    (tmp_path / "left\nright\x1b[2J").mkdir()
    Console().say_passed_over([tmp_path])
    Console().say("one", "two\nthree")
    warning, *rest = capsys.readouterr().out.splitlines()
    assert r"no episode in left\nright\x1b[2J (in" in warning
    assert [line.rpartition("] ")[2] for line in rest] == ["one", r"two\nthree"]
