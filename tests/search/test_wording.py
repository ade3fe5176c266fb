"""A user's text stays one text wherever it is printed."""

from hypothesis import given
from hypothesis import strategies as st

from promptgraft.search.wording import difference, fenced, in_markdown, one_line, rounded

TEXTS = st.text(st.characters(), max_size=20)


@given(TEXTS)
def test_a_text_is_one_line_that_steers_nothing(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000 for char in shown)
    assert shown == text or len(shown) > len(text)


def test_what_would_forge_a_line_is_escaped() -> None:
    assert one_line("spam\nerror: x\x1b[2J\u202e") == r"spam\nerror: x\x1b[2J\u202e"
    assert one_line("café 😀 名") == "café 😀 名"
    assert in_markdown("a|b [x](y) <b>`") == r"a\|b \[x\](y) \<b\>\`"


@given(st.text("`a\n", max_size=20))
def test_a_block_cannot_end_itself(text: str) -> None:
    first, *_, last = fenced(text)
    assert first == last
    assert last not in text


def test_figures_have_decimals_where_these_say_something() -> None:
    assert [rounded(own) for own in (0.81234567, 0.0, 12.3, -0.5, 1e-17)] == [
        "0.8123",
        "0.0000",
        "12.3000",
        "-0.5000",
        "0.0000",
    ]
    assert [rounded(own, 3) for own in (1.234e-6, -4.5e-7, 3.14159e36, 0.0012)] == [
        "1.23e-06",
        "-4.5e-07",
        "3.14e+36",
        "0.001",
    ]
    assert (rounded(None), rounded(2.5, 3, "+"), difference(2e-6, "rmse")) == ("", "+2.500", "+2e-06")
