"""What hostile hands write into files: templates that reach for more than text, and values of any type in any place."""

from typing import Any

from hypothesis import strategies as st

EVIL = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }} {{ text }} {{ label }}",
    "{% for x in range(10**9) %}{% endfor %}{{ text }}{{ label }}",
    "{{ text.__init__.__globals__ }}{{ label }}",
    "{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}{{ text }}{{ label }}",
    "{{ 'a' * 4000000000 }}{{ text }}{{ label }}",
    "{{ text.center(4000000000) }}{{ label }}",
    "../../../etc/passwd",
    "/dev/zero",
    "\x00",
]
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["layer 99", "layer -1", "deep", "lora", "nearest", "causal_lm", "linear", "batch", "", "encoder"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return every place in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, own in inner for found in places(own, (*path, key)))]
