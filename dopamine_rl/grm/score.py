"""The score grammar: the model's one-line answer and its 201 whole-percent forms.

`<score>+33%</score>`: AFTER gains 33 % of the progress that remained at BEFORE. `<score>-8%</score>`: it loses 8 % of
the progress that BEFORE had. `<score>0%</score>`: no difference.
Source: METHOD.md section 4. Parsing also accepts one decimal, as in the released fine-tuning data.
"""

from __future__ import annotations

import re

from dopamine_rl.errors import BadInput

HOP_BINS = 201
"""Whole percents from −100 to +100; bin b stands for the hop (b − 100) / 100."""

_SCORE = re.compile(r"<score>([+-]?)(0|[1-9][0-9]{0,2})(\.[0-9])?%</score>")


def format_score(hop: float) -> str:
    """Format a hop as an answer in whole percent. Raises BadInput unless hop is in [−1, 1]."""
    if not -1.0 <= hop <= 1.0:
        raise BadInput("hop", hop, "give a hop in [-1, 1]")
    percent = round(hop * 100)
    return f"<score>{percent:+d}%</score>" if percent else "<score>0%</score>"


def format_decimal_score(hop: float) -> str:
    """Format a hop as an answer with one decimal, as in the released training data.

    Raises:
        BadInput: hop is not in [−1, 1].
    """
    if not -1.0 <= hop <= 1.0:
        raise BadInput("hop", hop, "give a hop in [-1, 1]")
    tenths = round(hop * 1000)
    return f"<score>{tenths / 10:+.1f}%</score>" if tenths else "<score>0%</score>"


def answers() -> tuple[str, ...]:
    """The 201 answers in the order of the hop bins, from −100 % to +100 %."""
    return tuple(format_score((index - 100) / 100) for index in range(HOP_BINS))


def decimal_answers() -> dict[str, int]:
    """Map every answer with one decimal to the hop bin of its truncated whole percent."""
    wholes = [(sign, whole) for sign in "-+" for whole in range(100)]
    tenths = {
        f"<score>{sign}{whole}.{tenth}%</score>": 100 + int(f"{sign}{whole}")
        for sign, whole in wholes
        for tenth in range(10)
    }
    return tenths | {"<score>-100.0%</score>": 0, "<score>+100.0%</score>": 200}


def parse_score(text: str) -> float:
    """Parse an answer strictly; only white space around it is allowed.

    Returns:
        The hop in [−1, 1].
    Raises:
        BadInput: no score, two scores, extra text, not a number, a missing sign, or out of range. The caller marks such
            an estimate invalid, with the message as the reason.
    """
    match = _SCORE.fullmatch(text.strip())
    if match is None:
        raise BadInput("score", text, "answer with exactly one score like <score>+33%</score>, <score>-8%</score>")
    sign, whole, tenth = match.groups()
    percent = float(whole + (tenth or ""))
    if percent > 100.0:
        raise BadInput("score", text, "answer with a score from -100% to +100%")
    if percent > 0.0 and not sign:
        raise BadInput("score", text, "answer with a sign before every score but 0%")
    return -percent / 100 if sign == "-" and percent else percent / 100
