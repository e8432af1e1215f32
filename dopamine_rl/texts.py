"""Names that people gave to their files and tasks, as Markdown and terminals can show them."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MARKDOWN = re.compile(r"([\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w))")


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which would break a table or steer the terminal."""
    return CONTROL.sub(" ", text)


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    return MARKDOWN.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """Text as a code span of Markdown, also in a table: its fence is longer than any run of backticks in it."""
    line = one_line(text).replace("|", "∣")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"
