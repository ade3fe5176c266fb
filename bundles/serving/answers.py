"""What a server answers for a row, by the kind of task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from pydantic import BaseModel, Field

from promptgraft.bundles.serving.batcher import Metrics, Probabilities
from promptgraft.objectives.data import Box, Span, Task, mask_in


class Prediction(BaseModel):
    """Prediction for one row."""

    label: str | None = Field(description="Most probable label; null if it is less probable than the server requires.")
    probabilities: dict[str, float] = Field(description="Probability of each label; they add up to 1.")


class LabelsPrediction(BaseModel):
    """Prediction for one row, where any number of labels may apply."""

    labels: list[str] = Field(description="Labels that apply: those whose probability reaches their threshold.")
    probabilities: dict[str, float] = Field(description="Probability of each label, each by itself.")


class NumberPrediction(BaseModel):
    """Prediction for one row, where it is a number."""

    value: float = Field(description="Predicted number.")


class TextPrediction(BaseModel):
    """Prediction for one row, where it is a text."""

    answer: str = Field(description="Text that the model writes.")


class LabelledSpan(BaseModel):
    """Part of a row's text with a label."""

    start: int = Field(description="Where it begins, in characters.")
    end: int = Field(description="Where it ends.")
    label: str = Field(description="Its label.")
    text: str = Field(description="The part itself.")


class SpansPrediction(BaseModel):
    """Prediction for one row, where parts of its text have labels."""

    spans: list[LabelledSpan] = Field(description="Labelled parts, in the order of the text.")


class FoundBox(BaseModel):
    """Box around what an image shows."""

    x: float = Field(description="Left side, in pixels.")
    y: float = Field(description="Upper side.")
    width: float = Field(description="Width.")
    height: float = Field(description="Height.")
    label: str = Field(description="Its label.")
    score: float = Field(description="Probability of the label.")


class BoxesPrediction(BaseModel):
    """Prediction for one row, where it is boxes in an image."""

    boxes: list[FoundBox] = Field(description="Boxes, the surest first.")


class MaskPrediction(BaseModel):
    """Prediction for one row, where each pixel of an image has a label."""

    mask: str = Field(description="PNG file of the image's size as a data URI; pixels are numbers of labels.")
    shares: dict[str, float] = Field(description="Share of each label among the pixels; they add up to 1.")


class RankedItem(BaseModel):
    """An item, and how likely it comes next."""

    item: str = Field(description="Text of the item.")
    probability: float = Field(description="Its probability.")


class RecommendedItems(BaseModel):
    """Prediction for one row, where it is a history of items."""

    item: str | None = Field(description="Likeliest item; null if it is less probable than the server requires.")
    recommended: list[RankedItem] = Field(description="Likeliest items that the history doesn't have, best first.")


@dataclass(frozen=True, slots=True)
class Answers:
    """Turns probabilities, or numbers, into answers, and counts these by label.

    Attributes:
        task: The kind of task.
        abstain_below: Smallest probability at which a row gets a label.
        metrics: Told of each label.
    """

    task: Task
    abstain_below: float
    metrics: Metrics

    @property
    def model(self) -> type[BaseModel]:
        """What answers are."""
        if self.task.answers == "masks":
            return MaskPrediction
        if self.task.answers == "boxes":
            return BoxesPrediction
        if self.task.words() is not None:
            return SpansPrediction
        if self.task.one_label:
            return RecommendedItems if self.task.reads_histories else Prediction
        if self.task.has_labels:
            return LabelsPrediction
        return NumberPrediction if self.task.has_numbers else TextPrediction

    def of(self, expected: Probabilities, text: Mapping[str, str]) -> BaseModel:
        """Return the answer for a row, by what is expected of it and its text."""
        (found,) = self.task.predict(expected[None], [text])
        if isinstance(found, float):
            self.metrics.predictions.labels("").inc()
            return NumberPrediction(value=found)
        if self.task.answers == "masks":
            counts = np.bincount(mask_in(str(found)).reshape(-1), minlength=len(self.task.labels))
            self._count([label for label, count in zip(self.task.labels, counts, strict=True) if count])
            return MaskPrediction(
                mask=str(found), shares=dict(zip(self.task.labels, counts / counts.sum(), strict=True))
            )
        if isinstance(found, tuple) and self.task.answers == "boxes":
            boxes = [own for own in found if isinstance(own, Box)]
            self._count([own.label for own in boxes])
            return BoxesPrediction(boxes=[FoundBox(**asdict(own)) for own in boxes])
        if not self.task.has_labels:
            self._count([])
            return TextPrediction(answer=str(found))
        if isinstance(found, tuple) and self.task.words() is not None:
            (value,), spans = text.values(), [own for own in found if isinstance(own, Span)]
            self._count([own.label for own in spans])
            said = [LabelledSpan(**asdict(own), text=value[own.start : own.end]) for own in spans]
            return SpansPrediction(spans=said)
        if isinstance(found, tuple):
            labels = [own for own in found if isinstance(own, str)]
            self._count(labels)
            return LabelsPrediction(labels=labels, probabilities=self._by_label(expected))
        return self._one(str(found) if expected.max() >= self.abstain_below else None, expected, text)

    def _by_label(self, expected: Probabilities) -> dict[str, float]:
        return dict(zip(self.task.labels, expected.tolist(), strict=True))

    def _one(self, label: str | None, expected: Probabilities, text: Mapping[str, str]) -> BaseModel:
        """Return the answer for a row with one label, or of items; these are too many to count each of them."""
        if self.task.reads_histories:
            self._count([])
            return RecommendedItems(item=label, recommended=self._ranked(expected, text))
        self._count([label] if label else [])
        return Prediction(label=label, probabilities=self._by_label(expected))

    def _ranked(self, expected: Probabilities, text: Mapping[str, str]) -> list[RankedItem]:
        """Return the likeliest items that a history doesn't have."""
        (ranked,) = self.task.columns(expected[None], [text])["recommended"]
        return [RankedItem(item=item, probability=chance) for item, chance in json.loads(ranked)]

    def _count(self, labels: Sequence[str]) -> None:
        """Count a row's labels, or that it has none."""
        for label in labels or ("",):
            self.metrics.predictions.labels(label).inc()
