"""Form is 1 for a bare template, and falls with every token and every rare word."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.spaces import Template, form_score
from promptgraft.spaces.templates import HALF_TOKENS

# A vocabulary of words of up to five letters; longer ones are cut into pieces of that size.
WHOLE = 5


def tokenize(text: str) -> list[str]:
    return [piece for word in re.findall(r"\w+|[^\w\s]", text) for piece in re.findall(rf".{{1,{WHOLE}}}", word)]


def of(text: str) -> float:
    return form_score(Template("t", text), tokenize)


short = st.text("abcdefgh", min_size=1, max_size=WHOLE)
long = st.text("abcdefgh", min_size=WHOLE + 1, max_size=20)
wordings = st.lists(st.one_of(short, long), max_size=12)


def around(words: list[str]) -> str:
    return f"{' '.join(words)} {{{{ text }}}} {{{{ label }}}}"


def test_limits() -> None:
    assert of("{{ text }} {{ label }}") == 1.0
    assert of("{{ text }}\n{{ label }}") == 1.0
    assert of(around(["word"] * HALF_TOKENS)) == 0.5
    assert of(around(["word"] * 10_000)) == pytest.approx(0.0, abs=0.002)
    assert of("{{ text }} - {{ label }}") == 1 / (1 + 1 / HALF_TOKENS)


@given(wordings)
def test_it_lies_above_0_and_at_most_at_1(words: list[str]) -> None:
    assert 0 < of(around(words)) <= 1
    assert (of(around(words)) == 1) == (not words)


@given(st.lists(short, min_size=2, max_size=20))
def test_each_common_word_more_is_less_form(words: list[str]) -> None:
    forms = [of(around(words[:count])) for count in range(len(words) + 1)]
    assert all(longer < shorter for shorter, longer in pairwise(forms))


@given(wordings, short, long, st.data())
def test_a_rare_word_in_place_of_a_common_one_is_less_form(
    words: list[str], common: str, rare: str, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(words)))
    plain, odd = ([*words[:place], word, *words[place:]] for word in (common, rare))
    assert of(around(odd)) < of(around(plain))


@given(wordings, st.data())
def test_order_and_place_of_the_words_do_not_matter(words: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(words)))
    before, after = " ".join(words[:cut]), " ".join(words[cut:])
    assert of(f"{before} {{{{ text }}}} {after} {{{{ label }}}}") == of(around(words))
