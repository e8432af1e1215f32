"""The check of scripts/constraints.txt goes red where the file is stale, and says how to renew it."""

import importlib.util
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def constraints(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("constraints", ROOT / "scripts" / "constraints.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FILE", tmp_path / "constraints.txt")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    assert module.main(["--write"]) == 0
    return module


def test_what_was_just_written_is_not_stale(constraints):
    assert constraints.main([]) == 0
    versions = constraints.read(constraints.FILE)
    assert {"torch", "ray", "numpy", "ruff", "protobuf"} <= set(versions)  # protobuf is what others need
    assert not any("+" in version for version in versions.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace("numpy==", "numpy==0.0.1+old."), "numpy"),
        (lambda text: text.replace("protobuf==", "#"), "protobuf: not in the file"),
        (lambda text: text + "leftpad==1.0\n", "leftpad: 1.0, installed not needed"),
        (lambda text: "", "torch: not in the file"),
    ],
)
def test_a_stale_file_fails_with_the_fix(constraints, change, named, capsys):
    constraints.FILE.write_text(change(constraints.FILE.read_text()))
    assert constraints.main([]) == 1
    error = capsys.readouterr().err
    assert named in error
    assert "make constraints" in error


def test_a_package_that_is_not_installed_is_named(constraints, monkeypatch, capsys):
    monkeypatch.setattr(constraints, "requirements", lambda pyproject: [Requirement("no-such-package")])
    assert constraints.main([]) == 1
    assert "no-such-package: run `make setup`" in capsys.readouterr().err


def test_lint_and_setup_use_the_file():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    assert "scripts/constraints.py" in lint
    assert "-c scripts/constraints.txt" in makefile
