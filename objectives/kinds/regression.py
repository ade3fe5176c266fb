"""Regression: rows with text fields and a number."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from promptgraft.objectives.data import (
    TASK_KINDS,
    Answer,
    Direction,
    Expected,
    Outputs,
    Prediction,
    Row,
    TaskSpec,
    Texts,
    TextTask,
    merged,
)
from promptgraft.spaces import InvalidInputError

# Parts of the scale that splits have in the same shares: as many as have so many rows, at most.
STRATA, ROWS_PER_STRATUM = 5, 8
# Numbers are below it; larger ones, such as the largest of 32 bits, stand for missing ones.
MOST = 1e37


@TASK_KINDS.register("regression")
class Regression(TextTask):
    """A number a row. Outputs are numbers of the task's own scale; models are trained on standardised ones."""

    loss = "squared_error"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "rmse": "minimize",
        "mae": "minimize",
        "pearson": "maximize",
        "spearman": "maximize",
        "r2": "maximize",
        "loss": "minimize",
    }
    default_metric = "rmse"
    has_labels = False
    has_numbers = True
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "TF-IDF + ridge regression",
        "majority": "mean of the training rows",
        "linear_probe": "ridge regression on features",
    }

    @classmethod
    def read_answers(
        cls,
        cells: Sequence[str],
        spec: TaskSpec,
        labels: tuple[str, ...] | None,
        *,
        choosing: bool,  # noqa: ARG003
        texts: Texts,  # noqa: ARG003
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Take each cell for a number; see `TextTask`. The output is called as the column."""
        if labels is not None:
            raise InvalidInputError("`labels` is given, but rows of kind 'regression' have numbers; leave it out")
        return [as_number(cell) for cell in cells], (spec.label,)

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Want two numbers; see `TextTask`."""
        found = len({row.answer for row in rows})
        return None if found > 1 else f"at least two different numbers after cleaning, found {found or 'none'}"

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number rows by where they are on the scale, in parts of about the same size; see `Task`."""
        parts = max(1, min(STRATA, len(rows) // ROWS_PER_STRATUM))
        numbers = _numbers(rows)
        edges = np.quantile(numbers, np.arange(1, parts) / parts) if parts > 1 else np.empty(0)
        return merged(np.searchsorted(edges, numbers, side="right").tolist())

    @property
    def scaling(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the training rows' numbers; see `Task`."""
        numbers = _numbers(self.train)
        return float(numbers.mean()), float(numbers.std()) or 1.0

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute errors and correlations by scikit-learn and scipy, and the loss; see `Task`.

        `loss` is half the mean squared error, in units of the variance of all labelled rows: the negative
        log-likelihood, but for a constant, of normal errors as large as the rows' own spread. Correlations with a
        constant are 0.
        """
        from scipy.stats import pearsonr, spearmanr  # Predicting needs none of it.
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        true, predicted = _numbers(rows), self.expected(outputs)[:, 0]
        varies = len(rows) > 1 and np.ptp(true) > 0
        correlates = varies and np.ptp(predicted) > 0
        centre = true.mean()  # Far from 0, scipy takes numbers for equal that aren't.
        return {
            "rmse": float(root_mean_squared_error(true, predicted)),
            "mae": float(mean_absolute_error(true, predicted)),
            "pearson": float(pearsonr(true - centre, predicted - centre).statistic) if correlates else 0.0,
            "spearman": float(spearmanr(true, predicted).statistic) if correlates else 0.0,
            "r2": float(r2_score(true, predicted)) if varies else 0.0,
            "loss": float(self.row_losses(self.expected(outputs), rows).mean()),
        }

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the numbers; see `Task`."""
        return outputs.astype(np.float64)

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return the numbers; see `Task`."""
        return expected

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return half the squared error of each row, in units of the variance of all labelled rows; see `Task`."""
        variance = float(_numbers(self.labelled or self.train).var()) or 1.0
        return 0.5 * (expected[:, 0] - _numbers(rows)) ** 2 / variance

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return each row's squared error, negative; see `Task`."""
        return -((self.expected(outputs)[:, 0] - _numbers(rows)) ** 2)

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:  # noqa: ARG002
        """Return the number of each row; see `Task`."""
        return [float(own) for own in expected[:, 0]]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:  # noqa: ARG002
        """Return the number; see `Task`."""
        return {"value": expected[:, 0].tolist()}

    def show(self, row: Row) -> str:
        """Return the number; see `Task`."""
        assert isinstance(row.answer, float)
        return f"{row.answer:g}"

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict the mean of the training rows; see `Task`."""
        return np.full((len(rows), 1), _numbers(self.train).mean())

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit ridge regression; see `Task`."""
        from sklearn.linear_model import Ridge

        numbers = _numbers(train)
        centre, scale = numbers.mean(), numbers.std() or 1.0
        model = Ridge(alpha=1 / c).fit(known, (numbers - centre) / scale)
        return np.asarray(model.predict(others)[:, None] * scale + centre, dtype=np.float64)

    @property
    def purpose(self) -> str:
        """Say that it predicts a number; see `Task`."""
        return "Predicts for a text the number"


def as_number(cell: str) -> float | None:
    """Read a number; None if a cell holds none."""
    try:
        found = float(cell)
    except ValueError:
        return None
    # Python takes 2024_01 for 202401.
    return found if abs(found) < MOST and "_" not in cell else None


def _numbers(rows: Sequence[Row]) -> Expected:
    return np.array([row.answer for row in rows], dtype=np.float64)
