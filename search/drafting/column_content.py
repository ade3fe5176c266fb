"""What a column of a table seems to hold: texts, labels, numbers, dates, addresses or names of images."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

import pandas as pd

from promptgraft.objectives.data import is_image_name, joined_labels, multi_hot

# A label has at most so many values, and so many rows of each on average.
MOST_LABELS, ROWS_A_LABEL = 150, 2
# A text column's values have so many words in the middle, and rarely repeat.
TEXT_WORDS, TEXT_DISTINCT = 3, 0.3
# Numbers of more values than this, or with decimals, are predicted as such; fewer are classes, such as stars.
MOST_CLASSES_OF_NUMBERS = 20
CLASSES, NUMBERS, SEVERAL = KINDS = ("text_classification", "regression", "multi_label")
# Stands between several labels of a cell; and what else may, but isn't read as such.
BETWEEN, _OTHERS = "|", ",;/+&"
# From such a share of its values on, a column names images.
IMAGES = 0.8
_NUMBER = re.compile(r"[-+]?[\d.,:/ ]+%?")
_DATE_WORDS, _DATES_SEEN = 6, 100


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
        return sum(self.values[value] for value in self.values if is_finite(value)) > 0.95 * self.filled

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers among its values, in order, each once."""
        return tuple(sorted({float(value) for value in self.values if is_finite(value)}))

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
    def holds_several(self) -> bool:
        """Whether cells clearly hold several labels each: JSON lists, or labels with `|` that stand alone as well."""
        if self.holds_lists:
            return multi_hot(self.values) is None
        is_other = self.may_be_text or any(value.startswith("[") for value in self.values)
        return not is_other and joined_labels(list(self.values), kept=_OTHERS) is not None

    @property
    def otherwise_joined(self) -> str | None:
        """A cell that seems to hold several labels, but not as they are read, such as `a;b`; None if there is none."""
        return None if self.may_be_text or self.holds_lists else joined_labels(list(self.values), kept=BETWEEN)

    @property
    def labels(self) -> Mapping[str, int]:
        """Label -> number of rows, where cells hold several."""
        found = Counter[str]()
        for value, count in self.values.items():
            names = json.loads(value) if value.startswith("[") else value.split(BETWEEN)
            found.update(dict.fromkeys({str(name).strip() for name in names}, count))
        return found

    @property
    def kind(self) -> str:
        """The kind of task, if this is the label."""
        if self.holds_several:
            return SEVERAL
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


def is_finite(value: str) -> bool:
    """Whether a text is a finite number."""
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
