"""Multi-label classification: rows with text fields and any number of labels, each of which applies or not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from promptgraft.objectives.data import (
    TASK_KINDS,
    Answer,
    Direction,
    Expected,
    LabelScores,
    Outputs,
    Prediction,
    Row,
    TaskSpec,
    Texts,
    TextTask,
    by_rarest,
    has_text,
    multi_hot,
    read_labels,
)
from promptgraft.objectives.kinds.word_priors import HasWordPriors
from promptgraft.spaces import InvalidInputError

# Stands between the labels of a cell.
SEPARATOR = "|"
_TINY = 1e-12


@TASK_KINDS.register("multi_label")
class MultiLabel(HasWordPriors, TextTask):
    """Any number of labels a row, out of two or more."""

    loss = "binary_cross_entropy"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "average_precision": "maximize",
        "f1_micro": "maximize",
        "f1_macro": "maximize",
        "f1_samples": "maximize",
        "loss": "minimize",
    }
    default_metric = "average_precision"
    priors: ClassVar[tuple[str, ...]] = ("words", "characters")
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "TF-IDF + logistic regression for each label",
        "majority": "share of each label",
        "linear_probe": "linear probe for each label",
    }

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
        """Take each cell for several labels: a JSON list, or labels with `|` between them; see `TextTask`."""
        del spec, texts
        vector = multi_hot(cells)
        if vector is not None:
            raise InvalidInputError(
                f"{vector[:60]!r} looks like a multi-hot vector, with a 0 or 1 for each label, which doesn't name the "
                'labels; write the names of those that apply, as a|b or as a JSON list such as ["a", "b"], and [] '
                "where none applies"
            )
        found = [labels_in(cell) for cell in cells]
        occurring = sorted({label for own in found for label in own or ()})
        index, names = read_labels(occurring, labels, choosing=choosing)

        def answer(own: Sequence[str] | None) -> Answer | None:
            if own is None or not all(label in index for label in own):
                return None
            return tuple(sorted({index[label] for label in own}))

        return [answer(own) for own in found], names

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:
        """Want two labels; see `TextTask`."""
        found = sorted({repr(names[label]) for row in rows for label in cls.labels_of(row.answer)})
        if len(found) > 1:
            return None
        how = "" if found or cls.reads_histories else "; write them as a|b, or as a JSON list"
        return f"at least two labels after cleaning, found {', '.join(found) or 'none'}{how}"

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number rows by their rarest label, since it is the rare ones that a split may miss; see `Task`."""
        return by_rarest([cls.labels_of(row.answer) for row in rows])

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute scikit-learn's average precision and F1, and the loss; see `Task`.

        `average_precision` is the mean over the labels that some of the rows have. `loss` is the mean over rows and
        labels, in nats.
        """
        from sklearn.metrics import average_precision_score, f1_score  # Predicting needs none of it.

        true, chances = self._indicators(rows), self.expected(outputs)
        predicted = self._is_over(chances)
        present = true.any(axis=0)
        precision = (
            average_precision_score(true[:, present], chances[:, present], average="macro") if present.any() else 0
        )
        found = {"average_precision": float(precision)}
        for average in ("micro", "macro", "samples"):
            # A row without labels, of which none is predicted, is right; a label of which that is so says nothing.
            options = {"average": average, "zero_division": 1.0 if average == "samples" else 0.0}
            found[f"f1_{average}"] = float(f1_score(true, predicted, **options))
        return found | {"loss": float(self._losses(outputs, true).mean())}

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the probability of each label; see `Task`."""
        return np.asarray(expit(outputs.astype(np.float64)))

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return log-odds; see `Task`."""
        return np.asarray(logit(np.clip(expected, _TINY, 1 - _TINY)), dtype=np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return each row's mean negative log-likelihood over labels, in nats; see `Task`."""
        right = np.where(self._indicators(rows), expected, 1 - expected)
        return np.asarray(-np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean(axis=1))

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the mean over the labels of the right answer's probability; see `Task`."""
        chances = self.expected(outputs)
        return np.asarray(np.where(self._indicators(rows), chances, 1 - chances).mean(axis=1))

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:  # noqa: ARG002
        """Return the labels whose probability is at least their threshold; see `Task`."""
        return [
            tuple(label for label, over in zip(self.labels, own, strict=True) if over)
            for own in self._is_over(expected)
        ]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the labels, as a cell that can be read again, and each label's probability; see `Task`."""
        chances = {f"probability_{label}": expected[:, place].tolist() for place, label in enumerate(self.labels)}
        said = [[str(label) for label in own] for own in self.predict(expected, texts) if isinstance(own, tuple)]
        return {"labels": [in_cell(own) for own in said], **chances}

    def show(self, row: Row) -> str:
        """Return the labels as a cell; see `Task`."""
        return in_cell([self.labels[label] for label in self.labels_of(row.answer)])

    def by_label(self, expected: Expected, rows: Sequence[Row]) -> list[LabelScores]:
        """Compute scikit-learn's precision, recall and F1; see `Task`."""
        from sklearn.metrics import precision_recall_fscore_support

        true, predicted = self._indicators(rows), self._is_over(expected)
        figures = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
        missed = (true & ~predicted).sum(axis=0)
        columns = [column.tolist() for column in (figures[3], missed, *figures[:3])]
        return [LabelScores(*own) for own in zip(self.labels, *columns, strict=True)]

    def decided(self, outputs: Outputs, rows: Sequence[Row]) -> "MultiLabel":
        """Choose the threshold of each label that gives its best F1 on rows that the model wasn't trained on.

        See `Task`. Of thresholds that are as good, the one nearest to 0.5 counts. A label that no row has, keeps 0.5.
        """
        true, chances = self._indicators(rows), self.expected(outputs)
        return replace(self, thresholds=tuple(_best_threshold(true[:, i], chances[:, i]) for i in range(true.shape[1])))

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict each label by its share of the training rows; see `Task`."""
        shares = self._indicators(self.train).mean(axis=0, keepdims=True)
        return np.tile(self.outputs_of(shares), (len(rows), 1))

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit logistic regression to each label; see `Task`."""
        from sklearn.linear_model import LogisticRegression

        true = self._indicators(train)
        outputs = np.tile(self.outputs_of(true.mean(axis=0, keepdims=True)), (others.shape[0], 1))
        for place in np.flatnonzero(true.any(axis=0) & ~true.all(axis=0)):
            model = LogisticRegression(C=c, max_iter=1000).fit(known, true[:, place])
            outputs[:, place] = model.decision_function(others)
        return outputs

    @property
    def purpose(self) -> str:
        """Say that it gives several labels; see `Task`."""
        return "Gives texts any of the labels"

    def _indicators(self, rows: Sequence[Row]) -> npt.NDArray[np.bool_]:
        """Return which labels each row has, shape (rows, labels)."""
        found = np.zeros((len(rows), len(self.labels)), dtype=bool)
        for place, row in enumerate(rows):
            found[place, list(self.labels_of(row.answer))] = True
        return found

    def _is_over(self, chances: Expected) -> npt.NDArray[np.bool_]:
        """Return which labels are predicted, shape (rows, labels)."""
        return chances >= np.array(self.thresholds or [0.5] * len(self.labels))

    @staticmethod
    def _losses(outputs: Outputs, true: npt.NDArray[np.bool_]) -> Expected:
        """Return the binary cross-entropy of each label, as accurate for large logits."""
        signed = np.where(true, outputs, -outputs).astype(np.float64)
        return np.logaddexp(0.0, -signed)


