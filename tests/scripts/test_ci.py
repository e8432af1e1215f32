"""What continuous integration retries, with a `make` of ours that fails as it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = """#!/usr/bin/env bash
echo "make $*" >>"$CALLS"
case "$1" in
    "$FAILS")
        count=$(grep -c "^make $1" "$CALLS")
        if [ "$count" -le "$TIMES" ]; then
            [ -z "$NAMED" ] || echo "FAILED tests/test_it.py::test_$count[a b] - AssertionError: no"
            exit 1
        fi ;;
esac
"""
NAME = "retried: tests/test_it.py::test_1[a b]"


def run(folder: Path, fails: str, times: int, named: str = "yes") -> tuple[int, str, list[str]]:
    """Exit status, output, and the targets made."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", folder / ".ci" / "run")
    (folder / "bin").mkdir()
    (folder / "bin" / "make").write_text(MAKE, encoding="utf-8")
    (folder / "bin" / "make").chmod(0o755)
    variables = {"CALLS": str(folder / "calls"), "FAILS": fails, "TIMES": str(times), "NAMED": named}
    environment = os.environ | variables | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = [folder / ".ci" / "run"]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )
    targets = [line.split()[1] for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]
    return done.returncode, done.stdout, targets


def test_where_nothing_fails_nothing_is_retried(tmp_path: Path) -> None:
    status, output, targets = run(tmp_path, "nothing", 0)
    assert (status, "retried" in output) == (0, False)
    assert sorted(targets) == ["lint", "test", "test-extern", "test-full", "vllm-env"]


def test_a_long_test_that_fails_is_retried_and_named_at_the_end_too(tmp_path: Path) -> None:
    status, output, targets = run(tmp_path, "test-full", 1)
    assert (status, targets.count("test-full")) == (0, 2)
    assert output.count(NAME) == 2
    assert output.splitlines()[-1] == NAME


def test_a_second_failure_is_final(tmp_path: Path) -> None:
    status, output, targets = run(tmp_path, "test-full", 2)
    assert (status, targets.count("test-full")) == (1, 2)
    assert NAME in output.splitlines()[-2]
    assert "a second failure" in output


def test_what_fails_without_a_test_s_name_is_not_retried(tmp_path: Path) -> None:
    status, _, targets = run(tmp_path, "test-full", 1, named="")
    assert (status, targets.count("test-full")) == (1, 1)


@pytest.mark.parametrize("target", ["lint", "test", "test-extern"])
def test_nothing_else_is_retried(target: str, tmp_path: Path) -> None:
    status, output, targets = run(tmp_path, target, 1)
    assert (status != 0, targets.count(target), "retried" in output) == (True, 1, False)


def test_a_second_try_of_the_environment_is_said(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, "vllm-env", 1)
    assert (status, output.splitlines()[-1]) == (0, "retried: make vllm-env")
