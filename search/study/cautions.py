"""What makes the scores of a study doubtful, though it can be run: said by `validate`, `init`, `run` and the report."""

from collections import Counter
from collections.abc import Mapping, Sequence

from promptgraft.objectives.data import (
    Task,
    absent_labels,
    alike_labels,
    all_labels,
    are_amounts,
    find_label_leaks,
    joined_labels,
    missing_marks,
    wanted_folds,
)
from promptgraft.objectives.kinds import unlike_items
from promptgraft.search.study.effort import families_of
from promptgraft.search.study.schema.study_file import StudyFile
from promptgraft.search.study.space_loading import SELF_TRAINING
from promptgraft.search.wording import one_line
from promptgraft.spaces import SearchSpace

# Share of the near duplicates from which on they are probably none, since their labels differ.
MANY_OF_OTHER_LABEL = 0.3
# Share of the rows whose answers can't be read from which on that is no slip of the pen.
MANY_UNREADABLE = 0.05
# A budget below this, written without a unit, was probably not meant in seconds.
FEW_SECONDS = 60


def cautions_of(file: StudyFile, tasks: Mapping[str, Task], space: SearchSpace) -> tuple[str, ...]:
    """Say what makes scores doubtful.

    Args:
        file: The study file.
        tasks: Its tasks, by what messages call them; the target first.
        space: The search space.

    Raises:
        InvalidInputError: If the training rows of a fold lack a label.
    """
    target = tasks["target"]
    found = [f"{name}: {leak}" for name, task in tasks.items() for leak in find_label_leaks(task)]
    found += [f"target: {lacking}" for lacking in absent_labels(target, file.metric)]
    sections = [file.target, *file.all_sources().values()]
    for (name, task), section in zip(tasks.items(), sections, strict=True):
        found += [f"{name}: {doubt}" for doubt in (*_missing_labels(task, section.labels or ()), *_doubts(task))]
    labels = all_labels(target, list(tasks.values())[1:])
    for names in alike_labels(labels):
        found.append(f"the labels {', '.join(map(repr, names))} are different; if they mean one, write them alike")
    for name, words in file.space.verbalizers.items() if file.space else ():
        unknown = ", ".join(repr(label) for label in words if label not in labels)
        if unknown:
            found.append(f"verbalizer {name!r} has words for {unknown}, but no row has that label")
    found += _words_that_begin_others(file, space)
    cleaning = target.cleaning
    if cleaning.near_duplicate_of_other_label > MANY_OF_OTHER_LABEL * cleaning.near_duplicate:
        found.append(f"target: {cleaning}; numbers, symbols or single words may decide the label")
    if _unreadable(file, target) > MANY_UNREADABLE * cleaning.read:
        found.append(
            f"target: {cleaning}; answers that can't be read are left out: are they written as this kind of task needs?"
        )
    found += [
        f"{name}: {unread.unreadable_image + unread.unreadable_mask} rows are left out since their file can't be read; "
        f"the first is in {unread.unread}"
        for name, task in tasks.items()
        if (unread := task.cleaning).unread
    ]
    found += [f"target: {doubt}" for doubt in _doubts_of_histories(target)]
    wanted = wanted_folds(len(target.labelled), file.target.folds)
    if 1 < target.folds < wanted:
        found.append(f"target: {target.folds} folds in place of {wanted}, since a label has no more rows")
    if target.unlabelled and not any(entry.name == SELF_TRAINING for entry in space.parameters):
        found.append(f"target.unlabelled has no effect, since the space has no {SELF_TRAINING}, such as [0, 0.9]")
    if file.judging.ensemble > 1 and target.folds < 2:
        found.append("judging.ensemble has no effect, since one part of the rows is held out: it needs folds")
    return tuple(found)


def times_without_units(budget: object) -> list[str]:
    """Say where a number of the study file's budget is probably not meant in seconds.

    Args:
        budget: The section as it is written.
    """
    written = budget if isinstance(budget, Mapping) else {}
    times = {name: str(written.get(name)) for name in ("timeout", "trial_timeout", "compute")}
    return [
        f"budget.{name}: {value} means {value} seconds; for hours, write {value}h"
        for name, value in times.items()
        if value.replace(".", "", 1).isdecimal() and float(value) < FEW_SECONDS
    ]


def _words_that_begin_others(file: StudyFile, space: SearchSpace) -> list[str]:
    """Name label words that a model which writes from left to right can't prefer to another label's."""
    if not any(family.label_last or family.encoder_decoder for family in families_of(file)):
        return []
    found = []
    for verbalizer in space.verbalizers:
        owners = {word: label for label, words in verbalizer.words.items() for word in words}
        for word, label in owners.items():
            starts = [own for own in owners if word.startswith(own) and not word[len(own) : len(own) + 1].isalnum()]
            first = next((own for own in starts if owners[own] != label), None)
            if first is not None:
                found.append(
                    f"verbalizer {verbalizer.name!r}: {word!r} begins with {first!r}, the word of another label, and "
                    "can never be likelier than that; choose words of which none begins another"
                )
    return found


def _unreadable(file: StudyFile, target: Task) -> int:
    """Count the rows that are left out since an answer, or a rating, can't be read."""
    if target.reads_histories:
        return target.cleaning.invalid_rating
    return target.cleaning.invalid_label if file.target.labels is None else 0


def _doubts_of_histories(task: Task) -> list[str]:
    """Say where many items have no text, and where histories have no order."""
    if task.spec is None or task.spec.histories is None:
        return []
    histories, missing, found = task.spec.histories, task.cleaning.missing_text, []
    if missing > MANY_UNREADABLE * task.cleaning.read:
        lost, known = unlike_items(task.spec)
        found.append(
            f"{missing} of {task.cleaning.read} interactions are left out, since their items, such as {lost!r}, aren't "
            f"in the table of items, {histories.items}, or have no text there, as {known!r} has: are the ids of both "
            "tables written alike?"
        )
    if task.one_label and len({row.time for row in (*task.labelled, *task.test)}) == 1:
        found.append(
            f"all interactions have the same time in column {histories.time!r}, so histories are in the order of the "
            "table"
        )
    return found


def _missing_labels(task: Task, named: Sequence[str]) -> list[str]:
    """Say where labels look like missing values, unless the study file names them."""
    if not task.has_labels or task.in_places or task.reads_histories:
        return []
    marks = [mark for mark in missing_marks(task.labels) if mark not in named]
    rows = (*(task.labelled or task.train), *task.test)
    counts = Counter(task.labels[place] for row in rows for place in task.labels_of(row.answer))
    shown = ", ".join(f"{mark!r} ({counts[mark]} rows)" for mark in marks)
    remedy = "if they are, leave these cells empty, since only empty cells are taken for missing labels"
    return [f"some labels look like missing values: {shown}; {remedy}; else name all in `labels`"] if marks else []


def _doubts(task: Task) -> list[str]:
    """Say where labels look like answers of another kind of task."""
    if not task.has_labels or task.in_places or task.reads_histories or task.reads != "text":
        return []
    found = []
    if several := joined_labels(task.labels, kept="|" if not task.one_label else ""):
        remedy = "set kind: multi_label, and write | between them" if task.one_label else "write | between them"
        found.append(f"{one_line(several)!r} looks like several labels of one row; if it is, {remedy}")
    if task.one_label and are_amounts(task.labels):
        shown = ", ".join(task.labels[:3])
        found.append(
            f"the {len(task.labels)} labels are numbers ({shown}, ...); if they are amounts, set kind: regression"
        )
    return found
