"""Labels that a part of the rows lacks, and words that only seem to give a frequent label away."""

from pathlib import Path

import pytest

from promptgraft.objectives.data import TaskSpec, absent_labels, find_label_leaks
from promptgraft.objectives.kinds.text_classification import TextClassification
from promptgraft.spaces import InvalidInputError


def load(folder: Path, rows: list[tuple[str, str]], **changes: object) -> TextClassification:
    path = folder / "t.csv"
    path.write_text("\n".join(["text,label,when", *(f"{text},{label},{i}" for i, (text, label) in enumerate(rows))]))
    return TextClassification.load_target(TaskSpec(str(path), {"text": "text"}, "label", **changes), 0)  # type: ignore[arg-type]


def texts(count: int, label: str, word: str = "") -> list[tuple[str, str]]:
    return [(f"{label}{i} {word if i % 3 else ''} w{i * 7} v{i * 3}", label) for i in range(count)]


def test_a_label_that_neither_validation_nor_test_has_is_said(tmp_path: Path) -> None:
    task = load(tmp_path, texts(800, "ham") + texts(3, "spam"), train_rows=400, validation_rows=60, test_rows=60)
    (found,) = absent_labels(task, "recall_macro")
    assert found == (
        "no row has the label 'spam' in validation (60 rows), test (60 rows), so recall_macro counts it as 0 there; "
        "label more rows of it, or ask for more rows"
    )
    assert "accuracy says nothing of it there" in absent_labels(task, "accuracy")[0]
    even = load(tmp_path, texts(200, "ham") + texts(100, "spam"), train_rows=100, test_rows=60)
    assert absent_labels(even, "recall_macro") == []


def test_so_is_one_that_a_fold_lacks(tmp_path: Path) -> None:
    """Both labels among the oldest 80 rows; then ham alone: in the last fold, and in the test rows."""
    rows = [row for pair in zip(texts(80, "ham"), texts(80, "spam"), strict=True) for row in pair]
    rows += [(f"late {text}", label) for text, label in texts(50, "ham")]
    (found,) = absent_labels(load(tmp_path, rows, test_rows=10, folds=4, time="when"), "f1_macro")
    assert found.startswith("no row has the label 'spam' in fold 4 (40 rows), test (10 rows), so f1_macro counts it")


def test_a_fold_without_training_rows_of_a_label_is_refused_before_any_trial(tmp_path: Path) -> None:
    rows = [*texts(60, "ham"), *texts(60, "spam"), *texts(60, "ham")]
    with pytest.raises(InvalidInputError, match="no train row has the label 'spam'; raise train_rows, label more rows"):
        absent_labels(load(tmp_path, rows, test_rows=20, time="when"), "accuracy")


def test_words_of_nearly_all_rows_give_nothing_away(tmp_path: Path) -> None:
    """Half of all texts have the word; nearly all have the label, so that the word's rows have it, too."""
    frequent = load(tmp_path, texts(500, "ham", "hello") + texts(5, "spam", "offer"), train_rows=300, test_rows=60)
    assert find_label_leaks(frequent) == []
    even = load(tmp_path, texts(200, "ham", "hello") + texts(200, "spam"), train_rows=200, test_rows=60)
    assert [(leak.word, leak.label) for leak in find_label_leaks(even)] == [("hello", "ham")]
