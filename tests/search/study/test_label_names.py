"""Labels in study files: what is written means the label of the table that it looks like, or is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from promptgraft.search.study import load_study
from promptgraft.search.study.promptsource import Answered, read_promptsource
from promptgraft.search.study.yaml_lines import LinedYaml, StudyFileError
from promptgraft.spaces import InvalidInputError

WriteStudy = Callable[..., Path]
COUNT = 60


def table(folder: Path, labels: list[Any], suffix: str = "csv") -> str:
    """Write rows whose labels take turns, in a Parquet file with the types of Python's values."""
    texts = [f"own words {i} here {i * 7} now {i * 3}" for i in range(COUNT)]
    values = [labels[i % len(labels)] for i in range(COUNT)]
    path = folder / f"labels.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": texts, "label": values}), path)
    elif suffix == "jsonl":
        pd.DataFrame({"text": texts, "label": values}).to_json(path, orient="records", lines=True)
    else:
        pd.DataFrame({"text": texts, "label": values}).to_csv(path, index=False)
    return str(path)


def study(write_study: WriteStudy, train: str, *, words: str, labels: str | None = None) -> Path:
    """Write a study file whose label words, and labels, are the given lines of YAML."""
    target = {
        "train": train,
        "text": "text",
        "label": "label",
        "train_rows": 16,
        "validation_rows": 16,
        "test_rows": 16,
    }
    space = {"templates": {"a": "{{ text }} {{ label }}"}, "verbalizers": {"v": "WORDS"}}
    path = write_study(source=None, target={**target, **({"labels": "LABELS"} if labels else {})}, space=space)
    path.write_text(path.read_text().replace("WORDS", words).replace("LABELS", labels or ""))
    return path


@pytest.mark.parametrize(
    ("values", "suffix", "words", "labels", "expected"),
    [
        ([0, 1], "csv", "{0: bad, 1: good}", "[0, 1]", {"0": "bad", "1": "good"}),
        ([0, 1], "jsonl", "{0: bad, 1: good}", "[1, 0]", {"0": "bad", "1": "good"}),
        ([0.0, 1.0], "parquet", "{0: bad, 1: good}", "[0, 1]", {"0.0": "bad", "1.0": "good"}),
        ([False, True], "jsonl", "{false: bad, true: good}", "[true, false]", {"False": "bad", "True": "good"}),
        ([False, True], "parquet", "{False: bad, TRUE: good}", None, {"False": "bad", "True": "good"}),
        (["false", "true"], "csv", "{false: bad, true: good}", None, {"false": "bad", "true": "good"}),
        (["no", "yes"], "csv", "{no: bad, yes: good}", "[no, yes]", {"no": "bad", "yes": "good"}),
        (["01", "02"], "csv", "{01: bad, 02: good}", "[01, 02]", {"01": "bad", "02": "good"}),
        (["null", "x"], "csv", "{null: bad, x: good}", "[null, x]", {"null": "bad", "x": "good"}),
        (["2024-01-01", "x"], "csv", "{2024-01-01: 1, x: [2, true]}", None, {"2024-01-01": "1", "x": "2"}),
        ([-1, 1.5], "csv", "{-1: bad, 1.5: good}", "[-1, 1.5]", {"-1.0": "bad", "1.5": "good"}),
    ],
)
def test_what_is_written_means_the_label_that_it_looks_like(
    write_study: WriteStudy,
    tmp_path: Path,
    values: list[Any],
    suffix: str,
    words: str,
    labels: str | None,
    expected: dict[str, str],
) -> None:
    loaded = load_study(study(write_study, table(tmp_path, values, suffix), words=words, labels=labels))
    (verbalizer,) = loaded.objective.space.verbalizers
    assert {label: own[0] for label, own in verbalizer.words.items()} == expected
    assert set(loaded.target.labels) == set(expected)
    assert loaded.cautions == ()


@pytest.mark.parametrize(
    ("words", "labels", "message"),
    [
        ("{0: bad, 2: good}", None, "has no words for label '1'; it covers: '0', '2'"),
        ('{0: bad, 1: good, "1.0": fine}', None, "two names mean the label '1', one of them '1.0'"),
        ("{0: bad, 1: good}", "[0, 2]", "labels names '2', but no row has that label"),
        ("{0: bad, 1: good}", "[0, 1, 1.0]", "labels names '1' twice"),
        ("{0: bad, 1: }", None, "got None"),
        ("{0: bad, 1: ''}", None, "has no words for label '1'"),
        ('{0: bad, 1: good, "1": fine}', None, "duplicate key"),
    ],
)
def test_names_that_mean_no_label_or_two_are_refused(
    write_study: WriteStudy, tmp_path: Path, words: str, labels: str | None, message: str
) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(study(write_study, table(tmp_path, [0, 1]), words=words, labels=labels))
    assert message in str(caught.value)