def labels_in(cell: str) -> list[str] | None:
    """Return the labels of a cell; None if it can't be read as labels.

    Args:
        cell: `action|drama`, or a JSON list such as `["action", "drama"]`; `[]` says that no label applies.
    """
    names = cell.split(SEPARATOR)
    if cell.startswith("["):
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            return None
        if not isinstance(found, list) or not all(isinstance(name, str | int | float) for name in found):
            return None
        names = [str(name) for name in found]
    stripped = [name.strip() for name in names]
    return stripped if all(map(has_text, stripped)) else None


def in_cell(labels: Sequence[str]) -> str:
    """Write labels as a cell that `labels_in` reads; as a JSON list where there is none, or one holds `|`."""
    plain = labels and not any(SEPARATOR in label or label.startswith("[") for label in labels)
    return SEPARATOR.join(labels) if plain else json.dumps(list(labels), ensure_ascii=False)


def _best_threshold(true: npt.NDArray[np.bool_], chances: Expected) -> float:
    from sklearn.metrics import precision_recall_curve

    if not true.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(true, chances)
    f1 = 2 * precision * recall / np.maximum(precision + recall, _TINY)
    best = np.flatnonzero(f1[:-1] >= f1[:-1].max() - _TINY)
    chosen = best[np.abs(thresholds[best] - 0.5).argmin()]
    return float(thresholds[chosen])
