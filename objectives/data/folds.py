"""Cross-validation: which labelled rows a candidate trains on, and which it is scored by, fold by fold."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from promptgraft.objectives.data.rows import Row, TaskSpec
from promptgraft.objectives.data.tasks import TASK_KINDS, Task
from promptgraft.spaces import InvalidInputError

# Folds by number of labelled rows, most rows first: above the last limit one part is held out instead.
FOLDS = ((5000, 1), (1000, 3), (0, 4))


@dataclass(frozen=True, slots=True)
class Split:
    """A division of the labelled rows into those that are trained on and those that a model is scored by.

    Attributes:
        repeat: Number of the partition; another one for each repeat.
        fold: Number of the fold whose rows are left out of training; None for every fold in its turn.
        whole: Whether all rows are trained on, as for the model that ships.
    """

    repeat: int = 0
    fold: int | None = None
    whole: bool = False


WHOLE = Split(whole=True)


def count_folds(rows: Sequence[Row], spec: TaskSpec) -> int:
    """Return how many folds the labelled rows allow: no more than the rarest label has rows.

    Args:
        rows: The labelled rows.
        spec: The task, which may say how many it wants.
    """
    labels_of = TASK_KINDS[spec.kind].labels_of
    counts = Counter(label for row in rows for label in labels_of(row.answer))
    rarest = min(counts.values(), default=len(rows))
    return max(1, min(wanted_folds(len(rows), spec.folds), rarest))


def wanted_folds(rows: int, wanted: int | None) -> int:
    """Return how many folds a study asks for, by the number of its labelled rows if it doesn't say."""
    return wanted or next(folds for least, folds in FOLDS if rows >= least)


def fold_numbers(rows: Sequence[Row], folds: int, seed: int, spec: TaskSpec, clusters: Sequence[int] = ()) -> list[int]:
    """Assign rows to folds.

    Folds are stratified by label, or as the kind of task says. Rows of one group, and rows that are nearly the same,
    are in one fold. Where the task names a column of time, a fold's training rows are all older than its own: the
    oldest rows are in no fold.

    Args:
        rows: The labelled rows.
        folds: How many.
        seed: Seed of the partition.
        spec: The task.
        clusters: From `near_duplicates.clusters`; not needed where the task names a column of time.

    Returns:
        The number of each row's fold; -1 for one that is only ever trained on.
    """
    if spec.time is not None:
        return _by_time(rows, folds)
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # Predicting needs none of it.

    labels = TASK_KINDS[spec.kind].strata(rows)
    if len(set(clusters)) == len(rows):
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels)
    else:
        splitter = StratifiedGroupKFold(min(folds, len(set(clusters))), shuffle=True, random_state=seed)
        parts = splitter.split(rows, labels, clusters)
    found = [-1] * len(rows)
    for number, (_, inside) in enumerate(parts):
        for index in inside:
            found[index] = number
    return found


def _by_time(rows: Sequence[Row], folds: int) -> list[int]:
    """Cut the rows into blocks of about the same size, from the oldest on; rows of one age are in one block."""
    times = sorted(row.time for row in rows)
    starts = [times[len(times) * block // (folds + 1)] for block in range(1, folds + 1)]
    return [sum(row.time >= start for start in starts) - 1 for row in rows]


def part_of(rows: Sequence[Row], numbers: Sequence[int], fold: int, spec: TaskSpec) -> tuple[list[Row], list[Row]]:
    """Return the rows that a fold trains on, and its own.

    Args:
        rows: The labelled rows.
        numbers: From `fold_numbers`.
        fold: Number of the fold.
        spec: The task.
    """
    own = [row for row, number in zip(rows, numbers, strict=True) if number == fold]
    if spec.time is None:
        return [row for row, number in zip(rows, numbers, strict=True) if number != fold], own
    groups = {row.group for row in own} if spec.group else set[str]()
    older = [row for row, number in zip(rows, numbers, strict=True) if number < fold and row.group not in groups]
    return older, own


def absent_labels(task: Task, metric: str) -> list[str]:
    """Say which labels are absent from the rows to choose by, fold by fold, and from the test rows.

    Args:
        task: A target task.
        metric: The metric that is optimised.

    Returns:
        A sentence for each part that lacks labels.

    Raises:
        InvalidInputError: If the training rows of a fold lack one: no model can be trained on them.
    """
    if not task.has_labels:
        return []
    parts = {"validation": task.validation}
    if task.folds > 1:
        parts = {f"fold {fold + 1}": task.on(Split(0, fold)).validation for fold in range(task.folds)}
    lacking: dict[tuple[str, ...], list[str]] = {}
    for part, rows in (parts | {"test": task.test}).items():
        present = {label for row in rows for label in task.labels_of(row.answer)}
        absent = tuple(repr(task.labels[index]) for index in task.needed_labels if index not in present)
        if rows and absent:
            lacking.setdefault(absent, []).append(f"{part} ({len(rows)} rows)")
    effect = f"{metric} counts it as 0 there" if metric.endswith("_macro") else f"{metric} says nothing of it there"
    return [
        f"no row has the label {', '.join(labels)} in {', '.join(names)}, so {effect}; label more rows of it, or ask "
        "for more rows"
        for labels, names in lacking.items()
    ]


def load_tasks(target: TaskSpec, sources: Mapping[str, TaskSpec], seed: int) -> tuple[Task, dict[str, Task]]:
    """Load a study's tasks, cleaned, split and free of duplicates between them; their kinds must be registered.

    Args:
        target: The target task.
        sources: The source tasks, by name.
        seed: Seed of the splits.

    Returns:
        The target, and the sources by name.

    Raises:
        InvalidInputError: If the data can't serve.
    """
    for name, spec in sources.items():
        check_same_kind(target, spec, f"source {name}".rstrip())
    loaded = TASK_KINDS[target.kind].load_target(target, seed)
    return loaded, {name: TASK_KINDS[spec.kind].load_source(spec, seed, loaded) for name, spec in sources.items()}


def check_same_kind(target: TaskSpec, source: TaskSpec, name: str) -> None:
    """Refuse a source of another kind than the target, whose losses can't be mixed.

    Raises:
        InvalidInputError: If it is one.
    """
    if source.kind != target.kind:
        raise InvalidInputError(
            f"{name} is of kind {source.kind!r}, but the target is of kind {target.kind!r}; use tables of one kind"
        )
