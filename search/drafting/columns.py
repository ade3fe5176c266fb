"""What the columns of a table seem to hold: which are texts, and which is the label."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import pandas as pd

from promptgraft.objectives.data import is_image_file, is_image_name, read_rows
from promptgraft.search.drafting.languages import language_of
from promptgraft.spaces import InvalidInputError, did_you_mean

# Names that label columns have, likelier ones first; a column that ends in one is a candidate, too.
LABEL_NAMES = ("label", "labels", "class", "category", "target", "intent", "sentiment", "topic", "rating", "stars", "y")
# A label has at most so many values, and so many rows of each on average.
MOST_LABELS, ROWS_A_LABEL = 150, 2
# A text column's values have so many words in the middle, and rarely repeat.
TEXT_WORDS, TEXT_DISTINCT = 3, 0.3
# A column in which one value has nearly all rows is a label only if no other column may be one.
LOPSIDED = 0.95
# A label with fewer different texts is left out: each fold and the test rows need some.
FEWEST_TEXTS = 5
# Numbers of more values than this, or with decimals, are predicted as such; fewer are classes, such as stars.
MOST_CLASSES_OF_NUMBERS = 20
CLASSES, NUMBERS = KINDS = ("text_classification", "regression")
# From such a share of its values on, a column names images.
IMAGES = 0.8
_NUMBER = re.compile(r"[-+]?[\d.,:/ ]+%?")
_DATE_WORDS, _DATES_SEEN = 6, 100


class UnclearColumnError(InvalidInputError):
    """No column of a table looks like the one that is needed; the user has to name it.

    Attributes:
        role: What it is needed for: `label` or `text`.
    """

    def __init__(self, message: str, role: str) -> None:
        super().__init__(message)
        self.role = role


@dataclass(frozen=True, slots=True)
class Column:
    """What a column holds.

    Attributes:
        name: Its name.
        filled: Number of rows with a value.
        values: Value -> number of rows.
        words: Median number of words of a value; of scripts without spaces, a word for every two characters.
    """

    name: str
    filled: int
    values: Mapping[str, int]
    words: float

    @classmethod
    def of(cls, name: str, cells: Sequence[str | None]) -> "Column":
        """Look at a column's cells."""
        found = [cell for cell in cells if cell is not None and cell.strip()]
        return cls(name, len(found), Counter(found), median(map(count_words, found)) if found else 0.0)

    @property
    def distinct(self) -> float:
        """Number of different values, as a share of the filled rows."""
        return len(self.values) / self.filled if self.filled else 0.0

    @property
    def is_numeric(self) -> bool:
        """Whether nearly all values are numbers or dates."""
        numbers = sum(count for value, count in self.values.items() if _NUMBER.fullmatch(value.strip()))
        return numbers > 0.9 * self.filled

    @property
    def holds_numbers(self) -> bool:
        """Whether nearly all values are finite numbers."""
        return sum(self.values[value] for value in self.values if _is_finite(value)) > 0.95 * self.filled

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers among its values, in order, each once."""
        return tuple(sorted({float(value) for value in self.values if _is_finite(value)}))

    @property
    def names_images(self) -> bool:
        """Whether nearly all values are names of image files."""
        return sum(map(is_image_name, self.values)) >= IMAGES * max(1, len(self.values))

    @property
    def may_be_number(self) -> bool:
        """Whether the values look like numbers that could be predicted: not like a row's own number."""
        is_id = self.distinct == 1 and all(map(float.is_integer, self.numbers))
        return self.holds_numbers and len(self.numbers) > 2 and not is_id

    @property
    def holds_lists(self) -> bool:
        """Whether all values are JSON lists of texts or numbers, such as several labels a row."""
        return bool(self.values) and all(map(_is_list, self.values))

    @property
    def kind(self) -> str:
        """The kind of task, if this is the label."""
        is_scale = len(self.numbers) > MOST_CLASSES_OF_NUMBERS or not all(map(float.is_integer, self.numbers))
        return NUMBERS if self.holds_numbers and is_scale else CLASSES

    @property
    def may_be_text(self) -> bool:
        """Whether the values look like texts."""
        long = self.words >= TEXT_WORDS and self.distinct >= TEXT_DISTINCT
        return self.filled > 0 and long and not self.is_numeric and not self.is_link and not self.is_date

    @property
    def may_be_label(self) -> bool:
        """Whether the values look like labels: few, and each of several rows."""
        return 2 <= len(self.values) <= min(MOST_LABELS, self.filled // ROWS_A_LABEL)

    @property
    def is_link(self) -> bool:
        """Whether nearly all values are addresses."""
        return sum(count for value, count in self.values.items() if "://" in value[:10]) > 0.9 * self.filled

    @property
    def is_date(self) -> bool:
        """Whether nearly all values are dates, such as `May 30, 2011`; judged by the first of them."""
        seen = list(islice(self.values, _DATES_SEEN))
        if self.words > _DATE_WORDS or not any(map(str.isdigit, "".join(seen))):
            return False
        return bool(pd.to_datetime(pd.Series(seen), format="mixed", errors="coerce", utc=True).notna().mean() > 0.9)

    @property
    def is_code(self) -> bool:
        """Whether nearly all values are codes, such as `aa-01`: one word each, of one length or with a digit."""
        words = [value for value in self.values if len(value.split()) == 1]
        lengths, numbered = Counter(map(len, words)), sum(any(map(str.isdigit, word)) for word in words)
        return max(*lengths.values(), numbered, 0) > 0.9 * len(self.values)

    @property
    def largest_share(self) -> float:
        """Rows of the most frequent value, as a share of the filled rows."""
        return max(self.values.values(), default=0) / self.filled if self.filled else 0.0


def _is_finite(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _is_list(value: str) -> bool:
    try:
        found = json.loads(value) if value.startswith("[") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(entry, str | int | float) for entry in found)


def count_words(text: str) -> int:
    """Count words; two characters of a script that is written without spaces are about one."""
    dense = sum("\u3040" <= character <= "\u9fff" or "\u0e00" <= character <= "\u0eff" for character in text)
    return max(len(text.split()), dense // 2)


@dataclass(frozen=True, slots=True)
class TableView:
    """A table, and which of its columns are the text and the label.

    Attributes:
        path: Where it is.
        rows: Number of rows.
        columns: Its columns, in their order.
        text: Names of the text columns.
        label: Name of the label column.
        kind: Kind of task: `text_classification`, or `regression` where the label is a number.
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
        return dict(sorted(self.column(self.label).values.items(), key=lambda entry: (-entry[1], entry[0])))

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
        kind: Kind of task, if it is known: `text_classification` or `regression`.

    Raises:
        InvalidInputError: If the table can't be read, has no such column, or no column looks like a label or a text;
            the message lists the columns. If the kind is another one, the label of a regression isn't a number, or
            labels are lists.
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
    label = label or _label_of_lists(columns) or _choose_label(path, columns, text, doubts)
    _refuse_lists(path, columns, label)
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


def _label_of_lists(columns: Sequence[Column]) -> str | None:
    """Return the column that is a label by its name, if it holds lists and no other has such a name."""
    named = [column for column in columns if _label_name(column) is not None]
    return named[0].name if len(named) == 1 and named[0].holds_lists else None


def _refuse_lists(path: str, columns: Sequence[Column], label: str) -> None:
    """Say that several labels a row need a study file that is written by hand, and what its target is."""
    if any(column.holds_lists for column in columns if column.name == label):
        target = f"{{kind: multi_label, train: {path}, text: COLUMN, label: {label}}}"
        raise InvalidInputError(
            f"{path}: column {label!r} holds lists, and studies are drafted for one label a row; write a study file "
            f"with `target: {target}`: docs/task-kinds.md, or name another column with --label"
        )


def _choose_kind(path: str, label: Column, kind: str | None, doubts: list[str]) -> str:
    if kind == NUMBERS and not label.holds_numbers:
        odd = next((value for value in label.values if not _is_finite(value)), "")
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
        raise UnclearColumnError(
            f"{path}: no column looks like a label (2 to {MOST_LABELS} values, several rows of each, or numbers); name "
            f"it with --label; the columns are {_described(columns)}",
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
