"""Classification metrics: scikit-learn's, under stated names."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

Direction = Literal["maximize", "minimize"]

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


def classification_metrics(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> dict[str, float]:
    """Compute accuracy, precision, recall and F1 (macro and micro) and the loss.

    Args:
        logits: Class logits, shape (rows, classes).
        labels: True class indices, shape (rows,).

    Returns:
        Every name of `DIRECTIONS` with its value; `loss` is the mean negative log-likelihood in nats.
        A class that is never predicted counts with precision 0.
    """
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
    matrix = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))
    return [[int(count) for count in row] for row in matrix]
