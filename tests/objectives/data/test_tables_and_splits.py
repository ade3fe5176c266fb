import json
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptgraft.objectives.data import Row, TaskSpec, read_table, row_key
from promptgraft.objectives.data.near_duplicates import find_near_duplicates
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError

ROWS = [("NA", "1"), ("null", "0"), ("plain, with comma", "1")]


def write(path: Path, rows: list[tuple[str, str]]) -> str:
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_gives_the_same_text(tmp_path: Path, suffix: str) -> None:
    frame = pd.DataFrame([(text, int(label)) for text, label in ROWS] + [(None, 1)], columns=["text", "label"])
    path = tmp_path / f"data.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"text": t, "label": int(y)}) for t, y in [*ROWS, (None, 1)]))
    else:
        frame.to_parquet(path)
    read = read_table(str(path), ["text", "label"])
    assert read.to_dict("records") == [{"text": t, "label": y} for t, y in [*ROWS, (None, "1")]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "txt,label\nx,y\n", "no column 'text'; did you mean 'txt'"),
        ("a.ods", "text\tlabel\n", "unknown kind of table"),
        ("a.xlsx", "text\tlabel\n", "it is no whole Excel file"),
        ("a.jsonl", '{"text": 1}\n{oops\n', "line 2"),
        ("a.parquet", "not parquet", "can't be read as parquet"),
    ],
)
def test_bad_tables_are_refused_with_the_path(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidInputError, match=message) as caught:
        read_table(str(path), ["text", "label"])
    assert str(path) in str(caught.value)


def spec(path: str, **changes: object) -> TaskSpec:
    return TaskSpec(path, {"text": "text"}, "label", **changes)  # type: ignore[arg-type]


def test_dropped_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows = [(f"good {i}", "yes") for i in range(9)] + [(f"bad {i}", "no") for i in range(9)]
    rows += [("", "yes"), ("  ", "no"), ("no label", ""), ("odd", "maybe")]
    rows += [("GOOD  0", "yes"), ("good 1", "yes"), ("both", "yes"), ("Both", "no")]
    path = write(tmp_path / "a.csv", rows)
    task = TextClassification.load_target(
        spec(path, labels=("no", "yes"), train_rows=6, validation_rows=4, test_rows=4), seed=0
    )
    report = task.cleaning
    assert report.read == len(rows)
    assert (report.missing_text, report.missing_label, report.invalid_label) == (2, 1, 1)
    assert (report.duplicate, report.conflicting) == (2, 2)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [6, 4, 4]


def keys(rows: tuple[Row, ...]) -> set[str]:
    return {row_key(row) for row in rows}


def test_splits_are_stratified_seeded_and_share_no_text(whole_data: Path) -> None:
    target_spec = spec(str(whole_data / "amazon.csv"), train_rows=64, validation_rows=64, test_rows=1000)
    task = TextClassification.load_target(target_spec, seed=0)
    parts = [task.train, task.validation, task.test]
    for part in parts:
        share = Counter(row.label for row in part)[1] / len(part)
        assert share == pytest.approx(0.586, abs=0.01)
    assert not keys(parts[0]) & keys(parts[1])
    assert not keys(parts[0]) & keys(parts[2])
    assert not keys(parts[1]) & keys(parts[2])
    assert TextClassification.load_target(target_spec, seed=0) == task
    assert TextClassification.load_target(target_spec, seed=1).train != task.train


def test_the_source_loses_rows_that_the_target_holds_out(tmp_path: Path, whole_data: Path) -> None:
    target = TextClassification.load_target(
        spec(str(whole_data / "amazon.csv"), train_rows=16, validation_rows=16, test_rows=100), seed=0
    )
    leaked = [(row.fields["text"].upper(), target.labels[row.label]) for row in target.test[:7] + target.validation[:3]]
    own = [(f"film {label} {i}", label) for i in range(5) for label in target.labels]
    path = write(tmp_path / "source.csv", own + leaked)
    source = TextClassification.load_source(spec(path), 0, target)
    assert source.cleaning.overlap == 10
    assert not keys(source.train) & (keys(target.test) | keys(target.validation))


