"""Tables of unlabelled target rows: what is kept of them, and what is refused."""

import csv
from pathlib import Path

import pytest

from promptgraft.objectives.data import TASK_KINDS, TaskSpec
from promptgraft.objectives.data import text_tasks as module
from promptgraft.spaces import InvalidInputError
from tests.support.tables import small_tables

LONG = "I bought this kettle two years ago and it has boiled water every single morning since then without any trouble"


def spec(unlabelled: Path) -> TaskSpec:
    return TaskSpec(
        str(small_tables() / "amazon.csv"),
        {"text": "text"},
        "label",
        train_rows=16,
        test_rows=40,
        unlabelled=str(unlabelled),
    )


def write(path: Path, texts: list[str], column: str = "text") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[column], *([text] for text in texts)])
    return path


def load(path: Path) -> module.TextTask:
    task = TASK_KINDS["text_classification"].load_target(spec(path), seed=0)
    assert isinstance(task, module.TextTask)
    return task


def test_what_is_nearly_a_labelled_or_a_test_row_is_dropped_and_counted(tmp_path: Path) -> None:
    task = load(write(tmp_path / "rows.csv", [LONG]))
    labelled = next(row.fields["text"] for row in task.labelled if len(row.fields["text"].split()) > 12)
    test = task.test[0].fields["text"]
    texts = [LONG, LONG.upper(), "  ", labelled + " indeed", test, "Another text"]
    found = load(write(tmp_path / "more.csv", texts))
    assert [row.fields["text"] for row in sorted(found.unlabelled, key=lambda row: row.fields["text"])] == [
        "Another text",
        LONG,
    ]
    report = found.unlabelled_cleaning
    assert str(report) == "6 rows read; dropped: 1 missing text, 1 duplicate, 1 overlap, 1 near duplicate"
    assert (found.labelled, found.test, found.cleaning) == (task.labelled, task.test, task.cleaning)


def test_of_many_rows_a_sample_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNLABELLED", 30)
    path = write(tmp_path / "rows.csv", [f"text number {number} of many" for number in range(50)])
    first, again = load(path), load(path)
    assert len(first.unlabelled) == 30
    assert first.unlabelled == again.unlabelled
    assert first.unlabelled_cleaning.beyond_limit == 20


@pytest.mark.parametrize(
    ("texts", "column", "message"),
    [
        (["a text"], "body", "no column 'text'"),
        ([], "text", "has no rows"),
        (["", " "], "text", "no unlabelled row can be used"),
    ],
)
def test_a_table_without_usable_rows_is_refused(tmp_path: Path, texts: list[str], column: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        load(write(tmp_path / "rows.csv", texts, column))


def test_a_table_of_labelled_and_test_rows_is_refused(tmp_path: Path) -> None:
    task = load(write(tmp_path / "rows.csv", [LONG]))
    texts = [row.fields["text"] for row in (*task.labelled, *task.test)]
    with pytest.raises(InvalidInputError, match=rf"among the labelled and test rows .*{len(texts)} overlap"):
        load(write(tmp_path / "known.csv", texts))
