import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from promptgraft.objectives.tables import read_table
from promptgraft.objectives.tasks import Row, TaskSpec, row_key
from promptgraft.objectives.text_classification import TextClassification
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
        ("a.tsv", "text\tlabel\n", "unknown kind of table"),
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


def test_splits_are_stratified_seeded_and_share_no_text(data: Path) -> None:
    target_spec = spec(str(data / "amazon.csv"), train_rows=64, validation_rows=64, test_rows=1000)
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


def test_the_source_loses_rows_that_the_target_holds_out(tmp_path: Path, data: Path) -> None:
    target = TextClassification.load_target(
        spec(str(data / "amazon.csv"), train_rows=16, validation_rows=16, test_rows=100), seed=0
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