def test_a_separate_test_file_wins_over_training_rows(tmp_path: Path) -> None:
    train = [(f"row {i}", "yes" if i % 2 else "no") for i in range(20)]
    path = write(tmp_path / "train.csv", train)
    test = write(tmp_path / "test.csv", [("ROW 0", "no"), ("row 1", "yes"), ("other", "no")])
    task = TextClassification.load_target(spec(path, test=test, train_rows=8, validation_rows=4), seed=0)
    assert task.cleaning.overlap == 2
    assert len(task.test) == 3
    assert not keys(task.test) & (keys(task.train) | keys(task.validation))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([("a", "yes"), ("b", "yes")], {}, "at least two labels"),
        ([(f"r{i}", "yn"[i % 2]) for i in range(10)], {"train_rows": 50}, "rows are left"),
        ([(f"r{i}", "yn"[i % 2]) for i in range(10)], {"train_rows": 4, "test_rows": 9}, "test_rows is 9"),
    ],
)
def test_data_that_cannot_serve_is_refused(
    tmp_path: Path, rows: list[tuple[str, str]], changes: dict[str, int], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        TextClassification.load_target(spec(write(tmp_path / "a.csv", rows), **changes), seed=0)


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (
            40,
            {"train_rows": 1000},
            r"train_rows is 1000, but 40 rows are left .*; lower it, since at least 2 \(one a la",
        ),
        (
            40,
            {"train_rows": 30, "validation_rows": 20},
            "train_rows is 30 and validation_rows 20, but 40 rows are left",
        ),
        (6, {}, r"6 rows are left .*, of which 1 would be the test rows; .* add rows, or set test_rows"),
    ],
)
def test_what_a_study_does_not_say_is_not_said_to_be_wrong(
    tmp_path: Path, count: int, changes: dict[str, int], message: str
) -> None:
    path = write(tmp_path / "a.csv", [(f"own{i} words{i}", "yn"[i % 2]) for i in range(count)])
    whole = {"train_rows": None, "validation_rows": None, "test_rows": None} | changes
    with pytest.raises(InvalidInputError, match=message):
        TextClassification.load_target(spec(path, **whole), seed=0)


def test_a_part_of_which_all_rows_are_held_out_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", [(f"own{i} words{i}", "yn"[i % 2]) for i in range(40)])
    test = write(tmp_path / "test.csv", [(f"new{i} terms{i}", "yn"[i % 2]) for i in range(20)])

    def message(**changes: object) -> str:
        with pytest.raises(InvalidInputError) as caught:
            TextClassification.load_target(spec(train, train_rows=None, validation_rows=None, **changes), seed=0)
        return str(caught.value)

    said = message(test=train)
    assert said.startswith(f"{train}: no row is left to train on, since all are among the test rows of {train}")
    assert "80 rows read; dropped: 40 overlap" in said
    assert "name another table as `test`, or leave it out" in said
    said = message(validation=train)
    assert "no row is left to train on, since all are among the validation rows" in said
    said = message(validation=test, test=test)
    assert said.startswith(f"{test}: no row is left to choose by, since all are among the test rows of {test}")
    assert "name another table as `validation`" in said


LONG = "the screen of this phone went black after two days and the shop would not take it back number {}"


def table(tmp_path: Path, rows: list[dict[str, object]], name: str = "rows.csv") -> str:
    path = tmp_path / name
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def test_near_duplicates_of_held_out_rows_are_not_trained_on(tmp_path: Path) -> None:
    """Copies with other punctuation and one more word: found in the target's own rows, in the source, in any order."""
    originals = [(LONG.format(f"n{i}") + f" {'well ' * (i % 5)}x{i} y{i} z{i}", "yn"[i % 2]) for i in range(40)]
    copies = [(text.replace(" and ", " -- and, ").upper() + " indeed", label) for text, label in originals]
    rows = [*originals, *copies, *((f"own words {i} here {i * 7} now {i * 3}", "yn"[i % 2]) for i in range(60))]
    task = TextClassification.load_target(
        spec(write(tmp_path / "a.csv", rows), train_rows=20, validation_rows=20, test_rows=40), seed=0
    )
    parts = [task.train, task.validation, task.test]
    assert not find_near_duplicates(task.train, (*task.validation, *task.test))
    assert not find_near_duplicates(task.validation, task.test)
    assert task.cleaning.near_duplicate > 5
    source = TextClassification.load_source(spec(write(tmp_path / "s.csv", rows)), 0, task)
    assert not find_near_duplicates(source.train, (*task.validation, *task.test))
    assert source.cleaning.near_duplicate > 0
    assert [len(part) for part in parts] == [20, 20, 40]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcde"), max_size=8), max_size=12), st.integers(0, 12))
def test_near_duplicates_are_those_of_the_definition(texts: list[list[str]], cut: int) -> None:
    rows = [Row({"text": " ".join(words)}, 0) for words in texts]
    left, right = rows[:cut], rows[cut:]

    def shingles(row: Row) -> set[tuple[str, ...]]:
        words = row.fields["text"].split()
        return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}

    def alike(one: Row, other: Row) -> bool:
        a, b = shingles(one), shingles(other)
        return len(a & b) >= 0.7 * len(a | b)

    assert find_near_duplicates(left, right).keys() == {
        i for i, row in enumerate(left) if any(alike(row, other) for other in right)
    }


