"""Finds the wording of a released model's prompt in the Python source of its authors, which is read and never run.

A prompt is a text with a `<Task>` block, places for the task and for eight pictures, and `<score>`. It may be written in one piece
or added up, formatted or joined from parts, as an f-string, or as the parts of a chat message; its places may be `{task}`
or `{instruction}`, `<image>`, `<image_3>`, `[IMAGE 3]`, `{image}` or the model's own vision tokens.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from dopamine_rl.errors import BadInput

SOURCE = Path("examples/inference.py")
"""Where the wording stands in a clone of the authors' repository."""

PICTURES = ("START", "END", "BEFORE", "BEFORE", "BEFORE", "AFTER", "AFTER", "AFTER")
"""Which moment each picture of a released prompt shows."""

_MARK = "<image>"
_MARKS = re.compile(r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<(?:image|img)[ _-]?\w*>|\[(?:image|img)[ _-]?\w*\]", re.I)  # fmt: skip
_MOMENTS = re.compile(rf"\b({'|'.join(dict.fromkeys(PICTURES))})\b")
_INSTRUCTION_FIELD, _PICTURE_FIELD = (
    re.compile(pattern, re.I) for pattern in ("task|instruction", "image|img|picture|^(ref_)?(start|end|before|after)")
)
_UNINDENTED: Mapping[str, Callable[[str], str]] = {"dedent": textwrap.dedent, "cleandoc": inspect.cleandoc}


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a source spells out: its constant's name, else where it stands, and its line."""

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt's text.

    Args:
        origin: where it was found, for messages.
        pieces: the texts before, between and behind the eight pictures, in which {instruction} stands for the task.
    """

    origin: str
    pieces: tuple[str, ...]


def find_wording(clone: Path, constant: str | None = None) -> Wording:
    """The wording in a clone of the authors' repository, or in one Python file.

    Args:
        constant: name of the constant that holds it; None looks for it.
    Raises:
        BadInput: there is no such file, it is no Python, or no text (or more than one) can be recognised.
    """
    path = clone / SOURCE if clone.is_dir() else clone
    if not path.is_file():
        raise BadInput(
            "CLONE", str(path), "no such file: give a clone of the authors' repository, or the Python file itself"
        )
    try:
        texts = spelled_texts(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise BadInput("CLONE", str(path), f"it cannot be read as Python ({error}); {_OTHERWISE}") from error
    if constant is not None:
        texts = [text for text in texts if text.name == constant]
        if not texts:
            raise BadInput("--constant", constant, f"{path} has no text of that name; {_OTHERWISE}")
    read = {text: read_pieces(text.text) for text in texts}
    good: dict[tuple[str, ...], Text] = {}
    for text, pieces in read.items():
        if isinstance(pieces, tuple):
            good.setdefault(pieces, text)  # a use of the constant spells the same text
    if len(good) != 1:
        near = [f"{t.name} (line {t.line}): {why}" for t, why in read.items() if isinstance(why, str) and _near(t.text)]
        several = [f"{text.name} (line {text.line})" for text in good.values()]
        found = f"several are: {', '.join(several)}" if several else f"nearest are {'; '.join(near) or 'none'}"
        raise BadInput("CLONE", str(path), f"no one text is a prompt with <Task>, eight pictures and <score>; {found}; {_OTHERWISE}")  # fmt: skip
    [(pieces, text)] = good.items()
    return Wording(f"{text.name} of {path}, line {text.line}", pieces)


def read_wording(path: Path) -> Wording:
    """The wording that a text file holds, with {task} and eight <image>. Raises BadInput."""
    try:
        pieces = read_pieces(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("--text", str(path), f"give a text file in UTF-8 ({error})") from error
    if isinstance(pieces, str):
        raise BadInput("--text", str(path), f"{pieces}: write {{task}} for the task and <image> for each picture")
    return Wording(str(path), pieces)


_OTHERWISE = "name the constant by --constant NAME, or give its text in a file by --text FILE"


def _near(text: str) -> bool:
    return "<Task>" in text or "<score>" in text


def read_pieces(text: str) -> tuple[str, ...] | str:
    """The texts around the eight pictures, or why this is no prompt."""
    for tag in ("<Task>", "</Task>", "<score>"):
        if tag not in text:
            return f"it has no {tag}"
    placed, other = _places(text)
    if other is not None:
        return (
            f"it has a place {{{other}}} for something that is neither the task nor a picture (write {{{{ for a brace)"
        )
    pieces = tuple(placed.split(_MARK))
    if len(pieces) != 1 + len(PICTURES):
        return f"it has {len(pieces) - 1} pictures, not {len(PICTURES)}"
    if "{instruction}" not in pieces[0]:
        return "it has no place for the task, such as {task}, before the pictures"
    for number, (piece, moment) in enumerate(zip(pieces[:-1], PICTURES, strict=True), 1):
        named = _MOMENTS.findall(piece)
        if named and named[-1] != moment:
            return f"its picture {number} is labelled {named[-1]}, not {moment}"
    return pieces


def _places(text: str) -> tuple[str, str | None]:
    """The text with {instruction} where the task stands and <image> where a picture does, and a place that is neither."""
    try:
        fields = [(literal, name) for literal, name, _, _ in Formatter().parse(text)]
    except ValueError:  # braces that mean themselves: such a text is filled by `replace`
        parts = re.split(r"(\{task\w*\}|\{instruction\})", text)
        fields = list(zip(parts[::2], [*(part[1:-1] for part in parts[1::2]), None], strict=True))
    placed, other = "", None
    for literal, name in fields:
        placed += _MARKS.sub(_MARK, literal)
        if name is None:
            continue
        if _PICTURE_FIELD.search(name):
            placed += _MARK
        elif name in ("", "0") or _INSTRUCTION_FIELD.search(name):
            placed += "{instruction}"
        else:
            other = name
    return placed, other


def spelled_texts(source: str) -> list[Text]:
    """Every text of a Python source, as large as it is spelled out. Raises SyntaxError or ValueError if it is no Python."""
    reader = _Reader()
    reader.visit(ast.parse(source))
    return reader.texts


class _Reader(ast.NodeVisitor):
    """Collects texts; of one that is made of others only the whole is kept."""

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self._known: dict[str, str] = {}

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            text = _spelled(node.value, self._known)
            if text is not None and isinstance(target, ast.Name | ast.Attribute):
                name = target.id if isinstance(target, ast.Name) else target.attr
                self._known[name] = text
                self.texts.append(Text(name, node.lineno, text))
                return
        if isinstance(node, ast.expr) and not isinstance(node, ast.Name):
            text = _spelled(node, self._known)
            if text is not None:
                self.texts.append(Text(f"the text of line {node.lineno}", node.lineno, text))
                return
        self.generic_visit(node)


def _spelled(node: ast.expr, known: Mapping[str, str]) -> str | None:
    """The text that an expression stands for, in the notation of `str.format`; None where the source does not spell it out."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return known.get(name)
        case ast.JoinedStr(values=values):
            return "".join(_formatted(value, known) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _together([left, right], known)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) if any(isinstance(part, ast.Dict) for part in parts):
            return _together(parts, known)
        case ast.Dict(keys=keys, values=values):
            return _message_part({ast.unparse(k): v for k, v in zip(keys, values, strict=True) if k is not None}, known)
        case ast.Call(
            func=ast.Attribute(value=between, attr="join"), args=[ast.List(elts=parts) | ast.Tuple(elts=parts)]
        ):
            return _together(parts, known, between)
        case ast.Call(func=ast.Attribute(value=inner, attr="format")):
            return _spelled(inner, known)
        case ast.Call(func=ast.Attribute(value=inner, attr="strip" | "lstrip" | "rstrip" as name), args=[]):
            said = _spelled(inner, known)
            return None if said is None else str(getattr(said, name)())
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[inner]) if name in _UNINDENTED:
            said = _spelled(inner, known)
            return None if said is None else _UNINDENTED[name](said)
    return None


def _formatted(part: ast.expr, known: Mapping[str, str]) -> str:
    """One part of an f-string."""
    if isinstance(part, ast.Constant):
        return str(part.value).replace("{", "{{").replace("}", "}}")
    value = part.value if isinstance(part, ast.FormattedValue) else part
    text = _spelled(value, known)
    if text is not None:
        return text
    words = re.findall(r"\w+", ast.unparse(value))
    telling = [word for word in words if _INSTRUCTION_FIELD.search(word) or _PICTURE_FIELD.search(word)]
    return f"{{{(telling or words)[-1]}}}"


def _together(parts: list[ast.expr], known: Mapping[str, str], between: ast.expr | None = None) -> str | None:
    texts = [_spelled(part, known) for part in parts]
    joint = "" if between is None else _spelled(between, known)
    return None if joint is None or None in texts else joint.join(text for text in texts if text is not None)


def _message_part(entries: Mapping[str, ast.expr], known: Mapping[str, str]) -> str | None:
    """A part of a chat message: {"type": "text", "text": …} or {"type": "image", …}."""
    match entries.get("'type'"):
        case ast.Constant(value="image"):
            return _MARK
        case ast.Constant(value="text") if "'text'" in entries:
            return _spelled(entries["'text'"], known)
    return None
