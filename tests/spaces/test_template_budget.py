"""A template has a budget of time and memory: it ends at once or is refused."""

import jinja2
import pytest

from promptgraft.spaces import InvalidInputError, Template

TOO_MUCH = [
    "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}",
    "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(90) }}",
    "{% set x %}{% for i in range(9999) %}" + "word " * 1000 + "{% endfor %}{% endset %}",
    "{{ 'a' * 4000000000 }}",
    "{{ 4000000000 * 'a' }}",
    "{{ ['a'] * 4000000000 }}",
    "{{ ['a' * 90000] * 90000 }}",
    "{{ 9 ** 99999999 }}",
    "{{ 'a' | center(4000000000) }}",
    "{{ 'a'.ljust(4000000000) }}",
    "{{ 'a'.zfill(4000000000) }}",
    "{{ '\t'.expandtabs(4000000000) }}",
    "{{ 'a' | indent(4000000000, true) }}",
    "{{ ('\n' * 90000) | indent(9999) }}",
    "{{ [1] | batch(4000000000, 'a') | list }}",
    "{{ 1.5 | round(4000000000, 'ceil') }}",
    "{{ {'a': [1]} | tojson(indent=4000000000) }}",
    "{{ (1).to_bytes(4000000000, 'big') }}",
    "{% filter center(4000000000) %}a{% endfilter %}",
    "{{ ['a'] | map('center', 4000000000) | list }}",
    "{{ '%4000000000d' % 1 }}",
    "{{ '%*d' % (4000000000, 1) }}",
    "{{ '%4000000000d' | format(1) }}",
    "{{ '{:4000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 4000000000) }}",
    "{{ 'aaaaaaaaaa'" + " | replace('a', 'aaaaaaaaaa')" * 12 + " }}",
    "{{ 'aaaaaaaaaa'" + ".replace('a', 'aaaaaaaaaa')" * 12 + " }}",
    "{{ 'a'.translate({97: 'a' * 90000}) }}",
    "{{ range(99999) | map('string') | join('a' * 90000) }}",
    "{{ ('a' * 90000).join(['a'] * 90000) }}",
    "{{ ([[1]] * 30000) | sum(start=[]) }}",
    "{{ ('a ' * 99999) | wordwrap(1, true, 'b' * 90000) }}",
    "{{ lipsum(n=4000000000) }}",
    "{% set b = 'a' * 1000000 %}{% for i in range(9999) %}{% if b == 'a' ~ b %}{% endif %}{% endfor %}",
    "{% set b = 'a' * 1000000 %}{% for i in range(9999) %}{% set c = b[:-1] %}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ 'a'" + " | upper" * 190 + " }}",
    "x" * 60000,
]
GROWING = ["s.t ~ s.t", "s.t + s.t", "[s.t, s.t]", "(s.t, s.t)", "{'a': s.t, 'b': s.t}"]


@pytest.mark.parametrize("text", TOO_MUCH, ids=lambda text: str(text[:40]))
def test_a_template_that_takes_too_much_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match="template 'greedy'"):
        Template("greedy", text + "{{ text }} {{ label }}").render({"text": "good"})


@pytest.mark.parametrize("grown", GROWING)
def test_what_doubles_in_a_loop_is_refused(grown: str) -> None:
    loop = "{% set s = namespace(t='a') %}{% for i in range(60) %}{% set s.t = " + grown + " %}{% endfor %}"
    with pytest.raises(InvalidInputError, match="too long, or makes too much"):
        Template("greedy", loop + "{{ text }} {{ label }}")


def test_a_row_that_sets_it_off_is_refused_too() -> None:
    """What a template does first says nothing of what it does later."""
    text = "{% if text | length > 3 %}{{ 'a' * 4000000000 }}{% endif %}{{ text }} {{ label }}"
    template = Template("greedy", text)
    assert template.render({"text": "so"}).before == "so "
    with pytest.raises(InvalidInputError, match="too long, or makes too much"):
        template.render({"text": "good"})


@pytest.mark.parametrize(
    "text",
    [
        "{{ text | upper | trim }} {{ label }}",
        "{% if text %}{{ text }}{% else %}none{% endif %} {{ label }}",
        "{% for w in text.split() %}{{ loop.index }} {{ w }}{% if not loop.last %},{% endif %}{% endfor %} {{ label }}",
        "{{ text | truncate(200) }} {{ text[:300] }} {{ text | wordwrap(80) | indent(4) }} {{ label }}",
        "{{ text.replace('a', 'b') | replace('\n', ' ') }} {{ label }}",
        "{% set s = namespace(n=0) %}{% for c in text %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }} {{ label }}",
        "{{ '%s: %.2f' % (text, 1.5) }} {{ 'Ref 12345: {} {:>10}'.format(text, 'x') }} {{ label }}",
        "{{ text.split('.') | join(' | ') }} {{ text | list | reverse | join }} {{ '-' * 20 }} {{ label }}",
        '{% macro q(x) %}"{{ x }}"{% endmacro %}{{ q(text) }} {{ text | wordcount }} {{ label }}',
        "{{ 'yes' if text | length > 10 else 'no' }} {{ text.title() }} {{ 7 // 2 + 2 ** 3 }} {{ label }}",
    ],
)
@pytest.mark.parametrize("value", ["A good film.", "a b. " * 2000])
def test_ordinary_templates_say_what_jinja_makes_of_them(text: str, value: str) -> None:
    expected = jinja2.Environment(keep_trailing_newline=True).from_string(text).render(text=value, label="<->")
    assert Template("t", text).render({"text": value}).with_label("<->") == expected


def test_a_long_value_is_no_reason_to_refuse() -> None:
    value = "word " * 1_000_000 + "end"
    assert Template("t", "{{ text }} {{ text | trim }} {{ label }}").render({"text": value}).before.count(value) == 2
