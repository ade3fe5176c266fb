"""Names of labels in study files and tables."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptgraft.objectives.data import (
    TaskSpec,
    alike_labels,
    are_amounts,
    joined_labels,
    label_number,
    labels_as_in,
    match_labels,
    missing_marks,
    multi_hot,
    named_by,
)
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

NAMES = st.one_of(
    st.integers(-20, 20).map(str),
    st.integers(0, 20).map(lambda number: f"{number}.0"),
    st.booleans().map(str),
    st.booleans().map(lambda value: str(value).lower()),
    st.text("ab01. ", min_size=1, max_size=4).map(str.strip).filter(bool),
)


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["0", "1"], ["0", "1"], {"0": "0", "1": "1"}),
        (["0", "1"], ["0.0", "1.0"], {"0": "0.0", "1": "1.0"}),
        (["true", "False"], ["False", "True"], {"true": "True", "False": "False"}),
        (["1e1", "10"], ["10.0"], {"1e1": "10.0", "10": "10.0"}),
        (["01", "1"], ["01", "2"], {"01": "01"}),
        (["1"], ["1.0", "1.00"], {}),
        ([" a "], ["a", "A"], {" a ": "a"}),
        (["a"], ["A"], {}),
        (["null", "None"], ["null"], {"null": "null"}),
    ],
)
def test_a_name_means_the_label_with_its_text_or_its_value(
    names: list[str], known: list[str], expected: dict[str, str]
) -> None:
    assert match_labels(names, known) == expected


@given(st.lists(NAMES, unique=True, min_size=1, max_size=6), st.lists(NAMES, max_size=6))
def test_labels_mean_themselves_and_names_at_most_one(known: list[str], names: list[str]) -> None:
    assert match_labels(known, known) == {label: label for label in known}
    found = match_labels(names, known)
    assert set(found.values()) <= set(known)
    for name, label in found.items():
        assert name == label or label_number(name) == label_number(label) != None or float(name) == float(label)  # noqa: E711


def test_label_words_go_to_the_labels_that_their_names_mean() -> None:
    words = {"0": ("bad",), "1": ("good",), "other": ("x",)}
    assert named_by(words, ["0.0", "1.0"]) == {"0.0": ("bad",), "1.0": ("good",), "other": ("x",)}
    with pytest.raises(InvalidInputError, match=r"two names mean the label '1', one of them '1.0'"):
        named_by({"1": ("a",), "1.0": ("b",)}, ["1"])


def test_labels_that_are_probably_one() -> None:
    assert alike_labels(["Spam", "spam", "ham", "very_good", "very good", "1", "1.0", "2"]) == [
        ("Spam", "spam"),
        ("very_good", "very good"),
        ("1", "1.0"),
    ]
    assert alike_labels(["good", "good\u200b", "\u00e9t\u00e9", "e\u0301te\u0301", "true", "1", "0", "ham\u00ad"]) == [
        ("good", "good\u200b"),
        ("\u00e9t\u00e9", "e\u0301te\u0301"),
        ("true", "1"),
    ]
    assert alike_labels(["a", "b", "0", "1", "10", "-1", "\U0001f44d", "\U0001f44e"]) == []


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (["a", "b", "a|b"], "a|b"),
        (["b, c", "b", "c"], "b, c"),
        (["['a', 'b']", "['a']"], "['a', 'b']"),
        (["sports & games", "sports", "news"], None),  # Only one of both stands alone.
        (["[OTHER]", "a/b", "c"], None),
        (["a", "a,b", "b,c", "c"], "a,b"),
        (["a;b", "b;c", "a;c"], "a;b"),
        (["a, b", "a, b, c", "d", "b, c"], "a, b"),
        (["Science, technology", "Arts, music", "News"], None),  # No part recurs.
        (["comp/graphics", "comp/windows", "rec/autos", "rec/bikes"], None),
        (["red/large", "red/small", "blue/large", "blue/small"], None),  # Each part has its place.
        (["toys & games", "games & fun", "toys", "books & films", "home & garden", "health & care"], None),
    ],
)
def test_labels_that_are_several(labels: list[str], found: str | None) -> None:
    assert joined_labels(labels) == found
    assert joined_labels(["a", "b", "a|b"], kept="|") is None


def test_labels_that_stand_for_missing_values() -> None:
    marks = ["NaN", "nan", "None", "null", "NULL", "N/A", "NA"]
    assert missing_marks(["a", *marks, "none", "na", "Nancy", "no"]) == marks


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["[1, 0, 1]", "", "[0, 1, 0]"], "[1, 0, 1]"),
        (["[1.0, 0.0]", "[0.0, 1.0]"], "[1.0, 0.0]"),
        (["[true, false]", "[False, True]"], "[true, false]"),
        (["[1. 0. 1.]", "[0. 0. 0.]"], "[1. 0. 1.]"),  # As numpy writes them.
        (["1,0,1", "0,0,1"], "1,0,1"),
        (["1|0", "0|1"], "1|0"),
        (['["0", "1", "1"]', '["1", "0", "0"]'], '["0", "1", "1"]'),
        (["[1, 0, 1]", "[0, 1, 0]", "[0, 1]"], "[1, 0, 1]"),
        (["[0]", "[0, 1]", "[1]", "[]"], None),
        (["0|1", "1", "0"], None),
        (["[0]", "[1]", "[1]"], None),
        (["0", "1"], None),
        (["[1, 2]", "[2, 1]"], None),
        (["", ""], None),
    ],
)
def test_multi_hot_vectors(cells: list[str], found: str | None) -> None:
    assert multi_hot(cells) == found


@pytest.mark.parametrize(
    ("labels", "are"),
    [
        ([f"{n / 2:g}" for n in range(3, 20)], True),
        (["0.0", *map(str, range(1, 77))], False),  # Numbers of classes.
        ([f"{n}.0" for n in range(1, 13)], False),
        ([str(n) for n in range(0, 101, 10)], False),  # A scale.
        ([*map(str, range(0, 200, 10)), "many"], False),
    ],
)
def test_labels_that_are_amounts(labels: list[str], are: bool) -> None:
    assert are_amounts(labels) == are


NUMBERS = {"3": 3, "10": 10, "3.0": 3, "True": 1, "false": 0, "03": None, "a": None, "-1": None}


@pytest.mark.parametrize(("label", "number"), NUMBERS.items())
def test_numbers_of_labels(label: str, number: int | None) -> None:
    assert label_number(label) == number


def load(
    folder: Path, column: list[str], of_test: list[str] | None = None, labels: tuple[str, ...] | None = None
) -> TextClassification:
    def table(name: str, values: list[str]) -> str:
        path = folder / name
        lines = [f"{name} own words {i} here {i * 7} now {i * 3},{label}" for i, label in enumerate(values)]
        path.write_text("\n".join(["text,label", *lines]))
        return str(path)

    test = table("test.csv", of_test) if of_test else None
    spec = TaskSpec(table("train.csv", column), {"text": "text"}, "label", labels=labels, test=test)
    return TextClassification.load_target(spec, 0)


def test_numbers_and_truth_values_of_two_tables_are_the_same_labels(tmp_path: Path) -> None:
    task = load(tmp_path, ["0.0", "1.0"] * 10, ["1", "0", "1"])
    assert (task.labels, [row.label for row in task.test]) == (("0.0", "1.0"), [1, 0, 1])
    task = load(tmp_path, ["True", "False"] * 10, ["true", "false"], labels=("true", "false"))
    assert (task.labels, [row.label for row in task.test]) == (("True", "False"), [0, 1])


def test_a_source_has_the_labels_as_the_target_writes_them(tmp_path: Path) -> None:
    target = load(tmp_path, ["0.0", "1.0"] * 10)
    path = tmp_path / "source.csv"
    path.write_text("\n".join(["text,label", *(f"film{i} seen{i},{i % 3}" for i in range(12))]))
    source = TextClassification.load_source(TaskSpec(str(path), {"text": "text"}, "label"), 0, target)
    assert source.labels == ("0.0", "1.0", "2")
    assert [row.label for row in source.train] == [0, 1, 2] * 4
    assert labels_as_in(["1", "1.0", "0"], ["1", "0.0"]) == ("1", "1.0", "0"), "two labels don't become one"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("positive", "negatve"), "labels names 'negatve', but no row has that label; did you mean 'negative'?"),
        (("positive", "negative", "neutral"), "labels names 'neutral', but no row has that label"),
        (("positive", "negative", "positive"), "labels names 'positive' twice"),
    ],
)
def test_labels_that_the_table_lacks(tmp_path: Path, labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(tmp_path, ["positive", "negative"] * 10, labels=labels)


def test_labels_that_could_pass_for_other_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"the label 'spam\\nerror: x' holds a line break"):
        load(tmp_path, ['"spam\nerror: x"', "ham"] * 10)
    with pytest.raises(InvalidInputError, match="another control character"):
        load(tmp_path, ["spam\x1b[2J", "ham"] * 10)
