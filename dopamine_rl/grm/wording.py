"""Find the wording of a released model's prompt in its authors' Python source, which is parsed and never executed.

A prompt is a text with a `<Task>` block, placeholders for the task and for eight images, and `<score>`. It may be a
single string, a concatenation, formatted or joined from parts, an f-string, or the parts of a chat message.
Placeholders may be `{task}` or `{instruction}`, `<image>`, `<image_3>`, `[IMAGE 3]`, `{image}` or the model's own
vision tokens.
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
"""The file with the wording in a clone of the authors' repository."""

PICTURES = ("START", "END", "BEFORE", "BEFORE", "BEFORE", "AFTER", "AFTER", "AFTER")
"""What each image of a released prompt shows."""

_MARK = "<image>"
_MARKS = re.compile(
    r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<(?:image|img)[ _-]?\w*>|\[(?:image|img)[ _-]?\w*\]", re.I
)
_MOMENTS = re.compile(rf"\b({'|'.join(dict.fromkeys(PICTURES))})\b")
_INSTRUCTION_FIELD, _PICTURE_FIELD = (
    re.compile(pattern, re.I) for pattern in ("task|instruction", "image|img|picture|^(ref_)?(start|end|before|after)")
)
_UNINDENTED: Mapping[str, Callable[[str], str]] = {"dedent": textwrap.dedent, "cleandoc": inspect.cleandoc}


@dataclass(frozen=True, slots=True)
class Text:
    """A text in a Python source: the name of its constant (else its position), and its line."""

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Wording:
    """A prompt's text.

    Args:
        origin: source of the text, for messages.
        pieces: the texts before, between and after the eight images, with {instruction} for the task.
    """

    origin: str
    pieces: tuple[str, ...]


