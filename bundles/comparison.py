"""Champion and challenger: two bundles on the same labelled rows."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.stats import binomtest, norm

from promptgraft.bundles.folder import read_examples
from promptgraft.bundles.predictor import Input, Predictor
from promptgraft.objectives.data import (
    Prediction,
    UnreadableImageError,
    fields_key,
    has_text,
    image_hash,
    match_labels,
    read_table,
)
from promptgraft.spaces import InvalidInputError

Outcome = Literal["better", "worse", "no difference shown"]


class ComparedModel(Protocol):
    """What predicts a label a row."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that it knows."""
        ...

    def predict(self, rows: Sequence[Input]) -> Sequence[Prediction]:
        """Return the likeliest label of each row."""
        ...


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row of which two models say different things.

    Attributes:
        row: Its place among the rows.
        fields: Template field -> value.
        label: What is right.
        champion: What the champion says.
        challenger: What the challenger says.
    """

    row: int
    fields: Mapping[str, str]
    label: str
    champion: str
    challenger: str


@dataclass(frozen=True, slots=True)
class BundleComparison:
    """What two models made of the same rows.

    Attributes:
        rows: Number of rows.
        champion: Share that the champion gets right.
        challenger: Share that the challenger gets right.
        won: Rows that only the challenger gets right.
        lost: Rows that only the champion gets right.
        p_value: Of the exact McNemar test, two-sided.
        low: Lower end of the interval of the difference of both shares.
        high: Its upper end.
        level: Of the test; intervals hold the difference in 1 - level of all cases.
        outcome: What the test says of the challenger.
        by_label: Label -> `rows`, and how many `won` and `lost`.
        disagreements: The rows of which they say different things.
    """

    rows: int
    champion: float
    challenger: float
    won: int
    lost: int
    p_value: float
    low: float
    high: float
    level: float
    outcome: Outcome
    by_label: Mapping[str, Mapping[str, int]]
    disagreements: tuple[Disagreement, ...]


def labelled_rows(path: str, columns: Mapping[str, str], label: str) -> tuple[list[dict[str, str]], list[str]]:
    """Read rows with their labels from a table.

    Args:
        path: A CSV, JSONL or Parquet file.
        columns: Field -> column.
        label: Column of the label.

    Raises:
        InvalidInputError: If it can't be read, or any row lacks a text or its label.
    """
    frame = read_table(path, [*columns.values(), label])
    empty = ~frame.map(has_text).all(axis=1)
    if empty.any():
        where = ", ".join(str(number) for number in frame.index[empty][:5])
        raise InvalidInputError(f"{path}: {int(empty.sum())} rows lack a text or a label, such as {where}; drop them")
    records = frame.to_dict("records")
    rows = [{field: str(record[column]) for field, column in columns.items()} for record in records]
    return rows, [str(record[label]).strip() for record in records]


def count_known(predictor: Predictor, rows: Sequence[Mapping[str, str]]) -> int:
    """Count the rows that a bundle holds of its own study: its examples and demonstrations.

    It was trained or chosen by them. It may have been by others, too, of which it holds no trace.

    Args:
        predictor: The bundle.
        rows: Template field -> value, a mapping a row.
    """
    examples, names = read_examples(predictor.folder), predictor.manifest.columns
    shown = [row.fields for row in predictor.manifest.demonstrations]

    def key(row: Mapping[str, str]) -> str:
        fields = {name: row[name] for name in names}
        if predictor.task.reads != "images":
            return fields_key(fields)
        with suppress(UnreadableImageError):
            return "-".join(map(image_hash, fields.values()))
        return ""

    own = {key(row) for row in (*(examples.rows if examples else ()), *shown)} - {""}
    return sum(key(row) in own for row in rows) if own else 0


def compare_bundles(
    champion: ComparedModel,
    challenger: ComparedModel,
    rows: Sequence[Mapping[str, str]],
    labels: Sequence[str],
    level: float,
) -> BundleComparison:
    """Let two models predict the same rows, and test whether one gets more of them right.

    Only rows on which exactly one is right tell which is better (McNemar 1947). The interval of the difference is that
    of Agresti and Min (2005, doi:10.1002/sim.1781): half a row is added to each of the four cells.

    Args:
        champion: What runs today.
        challenger: What might take its place.
        rows: Template field -> value, a mapping a row.
        labels: What is right.
        level: Of the test.

    Raises:
        InvalidInputError: If a label is one that neither knows.
    """
    known = list(dict.fromkeys((*champion.labels, *challenger.labels)))
    meant = match_labels(labels, known)
    unknown = sorted(set(labels) - meant.keys())
    if unknown:
        raise InvalidInputError(
            f"the labels {', '.join(map(repr, unknown))} are known to neither bundle; they know "
            f"{', '.join(map(repr, known))}"
        )
    labels = [meant[label] for label in labels]
    old, new = (list(map(str, model.predict(rows))) for model in (champion, challenger))
    right = np.array(labels)
    right_old, right_new = np.array(old) == right, np.array(new) == right
    won, lost = right_new & ~right_old, right_old & ~right_new
    better, worse, count = int(won.sum()), int(lost.sum()), len(rows)
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    outcome: Outcome = "no difference shown"
    if p_value <= level:
        outcome = "better" if better > worse else "worse"
    by_label = {
        label: {"rows": int(own.sum()), "won": int((own & won).sum()), "lost": int((own & lost).sum())}
        for label in dict.fromkeys(labels)
        for own in [right == label]
    }
    low, high = _difference(better, worse, count, level)
    return BundleComparison(
        count,
        float(right_old.mean()),
        float(right_new.mean()),
        better,
        worse,
        p_value,
        low,
        high,
        level,
        outcome,
        by_label,
        tuple(
            Disagreement(index, dict(rows[index]), labels[index], old[index], new[index])
            for index in range(count)
            if old[index] != new[index]
        ),
    )


def _difference(won: int, lost: int, rows: int, level: float) -> tuple[float, float]:
    total = rows + 2
    gained, missed = (won + 0.5) / total, (lost + 0.5) / total
    reach = norm.ppf(1 - level / 2) * ((gained + missed - (gained - missed) ** 2) / total) ** 0.5
    return max(-1.0, gained - missed - reach), min(1.0, gained - missed + reach)
