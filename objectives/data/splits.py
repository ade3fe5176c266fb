"""Taking a sample of rows apart from the rest: at random, by groups, or the newest."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TypeVar

from promptgraft.objectives.data.rows import CleaningReport, Row, TaskSpec
from promptgraft.objectives.data.tasks import TASK_KINDS, Task
from promptgraft.spaces import InvalidInputError

Parts = tuple[list[Row], list[Row]]
T = TypeVar("T", bound=Task)


def take(rows: Sequence[Row], size: int, seed: int, spec: TaskSpec, name: str, dropped: CleaningReport) -> Parts:
    """Take a sample of rows.

    What it is depends on the task: stratified by label; of whole groups, stratified as far as they allow, where the
    task names a column of groups; the newest where it names one of time. Rows to train on are stratified always: they
    are taken from one side of the other splits.

    Args:
        rows: The rows that are left.
        size: Rows in the sample.
        seed: Seed of the sample.
        spec: The task.
        name: What the sample is for: `train`, `validation` or `test`.
        dropped: Which rows were dropped before, for error messages.

    Returns:
        The rest, without what may not be used beside the sample, and the sample.

    Raises:
        InvalidInputError: If there are too few rows.
    """
    _check(rows, size, spec, name, dropped)
    if name == "train":
        return _stratified(rows, size, seed, spec, name) if size < len(rows) else ([], list(rows))
    if spec.time is not None:
        return _newest(rows, size, spec, name)
    if spec.group is not None:
        return _groups(rows, size, seed, spec, name)
    return _stratified(rows, size, seed, spec, name)


def default_test_rows(spec: TaskSpec, rows: Sequence[Row]) -> int:
    """Return how many rows a study tests on that doesn't say so."""
    if spec.train_rows is None or spec.time is not None or spec.group is not None:
        return max(1, len(rows) // 5)
    # Some more than are asked for stay, since those that say nearly the same as a test row can't be used.
    return max(1, len(rows) - spec.train_rows - (spec.validation_rows or 0) - len(rows) // 50)


def check_left(
    rows: Sequence[Row], path: str, part: str, table: str | None, dropped: CleaningReport, *, key: str | None = None
) -> None:
    """Refuse a part of the rows that held-out rows leave nothing of.

    Args:
        rows: What is left.
        path: The table that they are of.
        part: What the held-out rows are for: `validation` or `test`.
        table: Their table; None if they are of the same one.
        dropped: Which rows were dropped.
        key: What the study file calls the table of `path`, which may be left out; None if it is needed.

    Raises:
        InvalidInputError: If no row is left.
    """
    if rows:
        return
    replaceable = key or (part if table is not None else None)
    remedy = f"name another table as `{replaceable}`, or leave it out, so that rows of `train` are held out"
    raise InvalidInputError(
        f"{path}: no row is left to {'choose by' if key else 'train on'}, since all are among the {part} rows"
        f"{f' of {table}' if table else ''}, nearly the same as these, or of their groups ({dropped}); "
        f"{remedy if replaceable else 'add other rows'}"
    )


def require_labels(task: Task, rows: Sequence[Row], spec: TaskSpec, least: int = 1) -> None:
    """Refuse rows to train on that lack a label, or have one too rarely.

    Args:
        task: The task, whose labels are known.
        rows: The rows.
        spec: What it is loaded from.
        least: How many rows of each label are needed.

    Raises:
        InvalidInputError: If a label has fewer.
    """
    counts = Counter(label for row in rows for label in task.labels_of(row.answer))
    missing = [task.labels[index] for index in task.needed_labels if not counts[index]]
    if missing:
        others = f", in other groups by {spec.group!r}" if spec.group else ", older ones" if spec.time else ""
        raise InvalidInputError(
            f"{spec.train}: no train row has the label {', '.join(map(repr, missing))}; raise train_rows, label "
            f"more rows of it{others}, or leave the label out with `labels` ({task.cleaning})"
        )
    short = [task.labels[index] for index in task.needed_labels if counts[index] < least]
    if short:
        raise InvalidInputError(
            f"{spec.train}: only one labelled row has the label {', '.join(map(repr, short))}: it can't be trained "
            "on and scored by both. Label one more, raise train_rows, or leave the label out with `labels`"
        )


def take_labelled(rows: Sequence[Row], spec: TaskSpec, seed: int, dropped: CleaningReport) -> list[Row]:
    """Take the labelled rows that a study asks for; all of them if it doesn't say how many; see `take`.

    Raises:
        InvalidInputError: If there are too few rows.
    """
    if spec.shots is not None:
        return take_shots(rows, spec.shots, seed, spec, "train")[1]
    if spec.train_rows is None:
        return list(rows)
    return with_every_label(*take(rows, spec.train_rows, seed, spec, "train", dropped), spec)


def take_shots(rows: Sequence[Row], shots: int, seed: int, spec: TaskSpec, name: str) -> Parts:
    """Take so many rows of each label (few-shot protocol of LM-BFF; Gao et al. 2021, arXiv:2012.15723); see `take`."""
    from sklearn.model_selection import train_test_split

    rest, sample = list[Row](), list[Row]()
    for label in sorted({row.label for row in rows}):
        own = [row for row in rows if row.label == label]
        if len(own) < shots + (name != "train"):
            raise InvalidInputError(
                f"{spec.train}: shots is {shots}, but only {len(own)} rows of a label are left for {name} after "
                "cleaning and the splits before it; lower it"
            )
        kept, taken = train_test_split(own, test_size=shots, random_state=seed) if shots < len(own) else ([], own)
        rest += kept
        sample += taken
    return rest, sample


def _check(rows: Sequence[Row], size: int, spec: TaskSpec, name: str, dropped: CleaningReport) -> None:
    kind = TASK_KINDS[spec.kind]
    classes = len(set(kind.strata(rows))) if kind.one_label else 1
    if size < classes or (name != "train" and size > len(rows) - classes) or size > len(rows):
        least = f"at least {classes}{' (one a label)' if kind.one_label else ''}"
        left = f"{len(rows)} rows are left"
        asked = {"train": spec.train_rows, "validation": spec.validation_rows, "test": spec.test_rows}
        if asked[name] is not None:
            problem = f"{name}_rows is {size}, but {left} for it after cleaning and the splits before it ({dropped})"
            remedy = f"it must be {least} and leave rows to train on"
        elif name == "test" and spec.train_rows is not None:
            more = f" and validation_rows {spec.validation_rows}" if spec.validation_rows else ""
            problem = f"train_rows is {spec.train_rows}{more}, but {left} after cleaning ({dropped})"
            remedy = f"lower it, since {least} must stay for the test"
        else:
            problem = f"{left} after cleaning ({dropped}), of which {size} would be the {name} rows"
            remedy = f"these must be {least}: add rows, or set {name}_rows"
        raise InvalidInputError(f"{spec.train}: {problem}; {remedy}")


def _stratified(rows: Sequence[Row], size: int, seed: int, spec: TaskSpec, name: str) -> Parts:
    from sklearn.model_selection import train_test_split

    kind = TASK_KINDS[spec.kind]
    strata: list[int] | None = kind.strata(rows)
    counts = Counter(strata)
    alone = [row for row, label in zip(rows, strata or (), strict=True) if counts[label] == 1]
    if kind.one_label and name != "test" and alone:  # The only row of a label stays; see `with_every_label`.
        others = [row for row, label in zip(rows, strata or (), strict=True) if counts[label] > 1]
        rest, sample = _stratified(others, size, seed, spec, name)
        return [*rest, *alone], sample
    if not kind.one_label and min(size, len(rows) - size) < len(set(strata or ())):
        strata = None  # Too few rows for one of each part; no label is lost by it that isn't looked for later.
    try:
        rest, sample = train_test_split(rows, test_size=size, random_state=seed, stratify=strata)
    except ValueError as error:
        raise InvalidInputError(
            f"{spec.train}: can't split off {size} {name} rows of every label: {error}; label more rows of the rarest "
            "label, or leave it out with `labels`"
        ) from error
    return rest, sample


def with_every_label(rest: Sequence[Row], sample: Sequence[Row], spec: TaskSpec) -> list[Row]:
    """Return a sample that misses no label: a row of each that it lacks takes the place of one of the most frequent."""
    kind, found = TASK_KINDS[spec.kind], list(sample)
    if not kind.one_label:
        return found
    labels = kind.strata(found)
    for label, row in zip(kind.strata(rest), rest, strict=True):
        if label not in labels:
            common = Counter(labels).most_common(1)[0][0]
            place = len(labels) - 1 - labels[::-1].index(common)
            labels[place], found[place] = label, row
    return found


def _newest(rows: Sequence[Row], size: int, spec: TaskSpec, name: str) -> Parts:
    """Take the newest rows; of those as old as the oldest of them, as many as are needed, and none is left behind."""
    ordered = sorted(rows, key=lambda row: row.time)
    sample = ordered[-size:]
    rest = [row for row in ordered[:-size] if row.time < sample[0].time]
    if spec.group is not None:
        inside = {row.group for row in sample}
        rest = [row for row in rest if row.group not in inside]
    if not rest:
        raise InvalidInputError(
            f"{spec.train}: no row is older than the {size} newest, which are the {name} rows by {spec.time!r}; lower "
            f"{name}_rows"
        )
    return rest, sample


def _groups(rows: Sequence[Row], size: int, seed: int, spec: TaskSpec, name: str) -> Parts:
    """Take whole groups with at least so many rows in all, and of their rows a stratified sample."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels, groups = TASK_KINDS[spec.kind].strata(rows), [row.group for row in rows]
    folds = min(len(rows) // size, len(set(groups)))
    for count in range(folds, 1, -1):
        splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Of rare labels, which the check below covers.
            parts = list(splitter.split(rows, labels, groups))
        for outside, inside in parts:
            sample = [rows[index] for index in inside]
            if len(sample) >= size and len({labels[index] for index in inside}) == len(set(labels)):
                _, kept = _stratified(sample, size, seed, spec, name) if len(sample) > size else ([], sample)
                return [rows[index] for index in outside], kept
    raise InvalidInputError(
        f"{spec.train}: no groups by {spec.group!r} hold {size} {name} rows of every label and leave rows to train on; "
        f"lower {name}_rows"
    )


def by_rarest(labels: Sequence[Sequence[int]], least: int = 2) -> list[int]:
    """Number rows by their rarest label, since it is the rare ones that a split may miss; those without have a part.

    Args:
        labels: Those of each row.
        least: Rows that a part must have; see `merged`.
    """
    counts = Counter(label for own in labels for label in own)
    none = max(counts, default=0) + 1
    return merged([min(own, key=lambda label: (counts[label], label), default=none) for own in labels], least)


def merged(strata: Sequence[int], least: int = 2) -> list[int]:
    """Put the rows of parts that are too small to be divided into one part, or into the largest of the others.

    Args:
        strata: Number of each row's part, none below 0.
        least: Rows that a part must have.
    """
    counts = Counter(strata)
    found = [own if counts[own] >= least else -1 for own in strata]
    counts = Counter(found)
    if 0 < counts[-1] < least and len(counts) > 1:
        largest = max((own for own in counts if own >= 0), key=lambda own: counts[own])
        found = [largest if own < 0 else own for own in found]
    return found


def by_turns(rows: Sequence[Row], strata: Sequence[int] | None = None) -> list[Row]:
    """Order rows so that labels, or other parts of the rows, take turns: every round has some of each.

    Args:
        rows: The rows.
        strata: Number of each row's part; its label if None.
    """
    by_label: dict[int, list[Row]] = {}
    for row, label in zip(rows, [row.label for row in rows] if strata is None else strata, strict=True):
        by_label.setdefault(label, []).append(row)
    turns = zip_longest(*(by_label[label] for label in sorted(by_label)))
    return [row for row in chain.from_iterable(turns) if row is not None]


def with_fewer(task: T, count: int | None) -> T:
    """Keep so many of a task's training rows, labels taking turns; all of them if None."""
    return task if count is None else replace(task, train=tuple(by_turns(task.train, task.strata(task.train))[:count]))
