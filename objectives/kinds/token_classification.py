"""Token classification: spans of a text with labels, such as names of people; each word has a tag in the BIO scheme."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy.special import log_softmax, softmax

from promptgraft.objectives.data import (
    TASK_KINDS,
    Answer,
    Direction,
    Expected,
    LabelScores,
    Outputs,
    Prediction,
    Row,
    Span,
    TaskSpec,
    Texts,
    TextTask,
    WordSplitter,
    by_rarest,
    read_labels,
)
from promptgraft.objectives.kinds.spans import Tags, in_cell, spans_in, spans_of, tags_of, word_places
from promptgraft.spaces import LABEL_FIELD, InvalidInputError, Template

# Tag of a word in no span.
OUTSIDE = "O"
_TINY = 1e-12


@TASK_KINDS.register("token_classification")
class TokenClassification(TextTask):
    """Spans of a text, each with a label. Outputs are logits of the tags of each word, shape (rows, words, tags)."""

    loss = "word_cross_entropy"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "f1_micro": "maximize",
        "f1_macro": "maximize",
        "precision_micro": "maximize",
        "recall_micro": "maximize",
        "loss": "minimize",
    }
    default_metric = "f1_micro"
    in_places = True
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "most frequent tag of each word",
        "majority": "no span",
        "linear_probe": "linear probe on the features of words",
    }

    @classmethod
    def words(cls) -> WordSplitter:
        """Return `word_places`; see `Task`."""
        return word_places

    @classmethod
    def read_answers(
        cls, cells: Sequence[str], spec: TaskSpec, labels: tuple[str, ...] | None, *, choosing: bool, texts: Texts
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Read spans, a JSON list a row; those of labels that aren't kept don't count. See `TextTask`."""
        if len(spec.fields) != 1:
            raise InvalidInputError(
                f"`text` names {len(spec.fields)} columns, but spans are places in one; name that one"
            )
        found = [_spans_or_none(cell, _only(text)) for cell, text in zip(cells, texts, strict=True)]
        occurring = sorted({span.label for own in found for span in own or ()})
        index, names = read_labels(occurring, labels, choosing=choosing)
        answers: list[Answer | None] = []
        for own, text in zip(found, texts, strict=True):
            answers.append(None if own is None else tags_of(_only(text), own, index))
        return answers, (OUTSIDE, *(f"{part}-{name}" for name in names for part in "BI"))

    @classmethod
    def why_invalid(cls, cell: str, text: Mapping[str, str]) -> str:
        """Say why a cell holds no spans; see `TextTask`."""
        reason = f"a span is outside the text of {len(_only(text))} characters, holds no word, or overlaps another"
        try:
            spans_in(cell, _only(text))
        except ValueError as error:
            reason = str(error)
        return f"{super().why_invalid(cell, text)}: {reason}"

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Want one span; see `TextTask`."""
        if any(cls.labels_of(row.answer) for row in rows):
            return None
        return (
            "at least one span after cleaning, of characters and with the end behind the last one, as in "
            '[{"start": 0, "end": 5, "label": "name"}], found none'
        )

    @classmethod
    def _without_unused(cls, rows: list[Row], names: tuple[str, ...]) -> tuple[list[Row], tuple[str, ...]]:
        return rows, names

    @classmethod
    def kept_labels(cls, names: tuple[str, ...], spec: TaskSpec) -> tuple[str, ...]:  # noqa: ARG003
        """Return the labels of spans; see `TextTask`."""
        return tuple(name.removeprefix("B-") for name in names[1::2])

    @classmethod
    def labels_of(cls, answer: Answer) -> tuple[int, ...]:
        """Return the tags of first words that a row has: one for each label of its spans."""
        assert isinstance(answer, tuple), "words have a tag each"
        return tuple(sorted({tag - 1 + tag % 2 for tag in answer if tag}))

    @property
    def needed_labels(self) -> tuple[int, ...]:
        """Return the tags of first words: a span may have no further one; see `Task`."""
        return tuple(range(1, len(self.labels), 2))

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number rows by the rarest label of their spans; see `Task`."""
        return by_rarest([cls.labels_of(row.answer) for row in rows])

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Refuse to pool a text into one embedding, beside what others refuse; see `Task`."""
        if name == "pooling" and value != "mean":
            return (
                f"pooling {value!r} makes one embedding of a text, but this kind of task reads each word; leave it out"
            )
        return super().refuses(name, value)

    @classmethod
    def refuses_template(cls, template: Template) -> str | None:
        """Want the text in it once and as it is, so that its words can be found; see `Task`."""
        fields = [block.field for block in template.blocks or () if block.field not in ("", LABEL_FIELD)]
        if len(fields) == 1:
            return None
        return (
            f"template {template.name!r} must have the text in it once, as it is, since each of its words is read: "
            "without filters, conditions or loops"
        )

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute precision, recall and F1 of whole spans as seqeval does, and the mean loss of words; see `Task`."""
        right, said, true = self._counts(self._predicted(outputs, rows), rows)
        present = (said + true) > 0
        f1 = 2 * right[present] / (said + true)[present]
        precision, recall = right.sum() / max(1, said.sum()), right.sum() / max(1, true.sum())
        return {
            "f1_micro": float(2 * right.sum() / max(1, (said + true).sum())),
            "f1_macro": float(f1.mean()) if present.any() else 0.0,
            "precision_micro": float(precision),
            "recall_micro": float(recall),
            "loss": float(self._losses(log_softmax(outputs.astype(np.float64), axis=-1), rows).mean()),
        }

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the probability of each tag; see `Task`."""
        return np.asarray(softmax(outputs.astype(np.float64), axis=-1))

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return log-probabilities; see `Task`."""
        return np.log(np.maximum(expected, _TINY)).astype(np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return what each row adds to the mean over words, times the number of rows; see `Task`."""
        return self._losses(np.log(np.maximum(expected, np.finfo(np.float64).tiny)), rows)

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the mean over a row's words of the probability of the right tag; see `Task`."""
        true = _padded(rows)
        chances = self._of_true(self.expected(outputs), true, 1 / len(self.labels))
        return np.asarray((chances * (true >= 0)).sum(axis=1) / (true >= 0).sum(axis=1))

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the spans of each row; see `Task`."""
        words = [word_places(_only(text)) for text in texts]
        tags = np.zeros((len(texts), max(map(len, words), default=0)), dtype=np.int64)
        for row, own in enumerate(words):
            tags[row, : len(own)] = _fit(expected[row].argmax(axis=-1)[None], len(own), 0)
        found: list[list[Span]] = [[] for _ in texts]
        for row, first, last, label in spans_of(tags).tolist():
            span = Span(words[row][first][0], words[row][last][1], self.labels[2 * label - 1].removeprefix("B-"))
            found[row].append(span)
        return [tuple(own) for own in found]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the spans as a cell that can be read again; see `Task`."""
        said = zip(self.predict(expected, texts), texts, strict=True)
        return {"spans": [in_cell(own, _only(text)) for own, text in said if isinstance(own, tuple)]}

    def show(self, row: Row) -> str:
        """Return the spans as a cell; see `Task`."""
        assert isinstance(row.answer, tuple), "words have a tag each"
        (cell,) = self.columns(np.eye(len(self.labels))[list(row.answer)][None], [row.fields])["spans"]
        return str(cell)

    def by_label(self, expected: Expected, rows: Sequence[Row]) -> list[LabelScores]:
        """Score the spans of each label; see `Task`."""
        right, said, true = self._counts(self._predicted(expected, rows), rows)
        columns = true, true - right, right / said.clip(1), right / true.clip(1), 2 * right / (said + true).clip(1)
        names = [self.labels[tag].removeprefix("B-") for tag in self.needed_labels]
        return [LabelScores(*own) for own in zip(names, *(column.tolist() for column in columns), strict=True)]

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict the share of each tag among the training rows' words; see `Task`."""
        shares = np.bincount(_known(self.train), minlength=len(self.labels)) / len(_known(self.train))
        return np.tile(self.outputs_of(shares), (len(rows), _padded(rows).shape[1], 1))

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Count the tags of each word, in the proportion of all words' tags where one is unknown; see `Task`."""
        shares = np.bincount(_known(train), minlength=len(self.labels)) / len(_known(train))
        counts: dict[str, Counter[int]] = {}
        for row in train:
            assert isinstance(row.answer, tuple), "words have a tag each"
            for word, tag in zip(_words(row), row.answer, strict=True):
                counts.setdefault(word, Counter())[tag] += 1
        chances = np.tile(shares, (len(rows), _padded(rows).shape[1], 1))
        for place, row in enumerate(rows):
            for position, word in enumerate(_words(row)):
                for tag, count in counts.get(word, {}).items():
                    chances[place, position, tag] += count
        return self.outputs_of(chances / chances.sum(axis=2, keepdims=True))

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit logistic regression to the words that are read; see `Task`."""
        from sklearn.linear_model import LogisticRegression  # Predicting needs none of it.

        true = _fit(_padded(train), known.shape[1], -1)
        model = LogisticRegression(C=c, max_iter=1000).fit(known[true >= 0], true[true >= 0])
        outputs = np.full((*others.shape[:2], len(self.labels)), np.log(_TINY), dtype=np.float32)
        found = model.predict_log_proba(others.reshape(-1, others.shape[2]))
        outputs[..., model.classes_] = found.reshape(*others.shape[:2], -1)
        return outputs

    @property
    def purpose(self) -> str:
        """Say that it finds spans; see `Task`."""
        return "Finds spans in texts; the tags of their words are"

    def _predicted(self, outputs: Outputs | Expected, rows: Sequence[Row]) -> Tags:
        """Return the likeliest tag of each word, shape (rows, words), -1 behind the last one."""
        true = _padded(rows)
        return np.where(true >= 0, _fit(outputs.argmax(axis=-1), true.shape[1], 0), -1)

    def _counts(self, predicted: Tags, rows: Sequence[Row]) -> tuple[Tags, Tags, Tags]:
        """Count the spans of each label that are right, predicted and true; each of shape (labels,)."""
        said, true = spans_of(predicted), spans_of(_padded(rows))
        size = max(predicted.shape[1], len(self.labels))
        keys = [np.ravel_multi_index(tuple(own.T), (len(rows), size, size, size)) for own in (said, true)]
        right = said[np.isin(*keys)]
        many = len(self.labels) // 2 + 1
        first, second, third = (np.bincount(own[:, 3], minlength=many)[1:] for own in (right, said, true))
        return first, second, third

    def _losses(self, logs: Expected, rows: Sequence[Row]) -> Expected:
        """Return each row's sum of negative log-probabilities, in units in which their mean is that of all words."""
        true = _padded(rows)
        losses = -self._of_true(logs, true, -np.log(len(self.labels))) * (true >= 0)
        return np.asarray(losses.sum(axis=1) * (len(rows) / (true >= 0).sum()))

    @staticmethod
    def _of_true(values: Expected, true: Tags, unread: float) -> Expected:
        """Return the values of the true tags, shape (rows, words); words behind those that were read have `unread`."""
        whole = _fit(values, true.shape[1], unread)
        return np.take_along_axis(whole, np.maximum(true, 0)[..., None], axis=2)[..., 0]


def _only(text: Mapping[str, str]) -> str:
    (value,) = text.values()
    return value


def _words(row: Row) -> list[str]:
    text = _only(row.fields)
    return [text[first:end].casefold() for first, end in word_places(text)]


def _padded(rows: Sequence[Row]) -> Tags:
    """Return the true tags, shape (rows, words), -1 behind the last word of a row."""
    answers = [row.answer for row in rows if isinstance(row.answer, tuple)]
    found = np.full((len(rows), max(map(len, answers), default=0)), -1)
    for place, own in enumerate(answers):
        found[place, : len(own)] = own
    return found


def _known(rows: Sequence[Row]) -> Tags:
    tags = _padded(rows)
    return tags[tags >= 0]


def _fit(values: Any, width: int, unread: float) -> Any:
    """Cut rows of words to a width, or pad them with what unread words have."""
    wanted = [(0, 0), (0, max(0, width - values.shape[1])), *[(0, 0)] * (values.ndim - 2)]
    return np.pad(values[:, :width], wanted, constant_values=unread)


def _spans_or_none(cell: str, text: str) -> list[Span] | None:
    try:
        return spans_in(cell, text)
    except ValueError:
        return None
