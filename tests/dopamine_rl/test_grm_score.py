from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dopamine_rl.errors import BadInput
from dopamine_rl.grm.score import HOP_BINS, answers, decimal_answers, format_score, parse_score


def test_201_answers_round_trip() -> None:
    assert len(answers()) == len(set(answers())) == HOP_BINS == 201
    assert answers()[0] == "<score>-100%</score>"
    assert answers()[100] == "<score>0%</score>"
    assert answers()[133] == "<score>+33%</score>"
    assert [parse_score(answer) for answer in answers()] == [percent / 100 for percent in range(-100, 101)]


def test_decimals_fall_into_the_bin_of_their_whole_percent() -> None:
    assert len(decimal_answers()) == 2 * 100 * 10 + 2
    for answer, hop_bin in decimal_answers().items():
        assert hop_bin - 100 == int(round(parse_score(answer) * 1000) / 10)


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("<score>+12.5%</score>", 0.125),
        ("<score>-0.5%</score>", -0.005),
        ("<score>+0.0%</score>", 0.0),
        ("<score>-0%</score>", 0.0),
        (" <score>-8%</score>\n", -0.08),
        ("<score>-100%</score>", -1.0),
        ("<score>+100.0%</score>", 1.0),
    ],
)
def test_accepted(text: str, hop: float) -> None:
    assert parse_score(text) == hop


@pytest.mark.parametrize(
    "text",
    [
        "",
        "33",
        "<score>33%</score>",
        "<score>+nan%</score>",
        "<score>inf%</score>",
        "<score>+101%</score>",
        "<score>+100.1%</score>",
        "<score>-250%</score>",
        "<score>+33%</score><score>+33%</score>",
        "<score>+33%</score> because the peg moved",
        "<score>+33</score>",
        "<score>+3.25%</score>",
        "<score>+033%</score>",
        "<score>+٣%</score>",
        "<score>+1e1%</score>",
        "<score>+33%",
        "+33%",
    ],
)
def test_rejected(text: str) -> None:
    with pytest.raises(BadInput):
        parse_score(text)


@given(st.text(alphabet="<>/score+-0123456789.%naif ", max_size=30))
def test_what_is_read_is_a_hop(text: str) -> None:
    with contextlib.suppress(BadInput):
        assert -1.0 <= parse_score(text) <= 1.0


@pytest.mark.parametrize("hop", [float("nan"), 1.01, -2.0])
def test_only_hops_are_formatted(hop: float) -> None:
    with pytest.raises(BadInput):
        format_score(hop)
