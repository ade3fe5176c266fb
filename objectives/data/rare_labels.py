"""Labels that no row has by which a model is scored."""

from promptgraft.objectives.data.folds import Split
from promptgraft.objectives.data.tasks import Task


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
    parts = {"validation": task.validation}
    if task.folds > 1:
        parts = {f"fold {fold + 1}": task.on(Split(0, fold)).validation for fold in range(task.folds)}
    lacking: dict[tuple[str, ...], list[str]] = {}
    for part, rows in (parts | {"test": task.test}).items():
        present = {row.label for row in rows}
        absent = tuple(repr(label) for index, label in enumerate(task.labels) if index not in present)
        if rows and absent:
            lacking.setdefault(absent, []).append(f"{part} ({len(rows)} rows)")
    effect = f"{metric} counts it as 0 there" if metric.endswith("_macro") else f"{metric} says nothing of it there"
    return [
        f"no row has the label {', '.join(labels)} in {', '.join(names)}, so {effect}; label more rows of it, or ask "
        "for more rows"
        for labels, names in lacking.items()
    ]
