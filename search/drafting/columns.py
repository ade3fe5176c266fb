"""Which columns of a table are texts, and which is the label."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptgraft.objectives.data import is_image_file, read_rows
from promptgraft.search.drafting.column_content import (
    CLASSES,
    KINDS,
    MOST_LABELS,
    NUMBERS,
    SEVERAL,
    TEXT_DISTINCT,
    Column,
    is_finite,
)
from promptgraft.search.drafting.languages import language_of
from promptgraft.spaces import InvalidInputError, did_you_mean

# Names that label columns have, likelier ones first; a column that ends in one is a candidate, too.
LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "rating", "stars", "y")
# A column in which one value has nearly all rows is a label only if no other column may be one.
LOPSIDED = 0.95
# A label with fewer different texts is left out: each fold and the test rows need some.
FEWEST_TEXTS = 5


class UnclearColumnError(InvalidInputError):
    """No column of a table looks like the one that is needed; the user has to name it.

    Attributes:
        role: What it is needed for: `label` or `text`.
    """

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message)
        self.role = role


@dataclass(frozen=True, slots=True)
class TableView:
    """A table, and which of its columns are the text and the label.

    Attributes:
        path: Where it is.
        rows: Number of rows.
        columns: Its columns, in their order.
        text: Names of the text columns.
        label: Name of the label column.
        kind: Kind of task: `text_classification`, `regression` where the label is a number, or `multi_label` where
            cells hold several.
        doubts: Where other columns would do as well; for people.
        repeated: Number of rows whose texts occur in an earlier row.
        rare: Labels with fewer than `FEWEST_TEXTS` different texts, and how many they have; none if two or more labels
            wouldn't be left, or labels are numbers.
    """

    path: str
    rows: int
    columns: tuple[Column, ...]
    text: tuple[str, ...]
    label: str
    kind: str
    doubts: tuple[str, ...]
    repeated: int
    rare: Mapping[str, int]

    def column(self, name: str) -> Column:
        """Return a column by its name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def labels(self) -> Mapping[str, int]:
        """Label -> number of rows, the most frequent first."""
        column = self.column(self.label)
        counts = column.labels if self.kind == SEVERAL else column.values
        return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))

    @property
    def language(self) -> str:
        """What most texts are in; see `language_of`."""
        return language_of(value for name in self.text for value in self.column(name).values)


def view_table(path: str, text: Sequence[str] = (), label: str | None = None, kind: str | None = None) -> TableView:
    """Read a table, and find its text and its label.

    Args:
        path: The table.
        text: Names of the text columns, if they are known.
        label: Name of the label column, if it is known.
        kind: Kind of task, if it is known: `text_classification`, `regression` or `multi_label`.

    Raises:
        InvalidInputError: If the table can't be read, has no such column, or no column looks like a label or a text;
            the message lists the columns. If the kind is another one, the label of a regression isn't a number, or
            labels are lists and the kind is another than `multi_label`.
    """
    if kind is not None and kind not in KINDS:
        raise InvalidInputError(
            f"kind must be one of {', '.join(KINDS)}, got {kind!r}; write the study file of another kind by hand: "
            "docs/task-kinds.md"
        )
    given = [*text, *([label] if label else [])]
    if Path(path).is_dir() and any(map(is_image_file, Path(path).rglob("*"))):
        raise _only_texts(path, "holds images", "image_classification", "image", "label")
    _, whole = read_rows(path, given)
    columns = tuple(Column.of(str(name), whole.iloc[:, place].tolist()) for place, name in enumerate(whole.columns))
    names = [column.name for column in columns]
    for name in given:
        if name not in names:
            raise InvalidInputError(f"{path}: no column {name!r}; {did_you_mean(name, names)}")
    if not text:
        _refuse_images(path, columns, label)
    doubts: list[str] = []
    is_named = label is not None
    label = label or _label_of_several(columns, text) or _choose_label(path, columns, text, doubts)
    _refuse_lists(path, columns, label, kind)
    chosen = tuple(text) or _choose_text(path, columns, label, doubts)
    for name in (*chosen, label):
        if names.count(name) > 1:
            raise InvalidInputError(
                f"{path}: {names.count(name)} columns are named {name!r}, so it isn't known which one is meant; rename "
                "them"
            )
    if not is_named and label in next(column for column in columns if column.name == label).values:
        raise InvalidInputError(
            f"{path}: the first line seems to be a row, not the columns' names: {label!r} is also a value of its "
            "column; write a first line with names, or name the column with --label if that is its name"
        )
    keys = list(zip(*(whole[name].tolist() for name in chosen), strict=True))
    answers = next(column for column in columns if column.name == label)
    kind = _choose_kind(path, answers, kind, doubts)
    rare = _rare_labels(keys, whole[label].tolist()) if kind == CLASSES else {}
    return TableView(path, len(whole), columns, chosen, label, kind, tuple(doubts), len(keys) - len(set(keys)), rare)


def _refuse_images(path: str, columns: Sequence[Column], label: str | None) -> None:
    """Refuse a table of images without texts, and say which kind it seems to be."""
    images = [column for column in columns if column.names_images]
    listed = [column for column in columns if column.values and all(own[:1] in "[{" for own in column.values)]
    if not images or any(own.may_be_text and own.name != label for own in columns if own not in (*images, *listed)):
        return
    others = [column.name for column in columns if column is not images[0]]
    kind = "image_classification"
    if len(images) > 1:
        kind, others = "semantic_segmentation", [images[1].name]
    elif listed:
        kind, others = "object_detection", [listed[0].name]
    raise _only_texts(
        path, f"column {images[0].name!r} names images", kind, images[0].name, label or next(iter(others), "LABEL")
    )


