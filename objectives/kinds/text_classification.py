"""Text classification: rows with text fields and one label; its metrics are scikit-learn's, under stated names."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp, softmax

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
    has_text,
    read_labels,
)
from promptgraft.objectives.kinds.word_priors import HasWordPriors

# Metric name -> the direction in which it is better, in Optuna's words.
DIRECTIONS: Mapping[str, Direction] = {
    "accuracy": "maximize",
    "precision_macro": "maximize",
    "recall_macro": "maximize",
    "f1_macro": "maximize",
    "precision_micro": "maximize",
    "recall_micro": "maximize",
    "f1_micro": "maximize",
    "loss": "minimize",
}
# Log-probability of a label that no training row has.
NEVER = -30.0
_TINY = 1e-12


@TASK_KINDS.register("text_classification")
class TextClassification(HasWordPriors, TextTask):
    """One label a row, two or more labels."""

    metrics = DIRECTIONS
    default_metric = "accuracy"
    one_label = True
    heads: ClassVar[tuple[str, ...]] = ("label_words", "linear", "probe")
    priors: ClassVar[tuple[str, ...]] = ("words", "characters")

    @classmethod
    def read_answers(
        cls,
        cells: Sequence[str],
        spec: TaskSpec,
        labels: tuple[str, ...] | None,
        *,
        choosing: bool,
        texts: Texts,
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Take each cell for a label; see `TextTask`."""
        del spec, texts
        index, names = read_labels(sorted({cell for cell in cells if has_text(cell)}), labels, choosing=choosing)
        return [index.get(cell) for cell in cells], names

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:
        """Want two labels; see `TextTask`."""
        found = sorted({repr(names[row.label]) for row in rows})
        if len(found) > 1:
            return None
        return f"at least two labels after cleaning, found {', '.join(found) or 'none'}"

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Return the label of each row; see `Task`."""
        return [row.label for row in rows]

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute `classification_metrics`; see `Task`."""
        return classification_metrics(outputs, np.array([row.label for row in rows]))

    def confusion(self, outputs: Outputs, rows: Sequence[Row]) -> list[list[int]]:
        """Count true labels (rows) against predicted ones (columns)."""
        return confusion(outputs, np.array([row.label for row in rows]))

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the probability of each label; see `Task`."""
        return np.asarray(softmax(outputs.astype(np.float64), axis=1))

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return log-probabilities; see `Task`."""
        return np.log(np.maximum(expected, _TINY)).astype(np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return each row's negative log-likelihood in nats; see `Task`."""
        return log_loss(expected, np.array([row.label for row in rows]))

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the probability of each row's label; see `Task`."""
        return self.expected(outputs)[np.arange(len(rows)), [row.label for row in rows]]

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:  # noqa: ARG002
        """Return the likeliest label of each row; see `Task`."""
        return [self.labels[index] for index in expected.argmax(axis=1)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the likeliest label, and each label's probability; see `Task`."""
        chances = {f"probability_{label}": expected[:, place].tolist() for place, label in enumerate(self.labels)}
        return {"label": self.predict(expected, texts), **chances}

    def show(self, row: Row) -> str:
        """Return the label; see `Task`."""
        return self.labels[row.label]

    def combine(self, members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
        """Average probabilities; see `Task`."""
        return mean_logits(members, weights)

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict the most frequent label; see `Task`."""
        counts = np.bincount([row.label for row in self.train], minlength=len(self.labels)).astype(np.float32)
        return np.tile(np.log(np.maximum(counts, 1e-9) / counts.sum()), (len(rows), 1))

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit logistic regression; see `Task`."""
        from sklearn.linear_model import LogisticRegression  # Predicting needs none of it.

        model = LogisticRegression(C=c, max_iter=1000).fit(known, [row.label for row in train])
        logits = np.full((others.shape[0], len(self.labels)), NEVER, dtype=np.float32)
        logits[:, model.classes_] = model.predict_log_proba(others)
        return logits

    @property
    def purpose(self) -> str:
        """Say that it classifies; see `Task`."""
        return "Classifies text as"


def classification_metrics(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Compute accuracy, precision, recall and F1 (macro and micro) and the loss.

    Args:
        logits: Class logits, shape (rows, classes).
        labels: True class indices, shape (rows,).

    Returns:
        Every name of `DIRECTIONS` with its value; `loss` is the mean negative log-likelihood in nats.
        A class that is never predicted counts with precision 0.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    predicted = logits.argmax(axis=1)
    classes = np.arange(logits.shape[1])
    values = {"accuracy": float(accuracy_score(labels, predicted))}
    for average in ("macro", "micro"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            labels, predicted, labels=classes, average=average, zero_division=0
        )
        values |= {f"precision_{average}": precision, f"recall_{average}": recall, f"f1_{average}": f1}
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    values["loss"] = -log_probabilities[np.arange(len(labels)), labels].mean()
    return {name: float(value) for name, value in values.items()}


def confusion(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> list[list[int]]:
    """Count true classes (rows) against predicted ones (columns); shape (classes, classes)."""
    from sklearn.metrics import confusion_matrix

    matrix = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))
    return [[int(count) for count in row] for row in matrix]


def log_loss(probabilities: Expected, labels: npt.NDArray[np.int64]) -> Expected:
    """Return each row's negative log-likelihood in nats, shape (rows,)."""
    chances = probabilities[np.arange(len(labels)), labels]
    return -np.log(np.maximum(chances, np.finfo(np.float64).tiny))


def mean_logits(members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
    """Average models.

    Args:
        members: Logits of each, shape (rows, labels).
        weights: Share of each; they add up to 1.

    Returns:
        The logarithm of the weighted mean of their probabilities, shape (rows, labels); a single model's logits as they
        are.
    """
    if len(members) == 1:
        return members[0]
    shares = np.log(np.asarray(weights, dtype=np.float64))[:, None, None]
    return np.asarray(
        logsumexp(log_softmax(np.stack(members).astype(np.float64), axis=2) + shares, axis=0), dtype=np.float32
    )
