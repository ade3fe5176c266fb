"""Text generation: rows with text fields and a text as the answer, which a language model writes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

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
    merged,
)
from promptgraft.objectives.kinds.packing import UNKNOWN_LOSS, WIDTH, pack, unpack, without_losses
from promptgraft.objectives.kinds.text_metrics import row_chrf, score_texts, signatures
from promptgraft.spaces import InvalidInputError

# Parts by the length of answers that splits have in the same shares: as many as have so many rows, at most.
STRATA, ROWS_PER_STRATUM = 4, 8
# Name of the one output, the same for all tasks: source and target share what writes it.
OUTPUT = "answer"
FAMILIES = ("causal_lm", "seq2seq")
# Longest references of the parts whose scores are shown apart, in words; the rest is longer.
LENGTHS = (3, 10, 30)


@TASK_KINDS.register("text_generation")
class TextGeneration(TextTask):
    """A text a row. Outputs are texts as numbers, with the loss of the reference; see `objectives.kinds.packing`."""

    loss = "token_cross_entropy"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "chrf": "maximize",
        "bleu": "maximize",
        "rouge_l": "maximize",
        "exact_match": "maximize",
        "loss": "minimize",
    }
    default_metric = "chrf"
    has_labels = False
    heads = ("answer",)
    ensembles = False
    bootstrap = True
    blamed_by = "100 - chrF++"
    one_answer = False
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "answer of the nearest row by TF-IDF",
        "majority": "copy of the text",
        "zero_shot": "untrained, first template",
    }

    @property
    def width(self) -> int:
        """Numbers that a text and its loss take; see `Task`."""
        return WIDTH

    @property
    def signatures(self) -> Mapping[str, str]:
        """Those of sacreBLEU's metrics; see `Task`."""
        return signatures()

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
        """Take each cell as it is; see `TextTask`."""
        if labels is not None:
            raise InvalidInputError(f"`labels` is given, but rows of kind {spec.kind!r} have texts; leave it out")
        return [cell if has_text(cell) else None for cell in cells], (OUTPUT,)

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Want two answers; see `TextTask`."""
        found = len({row.answer for row in rows})
        return None if found > 1 else f"at least two different answers after cleaning, found {found or 'none'}"

    @classmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number rows by the length of their answers, in parts of about the same size; see `Task`."""
        parts = max(1, min(STRATA, len(rows) // ROWS_PER_STRATUM))
        lengths = [len(text_of(row)) for row in rows]
        edges = np.quantile(lengths, np.arange(1, parts) / parts) if parts > 1 else np.empty(0)
        return merged(np.searchsorted(edges, lengths, side="right").tolist())

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute the scores of texts by `score_texts`, and the loss; see `Task`.

        Rows of which only the loss was computed don't count in the scores of texts. `loss` is the mean over all tokens
        of the references, in nats.
        """
        pairs = [(text, text_of(row)) for text, row in zip(unpack(outputs), rows, strict=True) if text is not None]
        scores = score_texts([text for text, _ in pairs], [reference for _, reference in pairs])
        return scores | {"loss": float(self.row_losses(self.expected(outputs), rows).mean())}

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the same numbers; see `Task`."""
        return outputs.astype(np.float64)

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return the same numbers; see `Task`."""
        return expected.astype(np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return each row's summed loss over the mean number of tokens, so that their mean is that over tokens."""
        del rows
        tokens = expected[:, 1].mean()
        return expected[:, 0] / tokens if tokens else np.zeros(len(expected))

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the mean log-probability of each reference's tokens: no text need be generated for it; see `Task`."""
        del rows
        expected = self.expected(outputs)
        return np.asarray(-expected[:, 0] / np.maximum(expected[:, 1], 1))

    def blame(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return what a row's chrF++ lacks of 100; nothing where no text was written; see `Task`."""
        pairs = zip(unpack(outputs), rows, strict=True)
        return np.array([-1.0 if text is None else 100.0 - row_chrf(text, text_of(row)) for text, row in pairs])

    def parts(self, rows: Sequence[Row]) -> Mapping[str, Sequence[int]]:
        """Return rows by the length of their references, in words; see `Task`."""
        lengths = [len(text_of(row).split()) for row in rows]
        ends = [*LENGTHS, max(lengths, default=0)]
        found: dict[str, Sequence[int]] = {}
        for first, last in pairwise([0, *ends]):
            own = [place for place, length in enumerate(lengths) if first < length <= last]
            if own:
                found[f"{first + 1} to {last} words" if last in LENGTHS else f"over {first} words"] = own
        return found

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:  # noqa: ARG002
        """Return the texts; see `Task`."""
        return [text or "" for text in unpack(expected)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the texts; see `Task`."""
        return {OUTPUT: self.predict(expected, texts)}

    def show(self, row: Row) -> str:
        """Return the text; see `Task`."""
        return text_of(row)

    def combine(self, members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
        """Return the first model's: texts have no mean; see `Task`."""
        del weights
        return members[0]

    def without_answers(self, outputs: Outputs) -> Outputs:
        """Leave out the losses of references; see `Task`."""
        return without_losses(outputs)

    def complete(self, outputs: Outputs) -> npt.NDArray[np.bool_]:
        """Return which rows have a text; see `Task`."""
        return np.array([text is not None for text in unpack(outputs)])

    def distances(self, outputs: Outputs, others: Outputs, unit: float | None = None) -> Expected:  # noqa: ARG002
        """Return 0 for the same text and 1 for another; see `Task`."""
        pairs = zip(unpack(outputs), unpack(others), strict=True)
        return np.array([float(one != other) for one, other in pairs])

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Copy the text, of several fields the longest; see `Task`."""
        return _without_probabilities([max(row.fields.values(), key=len) for row in rows])

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:  # noqa: ARG002
        """Answer as the nearest training row, by the cosine of features that have unit length; see `Task`."""
        nearest = np.asarray((others @ known.T).argmax(axis=1)).ravel()
        return _without_probabilities([text_of(train[place]) for place in nearest])

    @property
    def purpose(self) -> str:
        """Say that it writes; see `Task`."""
        return "Writes for a text the"

    @classmethod
    def refuses(cls, name: str, value: object) -> str | None:
        """Say what has no use without labels; see `Task`."""
        if name == "head" and value != "answer":
            return f"head {value!r} reads labels, but answers of this kind of task are texts; leave it out"
        return None if name in ("head", "demonstrations.count") else super().refuses(name, value)

    @classmethod
    def refuses_baseline(cls, name: str) -> bool:
        """Whether a baseline needs labels, or a head; see `Task`."""
        needs_label = ("contrastive", "contrastive_source", "linear_probe", "linear_probe_with_source")
        return name in needs_label or cls.lacks_prior(name)

    @classmethod
    def refuses_family(cls, name: str, *, has_head: bool) -> str | None:
        """Want a family that writes; see `Task`."""
        del has_head
        if name in FAMILIES:
            return None
        return f"{name!r} can't write answers; use {' or '.join(FAMILIES)}"


def text_of(row: Row) -> str:
    """Return a row's reference."""
    assert isinstance(row.answer, str), "the task's answers are texts"
    return row.answer


def _without_probabilities(texts: Sequence[str]) -> Outputs:
    ones = np.ones(len(texts), dtype=np.int64)
    return pack(texts, UNKNOWN_LOSS * ones.astype(np.float64), ones)
