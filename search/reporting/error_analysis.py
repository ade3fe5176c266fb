"""What a trial got wrong, and whether it is as sure as it should be, from the outputs that lie in the study's files."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import optuna
from safetensors import SafetensorError
from sklearn.metrics import precision_recall_fscore_support

from promptgraft.objectives.data import Row, Task, rows_hash
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.measures import calibration_error
from promptgraft.search.judging import logits_of_test_set
from promptgraft.search.storage import FLOAT32_LOGITS_FILE, LOGITS_FILE, StudyRecord, trial_file

BINS = 10
# Examples shown of each class, those that the model was surest of; and of the worst rows, where there are no classes.
EXAMPLES, WORST = 3, 8
# Examples of each class where rows are images, which take less room.
PICTURES = 12


@dataclass(frozen=True, slots=True)
class Outputs:
    """A trial's outputs on some rows.

    Attributes:
        rows: Which: `test` or `validation`.
        files: Where they may lie, in this order.
        expected: The rows' hash as the study recorded it; None if it didn't.
        present: The hash of what is read today.
    """

    rows: str
    files: Sequence[str]
    expected: str | None
    present: str


@dataclass(frozen=True, slots=True)
class WrongExample:
    """A row that a model got wrong.

    Attributes:
        fields: Template field -> value.
        predicted: The label that it predicted.
        chance: The probability that it gave it.
    """

    fields: Mapping[str, str]
    predicted: str
    chance: float


@dataclass(frozen=True, slots=True)
class WorstRow:
    """A row that a model did worst on, of a kind of task without a single label a row.

    Attributes:
        fields: Template field -> value.
        answer: What is right.
        predicted: What the model says.
        loss: The row's loss, or what the kind of task has in its place.
        picture: The row with both drawn onto it, as a data URI of a JPEG file; empty where there is nothing to draw.
    """

    fields: Mapping[str, str]
    answer: str
    predicted: str
    loss: float
    picture: str = ""


@dataclass(frozen=True, slots=True)
class PartScores:
    """Scores of a part of the rows, such as those with long answers.

    Attributes:
        name: What they have in common.
        rows: How many.
        metrics: All metrics.
    """

    name: str
    rows: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClassErrors:
    """A model's errors on the rows of a label.

    Attributes:
        label: The label.
        rows: Rows that have it, or spans where each word has a label.
        wrong: Those of them that were predicted otherwise, or without it where a row may have several.
        precision: Of the label.
        recall: Of the label.
        f1: Of the label.
        examples: Errors that the model was surest of.
    """

    label: str
    rows: int
    wrong: int
    precision: float
    recall: float
    f1: float
    examples: tuple[WrongExample, ...]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows on which a model is about equally sure.

    Attributes:
        from_: Least probability of the predicted label; `from` in JSON.
        to: Largest probability.
        rows: Number of rows.
        sure: Mean probability of the predicted label.
        right: Share of rows on which it is right.
    """

    from_: float
    to: float
    rows: int
    sure: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How sure a model is, against how often it is right.

    Attributes:
        bins: The bins that have rows.
        expected_calibration_error: Mean distance of the two.
    """

    bins: tuple[CalibrationBin, ...]
    expected_calibration_error: float


@dataclass(frozen=True, slots=True)
class Errors:
    """What a trial got wrong on some rows.

    Attributes:
        rows: Which: `test` or `validation`.
        count: How many.
        hash: Their hash.
        file: Where the logits lie in the study's files.
        labels: The task's labels.
        confusion: True labels (rows) against predicted ones (columns); empty where rows have no single label.
        classes: Errors by true label; empty where answers aren't labels.
        metrics: All metrics.
        calibration: Whether the model is as sure as it should be; None where rows have no single label.
        worst: The rows with the largest loss, where they have no single label.
        worst_by: What `loss` of these rows is.
        worst_title: What these rows are, where they are shown side by side.
        parts: Scores of parts of the rows, where the kind of task has such parts.
        parts_title: What these parts are.
        reads: What rows hold: `text`, or `images`, of which fields are the paths.
    """

    rows: str
    count: int
    hash: str
    file: str
    labels: tuple[str, ...]
    confusion: Sequence[Sequence[int]]
    classes: tuple[ClassErrors, ...]
    metrics: Mapping[str, float]
    calibration: Calibration | None
    worst: tuple[WorstRow, ...] = ()
    worst_by: str = "loss"
    worst_title: str = ""
    parts: tuple[PartScores, ...] = ()
    parts_title: str = ""
    reads: str = "text"


def analyze_errors(
    stored: optuna.Study, task: Task, files: FileStore, trial: int
) -> tuple[tuple[Errors, ...], tuple[str, ...]]:
    """Look at a trial's outputs: on validation rows, and on the test rows if these were opened for it.

    Args:
        stored: The study's record.
        task: Its target task.
        files: Its files.
        trial: Number of the trial.

    Returns:
        What was found, the test rows first, and why anything is missing.
    """
    found, missing = [], []
    task = _decided(task, files, trial)
    for outputs in _sources(stored, task, trial):
        rows: Sequence[Row] = task.test if outputs.rows == "test" else task.scored()
        if outputs.expected not in (None, outputs.present):
            missing.append(
                f"errors on {outputs.rows} rows: the rows have changed since the study was started "
                f"(hash {outputs.expected} -> {outputs.present})"
            )
            continue
        name, logits = _read(files, outputs.files)
        if logits is None or len(logits) != len(rows):
            missing.append(
                f"errors on {outputs.rows} rows: the outputs of trial {trial} for them aren't there ({name})"
            )
            continue
        found.append(_errors(task, logits, rows, outputs.rows, name))
    return tuple(found), tuple(missing)


def outputs_on_test_rows(task: Task, files: FileStore, trial: int) -> tuple[Task, npt.NDArray[np.float32]] | None:
    """Return a trial's outputs on the opened test rows, shape (rows, labels), and the task that reads them; or None."""
    _, logits = _read(files, [logits_of_test_set(trial)])
    return None if logits is None or len(logits) != len(task.test) else (_decided(task, files, trial), logits)


