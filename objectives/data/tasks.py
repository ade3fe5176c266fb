"""What a task is to the migrate-and-evaluate cycle, whatever its kind."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.refusals import Refusals
from promptgraft.objectives.data.rows import (
    Answer,
    AnswerForm,
    CleaningReport,
    Direction,
    Expected,
    LossName,
    Outputs,
    Prediction,
    Reported,
    Row,
    TaskSpec,
    Texts,
    WordSplitter,
)
from promptgraft.objectives.data.tables import has_text, read_rows
from promptgraft.spaces import Registry

if TYPE_CHECKING:
    import pandas as pd

    from promptgraft.objectives.data.folds import Split


@dataclass(frozen=True)
class Task(Refusals, Reported, ABC):
    """A task with its rows cleaned and split; its class, the kind, says all that is known of rows, answers and outputs.

    Outputs are what a model computes for each row, or each word or cell of it, one number a label: logits, in kinds of
    numbers the number itself, or in kinds of texts `width` numbers. `objectives.measures.kind_checks` tests a kind.

    Attributes:
        reads: What rows hold: texts, or paths of images.
        answers: Form of the answers, which families of backbones have, too.
        in_places: Whether outputs are of several places of a row, such as its words or the cells of its image.
        loss: Name of the loss that models are trained with; see `objectives.trial.losses`.
        metrics: Metric -> the direction in which it is better, `loss` among them.
        on_request: Metrics of tasks whose study asks for them; `metrics` are those of all.
        default_metric: The metric that is optimised if a study names none.
        has_labels: Whether answers are labels, which outputs then are logits of.
        has_numbers: Whether answers are numbers, which models are trained on standardised.
        one_answer: Whether rows of the same text with different answers are dropped, since they contradict each other.
        languages: Whether a study names two languages, of texts and answers.
        reads_histories: Whether rows are made of interactions, which a study names in `histories`.
        bootstrap: Whether intervals come from resampled rows, since metrics are no means over rows.
        ensembles: Whether the outputs of several models have a mean.
        has_folds: Whether labelled rows can be divided into folds.
        baseline_names: What some baselines are called otherwise.
        labels: Names of the outputs, in their order: the labels, or what the number is.
        train: Rows to train on.
        validation: Rows to choose by; empty for a source task.
        test: Rows of the test set; empty for a source task.
        cleaning: What was dropped.
        labelled: All labelled rows outside the test set, whatever split `train` and `validation` are of.
        clusters: Number of each of these, the same for those that no fold may divide; empty where there are no folds.
        folds: Parts that these are divided into; 1 where a part, or a table of its own, is held out to choose by.
        spec: What the task was loaded from.
        seed: Seed of its splits.
        thresholds: Smallest probability of each label at which a row gets it, where a kind chooses that.
        unlabelled: Rows without labels, for self-training; none of them is nearly the same as a labelled or test row.
        unlabelled_cleaning: What was dropped of these.
    """

    reads: ClassVar[Literal["text", "images"]] = "text"
    answers: ClassVar[AnswerForm] = "labels"
    in_places: ClassVar[bool] = False
    loss: ClassVar[LossName] = "cross_entropy"
    metrics: ClassVar[Mapping[str, Direction]]
    on_request: ClassVar[Mapping[str, Direction]] = {}
    default_metric: ClassVar[str]
    has_labels: ClassVar[bool] = True
    has_numbers: ClassVar[bool] = False
    one_answer: ClassVar[bool] = True
    ensembles: ClassVar[bool] = True
    has_folds: ClassVar[bool] = True
    languages: ClassVar[bool] = False
    reads_histories: ClassVar[bool] = False
    bootstrap: ClassVar[bool] = False
    baseline_names: ClassVar[Mapping[str, str]] = {}

    labels: tuple[str, ...]
    train: tuple[Row, ...]
    validation: tuple[Row, ...] = ()
    test: tuple[Row, ...] = ()
    cleaning: CleaningReport = field(default_factory=CleaningReport)
    labelled: tuple[Row, ...] = ()
    clusters: tuple[int, ...] = ()
    folds: int = 1
    spec: TaskSpec | None = None
    seed: int = 0
    thresholds: tuple[float, ...] = ()
    unlabelled: tuple[Row, ...] = ()
    unlabelled_cleaning: CleaningReport = field(default_factory=CleaningReport)

    @property
    def sizes(self) -> str:
        """How many rows there are, and how candidates are scored by them."""
        if self.folds > 1:
            return f"{len(self.labelled)} labelled rows in {self.folds} folds and {len(self.test)} test rows"
        return f"{len(self.train)} training, {len(self.validation)} validation and {len(self.test)} test rows"

    @abstractmethod
    def on(self, split: "Split") -> "Task":
        """Return the task with the training and validation rows of a split; of the first fold, for every fold in turn.

        With all rows in training, validation has the same ones: no score of theirs says anything of others.
        """

    def scored(self, repeat: int = 0) -> tuple[Row, ...]:
        """Return the rows that a trial is scored by, in the order of its logits: fold by fold."""
        from promptgraft.objectives.data.folds import Split

        parts = [self.on(Split(repeat, fold)).validation for fold in range(self.folds)]
        return tuple(row for part in parts for row in part)

    def scored_folds(self) -> tuple[int, ...]:
        """Return the fold of each row that a trial is scored by, in the order of its logits."""
        from promptgraft.objectives.data.folds import Split

        return tuple(fold for fold in range(self.folds) for _ in self.on(Split(0, fold)).validation)

    @classmethod
    @abstractmethod
    def load_target(cls, spec: TaskSpec, seed: int) -> "Task":
        """Read, clean and split a target task; it is on its first split.

        Args:
            spec: The task.
            seed: Seed of the splits.

        Raises:
            InvalidInputError: If the data can't serve, with the reason and the remedy.
        """

    @classmethod
    @abstractmethod
    def load_source(cls, spec: TaskSpec, seed: int, target: "Task") -> "Task":
        """Read and clean a source task, without the rows that the target holds out.

        Raises:
            InvalidInputError: If the data can't serve, with the reason and the remedy.
        """

    @classmethod
    @abstractmethod
    def strata(cls, rows: Sequence[Row]) -> list[int]:
        """Number the parts of rows that splits and folds are to have in the same shares; shape (rows,)."""

    @classmethod
    def labels_of(cls, answer: Answer) -> tuple[int, ...]:
        """Return the labels of an answer; none where answers aren't labels."""
        return (answer,) if isinstance(answer, int) else answer if isinstance(answer, tuple) else ()

    @classmethod
    def mirrored(cls, answer: Any) -> Any:
        """Return the answer of an image whose left and right are exchanged: the same, unless it is about places.

        Args:
            answer: A row's, as training takes it; see `LabelScorer.encode_answer`.
        """
        return answer

    @property
    def width(self) -> int:
        """Numbers of outputs a row, or a word; one for each label where answers are labels."""
        return len(self.labels)

    @property
    def signatures(self) -> Mapping[str, str]:
        """How metrics were computed, by their names, where a library has a signature for that."""
        return {}

    @property
    def needed_labels(self) -> tuple[int, ...]:
        """Labels that the rows to train on must have."""
        return tuple(range(len(self.labels))) if self.has_labels else ()

    @classmethod
    def words(cls) -> WordSplitter | None:
        """Return what finds the words of a text, in kinds with an output for each of them; None in others.

        Predictions are spans then, and each word is read where its first piece stands in the prompt.
        """
        return None

    @property
    def scaling(self) -> tuple[float, float] | None:
        """Centre and scale of the training rows' numbers, by which models are trained; None where there are none."""
        return None

    @abstractmethod
    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Score outputs against the rows they belong to.

        Args:
            outputs: Shape (rows, labels), or (rows, words, labels).
            rows: The rows.

        Returns:
            Every name of `metrics` with its value.
        """

    @abstractmethod
    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return what outputs stand for, which can be averaged over models: probabilities, or numbers.

        Args:
            outputs: Shape (rows, labels).

        Returns:
            The same shape.
        """

    @abstractmethod
    def outputs_of(self, expected: Expected) -> Outputs:
        """Undo `expected`."""

    @abstractmethod
    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return each row's loss, in the unit of the metric `loss`, shape (rows,).

        Args:
            expected: From `expected`.
            rows: The rows.
        """

    @abstractmethod
    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return how good the outputs of each row are, by which models are compared row by row; shape (rows,)."""

    def blame(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return how bad each row's outputs are, by which a report shows the worst first; shape (rows,)."""
        return self.row_losses(self.expected(outputs), rows)

    @abstractmethod
    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the prediction for each row.

        Args:
            expected: From `expected`.
            texts: Template field -> value of each row.
        """

    @abstractmethod
    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the columns of a table of predictions; the first has what `predict` says, as a cell.

        Args:
            expected: From `expected`.
            texts: Template field -> value of each row.
        """

    def described(self, expected: Expected, texts: Texts) -> list[str]:
        """Return what is predicted for each row as text, as it may stand in a table for people.

        Args:
            expected: From `expected`.
            texts: Template field -> value of each row.
        """
        return [str(cell) for cell in next(iter(self.columns(expected, texts).values()))]

    def picture(self, row: Row, expected: Expected) -> bytes | None:
        """Draw a row with its answer and what is expected of it, as a JPEG file; None where there is nothing to draw.

        Args:
            row: The row.
            expected: From `expected`, of this row alone.
        """
        del row, expected
        return None

    @abstractmethod
    def show(self, row: Row) -> str:
        """Write a row's answer as text, as it may stand in a table."""

    @abstractmethod
    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Return the best outputs without a model: the same for all rows or words, or copies of their texts."""

    @abstractmethod
    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Fit what a user without a pretrained model would, by the words of the texts.

        Args:
            train: Rows that it is fitted on.
            rows: Rows that are predicted.

        Returns:
            Outputs for `rows`.
        """

    def portable(self, row: Row) -> dict[str, str]:
        """Return a row's fields so that they mean the same elsewhere."""
        return dict(row.fields)

    @classmethod
    def read_unanswered(cls, path: str, columns: Sequence[str]) -> "tuple[pd.DataFrame, pd.DataFrame]":
        """Read a table to predict its rows; see `read_rows`."""
        return read_rows(path, columns)

    @classmethod
    def can_read(cls, value: object) -> bool:
        """Whether a value of a field can be read."""
        return has_text(value)

    def without_answers(self, outputs: Outputs) -> Outputs:
        """Return outputs as they are of rows whose answers aren't known."""
        return outputs

    def complete(self, outputs: Outputs) -> npt.NDArray[np.bool_]:
        """Return for which rows all was computed, shape (rows,)."""
        return np.ones(len(outputs), dtype=bool)

    def distances(self, outputs: Outputs, others: Outputs, unit: float | None = None) -> Expected:
        """Return how far each row's outputs are from others, in a unit or as a share of the largest; shape (rows,)."""
        apart = np.abs(outputs - others).reshape(len(outputs), -1).max(axis=1)
        return np.asarray(apart / (np.abs(others).max() if unit is None else unit))

    @abstractmethod
    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit scikit-learn's linear model of this kind, and apply it to other rows.

        Args:
            known: Features of the training rows, dense or sparse; shape (training rows, features), or of their words,
                shape (training rows, words, features).
            train: These rows.
            others: Features of the other rows.
            c: Inverse strength of the penalty.

        Returns:
            Outputs for the other rows.
        """

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What a model of the task does, as the beginning of a sentence; labels are in backquotes."""

    def combine(self, members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
        """Average models.

        Args:
            members: Outputs of each, shape (rows, labels).
            weights: Share of each; they add up to 1.

        Returns:
            The outputs that stand for the weighted mean; a single model's as they are.
        """
        if len(members) == 1:
            return members[0]
        pairs = zip(members, weights, strict=True)
        return self.outputs_of(np.sum([weight * self.expected(member) for member, weight in pairs], axis=0))

    def decided(self, outputs: Outputs, rows: Sequence[Row]) -> "Task":
        """Return the task with what a kind chooses by rows that the model wasn't trained on, such as thresholds.

        Args:
            outputs: The model's, shape (rows, labels).
            rows: The rows.
        """
        del outputs, rows
        return self


_KINDS = "text_classification multi_label regression token_classification text_generation translation "
_KINDS += "histories.recommendation histories.user_profile "
_KINDS += "images.image_classification images.semantic_segmentation images.object_detection"
TASK_KINDS: Registry[type[Task]] = Registry(
    "task kind", [f"promptgraft.objectives.kinds.{own}" for own in _KINDS.split()]
)
