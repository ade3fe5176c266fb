"""Several labels a row: how cells are read, splits that spread rare labels, scikit-learn's metrics, thresholds."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, log_loss

from promptgraft.objectives.data import Row, Split
from promptgraft.objectives.kinds.multi_label import MultiLabel, in_cell, labels_in
from promptgraft.spaces import InvalidInputError
from tests.support.kinds import spec_of_kind, write_kinds

LABELS = ("food", "sport", "tech")
ROWS = [Row({"text": str(n)}, tuple(label for label in range(3) if (n >> label) & 1)) for n in range(32)]


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("action|drama", ["action", "drama"]),
        (" action | drama ", ["action", "drama"]),
        ('["action", "drama"]', ["action", "drama"]),
        ("[1, 2]", ["1", "2"]),
        ("[]", []),
        ("action|", None),
        ("", None),
        ('[["a"]]', None),
        ("[broken", None),
    ],
)
def test_a_cell_holds_labels(cell: str, labels: list[str] | None) -> None:
    assert labels_in(cell) == labels


@pytest.mark.parametrize("labels", [[], ["a"], ["a", "b"], ["a|b", "c"], ["[a]"]])
def test_labels_are_written_as_they_are_read(labels: list[str]) -> None:
    assert labels_in(in_cell(labels)) == labels


def test_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    table = write_kinds(tmp_path / "rows.csv")
    with table.open("a") as file:
        file.write("no tags,x,,1\nan unknown one,x,food|opera,1\nhalf of one,x,food|,1\nno such list,x,[food,1\n")
    task = MultiLabel.load_target(spec_of_kind(table, "multi_label", labels=LABELS), 0)
    assert (task.cleaning.missing_label, task.cleaning.invalid_label) == (1, 3)
    assert task.labels == LABELS
    assert any(row.answer == () for row in task.labelled), "an empty list is an answer: none of the labels applies"


def test_lists_of_a_json_file_are_labels_and_those_of_classification_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n} {'ab'[n % 2]}", "tags": ["a", "b"] if n % 2 else ["b"]} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = MultiLabel.load_target(spec_of_kind(path, "multi_label", train_rows=24, test_rows=12), 0)
    assert Counter(row.answer for row in task.labelled) == {(1,): 12, (0, 1): 12}
    single = replace(spec_of_kind(path, "text_classification"), label="tags")
    from promptgraft.objectives.kinds.text_classification import TextClassification

    with pytest.raises(InvalidInputError, match="multi_label"):
        TextClassification.load_target(single, 0)


@pytest.mark.parametrize("vector", [[1, 0, 1], [0.0, 1.0], [True, False]])
def test_multi_hot_vectors_are_refused(tmp_path: Path, vector: list[object]) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n}", "tags": vector if n % 2 else vector[::-1]} for n in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InvalidInputError, match=r"'tags': .* multi-hot vector, .* write the names of those that apply"):
        MultiLabel.load_target(spec_of_kind(path, "multi_label"), 0)


def test_lists_of_the_labels_0_and_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n}", "tags": [[0], [1], [0, 1]][n % 3]} for n in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert MultiLabel.load_target(spec_of_kind(path, "multi_label"), 0).labels == ("0", "1")


def test_folds_have_some_of_a_rare_label(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"text {n}", "tags": ["often", *(["rare"] if n < 8 else [])]} for n in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)))
    task = MultiLabel.load_target(spec_of_kind(path, "multi_label", train_rows=96, test_rows=24), 0)
    rare = task.labels.index("rare")
    counts = [
        sum(rare in task.labels_of(row.answer) for row in task.on(Split(0, fold)).validation)
        for fold in range(task.folds)
    ]
    assert task.folds == 4
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1


def test_shots_and_a_single_label_are_refused(tmp_path: Path) -> None:
    table = write_kinds(tmp_path / "rows.csv")
    with pytest.raises(InvalidInputError, match="shots is 4"):
        MultiLabel.load_target(spec_of_kind(table, "multi_label", train_rows=None, shots=4), 0)
    table.write_text("text,tags\n" + "\n".join(f"text {n},only" for n in range(40)))
    with pytest.raises(InvalidInputError, match="at least two labels after cleaning, found 'only'"):
        MultiLabel.load_target(spec_of_kind(table, "multi_label"), 0)


def test_metrics_equal_scikit_learns() -> None:
    outputs = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32) * 3
    true = np.array([[(n >> label) & 1 for label in range(3)] for n in range(32)])
    task = MultiLabel(LABELS, ())
    found = task.measure(outputs, ROWS)
    chances = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    assert found["average_precision"] == pytest.approx(average_precision_score(true, chances, average="macro"))
    for average in ("micro", "macro"):
        assert found[f"f1_{average}"] == pytest.approx(f1_score(true, chances >= 0.5, average=average))
    assert found["f1_samples"] == pytest.approx(f1_score(true, chances >= 0.5, average="samples", zero_division=1.0))
    losses = [log_loss(true[:, label], chances[:, label]) for label in range(3)]
    assert found["loss"] == pytest.approx(np.mean(losses))


def test_thresholds_give_the_best_f1_of_each_label_and_decide_what_is_predicted() -> None:
    random = np.random.default_rng(1)
    true = np.array([[(n >> label) & 1 for label in range(3)] for n in range(32)])
    outputs = (true - 3 + random.normal(size=true.shape) * 0.5).astype(np.float32)  # All far below 0.5.
    task = MultiLabel(LABELS, ())
    decided = task.decided(outputs, ROWS)
    chances = task.expected(outputs)
    for label, threshold in enumerate(decided.thresholds):
        best = max(f1_score(true[:, label], chances[:, label] >= own) for own in chances[:, label])
        assert f1_score(true[:, label], chances[:, label] >= threshold) == pytest.approx(best)
    texts = [row.fields for row in ROWS]
    assert set(task.predict(chances, texts)) == {()}
    assert decided.measure(outputs, ROWS)["f1_macro"] > 0.8
    said = decided.columns(chances, texts)["labels"]
    assert [labels_in(cell) for cell in said] == [list(own) for own in decided.predict(chances, texts)]  # type: ignore[arg-type]
