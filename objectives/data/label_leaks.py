"""Words that give the label away: one that was copied into the text, a rating that was left in a review.

Held-out rows can't show such a leak: they have it too, and every score is too good in the same way.
"""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from promptgraft.objectives.data.tasks import Task

# A word gives a label away if it stands in at least so many of the label's rows, in at least this share of them, and if
# this share of all rows with it have the label. In the demo the nearest is "great", in 17 % of the good reviews.
MIN_ROWS, COVERED, RIGHT = 8, 0.5, 0.98
# Where nearly all rows have the label, most words do that: how probable it may be that any word does so by chance.
CHANCE = 0.01
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class LabelLeak:
    """A word that gives a label away.

    Attributes:
        word: The word, in lower case.
        label: The label.
        rows: Rows that have it.
        right: How many of them have the label.
        of: Rows of the label.
    """

    word: str
    label: str
    rows: int
    right: int
    of: int

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"the word {self.word!r} gives the label {self.label!r} away: it stands in {self.right} of its {self.of} "
            f"rows, and in {self.rows - self.right} others"
        )


def find_label_leaks(task: Task) -> list[LabelLeak]:
    """Look for words that give a label away, in the rows for training and validation.

    Args:
        task: The task; its test rows aren't looked at.

    Returns:
        For each label that is given away the word that stands in most of its rows; none where each word has a label.
    """
    if not task.has_labels or task.words() is not None or task.reads != "text":
        return []
    rows = (*task.train, *task.validation)
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(task.labels))
    together: Counter[str] = Counter()
    for row in rows:
        for word in {word for text in row.fields.values() for word in _WORD.findall(text.lower())}:
            for place in task.labels_of(row.answer):
                counts[word][place] += 1
            together[word] += 1
    found = []
    for index, label in enumerate(task.labels):
        of = sum(index in task.labels_of(row.answer) for row in rows)
        own = [
            LabelLeak(word, label, together[word], by_label[index], of)
            for word, by_label in counts.items()
            if by_label[index] >= max(MIN_ROWS, COVERED * of)
            and by_label[index] >= RIGHT * together[word]
            and _by_chance(by_label[index], together[word], of, len(rows)) < CHANCE / len(counts)
        ]
        found += sorted(own, key=lambda word: (-word.right, word.word))[:1]
    return found


def _by_chance(right: int, rows: int, of: int, everything: int) -> float:
    """Return how probable it is that so many of a word's rows have a label, if the word knows nothing of it."""
    from scipy.stats import hypergeom  # Takes long to load, and few words come as far as this.

    return float(hypergeom.sf(right - 1, everything, of, rows))
