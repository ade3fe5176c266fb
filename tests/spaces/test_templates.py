import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.spaces import InvalidInputError, Template, templates

REVIEW = Template("review", "Review: {{ text }}\nSentiment: {{ label }}!")


@pytest.mark.parametrize(
    "value", ["{{ 7 * 7 }}", "{% for x in range(9) %}{{ x }}{% endfor %}", "{{ label }}", "{# gone #}", "\ue000", "a\n"]
)
def test_a_value_is_data_and_never_template_code(value: str) -> None:
    prompt = REVIEW.render({"text": value})
    assert prompt.before == f"Review: {value}\nSentiment: "
    assert prompt.after == "!"


@given(st.text())
def test_any_text_comes_out_as_it_went_in(value: str) -> None:
    assert REVIEW.render({"text": value}).with_label("good") == f"Review: {value}\nSentiment: good!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ text }}", "exactly once"),
        ("{{ text }} {{ label }} {{ label }}", "exactly once"),
        ("{{ text } {{ label }}", "not valid jinja2"),
        ("{{ text | nosuch }} {{ label }}", "not valid jinja2: No filter named 'nosuch'"),
        ("{{ text.__class__.__mro__ }} {{ label }}", "cannot be rendered"),
        ("{% if false %}{{ label }}{% endif %}{{ text }}", "print the label exactly once"),
    ],
)
def test_a_bad_template_is_refused_with_its_name(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        Template("mine", text)
    assert "'mine'" in str(caught.value)


def test_an_unknown_field_is_named_with_a_suggestion() -> None:
    with pytest.raises(InvalidInputError, match=r"unknown field 'texxt'; did you mean 'text'\?"):
        Template("t", "{{ texxt }} {{ label }}").check_fields(["text", "title"])


def test_fields_are_needed_where_there_are_any() -> None:
    alone = Template("alone", "a photo of {{ label }}")
    alone.check_fields(())
    with pytest.raises(InvalidInputError, match=r"'alone' has no field; add one, such as \{\{ text \}\}"):
        alone.check_fields(["text"])
    with pytest.raises(InvalidInputError, match=r"has the field 'text', but the model compares the image"):
        REVIEW.check_fields(())


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="'text' is undefined"):
        REVIEW.render({})


def test_ids_follow_the_content() -> None:
    assert REVIEW.id == Template("review", REVIEW.text).id
    assert REVIEW.id != Template("review", REVIEW.text + " ").id


def test_a_causal_lm_needs_the_label_last() -> None:
    REVIEW.check_label_last()
    with pytest.raises(InvalidInputError, match="label must come last"):
        Template("early", "A {{ label }} review: {{ text }}").check_label_last()


def test_a_text_is_parsed_and_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a search asks, row after row."""
    template = Template("often", "Often asked: {{ text }} {{ title }} It was {{ label }}.")
    before = (template.id, template.fields, template.words, template.blocks)

    def unused(*_: object) -> None:
        raise AssertionError("it was parsed, hashed or rendered again")

    monkeypatch.setattr(templates._ENVIRONMENT, "parse", unused)
    monkeypatch.setattr(templates.hashlib, "sha256", unused)
    monkeypatch.setattr(Template, "render", unused)
    assert (template.id, template.fields, template.words, template.blocks) == before
    assert before[1:3] == (("text", "title"), "Often asked:   It was  .")
