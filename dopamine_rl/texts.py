"""User-given names (of files, tasks) made safe for Markdown and terminals."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
MOST_KEYS = 12
"""Keys that a message lists."""
MARKDOWN = re.compile(r"([\\`\[\]|$]|[*~](?=\S)|<(?=[A-Za-z/!?])|&(?=#?\w+;)|^>|(?<!\w)_|_(?!\w))")
"""Characters with a meaning in Markdown, where they can have one."""


def one_line(text: str) -> str:
    """Escape line breaks and control characters, which would break lines or control the terminal: a newline as \\n."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 episode", "2 episodes", "3 successes", "4 retries"."""
    plural = f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def every(count: int, noun: str) -> str:
    """How often something happens: "every step", "every 2 steps"."""
    return f"every {noun}" if count == 1 else f"every {counted(count, noun)}"


def readable(value: Any) -> str:
    """A JSON value as text, its numbers with four significant digits unless they are whole."""
    return json.dumps(_rounded(value), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    return [_rounded(member) for member in value] if isinstance(value, list | tuple) else value


def missing_key(key: str, found: Iterable[str], known: Iterable[str] = ()) -> str:
    """The fix for an object, table or archive without a key: rename the one that was meant, or add it.

    Args:
        key: that is missing.
        found: keys that are there.
        known: keys with a meaning of their own.
    """
    names = list(found)
    others = {name.casefold(): name for name in names if name not in known}
    similar = difflib.get_close_matches(key.casefold(), others, 1) or [name for name in others if key.startswith(name)]
    rename = f"rename the key {others[similar[0]]} to {key}" if similar and similar[0] else f"add the key {key}"
    listed = ", ".join(names[:MOST_KEYS]) + (", …" if len(names) > MOST_KEYS else "")
    return f"{rename}; found: {listed or 'none'}"


def markdown(text: str) -> str:
    """Escape text so that Markdown shows it literally, also in a table."""
    return MARKDOWN.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """Text as a Markdown code span, also in a table. The fence is longer than any run of backticks in the text."""
    line = one_line(text).replace("|", "∣")
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if "`" in line else ""
    return f"{fence}{space}{line}{space}{fence}"