def test_a_group_is_on_one_side_of_each_split(tmp_path: Path) -> None:
    rows = [{"text": f"r{i} of {i % 23}", "label": "yn"[i % 2], "author": f"a{i % 23}"} for i in range(400)]
    rows += [{"text": "nobody's", "label": "y", "author": None}]
    path = table(tmp_path, rows)
    task = TextClassification.load_target(
        spec(path, train_rows=100, validation_rows=50, test_rows=60, group="author"), seed=0
    )
    groups = [{row.group for row in part} for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in (task.train, task.validation, task.test)] == [100, 50, 60]
    assert len(set().union(*groups)) == sum(map(len, groups))
    assert task.cleaning.missing_group == 1
    assert Counter(row.label for row in task.test) == {0: 30, 1: 30}
    held_out = table(tmp_path, [{**row, "text": f"other {row['text']}"} for row in rows[:46:23]], "test.csv")
    task = TextClassification.load_target(
        spec(path, train_rows=40, validation_rows=20, test=held_out, group="author"), seed=0
    )
    assert {row.group for row in task.test} == {"a0"}
    assert "a0" not in {row.group for row in (*task.train, *task.validation)}
    with pytest.raises(InvalidInputError, match=r"no groups by 'author' hold 350 test rows"):
        TextClassification.load_target(spec(path, train_rows=8, validation_rows=8, test_rows=350, group="author"), 0)


def test_a_label_in_few_groups_is_split_without_a_warning(tmp_path: Path) -> None:
    rows = [{"text": f"r{i} of {i % 23}", "label": "yn"[i % 2], "author": f"a{i % 23}"} for i in range(400)]
    rows += [{"text": f"rare {i}", "label": "z", "author": f"z{i % 3}"} for i in range(9)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = TextClassification.load_target(
            spec(table(tmp_path, rows), train_rows=100, test_rows=40, group="author", folds=4), seed=0
        )
    assert all(any(task.labels[row.label] == "z" for row in part) for part in (task.labelled, task.test))


@pytest.mark.parametrize("dates", [True, False])
def test_what_is_held_out_is_newer(tmp_path: Path, dates: bool) -> None:
    rows: list[dict[str, object]] = []
    for i in range(200):
        day = (i * 37) % 200
        when = f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}" if dates else day
        rows.append({"text": f"t{i}", "label": "yn"[i // 2 % 2], "when": when})
    rows.append({"text": "undated", "label": "y", "when": None})
    task = TextClassification.load_target(
        spec(table(tmp_path, rows), train_rows=60, validation_rows=30, test_rows=40, time="when"), seed=0
    )
    assert max(row.time for row in task.train) < min(row.time for row in task.validation)
    assert max(row.time for row in task.validation) < min(row.time for row in task.test)
    assert [len(part) for part in (task.train, task.validation, task.test)] == [60, 30, 40]
    assert task.cleaning.missing_time == 1


def test_rows_of_one_time_are_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "yn"[i % 2], "when": i // 10} for i in range(100)]
    task = TextClassification.load_target(
        spec(table(tmp_path, rows), train_rows=20, validation_rows=15, test_rows=15, time="when"), seed=0
    )
    assert max(row.time for row in task.train) < min(row.time for row in task.validation)
    assert task.cleaning.set_aside == 5 + 5
    with pytest.raises(InvalidInputError, match="column 'when' must hold dates or numbers"):
        TextClassification.load_target(
            spec(table(tmp_path, [{**row, "when": "soon"} for row in rows]), train_rows=8, time="when"), seed=0
        )


def test_shots_are_rows_of_each_label(whole_data: Path) -> None:
    task = TextClassification.load_target(spec(str(whole_data / "amazon.csv"), shots=16, test_rows=200), seed=0)
    assert Counter(row.label for row in task.labelled) == {0: 16, 1: 16}
    assert Counter(row.label for row in task.train) == {0: 12, 1: 12}
    other = TextClassification.load_target(spec(str(whole_data / "amazon.csv"), shots=16, test_rows=200), seed=1)
    assert keys(other.train) != keys(task.train)
    with pytest.raises(InvalidInputError, match=r"shots is 5000, but only \d+ rows of a label are left"):
        TextClassification.load_target(spec(str(whole_data / "amazon.csv"), shots=5000, test_rows=200), seed=0)


def test_texts_that_show_nothing_or_are_broken_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"text": f"own words {i} here {i * 7}", "label": "yn"[i % 2]} for i in range(40)]
    rows += [{"text": "half a pair \ud83d", "label": "y"}, {"text": "fine", "label": "n\udc00"}]
    rows += [{"text": "\u200b\ufeff", "label": "y"}, {"text": " \u2060 ", "label": "n"}]
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task = TextClassification.load_target(spec(str(path)), 0)
    assert (task.cleaning.broken_text, task.cleaning.missing_text) == (2, 2)
    assert str(task.cleaning) == "44 rows read; dropped: 2 missing text, 2 broken text"
    assert task.labels == ("n", "y")
