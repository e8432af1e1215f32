"""Text is read and written as UTF-8 whatever the machine's locale is: every call that opens text names its encoding."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("dopamine_rl", "actors", "learner", "reward_service", "experiments", "scripts")
PROGRAMS = {"run", "Popen", "check_output", "getoutput"}
"""Of `subprocess`; they decode what a program prints where they are asked for text."""
TEMPORARY = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
BINARY_OPENERS = {"av", "os", "Image", "zipfile", "tarfile", "gzip", "h5py", "wave"}
"""What these modules open is no text, or text only where asked for."""


def unnamed(tree: ast.AST) -> list[int]:
    """Lines of the calls that would take the locale's encoding."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and _takes_the_locale(node)]


def _takes_the_locale(call: ast.Call) -> bool:
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    owner, name = "", call.func.id if isinstance(call.func, ast.Name) else ""
    if isinstance(call.func, ast.Attribute):
        owner, name = ast.unparse(call.func.value), call.func.attr
    if "encoding" in options:
        return False
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) == 1  # ours take a name or a path, and a text
    if name in PROGRAMS and owner == "subprocess":
        return any(_true(options.get(word)) for word in ("text", "universal_newlines"))
    if name in TEMPORARY:
        return "b" not in _mode(options, call.args[:1], default="w+b")
    if name == "fdopen" or (name == "open" and owner in ("", "io", "codecs")):
        return "b" not in _mode(options, call.args[1:2])
    return name == "open" and owner not in BINARY_OPENERS and "b" not in _mode(options, call.args[:1])


def _mode(options: dict[str | None, ast.expr], place: list[ast.expr], default: str = "r") -> str:
    mode = options.get("mode") or (place[0] if place else None)
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else default


def _true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("folder", FOLDERS)
def test_text_is_never_read_or_written_in_the_locale_s_encoding(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in unnamed(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == [], 'give encoding="utf-8"'


@pytest.mark.parametrize(
    ("code", "breach"),
    [
        ("path.read_text()", True),
        ('path.read_text(encoding="utf-8")', False),
        ('path.read_text("utf-8")', False),
        ("path.write_text(text)", True),
        ('path.write_text(text, encoding="utf-8")', False),
        ("open(path)", True),
        ('open(path, "rb")', False),
        ('path.open("w")', True),
        ("path.open()", True),
        ('path.open("wb")', False),
        ("av.open(path)", False),
        ('subprocess.run(["git"], text=True)', True),
        ('subprocess.run(["git"])', False),
        ('tempfile.NamedTemporaryFile("w")', True),
        ("tempfile.NamedTemporaryFile()", False),
    ],
)
def test_the_check_tells_text_from_bytes(code: str, breach: bool) -> None:
    assert bool(unnamed(ast.parse(code))) == breach
