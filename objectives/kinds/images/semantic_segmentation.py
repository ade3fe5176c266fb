"""Semantic segmentation: a row names the file of an image and that of its mask, which has a class for each pixel."""

from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from promptgraft.objectives.data import (
    IGNORED_PIXEL,
    TASK_KINDS,
    Answer,
    AnswerForm,
    Direction,
    Expected,
    LabelScores,
    LossName,
    Outputs,
    Prediction,
    Row,
    TaskSpec,
    Texts,
    UnreadableImageError,
    classes_in,
    image_size,
    is_data,
    located,
    mask_as_data,
    mask_in,
    masked_image,
    mirrored_mask,
    read_mask,
    resized_mask,
)
from promptgraft.objectives.kinds.images.cells import PixelScores, mean_iou, of_pixels, pixel_scores
from promptgraft.objectives.kinds.images.image_rows import RAW_SIDE, PlacesTask, small_image
from promptgraft.spaces import InvalidInputError

# Log-probabilities of less are as unlikely: what has no chance at all would make all sums infinite.
_TINY = 1e-30
# Cells that the baseline without a model is fitted on.
_FITTED_CELLS = 20_000
# Pixels each way of a cell where a mask is described, whatever the image's size.
_DESCRIBED = 4
# Numbers of a mask in errors.
_SHOWN = 8


