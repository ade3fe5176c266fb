"""Translation: text generation between two languages, with pairs cleaned by either side."""

from collections.abc import Sequence
from dataclasses import replace

from promptgraft.objectives.data import (
    TASK_KINDS,
    CleaningReport,
    Comparison,
    Row,
    TaskSpec,
    clusters,
    drop_known,
    find_near_duplicates,
    normalise,
)
from promptgraft.objectives.kinds.text_generation import TextGeneration, text_of

# Of a pair whose longer side has more than so many times the bytes of the other, and so many more, one is no
# translation of the other. UTF-8 has more bytes for characters that say more.
RATIO, SLACK_BYTES = 3, 20


@TASK_KINDS.register("translation")
class Translation(TextGeneration):
    """A text in one language a row, and its translation."""

    languages = True

    @classmethod
    def unusable(cls, row: Row) -> str | None:
        """Refuse pairs that are no translations; see `TextTask`."""
        ours, theirs = max(row.fields.values(), key=len), text_of(row)
        if normalise(ours) == normalise(theirs):
            return "identical"
        shorter, longer = sorted((len(ours.encode()), len(theirs.encode())))
        return "length_ratio" if longer > RATIO * shorter + SLACK_BYTES else None

    @classmethod
    def without_known(
        cls, rows: Sequence[Row], held_out: Sequence[Row], comparison: Comparison
    ) -> tuple[list[Row], CleaningReport]:
        """Drop rows whose text or translation is held out, or nearly so; see `TextTask`."""
        kept, report = drop_known(rows, held_out, comparison)
        alike = find_near_duplicates(_other_side(kept), _other_side(held_out), comparison)
        report += CleaningReport(near_duplicate=len(alike))
        return [row for place, row in enumerate(kept) if place not in alike], report

    @classmethod
    def alike(cls, rows: Sequence[Row], spec: TaskSpec) -> list[int]:
        """Number rows so that those that are nearly the same on either side have one number; see `TextTask`."""
        first = super().alike(rows, spec)
        return clusters(_other_side(rows), [str(number) for number in first], spec.comparison)

    @property
    def purpose(self) -> str:
        """Say that it translates; see `Task`."""
        return "Translates text: it writes the"


def _other_side(rows: Sequence[Row]) -> list[Row]:
    """Return rows with their translations in place of their texts."""
    return [replace(row, fields={"translation": text_of(row)}) for row in rows]