def test_what_can_mislead_is_said(write_study: WriteStudy, tmp_path: Path) -> None:
    words = "{Spam: a, spam: b, ham: c, eggs: d}"
    found = load_study(study(write_study, table(tmp_path, ["Spam", "spam", "ham"]), words=words)).cautions
    assert "the labels 'Spam', 'spam' are different; if they mean one, write them alike" in found
    assert "verbalizer 'v' has words for 'eggs', but no row has that label" in found


@pytest.mark.parametrize(
    ("target", "where", "message"),
    [
        ({"text": {"label": "text"}}, "target.text", "no field can be named label"),
        ({"text": "label"}, "target.label", "must be another column than the text"),
        ({"text": {}}, "target.text", "at least one column"),
    ],
)
def test_columns_that_cannot_serve(
    write_study: WriteStudy, data: Path, target: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(target={"train": str(data / "amazon.csv"), "label": "label", **target}))
    assert [(problem.where, message in problem.message) for problem in caught.value.problems] == [(where, True)]


SCALARS = st.one_of(
    st.integers(-99, 99), st.booleans(), st.floats(-9, 9).map(lambda x: round(x, 2)), st.text("ab01. yesno", max_size=5)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(SCALARS, SCALARS, min_size=1, max_size=5))
def test_labels_and_words_are_read_as_they_are_written(tmp_path: Path, words: dict[Any, Any]) -> None:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    assume(len({text(name) for name in words}) == len(words))  # 0.0 and '0.0' are one label, which is refused.
    path = tmp_path / "words.yaml"
    YAML().dump({"space": {"verbalizers": words}}, path)
    lined = LinedYaml(path)
    found = lined.as_written(("space", "verbalizers"), lined.plain()["space"]["verbalizers"])
    assert {name: str(word) for name, word in found.items()} == {text(name): text(word) for name, word in words.items()}


PROMPTS = """
dataset: d
templates:
  a: !Template
    answer_choices: {choices}
    id: a
    jinja: '{{{{ text }}}} ||| {{{{ answer_choices[label] }}}}'
    name: what
"""
TWELVE = [f"{start}{end}" for start in ("company", "school", "artist") for end in ("", "s", "ly", "er")]


def words_of(folder: Path, choices: list[str], answered: Answered) -> dict[str, str]:
    path = folder / "prompts.yaml"
    path.write_text(PROMPTS.format(choices=" ||| ".join(choices)))
    imported = read_promptsource(path, answered, ["text"])
    if not imported.verbalizers:
        raise InvalidInputError(next(iter(imported.wordless.values())))
    return {label: own[0] for label, own in imported.verbalizers[0].words.items()}


@pytest.mark.parametrize(
    ("choices", "answered", "expected"),
    [
        (TWELVE, Answered(sorted(map(str, range(12)))), {str(i): word for i, word in enumerate(TWELVE)}),
        (["a", "b"], Answered(["0.0", "1.0"]), {"0.0": "a", "1.0": "b"}),
        (["wrong", "right"], Answered(["False", "True"]), {"False": "wrong", "True": "right"}),
        (["True", "False"], Answered(["False", "True"]), {"False": "False", "True": "True"}),
        (
            ["Positive", "Negative"],
            Answered(["negative", "positive"]),
            {"negative": "Negative", "positive": "Positive"},
        ),
        (["a", "b", "c"], Answered(["0", "2"]), {"0": "a", "2": "c"}),
        (["b", "a"], Answered(["x", "y"], ordered=True), {"x": "b", "y": "a"}),
        (["b", "a"], Answered(["y", "x"], ordered=True), {"y": "b", "x": "a"}),
        (["1", "0"], Answered(["0", "1"]), {"0": "1", "1": "0"}),
    ],
)
def test_answer_choices_stand_for_labels_by_number(
    tmp_path: Path, choices: list[str], answered: Answered, expected: dict[str, str]
) -> None:
    assert words_of(tmp_path, choices, answered) == expected


@pytest.mark.parametrize(
    ("choices", "answered"),
    [
        (["bad", "good"], Answered(["negative", "positive"])),  # Named labels whose order nobody gave.
        (["a", "b"], Answered(["1", "2"])),  # Numbers that begin with 1.
        (["a", "b", "c"], Answered(["x", "y"], ordered=True)),
        (["a", "b"], Answered(["01", "02"])),
    ],
)
def test_choices_whose_labels_are_not_known_are_refused(tmp_path: Path, choices: list[str], answered: Answered) -> None:
    with pytest.raises(InvalidInputError, match="answer choices of template 'what' stands for which of the"):
        words_of(tmp_path, choices, answered)


def test_words_for_the_labels_of_sources_are_needed_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="has no words for label '2'"):
        words_of(tmp_path, ["a", "b"], Answered(["0", "1"], others=["0", "1", "2"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 30), st.randoms(use_true_random=False))
def test_any_number_of_numbered_labels(tmp_path: Path, count: int, draw: Any) -> None:
    choices, labels = [f"word{i}" for i in range(count)], [str(i) for i in range(count)]
    draw.shuffle(labels)
    assert words_of(tmp_path, choices, Answered(labels)) == {str(i): f"word{i}" for i in range(count)}