@TASK_KINDS.register("semantic_segmentation")
class SemanticSegmentation(PlacesTask):
    """A class for each pixel of an image.

    Answers are masks, as data URIs of PNG files. Outputs are logits of the cells of the model's map, shape (rows,
    cells, labels), which is square; they are interpolated to the size of the mask or the image.
    """

    loss: ClassVar[LossName] = "pixel_cross_entropy"
    answers: ClassVar[AnswerForm] = "masks"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "mean_iou": "maximize",
        "pixel_accuracy": "maximize",
        "loss": "minimize",
    }
    default_metric = "mean_iou"
    bootstrap = True
    does = "reads its pixels"
    blamed_by = "1 - mean IoU"
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "logistic regression on colours and places of pixels",
        "majority": "share of each label at each place",
    }

    @classmethod
    def complete_answers(cls, cells: Sequence[str], path: str) -> list[str]:
        """Find the masks, relative to their table; see `TextTask`."""
        return [located(cell, Path(path).parent) if cell else "" for cell in cells]

    @classmethod
    def read_answers(
        cls,
        cells: Sequence[str],
        spec: TaskSpec,
        labels: tuple[str, ...] | None,
        *,
        choosing: bool,  # noqa: ARG003
        texts: Texts,  # noqa: ARG003
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Read masks; what isn't one stays a path, and `unusable` says why. See `TextTask`."""
        if labels is None or not 2 <= len(labels) < IGNORED_PIXEL:
            found = "none" if labels is None else len(labels)
            raise InvalidInputError(
                f"masks hold numbers of classes: `labels` must name 2 to {IGNORED_PIXEL - 1} of them, that of number 0 "
                f"first, got {found}; {IGNORED_PIXEL} stands for pixels without a class"
            )
        names = tuple(label.strip() for label in labels)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInputError(f"labels names {twice!r} twice; name each label once")
        del spec
        return [_read(cell, len(names)) if cell else None for cell in cells], names

    @classmethod
    def unusable(cls, row: Row) -> str | None:
        """Drop rows whose image or mask can't be read, or whose sizes differ; see `TextTask`."""
        reason = super().unusable(row)
        answer = _mask_of(row) if isinstance(row.answer, str) else None
        if reason is not None or answer is None:
            return reason
        if not is_data(answer):
            return "unreadable_mask"
        (reference,) = row.fields.values()
        return None if mask_in(answer).shape == image_size(reference) else "mask_of_other_size"

    @classmethod
    def why_invalid(cls, cell: str, text: Mapping[str, str]) -> str:
        """Say which numbers a mask has; see `TextTask`."""
        if is_data(cell):
            return super().why_invalid(cell, text)
        numbers = ", ".join(map(str, np.unique(read_mask(Path(cell)))[:_SHOWN].tolist()))
        return (
            f"; invalid is, for instance, {cell}, which holds the numbers {numbers}; write those of the classes, or "
            "name more `labels`"
        )

    @classmethod
    def why_unusable(cls, row: Row) -> str:
        """Say why an image or its mask can't be read; see `TextTask`."""
        reason = super().why_unusable(row)
        if reason or not isinstance(row.answer, str) or is_data(row.answer):
            return reason
        try:
            read_mask(Path(row.answer))
        except UnreadableImageError as error:
            return str(error)
        return ""

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:
        """Want two classes; see `TextTask`."""
        found = sorted({own for row in rows for own in cls.labels_of(row.answer)})
        if len(found) > 1:
            return None
        said = ", ".join(repr(names[own]) for own in found) or "none"
        wanted = (
            f"masks of at least two classes after cleaning, found {said}; a mask is an image of grey levels or a "
            f"palette, in which 0, 1, ... are the classes as `labels` lists them, and {IGNORED_PIXEL} is ignored"
        )
        blank = next((row for row in rows if (mask_in(_mask_of(row)) == IGNORED_PIXEL).any()), None)
        if blank is None:
            return wanted
        (image,) = blank.fields.values()
        return (
            f"{wanted}: if pixels of {IGNORED_PIXEL}, such as in the mask of {image}, are {names[-1]!r}, write "
            f"{len(names) - 1} in their place"
        )

    @classmethod
    def labels_of(cls, answer: Answer) -> tuple[int, ...]:
        """Return the classes that a mask has pixels of; see `Task`."""
        return classes_in(answer) if isinstance(answer, str) else ()

    @classmethod
    def mirrored(cls, answer: Any) -> Any:
        """Mirror the mask; see `Task`."""
        return mirrored_mask(answer)

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Count pixels over all masks, each at its own size; see `Task`.

        `mean_iou` is the mean over the labels that masks or predictions have, as scikit-learn's `jaccard_score` has it;
        `loss` the mean over pixels.
        """
        scores = self._scores(outputs, rows)
        counts = np.sum([own.counts for own in scores], axis=0)
        return {
            "mean_iou": mean_iou(counts),
            "pixel_accuracy": float(np.trace(counts) / counts.sum()),
            "loss": float(sum(own.loss for own in scores) / counts.sum()),
        }

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the probability of each label in each cell; see `Task`."""
        return np.asarray(softmax(outputs.astype(np.float64), axis=-1))

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return log-probabilities; see `Task`."""
        return _logs(expected).astype(np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return what each row adds to the mean over pixels, times the number of rows; see `Task`."""
        scores = self._scores(_logs(expected), rows)
        pixels = sum(own.counts.sum() for own in scores)
        return np.array([own.loss * len(rows) / pixels for own in scores])

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the mean over an image's pixels of the probability of the right label; see `Task`."""
        scores = self._scores(outputs, rows)
        return np.array([own.certainty / own.counts.sum() for own in scores])

    def blame(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return what an image's mean intersection over union lacks of 1; see `Task`."""
        scores = self._scores(outputs, rows)
        return np.array([1 - mean_iou(own.counts) for own in scores])

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the mask of each image, at its size, as a data URI of a PNG file; see `Task`."""
        return [mask_as_data(mask) for mask in self._masks(expected, texts)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the masks; see `Task`."""
        return {"mask": self.predict(expected, texts)}

    def described(self, expected: Expected, texts: Texts) -> list[str]:
        """Return the shares of labels in the mask of each image, which needn't be there any more; see `Task`."""
        del texts
        side = _DESCRIBED * isqrt(expected.shape[1]) if len(expected) else 0
        return [self._shares(of_pixels(_logs(own), side, side).argmax(axis=0)) for own in expected]

    def picture(self, row: Row, expected: Expected) -> bytes | None:
        """Draw the true and the predicted mask onto the image; see `Task`."""
        (reference,) = row.fields.values()
        try:
            (predicted,) = self._masks(expected, [row.fields])
            masks = [("right", mask_in(_mask_of(row))), ("predicted", predicted)]
            return masked_image(reference, masks, self.labels)
        except UnreadableImageError:
            return None

    def show(self, row: Row) -> str:
        """Return the shares of labels in the mask; see `Task`."""
        return self._shares(mask_in(_mask_of(row)))

    def by_label(self, expected: Expected, rows: Sequence[Row]) -> list[LabelScores]:
        """Count the pixels of each label; see `Task`."""
        counts = np.sum([own.counts for own in self._scores(_logs(expected), rows)], axis=0)
        right, true, said = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
        columns = true, true - right, right / said.clip(1), right / true.clip(1), 2 * right / (said + true).clip(1)
        return [LabelScores(*own) for own in zip(self.labels, *(own.tolist() for own in columns), strict=True)]

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict the share of each label at each place of the training masks; see `Task`."""
        masks = _small_masks(self.train, RAW_SIDE)
        counts = np.stack([(masks == label).sum(axis=0) for label in range(len(self.labels))], axis=-1)
        shares = counts + counts.sum(axis=0) / counts.sum()
        return np.tile(self.outputs_of(shares / shares.sum(axis=-1, keepdims=True)), (len(rows), 1, 1))

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Fit logistic regression on the colours around small images' pixels, and where these are; see `Task`."""
        return self.fit_linear(_colours(train), train, _colours(rows), c=1.0)

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:
        """Fit logistic regression to cells, of which a sample is drawn; see `Task`."""
        from sklearn.linear_model import LogisticRegression  # Predicting needs none of it.
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        true = _small_masks(train, isqrt(known.shape[1]))
        places = np.argwhere(true != IGNORED_PIXEL)
        if len(places) > _FITTED_CELLS:
            places = np.random.default_rng(0).choice(places, _FITTED_CELLS, replace=False)
        chosen = (places[:, 0], places[:, 1])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500)).fit(known[chosen], true[chosen])
        outputs = np.full((*others.shape[:2], len(self.labels)), np.log(_TINY), dtype=np.float32)
        found = model.predict_log_proba(others.reshape(-1, others.shape[2]))
        outputs[..., model.classes_] = found.reshape(*others.shape[:2], -1)
        return outputs

    def combine(self, members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
        """Average models, on the finest of their maps; see `Task`."""
        cells = max(own.shape[1] for own in members)
        return super().combine([_on_finer_map(own, cells) for own in members], weights)

    @property
    def purpose(self) -> str:
        """Say that it finds the pixels of labels; see `Task`."""
        return "Finds in images the pixels of"

    @staticmethod
    def _scores(logits: Outputs | Expected, rows: Sequence[Row]) -> list[PixelScores]:
        return [pixel_scores(own, _mask_of(row)) for own, row in zip(logits, rows, strict=True)]

    def _masks(self, expected: Expected, texts: Texts) -> list[npt.NDArray[np.uint8]]:
        """Return the likeliest label of each pixel of images, at their sizes."""
        sizes = [image_size(reference) for text in texts for reference in text.values()]
        return [
            of_pixels(_logs(own), *size).argmax(axis=0).astype(np.uint8)
            for own, size in zip(expected, sizes, strict=True)
        ]

    def _shares(self, mask: npt.NDArray[np.integer[Any]]) -> str:
        """Write the share of each label among a mask's pixels, the largest first."""
        counts = np.bincount(mask.reshape(-1), minlength=len(self.labels))[: len(self.labels)]
        order = [own for own in np.argsort(-counts, kind="stable").tolist() if counts[own]]
        return ", ".join(f"{self.labels[own]} {100 * counts[own] / counts.sum():.1f} %" for own in order)


def _read(reference: str, labels: int) -> str | None:
    """Return a mask as a data URI; its path if it can't be read; None if it has numbers of no class, or none at all."""
    if is_data(reference):
        return None
    try:
        numbers = read_mask(Path(reference))
    except UnreadableImageError:
        return reference
    found = np.unique(numbers)
    known = found[found != IGNORED_PIXEL]
    if not len(known) or known.min() < 0 or known.max() >= labels:
        return None
    return mask_as_data(numbers.astype(np.uint8))


def _mask_of(row: Row) -> str:
    assert isinstance(row.answer, str), "the task's answers are masks"
    return row.answer


def _logs(expected: Expected) -> Expected:
    return np.log(np.maximum(expected, _TINY))


def _on_finer_map(outputs: Outputs, cells: int) -> Outputs:
    """Interpolate outputs, shape (rows, cells of a map, labels), to a map with so many cells."""
    if outputs.shape[1] == cells:
        return outputs
    side, (rows, _, labels) = isqrt(cells), outputs.shape
    finer = [of_pixels(own.astype(np.float64), side, side) for own in outputs]
    return np.stack(finer).reshape(rows, labels, cells).transpose(0, 2, 1).astype(np.float32)


def _small_masks(rows: Sequence[Row], side: int) -> npt.NDArray[np.uint8]:
    """Return masks made small, shape (rows, side * side)."""
    return np.stack([resized_mask(_mask_of(row), side, side).reshape(-1) for row in rows])


def _colours(rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """Return features of small images' pixels: the colours of 3 x 3 around each, and its place; (rows, cells, 32)."""
    lines = np.linspace(-1, 1, RAW_SIDE)
    y, x = np.meshgrid(lines, lines, indexing="ij")
    places = np.stack([x, y, x * x, y * y, x * y], axis=-1)
    found = np.empty((len(rows), RAW_SIDE * RAW_SIDE, 3 * 9 + places.shape[-1]), dtype=np.float32)
    for number, row in enumerate(rows):
        (reference,) = row.fields.values()
        pixels = np.frombuffer(small_image(reference, row.content), dtype=np.uint8).reshape(RAW_SIDE, RAW_SIDE, 3)
        wide = np.pad(pixels, ((1, 1), (1, 1), (0, 0)), mode="edge") / 255
        around = [wide[i : i + RAW_SIDE, j : j + RAW_SIDE] for i in range(3) for j in range(3)]
        found[number] = np.concatenate([*around, places], axis=-1).reshape(RAW_SIDE * RAW_SIDE, -1)
    return found
