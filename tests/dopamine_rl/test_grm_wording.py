"""Wording is found in the source of a clone, however its prompt is written there; the source is never run."""

from __future__ import annotations

from pathlib import Path

import pytest

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.wording import find_wording, read_pieces, read_wording
from tests.dopamine_rl.released import CLONED_WORDING

PIECES = read_pieces(CLONED_WORDING)
LINES = CLONED_WORDING.splitlines(keepends=True)

STYLES = {
    "one constant": f'raise SystemExit("it ran")\nASK = """{CLONED_WORDING}"""\n',
    "a use of the constant": f'ASK = """{CLONED_WORDING}"""\n'
    + 'x = [ASK.format(task=t).split("<image>")[0] for t in []]\n',
    "added up": f"class Judge:\n    ASK = {' + '.join(map(repr, LINES))}\n",
    "side by side": f"def ask(task):\n    return ({' '.join(map(repr, LINES))}).format(task=task)\n",
    "joined": f"ASK = ''.join([{', '.join(map(repr, LINES))}])\n",
    "f-string": "def ask(item):\n    return f" + repr(CLONED_WORDING.replace("{task}", '{item["task"]}')) + "\n",
    "put together by name": f"HEAD = {''.join(LINES[:8])!r}\nREST = {''.join(LINES[8:])!r}\nASK = HEAD + REST\n",
    "numbered pictures": f"ASK = {CLONED_WORDING.replace('<image>', '<image_1>')!r}\n",
    "vision tokens": f"ASK = {CLONED_WORDING.replace('<image>', '<|vision_start|><|image_pad|><|vision_end|>')!r}\n",
    "named places": f"ASK = {CLONED_WORDING.replace('<image>', '{image}').replace('{task}', '{instruction}')!r}\n",
    "message parts": "def ask(task):\n    return [{'role': 'system', 'content': 'Be fair.'}, "
    + "{'role': 'user', 'content': ["
    + ", {'type': 'image', 'image': None}, ".join(
        f"{{'type': 'text', 'text': f{piece.replace('{task}', '{task}')!r}}}"
        for piece in CLONED_WORDING.split("<image>")
    )
    + "]}]\n",
    "braces that mean themselves": f"ASK = {CLONED_WORDING.replace('Rules', '} Rules')!r}\n",
}


def clone(folder: Path, source: str) -> Path:
    (folder / "examples").mkdir()
    (folder / "examples" / "inference.py").write_text(source)
    return folder


@pytest.mark.parametrize("style", STYLES)
def test_the_wording_is_found_however_it_is_written(style: str, tmp_path: Path) -> None:
    found = find_wording(clone(tmp_path, STYLES[style]))
    assert isinstance(PIECES, tuple)
    assert tuple(piece.replace("} Rules", "Rules") for piece in found.pieces) == PIECES
    assert found.pieces[0].count("{instruction}") == 1
    assert "inference.py, line" in found.origin


def test_the_python_file_itself_may_be_named(tmp_path: Path) -> None:
    path = clone(tmp_path, STYLES["one constant"]) / "examples" / "inference.py"
    assert find_wording(path).origin == f"ASK of {path}, line 2"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("AFTER right <image>", "AFTER right"), r"ASK \(line 1\): it has 7 images, not 8"),
        (("<score>", "score"), "it has no <score>"),
        (("{task}", "the task"), "no placeholder for the task"),
        (("{task}", "{task} {hint}"), r"placeholder \{hint\}"),
        (("AFTER left", "BEFORE left"), "image 7 is labelled BEFORE, not AFTER"),
    ],
)
def test_what_is_no_prompt_is_named_with_what_to_do(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    source = f"ASK = {CLONED_WORDING.replace(*change)!r}\n"
    with pytest.raises(BadInput, match=rf"inference\.py.*{why}.*--constant NAME.*--text FILE"):
        find_wording(clone(tmp_path, source))


def test_of_several_prompts_one_must_be_named(tmp_path: Path) -> None:
    other = CLONED_WORDING.replace("Compare", "Judge")
    folder = clone(tmp_path, f"OLD = {other!r}\nNEW = {CLONED_WORDING!r}\n")
    with pytest.raises(BadInput, match=r"several are: OLD \(line 1\), NEW \(line \d+\)"):
        find_wording(folder)
    assert find_wording(folder, "NEW").pieces == PIECES
    with pytest.raises(BadInput, match="no text of that name"):
        find_wording(folder, "NEWEST")


def test_a_clone_without_the_file_or_without_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"examples/inference\.py.*no such file"):
        find_wording(tmp_path)
    with pytest.raises(BadInput, match=r"cannot be parsed as Python.*--text FILE"):
        find_wording(clone(tmp_path, "def ("))


def test_a_text_file_may_hold_the_wording(tmp_path: Path) -> None:
    (tmp_path / "wording.txt").write_text(CLONED_WORDING)
    assert read_wording(tmp_path / "wording.txt").pieces == PIECES
    (tmp_path / "wording.txt").write_text("Judge!")
    with pytest.raises(BadInput, match=r"--text.*no <Task>: write \{task\}"):
        read_wording(tmp_path / "wording.txt")
