"""A number a row: which cells hold one, splits over the scale, and the metrics of scikit-learn and scipy."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from promptgraft.objectives.data import Row, Split, row_key
from promptgraft.objectives.kinds.regression import Regression
from promptgraft.spaces import InvalidInputError
from tests.support.kinds import spec_of_kind, write_kinds


def test_cells_that_are_no_number_are_counted(tmp_path: Path) -> None:
    table = write_kinds(tmp_path / "rows.csv")
    with table.open("a") as file:
        file.write('none,x,x,\na word,x,x,three\nnot finite,x,x,inf\nnot a number,x,x,nan\na comma,x,x,"1,5"\n')
        file.write("a month,x,x,2024_01\nmissing,x,x,1.7976931348623157e308\n")
    task = Regression.load_target(spec_of_kind(table, "regression"), 0)
    assert (task.cleaning.missing_label, task.cleaning.invalid_label) == (1, 6)
    assert task.labels == ("score",)


def test_words_and_one_number_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    for cell, found in (("good", "none"), ("3", "1")):
        table.write_text("text,score\n" + "\n".join(f"text {n},{cell}" for n in range(40)))
        with pytest.raises(InvalidInputError, match=f"at least two different numbers after cleaning, found {found}"):
            Regression.load_target(spec_of_kind(table, "regression"), 0)


def test_labels_and_shots_are_refused(tmp_path: Path) -> None:
    table = write_kinds(tmp_path / "rows.csv")
    with pytest.raises(InvalidInputError, match="leave it out"):
        Regression.load_target(spec_of_kind(table, "regression", labels=("1", "2")), 0)
    with pytest.raises(InvalidInputError, match="shots is 4"):
        Regression.load_target(spec_of_kind(table, "regression", train_rows=None, shots=4), 0)


def test_every_fold_covers_the_scale(tmp_path: Path) -> None:
    task = Regression.load_target(spec_of_kind(write_kinds(tmp_path / "rows.csv"), "regression"), 0)
    strata = {row_key(row): own for row, own in zip(task.labelled, task.strata(task.labelled), strict=True)}
    counts = [Counter(strata[row_key(row)] for row in task.on(Split(0, fold)).validation) for fold in range(task.folds)]
    assert task.folds == 4
    for stratum in set(strata.values()):
        assert max(own[stratum] for own in counts) - min(own[stratum] for own in counts) <= 1


def test_the_scale_is_that_of_the_training_rows_alone(tmp_path: Path) -> None:
    task = Regression.load_target(spec_of_kind(write_kinds(tmp_path / "rows.csv"), "regression"), 0)
    part = task.on(Split(0, 1))
    numbers = [row.answer for row in part.train]
    assert part.scaling == (pytest.approx(np.mean(numbers)), pytest.approx(np.std(numbers)))
    assert part.scaling != task.on(Split(0, 2)).scaling


@pytest.mark.filterwarnings("error")
def test_correlations_far_from_0_are_exact() -> None:
    near = np.random.default_rng(0).normal(size=(2, 50))
    true, predicted = near + 2.0**48
    rows = tuple(Row({"text": str(n)}, float(own)) for n, own in enumerate(true))
    found = Regression(("score",), rows).measure(predicted[:, None], rows)
    assert found["pearson"] == pytest.approx(pearsonr(true - 2.0**48, predicted - 2.0**48).statistic, abs=1e-9)


def test_metrics_equal_those_of_scikit_learn_and_scipy() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=50) * 3 + 7
    predicted = (true + random.normal(size=50)).astype(np.float32)
    rows = [Row({"text": str(n)}, float(own)) for n, own in enumerate(true)]
    task = Regression(("score",), tuple(rows))
    found = task.measure(predicted[:, None], rows)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(true, predicted))
    assert found["mae"] == pytest.approx(mean_absolute_error(true, predicted))
    assert found["pearson"] == pytest.approx(pearsonr(true, predicted).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(true, predicted).statistic)
    assert found["r2"] == pytest.approx(r2_score(true, predicted))
    assert found["loss"] == pytest.approx(((true - predicted) ** 2).mean() / 2 / true.var())
    constant = task.measure(task.constant(rows), rows)
    assert (constant["pearson"], constant["spearman"]) == (0.0, 0.0)
    assert constant["loss"] == pytest.approx(0.5)
