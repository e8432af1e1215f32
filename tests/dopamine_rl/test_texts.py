"""Names that people give are shown as they are; what would break a line is escaped."""

from __future__ import annotations

from dopamine_rl.texts import code, counted, every, markdown, one_line


def test_a_name_stays_on_its_line() -> None:
    assert one_line("a\nb\r\tc\x1b[2Jd\u2028e") == r"a\nb\r\tc\x1b[2Jd\u2028e"


def test_markdown_shows_a_name_as_it_is() -> None:
    assert markdown("pay_$5_and_$_change") == r"pay\_\$5_and\_\$\_change"
    assert markdown("a|b<script>") == r"a\|b\<script>"
    assert markdown("> &amp; ~~a~~") == r"\> \&amp; \~\~a\~~"
    assert markdown("_x_ *y* `z`\n[q](r)") == r"\_x\_ \*y* \`z\`\\n\[q\](r)"
    for plain in ("voc_plus 0.97 (0.9–1.0)", "w < 0.1", "Φ* of a success", "+0.1 *", "R&D", "a > b ~ c"):
        assert markdown(plain) == plain


def test_code_keeps_its_fence() -> None:
    assert code("runs/grm_$5") == "`runs/grm_$5`"
    assert code("a`b``c|d") == "``` a`b``c∣d ```"


def test_a_count_has_a_noun_that_fits() -> None:
    assert [counted(count, "episode") for count in (0, 1, 2)] == ["0 episodes", "1 episode", "2 episodes"]
    assert [every(count, "video frame") for count in (1, 2)] == ["every video frame", "every 2 video frames"]