def find_wording(clone: Path, constant: str | None = None) -> Wording:
    """Find the wording in a clone of the authors' repository, or in one Python file.

    Args:
        constant: name of the constant with the wording; None searches for it.
    Raises:
        BadInput: the file is missing or not Python, or no text (or more than one) is a prompt.
    """
    path = clone / SOURCE if clone.is_dir() else clone
    if not path.is_file():
        raise BadInput(
            "CLONE", str(path), "no such file: give a clone of the authors' repository, or the Python file itself"
        )
    try:
        texts = find_texts(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput("CLONE", str(path), f"it cannot be parsed as Python ({error}); {_OTHERWISE}") from error
    if constant is not None:
        texts = [text for text in texts if text.name == constant]
        if not texts:
            raise BadInput("--constant", constant, f"{path} has no text of that name; {_OTHERWISE}")
    results = {text: read_pieces(text.text) for text in texts}
    prompts: dict[tuple[str, ...], Text] = {}
    for text, pieces in results.items():
        if isinstance(pieces, tuple):
            prompts.setdefault(pieces, text)  # where the constant is used, the same text appears again
    if len(prompts) != 1:
        fix = f"no single text is a prompt with <Task>, eight images and <score>; {_candidates(results)}; {_OTHERWISE}"
        raise BadInput("CLONE", str(path), fix)
    [(pieces, text)] = prompts.items()
    return Wording(f"{text.name} of {path}, line {text.line}", pieces)


def _candidates(results: Mapping[Text, tuple[str, ...] | str]) -> str:
    """The texts that are prompts, or, if there are none, those that resemble one, with the reason why not."""
    prompts = [f"{text.name} (line {text.line})" for text, pieces in results.items() if isinstance(pieces, tuple)]
    if prompts:
        return f"several are: {', '.join(prompts)}"
    similar = [
        f"{text.name} (line {text.line}): {reason}"
        for text, reason in results.items()
        if isinstance(reason, str) and _is_similar(text.text)
    ]
    return f"most similar: {'; '.join(similar) or 'none'}"


def read_wording(path: Path) -> Wording:
    """Read the wording from a text file with {task} and eight <image>. Raises BadInput."""
    try:
        pieces = read_pieces(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("--text", str(path), f"give a text file in UTF-8 ({error})") from error
    if isinstance(pieces, str):
        raise BadInput("--text", str(path), f"{pieces}: write {{task}} for the task and <image> for each image")
    return Wording(str(path), pieces)


_OTHERWISE = "name the constant with --constant NAME, or give a file with the text: --text FILE"


def _is_similar(text: str) -> bool:
    return "<Task>" in text or "<score>" in text


def read_pieces(text: str) -> tuple[str, ...] | str:
    """Split a prompt at its eight images, or return why the text is not a prompt."""
    for tag in ("<Task>", "</Task>", "<score>"):
        if tag not in text:
            return f"it has no {tag}"
    normalised, other = _normalise_placeholders(text)
    if other is not None:
        return f"its placeholder {{{other}}} is neither the task nor an image (write {{{{ for a brace)"
    pieces = tuple(normalised.split(_MARK))
    if len(pieces) != 1 + len(PICTURES):
        return f"it has {len(pieces) - 1} images, not {len(PICTURES)}"
    if "{instruction}" not in pieces[0]:
        return "it has no placeholder for the task, such as {task}, before the images"
    for number, (piece, moment) in enumerate(zip(pieces[:-1], PICTURES, strict=True), 1):
        labels = _MOMENTS.findall(piece)
        if labels and labels[-1] != moment:
            return f"its image {number} is labelled {labels[-1]}, not {moment}"
    return pieces


def _normalise_placeholders(text: str) -> tuple[str, str | None]:
    """Replace placeholders by {instruction} and <image>; also return a placeholder that is neither, if there is one."""
    try:
        fields = [(literal, name) for literal, name, _, _ in Formatter().parse(text)]
    except ValueError:  # literal braces: such a text is filled in by `replace`
        parts = re.split(r"(\{task\w*\}|\{instruction\})", text)
        fields = list(zip(parts[::2], [*(part[1:-1] for part in parts[1::2]), None], strict=True))
    normalised, other = "", None
    for literal, name in fields:
        normalised += _MARKS.sub(_MARK, literal)
        if name is None:
            continue
        if _PICTURE_FIELD.search(name):
            normalised += _MARK
        elif name in ("", "0") or _INSTRUCTION_FIELD.search(name):
            normalised += "{instruction}"
        else:
            other = name
    return normalised, other


def find_texts(source: str) -> list[Text]:
    """All texts of a Python source, joined where possible. Raises SyntaxError or ValueError if it is not Python."""
    reader = _Reader()
    reader.visit(ast.parse(source))
    return reader.texts


class _Reader(ast.NodeVisitor):
    """Collects texts; parts of a larger text are not collected separately."""

    def __init__(self) -> None:
        self.texts: list[Text] = []
        self._constants: dict[str, str] = {}

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            text = _text_of(node.value, self._constants)
            if text is not None and isinstance(target, ast.Name | ast.Attribute):
                name = target.id if isinstance(target, ast.Name) else target.attr
                self._constants[name] = text
                self.texts.append(Text(name, node.lineno, text))
                return
        if isinstance(node, ast.expr) and not isinstance(node, ast.Name):
            text = _text_of(node, self._constants)
            if text is not None:
                self.texts.append(Text(f"the text of line {node.lineno}", node.lineno, text))
                return
        self.generic_visit(node)


def _text_of(node: ast.expr, constants: Mapping[str, str]) -> str | None:
    """The text of an expression in `str.format` notation; None if it cannot be determined from the source."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return constants.get(name)
        case ast.JoinedStr(values=values):
            return "".join(_formatted(value, constants) for value in values)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _join([left, right], constants)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) if any(isinstance(part, ast.Dict) for part in parts):
            return _join(parts, constants)
        case ast.Dict(keys=keys, values=values):
            return _message_part(
                {ast.unparse(k): v for k, v in zip(keys, values, strict=True) if k is not None}, constants
            )
        case ast.Call(
            func=ast.Attribute(value=between, attr="join"), args=[ast.List(elts=parts) | ast.Tuple(elts=parts)]
        ):
            return _join(parts, constants, between)
        case ast.Call(func=ast.Attribute(value=inner, attr="format")):
            return _text_of(inner, constants)
        case ast.Call(func=ast.Attribute(value=inner, attr="strip" | "lstrip" | "rstrip" as name), args=[]):
            inner_text = _text_of(inner, constants)
            return None if inner_text is None else str(getattr(inner_text, name)())
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[inner]) if name in _UNINDENTED:
            inner_text = _text_of(inner, constants)
            return None if inner_text is None else _UNINDENTED[name](inner_text)
    return None


def _formatted(part: ast.expr, constants: Mapping[str, str]) -> str:
    """One part of an f-string."""
    if isinstance(part, ast.Constant):
        return str(part.value).replace("{", "{{").replace("}", "}}")
    value = part.value if isinstance(part, ast.FormattedValue) else part
    text = _text_of(value, constants)
    if text is not None:
        return text
    words = re.findall(r"\w+", ast.unparse(value))
    matches = [word for word in words if _INSTRUCTION_FIELD.search(word) or _PICTURE_FIELD.search(word)]
    return f"{{{(matches or words)[-1]}}}"


def _join(parts: list[ast.expr], constants: Mapping[str, str], between: ast.expr | None = None) -> str | None:
    texts = [_text_of(part, constants) for part in parts]
    joint = "" if between is None else _text_of(between, constants)
    return None if joint is None or None in texts else joint.join(text for text in texts if text is not None)


def _message_part(entries: Mapping[str, ast.expr], constants: Mapping[str, str]) -> str | None:
    """A part of a chat message: {"type": "text", "text": …} or {"type": "image", …}."""
    match entries.get("'type'"):
        case ast.Constant(value="image"):
            return _MARK
        case ast.Constant(value="text") if "'text'" in entries:
            return _text_of(entries["'text'"], constants)
    return None
