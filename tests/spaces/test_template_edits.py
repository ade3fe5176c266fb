"""What mutation and crossover make of templates are templates, with the same fields."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.spaces import Block, Template, cross, join_blocks, mutate, with_words
from tests.support.specs import TEMPLATES

WRITTEN = (
    *TEMPLATES,
    Template("plain", "{{ text }} {{ label }}"),
    Template("first", "A {{ label }} review: {{ text }}"),
    Template("two", "{{ title }}: {{ text }}\n\nIn short: {{ label }}!"),
)
LITERALS = st.text(st.characters(exclude_characters="{}%#", exclude_categories=("Cs", "Co")), max_size=12)


@pytest.mark.parametrize("template", WRITTEN, ids=lambda template: template.name)
def test_blocks_are_the_template(template: Template) -> None:
    assert template.blocks is not None
    again = join_blocks(template.blocks)
    assert again == template.text


@pytest.mark.parametrize(
    "text",
    ["{% if text %}{{ text }}{% endif %} {{ label }}", "{{ text | upper }} {{ label }}", "{{ text[0] }} {{ label }}"],
)
def test_logic_is_not_cut(text: str) -> None:
    assert Template("logic", text).blocks is None


@given(st.sampled_from(WRITTEN), st.sampled_from(WRITTEN), st.integers(0, 10**6))
def test_children_are_templates_with_their_parents_fields(first: Template, second: Template, seed: int) -> None:
    chance = random.Random(seed)
    assert first.blocks is not None
    assert second.blocks is not None
    for blocks in (mutate(first.blocks, chance), cross(first.blocks, second.blocks, chance)):
        text = join_blocks(blocks)
        assert text is not None
        child = Template("child", text)
        assert child.fields == first.fields
        prompt = child.render(dict.fromkeys(child.fields, "value")).with_label("word")
        assert prompt == prompt.lstrip()
        assert not re.search(r"\w(value|word)|(value|word)\w", prompt), "a field has grown together with a word"


@given(LITERALS, LITERALS, LITERALS)
def test_words_come_out_as_they_went_in(before: str, between: str, after: str) -> None:
    blocks = (Block(before, "text"), Block(between, "label"), Block(after, ""))
    text = join_blocks(blocks)
    assert text is not None
    prompt = Template("any", text).render({"text": "<T>"}).with_label("<L>")
    assert "".join(prompt.split()) == "".join(f"{before}<T>{between}<L>{after}".split())


def test_words_that_are_code_to_jinja_make_no_template() -> None:
    for words in ("{{ 1 }} ", "{% x %}", "{# x #} ", "}} "):
        assert join_blocks((Block(words, "text"), Block(" ", "label"), Block("", ""))) is None


def test_a_mutation_changes_something_sooner_or_later() -> None:
    blocks = TEMPLATES[0].blocks
    assert blocks is not None
    found = {join_blocks(mutate(blocks, random.Random(seed))) for seed in range(60)}
    assert {"{{ text }}\nSentiment: {{ label }}", "Review: {{ text }} {{ label }}"} <= found
    assert "Sentiment: {{ label }}\nReview: {{ text }}" in found
    assert len(found) > 8


def test_other_words_keep_the_white_space() -> None:
    blocks = TEMPLATES[0].blocks
    assert blocks is not None
    assert join_blocks(with_words(blocks, 1, "Mood:")) == "Review: {{ text }}\nMood: {{ label }}"
