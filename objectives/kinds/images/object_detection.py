"""Object detection: a row names the file of an image, and has boxes with labels around what it shows."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from promptgraft.objectives.data import (
    TASK_KINDS,
    Answer,
    AnswerForm,
    Box,
    Direction,
    Expected,
    LabelledBox,
    LossName,
    Outputs,
    Prediction,
    Row,
    TaskSpec,
    Texts,
    UnreadableImageError,
    boxed_image,
    boxes_as_answer,
    boxes_in,
    boxes_of,
    coco_rows,
    image_size,
    is_outside,
    labels_in,
    mirrored_boxes,
    read_labels,
    read_table,
    sized,
)
from promptgraft.objectives.kinds.images.average_precision import average_precisions, overlaps
from promptgraft.objectives.kinds.images.image_rows import PlacesTask, raw_pixels
from promptgraft.spaces import InvalidInputError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_TINY = 1e-12
# Logit of what a baseline without a model is sure of.
_SURE = 10.0
# Numbers of a box: centre, width and height; and what `Box` calls its.
_NUMBERS = 4
_SIDES = ("x", "y", "width", "height")


@TASK_KINDS.register("object_detection")
class ObjectDetection(PlacesTask):
    """Boxes with labels.

    Answers are boxes as text. Outputs are, for each query of the model, logits of the labels and of no object, and a
    box: centre, width and height as shares of the image's; shape (rows, queries, labels + 5).
    """

    loss: ClassVar[LossName] = "detection"
    answers: ClassVar[AnswerForm] = "boxes"
    metrics: ClassVar[Mapping[str, Direction]] = {"map": "maximize", "map_50": "maximize", "loss": "minimize"}
    default_metric = "map"
    ensembles = False
    does = "finds boxes"
    blamed_by = "1 - overlap with right boxes"
    baseline_names: ClassVar[Mapping[str, str]] = {
        "tfidf": "boxes of the nearest image by raw pixels",
        "majority": "mean box of each label",
    }

    @property
    def width(self) -> int:
        """Numbers of a query; see `Task`."""
        return len(self.labels) + 1 + _NUMBERS

    @classmethod
    def read(cls, path: str, columns: Sequence[str], lists: Sequence[str] = ()) -> "pd.DataFrame":
        """Read a table, or a COCO file, which has the columns `image` and `boxes`; see `TextTask`."""
        found = coco_rows(Path(path))
        if found is None:
            return read_table(path, columns, lists)
        import pandas as pd

        rows = pd.DataFrame(found, columns=["image", "boxes"], dtype=object)
        for name in columns:
            if name not in rows.columns:
                raise InvalidInputError(
                    f"{path}: is a COCO file, which has the columns image and boxes, and no column {name!r}; "
                    f"{did_you_mean(name, ['image', 'boxes'])}"
                )
        return rows[list(columns)]

    @classmethod
    def read_answers(
        cls,
        cells: Sequence[str],
        spec: TaskSpec,
        labels: tuple[str, ...] | None,
        *,
        choosing: bool,
        texts: Texts,
    ) -> tuple[list[Answer | None], tuple[str, ...]]:
        """Read boxes, a JSON list a row; those of labels that aren't kept don't count. See `TextTask`."""
        del spec, texts
        found = [_boxes_or_none(cell) for cell in cells]
        boxes = [box for own in found for box in own or ()]
        if boxes and all(max(box[2:4]) <= 1 for box in boxes):
            raise InvalidInputError(
                f"no box is larger than a pixel, such as {list(boxes[0][:4])}; write left, top, width and height in "
                "pixels, not as shares of the image, and no centre"
            )
        index, names = read_labels(sorted({box[4] for own in found for box in own or ()}), labels, choosing=choosing)
        answers: list[Answer | None] = [
            None if own is None else boxes_as_answer([(*box[:4], index[box[4]]) for box in own if box[4] in index])
            for own in found
        ]
        return answers, names

    @classmethod
    def why_invalid(cls, cell: str, text: Mapping[str, str]) -> str:
        """Say why a cell holds no boxes; see `TextTask`."""
        try:
            boxes_in(cell)
        except ValueError as error:
            return f"{super().why_invalid(cell, text)}: {error}"
        return super().why_invalid(cell, text)

    @classmethod
    def completed(cls, row: Row, path: str) -> Row:
        """Find the image, and put its size to the boxes; see `TextTask`."""
        whole = super().completed(row, path)
        try:
            (reference,) = whole.fields.values()
            return replace(whole, answer=sized(str(row.answer), image_size(reference))) if row.answer else whole
        except UnreadableImageError:
            return whole

    @classmethod
    def unusable(cls, row: Row) -> str | None:
        """Drop rows whose image can't be read, or with a box outside of it; see `TextTask`."""
        reason = super().unusable(row)
        if reason is not None or not isinstance(row.answer, str):
            return reason
        return "box_outside_image" if is_outside(boxes_of(row.answer)) else None

    @classmethod
    def shortage(cls, rows: Sequence[Row], names: Sequence[str]) -> str | None:  # noqa: ARG003
        """Want one box; see `TextTask`."""
        if any(cls.labels_of(row.answer) for row in rows):
            return None
        return (
            "at least one box after cleaning, of left, top, width and height in pixels, as in "
            '[{"box": [5, 10, 40, 20], "label": "cat"}], found none'
        )

    @classmethod
    def _without_unused(cls, rows: list[Row], names: tuple[str, ...]) -> tuple[list[Row], tuple[str, ...]]:
        return rows, names

    @classmethod
    def labels_of(cls, answer: Answer) -> tuple[int, ...]:
        """Return the labels of an image's boxes; see `Task`."""
        return labels_in(answer) if isinstance(answer, str) else ()

    @classmethod
    def mirrored(cls, answer: Any) -> Any:
        """Mirror the boxes; see `Task`."""
        return mirrored_boxes(answer)

    def measure(self, outputs: Outputs, rows: Sequence[Row]) -> dict[str, float]:
        """Compute COCO's average precisions, and the model's loss; see `Task`.

        Each query is a prediction of its likeliest label. `map` is the mean over overlaps of 0.5, 0.55, ..., 0.95 and
        over the labels that images have; `map_50` that at 0.5. `loss` is the mean over images.
        """
        expected = self.expected(outputs)
        chances, boxes = self._parts(expected)
        at_all, at_half = average_precisions(chances[..., :-1], boxes, [_answer_of(row) for row in rows])
        return {"map": at_all, "map_50": at_half, "loss": float(self.row_losses(expected, rows).mean())}

    def expected(self, outputs: Outputs | Expected) -> Expected:
        """Return the probability of each label and of no object, and the boxes, within the image; see `Task`."""
        logits, boxes = self._parts(outputs.astype(np.float64))
        return np.concatenate([softmax(logits, axis=-1), np.clip(boxes, 0, 1)], axis=-1)

    def outputs_of(self, expected: Expected) -> Outputs:
        """Return log-probabilities and boxes; see `Task`."""
        chances, boxes = self._parts(expected)
        return np.concatenate([np.log(np.maximum(chances, _TINY)), boxes], axis=-1).astype(np.float32)

    def row_losses(self, expected: Expected, rows: Sequence[Row]) -> Expected:
        """Return each image's loss, as transformers has it; see `Task`."""
        pairs = zip(self.outputs_of(expected), rows, strict=True)
        return np.array([_loss_of(own.tobytes(), len(own), _answer_of(row)) for own, row in pairs])

    def row_scores(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return the mean over an image's boxes of the best overlap, times the chance of the label there; see `Task`.

        Of an image without boxes it is the mean chance of no object.
        """
        chances, boxes = self._parts(self.expected(outputs))
        found = np.empty(len(rows))
        for place, row in enumerate(rows):
            own = boxes_of(_answer_of(row))
            if len(own.labels):
                both = overlaps(own.corners, _corners(boxes[place])) * chances[place][:, own.labels].T
                found[place] = both.max(axis=1).mean()
            else:
                found[place] = chances[place][:, -1].mean()
        return found

    def blame(self, outputs: Outputs, rows: Sequence[Row]) -> Expected:
        """Return what an image's score lacks of 1; see `Task`."""
        return 1 - self.row_scores(outputs, rows)

    def predict(self, expected: Expected, texts: Texts) -> list[Prediction]:
        """Return the boxes of queries with a label that is likelier than no object, the surest first; see `Task`."""
        sizes = [image_size(reference) for text in texts for reference in text.values()]
        return [self._found(own, size) for own, size in zip(expected, sizes, strict=True)]

    def columns(self, expected: Expected, texts: Texts) -> dict[str, Sequence[Any]]:
        """Return the boxes as a cell that can be read again; see `Task`."""
        said = self.predict(expected, texts)
        return {"boxes": [_in_cell(own) for own in said if isinstance(own, tuple)]}

    def described(self, expected: Expected, texts: Texts) -> list[str]:
        """Return the number of boxes of each label; see `Task`."""
        del texts
        return [_counted([box.label for box in self._found(own, (1, 1))]) for own in expected]

    def picture(self, row: Row, expected: Expected) -> bytes | None:
        """Draw the right and the predicted boxes onto the image; see `Task`."""
        (reference,), right = row.fields.values(), boxes_of(_answer_of(row))
        true = [(*own, label) for own, label in zip(right.corners.tolist(), right.labels.tolist(), strict=True)]
        said = [
            (box.x, box.y, box.width, box.height, self.labels.index(box.label))
            for box in self._found(expected[0], (1, 1))
        ]
        try:
            return boxed_image(reference, [("right", true), ("predicted", said)], self.labels)
        except UnreadableImageError:
            return None

    def show(self, row: Row) -> str:
        """Return the number of boxes of each label; see `Task`."""
        return _counted([self.labels[own] for own in boxes_of(_answer_of(row)).labels])

    def combine(self, members: Sequence[Outputs], weights: Sequence[float]) -> Outputs:
        """Return the first model's: queries of several have no mean; see `Task`."""
        del weights
        return members[0]

    def constant(self, rows: Sequence[Row]) -> Outputs:
        """Predict the mean box of each label, with the share of images that have the label; see `Task`."""
        boxes = [boxes_of(_answer_of(row)) for row in self.train]
        corners, labels = np.concatenate([own.corners for own in boxes]), np.concatenate([own.labels for own in boxes])
        found = np.zeros((1, len(self.labels), self.width))
        for label in range(len(self.labels)):
            share = np.mean([label in other.labels for other in boxes])
            own = corners[labels == label].mean(axis=0) if share else np.zeros(4)  # Of rows that were set aside.
            found[0, label, label], found[0, label, len(self.labels)] = share, 1 - share
            found[0, label, -_NUMBERS:] = [*(own[:2] + own[2:] / 2), *own[2:]]
        return np.tile(self.outputs_of(found), (len(rows), 1, 1))

    def fit_by_words(self, train: Sequence[Row], rows: Sequence[Row]) -> Outputs:
        """Give each image the boxes of the training image that is nearest by raw pixels; see `Task`."""
        return self.fit_linear(raw_pixels(train), train, raw_pixels(rows), c=1.0)

    def fit_linear(self, known: Any, train: Sequence[Row], others: Any, c: float) -> Outputs:  # noqa: ARG002
        """Give each row the boxes of the nearest training row, by its features; see `Task`."""
        boxes = [boxes_of(_answer_of(row)) for row in train]
        distances = (known**2).sum(axis=1) - 2 * others @ known.T
        found = np.zeros((len(others), max(1, *(len(own.labels) for own in boxes)), self.width), dtype=np.float32)
        found[..., len(self.labels)] = _SURE
        for place, nearest in enumerate(distances.argmin(axis=1)):
            own = boxes[nearest]
            queries = np.arange(len(own.labels))
            found[place, queries, len(self.labels)] = 0
            found[place, queries, own.labels] = _SURE
            found[place, queries, -_NUMBERS:-2] = own.corners[:, :2] + own.corners[:, 2:] / 2
            found[place, queries, -2:] = own.corners[:, 2:]
        return found

    @property
    def purpose(self) -> str:
        """Say that it finds boxes; see `Task`."""
        return "Finds in images boxes around"

    def _parts(self, values: Any) -> tuple[Any, Any]:
        """Divide outputs, or what is expected, into those of labels and those of boxes."""
        return values[..., :-_NUMBERS], values[..., -_NUMBERS:]

    def _found(self, expected: Expected, size: tuple[int, int]) -> tuple[Box, ...]:
        """Return the boxes of an image, in pixels of its size."""
        chances, boxes = self._parts(expected)
        corners = _corners(boxes)
        ends = np.clip(corners[:, :2] + corners[:, 2:], 0, 1) * size[::-1]
        starts = np.clip(corners[:, :2], 0, 1) * size[::-1]
        likeliest, surest = chances.argmax(axis=1), chances.max(axis=1).tolist()
        order = [own for own in np.argsort(-chances.max(axis=1), kind="stable") if likeliest[own] < len(self.labels)]
        numbers = np.concatenate([starts, ends - starts], axis=1).tolist()
        return tuple(
            Box(**dict(zip(_SIDES, numbers[own], strict=True)), label=self.labels[likeliest[own]], score=surest[own])
            for own in order
        )


def _answer_of(row: Row) -> str:
    assert isinstance(row.answer, str), "the task's answers are boxes"
    return row.answer


def _corners(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Turn centres into left and top, shape (boxes, 4)."""
    return np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], axis=-1)


def _in_cell(boxes: Sequence[Any]) -> str:
    """Write boxes as JSON, in hundredths of a pixel."""
    numbers = [asdict(box) for box in boxes if isinstance(box, Box)]
    return json.dumps(
        [
            {
                "box": [round(own[name], 2) for name in _SIDES],
                "label": own["label"],
                "score": round(own["score"], 4),
            }
            for own in numbers
        ]
    )


def _counted(labels: Sequence[str]) -> str:
    return ", ".join(f"{count} {label}" for label, count in Counter(labels).most_common()) or "nothing"


# An interval draws the same images a thousand times.
@lru_cache(maxsize=16_384)
def _loss_of(outputs: bytes, queries: int, answer: str) -> float:
    """Return an image's loss, given its outputs as float32 of shape (queries, labels + 5)."""
    import torch  # Here, since most commands have no use for it.

    from promptgraft.objectives.kinds.images.detection_loss import detection_loss, detection_targets

    own = torch.from_numpy(np.frombuffer(outputs, dtype=np.float32).reshape(1, queries, -1).copy())
    return float(detection_loss(own, detection_targets([answer])))


def _boxes_or_none(cell: str) -> list[LabelledBox] | None:
    try:
        return boxes_in(cell)
    except ValueError:
        return None