def _only_texts(path: str, why: str, kind: str, image: str, label: str) -> InvalidInputError:
    """Say that a table of images needs a study file that is written by hand, and what its target is."""
    target = f"{{kind: {kind}, train: {path}, text: {{image: {image}}}, label: {label}}}"
    return InvalidInputError(
        f"{path}: {why}, and studies are drafted of texts alone; write a study file with `target: {target}` and a "
        "backbone that reads images: docs/task-kinds.md#images"
    )


def _label_of_several(columns: Sequence[Column], text: Sequence[str]) -> str | None:
    """Return the column that holds lists, or several labels a cell, if it is the only label by its name.

    Without such a name it must be the only one, and no other may be a label.
    """
    columns = [column for column in columns if column.name not in text]
    possible = [column for column in columns if _label_name(column) is not None]
    if not possible:
        possible = [own for own in columns if own.holds_several or own.may_be_label or own.may_be_number]
    only = possible[0] if len(possible) == 1 else None
    return only.name if only is not None and (only.holds_lists or only.holds_several) else None


def _refuse_lists(path: str, columns: Sequence[Column], label: str, kind: str | None) -> None:
    """Refuse lists as labels of another kind, and such as don't name what applies."""
    for column in columns:
        if column.name != label or not column.holds_lists:
            continue
        if not column.holds_several:
            raise InvalidInputError(
                f"{path}: column {label!r} holds multi-hot vectors, such as {next(iter(column.values)):.60}, which "
                "don't name the labels; write the names of those that apply, as a|b or as a JSON list"
            )
        if kind not in (None, SEVERAL):
            raise InvalidInputError(
                f"{path}: column {label!r} holds lists, which only the kind {SEVERAL} reads; leave out --kind {kind}, "
                "or name another column with --label"
            )


def _choose_kind(path: str, label: Column, kind: str | None, doubts: list[str]) -> str:
    if kind == NUMBERS and not label.holds_numbers:
        odd = next((value for value in label.values if not is_finite(value)), "")
        raise UnclearColumnError(
            f"{path}: column {label.name!r} holds {odd!r}, which is no number; name another one with --label, or take "
            f"each value for a class with --kind {CLASSES}",
            "label",
        )
    if kind is None and label.kind == CLASSES and label.may_be_number:
        doubts.append(
            f"{label.name} holds numbers, each of which is taken for a class: --kind {NUMBERS} predicts numbers"
        )
    return kind or label.kind


def _rare_labels(texts: Sequence[tuple[str | None, ...]], labels: Sequence[str | None]) -> dict[str, int]:
    found: dict[str, set[tuple[str | None, ...]]] = {}
    for text, label in zip(texts, labels, strict=True):
        if label is not None and label.strip():
            found.setdefault(label.strip(), set()).update([text] if all(text) else [])
    rare = {label: len(own) for label, own in found.items() if len(own) < FEWEST_TEXTS}
    return rare if len(found) - len(rare) >= 2 else {}


def _choose_label(path: str, columns: Sequence[Column], text: Sequence[str], doubts: list[str]) -> str:
    possible = [c for c in columns if (c.may_be_label or c.may_be_number) and c.name not in text]
    named = [column for column in possible if _label_name(column) is not None]
    if named:
        return min(named, key=lambda column: _label_name(column) or 0).name
    plain = [column for column in possible if column.may_be_label and not column.may_be_text]
    plain = [column for column in plain if column.largest_share <= LOPSIDED] or plain
    plain = plain or [column for column in possible if column.may_be_number]
    if len(plain) == 1:
        return plain[0].name
    if not plain:
        joined = {own.name: cell for own in columns if own.name not in text and (cell := own.otherwise_joined)}
        hint = "".join(
            f"; if {cell!r} in column {name!r} is several labels, write | between them" for name, cell in joined.items()
        )
        raise UnclearColumnError(
            f"{path}: no column looks like a label (2 to {MOST_LABELS} values, several rows of each, or numbers); name "
            f"it with --label; the columns are {_described(columns)}{hint}",
            "label",
        )
    fewest = min(plain, key=lambda column: len(column.values))
    others = ", ".join(column.name for column in plain if column is not fewest)
    doubts.append(f"{fewest.name} is taken for the label; {others} may be meant: --label NAME")
    return fewest.name


def _label_name(column: Column) -> int | None:
    """Return how far down the list of usual names a column's name stands; None if it isn't there."""
    words = re.split(r"[^a-z]+", column.name.lower())
    return next((place for place, name in enumerate(LABEL_NAMES) if name in (words[-1], column.name.lower())), None)


def _choose_text(path: str, columns: Sequence[Column], label: str, doubts: list[str]) -> tuple[str, ...]:
    found = [column for column in columns if column.may_be_text and column.name != label]
    # Short texts, such as queries of a word or two.
    short = [column for column in columns if column.name != label and column.distinct >= TEXT_DISTINCT]
    short = [c for c in short if c not in found and not c.is_numeric and not c.is_link and not c.is_date]
    worded = [column for column in short if not column.is_code]
    if found:
        shown = " and ".join(column.name for column in found)
        if len(found) > 1:
            doubts.append(f"the text is {shown}; for one of them alone: --text NAME")
        if worded:
            others = ", ".join(column.name for column in worded)
            doubts.append(f"the text is {shown}; {others} may belong to it: --text NAME, once for each column")
        return tuple(column.name for column in found)
    if not short:
        raise UnclearColumnError(
            f"{path}: no column looks like a text; name it with --text; the columns are {_described(columns)}", "text"
        )
    chosen = (worded or short)[0]
    others = ", ".join(column.name for column in short if column is not chosen)
    if others:
        doubts.append(f"{chosen.name} is taken for the text; {others} may be meant: --text NAME")
    return (chosen.name,)


def _described(columns: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} ({len(column.values)} values)" for column in columns)
