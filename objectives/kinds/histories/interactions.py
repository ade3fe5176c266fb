"""Histories: interactions of users with items, in the order of their times, as rows of text."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from promptgraft.objectives.data import (
    SEPARATOR,
    CleaningReport,
    HistorySpec,
    Row,
    TaskSpec,
    has_text,
    read_table,
    read_times,
)
from promptgraft.objectives.kinds.regression import as_number
from promptgraft.spaces import InvalidInputError

# Stands between the columns of an item's text.
BETWEEN = ", "


@dataclass(frozen=True, slots=True)
class Interaction:
    """A user and an item that met."""

    user: str
    item: str
    time: float


@dataclass(frozen=True, slots=True)
class Histories:
    """What a table of interactions says.

    Attributes:
        items: Name of each item that occurs, or may be recommended.
        users: Names of the items of each user, oldest first, and when they met.
        report: What was dropped.
    """

    items: tuple[str, ...]
    users: Mapping[str, Sequence[tuple[str, float]]]
    report: CleaningReport

    def rows(self, field: str) -> dict[str, list[Row]]:
        """Return, for each user, a row for each item but the first, oldest first: what came before, and the item."""
        places = {name: place for place, name in enumerate(self.items)}
        return {
            user: [
                Row({field: newest_first(own[:n])}, places[name], user, time) for n, (name, time) in enumerate(own) if n
            ]
            for user, own in self.users.items()
        }


def newest_first(own: Sequence[tuple[str, float]]) -> str:
    """Write a history as text."""
    return SEPARATOR.join(name for name, _ in reversed(own))


def read_histories(spec: TaskSpec, names: Sequence[str] | None = None) -> Histories:
    """Read interactions and items.

    An item that a user meets twice counts once, the first time. Of interactions at the same time, the one that stands
    first in the table is the older one.

    Args:
        spec: The task, with `histories`.
        names: Items that can be recommended; all with text that occur in enough interactions if None.

    Raises:
        InvalidInputError: If a table can't be read, times don't parse, or fewer than two items or users remain.
    """
    histories = _of(spec)
    texts = read_items(histories, spec.label)
    if not texts:
        raise InvalidInputError(
            f"{histories.items}: no item has a text in {', '.join(map(repr, histories.text))}; name columns with texts"
        )
    found, counts = _interactions(spec, histories, texts)
    if not found and counts["missing_time"] > counts["missing_text"]:
        raise InvalidInputError(
            f"{spec.train}: no interaction has a time in column {histories.time!r}; name the column of times"
        )
    if not found and counts["missing_text"]:
        lost, other = unlike_items(spec)
        raise InvalidInputError(
            f"{spec.train}: no item of column {spec.label!r}, such as {lost!r}, is in {histories.items} with a text, "
            f"such as {other!r}; write their ids alike"
        )
    kept = _frequent(found, histories.least)
    counts["few_interactions"] += len(found) - len(kept)
    items = tuple(names or sorted({texts[one.item] for one in kept}))
    known = set(items)
    by_user: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for one in kept:
        if texts[one.item] in known:
            by_user[one.user].append((texts[one.item], one.time))
        else:
            counts["invalid_label"] += 1
    report = CleaningReport.of(counts)
    if len(items) < 2 or len(by_user) < 2:
        raise InvalidInputError(
            f"{spec.train}: expected at least two users and two items with {histories.least} interactions each, found "
            f"{len(by_user)} and {len(items)} ({report}); add interactions, or lower `histories.least`"
        )
    return Histories(items, dict(sorted(by_user.items())), report)


@dataclass(frozen=True, slots=True)
class Divided:
    """Rows of users by what they are for.

    Attributes:
        older: Of each user the newest rows that may be trained on.
        validation: Rows to choose by, one of a user at most.
        test: Rows of the test set, likewise.
    """

    older: Sequence[Sequence[Row]]
    validation: Sequence[Row]
    test: Sequence[Row]


def divide(users: Iterable[Sequence[Row]], spec: HistorySpec) -> Divided:
    """Divide the rows of users by time.

    Args:
        users: Rows of each user, oldest first.
        spec: Says from which times on rows are held out; the last one and the last but one are where it doesn't.

    Raises:
        InvalidInputError: If the times don't parse, or aren't in order.
    """
    if (bounds := held_out_from(spec)) is None:
        several = [rows for rows in users if len(rows) > 1]
        older = [rows[:-2][-spec.positions :] for rows in several]
        return Divided(older, [rows[-2] for rows in several], [rows[-1] for rows in several])
    first, second = bounds
    parts = [
        [
            [row for row in rows if low <= row.time < high]
            for low, high in pairwise((-math.inf, first, second, math.inf))
        ]
        for rows in users
    ]
    return Divided(
        [before[-spec.positions :] for before, _, _ in parts],
        [row for _, middle, _ in parts for row in middle[:1]],
        [row for _, _, after in parts for row in after[:1]],
    )


def held_out_from(spec: HistorySpec) -> tuple[float, float] | None:
    """Return the times from which on rows are for validation and test; None where each user's last rows are.

    Raises:
        InvalidInputError: If they don't parse, or aren't in order.
    """
    if spec.validation_from is None or spec.test_from is None:
        return None
    try:
        first, second = (read_times([own])[0] for own in (spec.validation_from, spec.test_from))
    except InvalidInputError as error:
        raise InvalidInputError(f"`histories.validation_from` or `test_from`: {error}") from error
    if not first < second:
        raise InvalidInputError(
            f"`histories.validation_from` ({spec.validation_from}) must be a time before `histories.test_from` "
            f"({spec.test_from})"
        )
    return first, second


def _of(spec: TaskSpec) -> HistorySpec:
    if spec.histories is None:
        raise InvalidInputError(f"{spec.train}: kind {spec.kind!r} needs `histories`, with user, time, items and text")
    if len(spec.fields) != 1:
        raise InvalidInputError(
            f"`text` names {len(spec.fields)} columns, but histories are one text; name one, such as `text: history`"
        )
    return spec.histories


def read_items(spec: HistorySpec, column: str) -> dict[str, str]:
    """Return the name of each item that has a text: its text; with the item's id behind it where two have the same.

    See `read_texts`.
    """
    texts = read_texts(spec, column)
    counts = Counter(texts.values())
    return {item: with_id(text, item) if counts[text] > 1 else text for item, text in texts.items()}


def with_id(text: str, item: str) -> str:
    """Return the name of an item that has its text in common with another."""
    return f"{text} ({item})"


def read_texts(spec: HistorySpec, column: str) -> dict[str, str]:
    """Return the text of each item that has one.

    Args:
        spec: Where they are.
        column: Column of the item's id.

    Raises:
        InvalidInputError: If the table can't be read, or an item stands in it twice.
    """
    frame = read_table(spec.items, [column, *spec.text])
    ids = read_ids(frame[column], f"{spec.items}: item")
    columns = [[" ".join((cell or "").split()) for cell in frame[name]] for name in spec.text]
    texts = [BETWEEN.join(filter(has_text, cells)) for cells in zip(*columns, strict=True)]
    return {item: text for item, text in zip(ids, texts, strict=True) if item and has_text(text)}


def unlike_items(spec: TaskSpec) -> tuple[str, str]:
    """Return the id of an item that users had and that has no text, and of one that has; empty where there is none."""
    texts = read_texts(_of(spec), spec.label)
    had = ((cell or "").strip() for cell in read_table(spec.train, [spec.label])[spec.label])
    return next((item for item in had if item and item not in texts), ""), next(iter(texts), "")


def read_ids(cells: Iterable[str | None], name: str) -> list[str]:
    """Return a column of ids, without white space around; empty where there is none.

    Args:
        cells: The column.
        name: What has the ids, behind the path of its table.

    Raises:
        InvalidInputError: If an id stands in several rows.
    """
    ids = [(cell or "").strip() for cell in cells]
    twice = next((own for own, count in Counter(filter(None, ids)).items() if count > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{name} {twice!r} stands in {ids.count(twice)} rows; keep one of them")
    return ids


def _interactions(
    spec: TaskSpec, histories: HistorySpec, texts: Mapping[str, str]
) -> tuple[list[Interaction], Counter[str]]:
    """Read the interactions that can be used, by time; and count the others."""
    rated = [] if histories.rating is None else [histories.rating]
    frame = read_table(spec.train, [histories.user, spec.label, histories.time, *rated])
    try:
        times = read_times(frame[histories.time].tolist())
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{spec.train}: column {histories.time!r} must hold dates or numbers: {error}"
        ) from error
    counts: Counter[str] = Counter(read=len(frame))
    ratings = frame[histories.rating].tolist() if histories.rating else []
    disliked = _disliked(spec.train, histories, ratings) if ratings else [None] * len(frame)
    cells = zip(frame[histories.user], frame[spec.label], times, disliked, strict=True)
    found: list[Interaction] = []
    for user, item, time, dislike in cells:
        own = Interaction((user or "").strip(), (item or "").strip(), time)
        reason = _unusable(own, texts) or dislike
        if reason is None:
            found.append(own)
        else:
            counts[reason] += 1
    found.sort(key=lambda own: own.time)  # Stable: at the same time, the table's order counts.
    first = {(own.user, own.item): own for own in reversed(found)}
    once = [own for own in found if first[own.user, own.item] is own]
    counts["duplicate"] += len(found) - len(once)
    return once, counts


def _disliked(path: str, histories: HistorySpec, cells: Sequence[str | None]) -> list[str | None]:
    """Say of each rating why its interaction isn't used; None if it is.

    Raises:
        InvalidInputError: If none is used, as where ratings are on another scale.
    """
    ratings = [as_number(cell or "") for cell in cells]
    numbers = [own for own in ratings if own is not None]
    least = histories.least_rating or 0.0
    if not any(own >= least for own in numbers):
        between = f"they go from {min(numbers):g} to {max(numbers):g}" if numbers else "none of them is a number"
        raise InvalidInputError(
            f"{path}: no rating in column {histories.rating!r} reaches `histories.least_rating` ({least:g}): "
            f"{between}; give it on their scale"
        )
    return ["invalid_rating" if own is None else "low_rating" if own < least else None for own in ratings]


def _unusable(own: Interaction, texts: Mapping[str, str]) -> str | None:
    if not own.user:
        return "missing_group"
    if not own.item:
        return "missing_label"
    if own.item not in texts:
        return "missing_text"
    return "missing_time" if math.isnan(own.time) else None


def _frequent(found: Sequence[Interaction], least: int) -> list[Interaction]:
    """Drop users and items with few interactions, until all that stay have enough."""
    kept = list(found)
    while True:
        users, items = Counter(own.user for own in kept), Counter(own.item for own in kept)
        enough = [own for own in kept if users[own.user] >= least and items[own.item] >= least]
        if len(enough) == len(kept):
            return kept
        kept = enough