def _decided(task: Task, files: FileStore, trial: int) -> Task:
    """Return the task with what a trial's outputs on the rows that it was scored by decide, such as thresholds."""
    _, scored = _read(files, _scored_files(trial))
    if scored is not None and len(scored) == len(task.scored()):
        return task.decided(scored, task.scored())
    return task


def _sources(stored: optuna.Study, task: Task, trial: int) -> list[Outputs]:
    record = StudyRecord.of(stored)
    chosen_by = Outputs(
        "validation",
        _scored_files(trial),
        record.identity.get("target rows"),
        rows_hash(task.labelled),
    )
    opening = record.opening(trial)
    if opening is None or not opening.table:
        return [chosen_by]
    return [Outputs("test", [logits_of_test_set(trial)], opening.rows, rows_hash(task.test)), chosen_by]


def _scored_files(trial: int) -> list[str]:
    """Return where a trial's outputs on the rows that it was scored by may lie."""
    return [trial_file(trial, name) for name in (FLOAT32_LOGITS_FILE, LOGITS_FILE)]


def _read(files: FileStore, names: Sequence[str]) -> tuple[str, npt.NDArray[np.float32] | None]:
    """Return the first file that can be read, and its logits, shape (rows, labels); None if none can."""
    for name in names:
        try:
            return name, files.read_logits(name)
        except (OSError, SafetensorError, KeyError):
            continue
    return names[-1], None


def _errors(task: Task, logits: npt.NDArray[np.float32], rows: Sequence[Row], part: str, file: str) -> Errors:
    """Count a model's errors by class, with examples, and measure its calibration.

    Args:
        task: The task.
        logits: Shape (rows, labels).
        rows: The rows.
        part: Which they are.
        file: Where the logits lie.
    """
    confusion = task.confusion(logits, rows) if task.one_label else []
    if not confusion:
        return _other_errors(task, logits, rows, _overall(task, logits, rows, part, file))
    chances = task.expected(logits)
    predicted, sure = chances.argmax(1), chances.max(1)
    labels = np.array([row.label for row in rows])
    figures = precision_recall_fscore_support(labels, predicted, labels=range(len(task.labels)), zero_division=0)
    by_class, most = [], EXAMPLES if task.reads == "text" else PICTURES
    for label, name in enumerate(task.labels):
        wrong = [int(i) for i in np.argsort(-sure, kind="stable") if labels[i] == label != predicted[i]]
        examples = tuple(
            WrongExample(dict(rows[i].fields), task.labels[predicted[i]], float(sure[i])) for i in wrong[:most]
        )
        precision, recall, f1, count = (column[label] for column in figures)
        scores = float(precision), float(recall), float(f1)
        by_class.append(ClassErrors(name, int(count), len(wrong), *scores, examples))
    return replace(
        _overall(task, logits, rows, part, file),
        confusion=confusion,
        classes=tuple(by_class),
        calibration=calibration(sure, predicted == labels),
    )


def _overall(task: Task, logits: npt.NDArray[np.float32], rows: Sequence[Row], part: str, file: str) -> Errors:
    """Measure a model as a whole; see `_errors`."""
    return Errors(
        rows=part,
        count=len(rows),
        hash=rows_hash(rows),
        file=file,
        labels=tuple(task.labels),
        confusion=(),
        classes=(),
        metrics=scores(task, logits, rows),
        calibration=None,
        reads=task.reads,
    )


def _other_errors(task: Task, logits: npt.NDArray[np.float32], rows: Sequence[Row], overall: Errors) -> Errors:
    """Add the worst rows, and errors by label where there are labels; see `_errors`."""
    expected = task.expected(logits)
    losses = task.blame(logits, rows)
    order = list(task.examples(losses, WORST))
    said = task.described(expected[order], [rows[i].fields for i in order])
    drawn = [task.picture(rows[i], expected[i : i + 1]) for i in order]
    by_class = [
        ClassErrors(own.label, own.count, own.missed, own.precision, own.recall, own.f1, ())
        for own in task.by_label(expected, rows)
    ]
    worst = [
        WorstRow(dict(rows[i].fields), task.show(rows[i]), said[place], float(losses[i]), _as_data(drawn[place]))
        for place, i in enumerate(order)
    ]
    parts = [
        PartScores(name, len(own), scores(task, logits[own], [rows[i] for i in own]))
        for name, own in task.parts(rows).items()
    ]
    return replace(
        overall,
        classes=tuple(by_class),
        worst=tuple(worst),
        worst_by=task.blamed_by,
        worst_title=task.examples_title,
        parts=tuple(parts),
        parts_title=task.parts_title,
    )


def _as_data(picture: bytes | None) -> str:
    return "" if picture is None else f"data:image/jpeg;base64,{b64encode(picture).decode()}"


def calibration(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> Calibration:
    """Compare how sure a model is with how often it is right (Guo et al. 2017, arXiv:1706.04599).

    Args:
        sure: Probability of the predicted label, shape (rows,).
        right: Whether it was right, shape (rows,).
    """
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins: list[CalibrationBin] = []
    for number in sorted(set(place.tolist())):
        own = place == number
        ends, means = (number / BINS, (number + 1) / BINS), (float(sure[own].mean()), float(right[own].mean()))
        bins.append(CalibrationBin(*ends, int(own.sum()), *means))
    return Calibration(tuple(bins), calibration_error(sure, right, BINS))
