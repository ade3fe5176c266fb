"""Rows whose answers are texts: read, cleaned, split and scored; pairs of a translation are cleaned by either side."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from promptgraft.objectives.data import TASK_KINDS, Split, TaskSpec
from promptgraft.objectives.kinds import pack
from promptgraft.spaces import InvalidInputError
from tests.support.answers import spec_of_pairs, write_pairs


def load(spec: TaskSpec):  # type: ignore[no-untyped-def]
    return TASK_KINDS[spec.kind].load_target(spec, 0)


def test_rows_keep_their_answers_and_are_split(tmp_path: Path) -> None:
    task = load(spec_of_pairs(write_pairs(tmp_path / "pairs.csv"), folds=4))
    assert (len(task.labelled), len(task.test), task.folds) == (40, 20, 4)
    row = task.test[0]
    assert row.answer.split()[-1] == row.fields["text"].split()[-1]
    parts = [task.on(Split(0, fold)).validation for fold in range(4)]
    assert sum(map(len, parts)) == 40


def test_empty_answers_and_empty_texts_are_counted(tmp_path: Path) -> None:
    frame = pd.read_csv(write_pairs(tmp_path / "pairs.csv"))
    frame.loc[:2, "es"] = ""
    frame.loc[3, "en"] = " "
    frame.to_csv(tmp_path / "gaps.csv", index=False)
    task = load(spec_of_pairs(tmp_path / "gaps.csv"))
    assert (task.cleaning.missing_label, task.cleaning.missing_text) == (3, 1)


def test_one_text_may_have_several_answers(tmp_path: Path) -> None:
    frame = pd.read_csv(write_pairs(tmp_path / "pairs.csv"))
    more = frame.head(5).assign(es="otra cosa")
    pd.concat([frame, more]).to_csv(tmp_path / "more.csv", index=False)
    cleaning = load(spec_of_pairs(tmp_path / "more.csv")).cleaning
    assert (cleaning.conflicting, cleaning.duplicate) == (0, 5)


def test_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="have texts; leave it out"):
        load(spec_of_pairs(write_pairs(tmp_path / "pairs.csv"), labels=("a", "b")))


def test_scores_and_losses_fit_together(tmp_path: Path) -> None:
    task = load(spec_of_pairs(write_pairs(tmp_path / "pairs.csv")))
    rows = task.test
    losses, tokens = np.linspace(1, 9, len(rows)), np.arange(1, len(rows) + 1)
    outputs = pack([str(row.answer) for row in rows], losses, tokens)
    found = task.measure(outputs, rows)
    assert found.keys() == task.metrics.keys()
    assert found["exact_match"] == 1.0
    assert (found["chrf"], found["bleu"]) == pytest.approx((100.0, 100.0))
    assert found["loss"] == pytest.approx(losses.sum() / tokens.sum())
    assert task.row_losses(task.expected(outputs), rows).mean() == pytest.approx(found["loss"])
    half = outputs.copy()
    half[::2, 2] = -1  # Only their loss was computed.
    assert task.measure(half, rows)["exact_match"] == 1.0
    assert task.distances(outputs, half).tolist() == [1.0, 0.0] * (len(rows) // 2)


def test_baselines_copy_or_ask_the_nearest_row(tmp_path: Path) -> None:
    task = load(spec_of_pairs(write_pairs(tmp_path / "pairs.csv")))
    copied = task.predict(task.expected(task.constant(task.test)), ())
    assert copied == [row.fields["text"] for row in task.test]
    known, others = np.eye(len(task.train)), np.eye(len(task.train))[[3, 1]]
    found = task.predict(task.expected(task.fit_linear(known, task.train, others, 1.0)), ())
    assert found == [task.train[3].answer, task.train[1].answer]
    assert task.measure(task.constant(task.test), task.test)["loss"] == 30.0


def test_pairs_of_a_translation_are_cleaned_by_either_side(tmp_path: Path) -> None:
    frame = pd.read_csv(write_pairs(tmp_path / "pairs.csv", rows=60))
    verses = [f"in the {name} there was a very long story about the king of the {name}" for name in ("town", "sea")]
    bad = pd.DataFrame({"en": ["Madrid ", "ok", verses[0]], "es": ["madrid", "x " * 40, "algo"]})
    pd.concat([frame, bad]).to_csv(tmp_path / "pairs.csv", index=False)
    said = "en la ciudad hubo una historia muy larga sobre el rey de la ciudad"
    held = pd.DataFrame({"en": ["something else was said", "and that"], "es": [said, "y eso"]})
    held.to_csv(tmp_path / "test.csv", index=False)
    pd.concat([frame, bad, pd.DataFrame({"en": [verses[1]], "es": [said]})]).to_csv(tmp_path / "pairs.csv", index=False)
    spec = spec_of_pairs(tmp_path / "pairs.csv", kind="translation", test=str(tmp_path / "test.csv"), test_rows=None)
    cleaning = load(spec).cleaning
    assert (cleaning.identical, cleaning.length_ratio, cleaning.near_duplicate) == (1, 2, 1)
    assert "1 identical, 2 length ratio" in str(cleaning)
