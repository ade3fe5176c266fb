"""Priors: what is counted on training rows and joins the logits of what the backbone makes of a text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.rows import Outputs, Row
from promptgraft.spaces import InvalidInputError

# Tensors of a prior, by their names in a bundle.
PriorTensors: TypeAlias = Mapping[str, npt.NDArray[Any]]
PRIOR = "prior."
# Stands between the items of a history, which is a text.
SEPARATOR = "\n"

# EASE inverts a matrix of items by items: 0.8 GB for so many.
MOST_OF_EASE = 10_000
# Priors that are baselines by themselves.
PRIOR_BASELINES = ("neighbours", "ease", "words", "characters", "items")
# Baselines that know items by their ids alone, and aren't priors.
ITEM_BASELINES = ("popular_lately", "svd", "sasrec", "gru4rec")


@dataclass(frozen=True, slots=True)
class PriorRows:
    """Rows that a prior is fitted on: those that a candidate is trained on, and no others.

    Attributes:
        target: Training rows of the target.
        source: Those of the candidate's source; none if it has no part.
        source_labels: Labels of these.
        alpha: Weight of the source, as in the loss: the target's is 1 - alpha.
        labels: Labels of all tasks, the target's first.
    """

    target: Sequence[Row]
    source: Sequence[Row]
    source_labels: Sequence[str]
    alpha: float
    labels: Sequence[str]


class PriorNames:
    """The part of every kind of task that says which priors it has: none, unless it is one of `HasPriors`, too.

    Attributes:
        priors: Names of the priors, as in `Candidate.prior`.
    """

    priors: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def refuses_prior(cls, name: str, value: object) -> str | None:
        """Say why the kind can't use a value of a candidate's parameter, if that is about priors; None if it can."""
        if name != "prior" or value in ("none", *cls.priors):
            return None
        choices = ", ".join(map(repr, ("none", *cls.priors)))
        return f"prior {value!r} doesn't apply to this kind of task, which has {choices}; use one of these"

    @classmethod
    def lacks_prior(cls, baseline: str) -> bool:
        """Whether a baseline is a prior alone, and one that the kind hasn't; or needs items, and the kind has none."""
        if baseline in ITEM_BASELINES:
            return "neighbours" not in cls.priors
        return baseline in PRIOR_BASELINES and baseline not in cls.priors


class HasPriors(ABC):
    """The part of a kind of task that fits priors, those that it names in `priors`."""

    @abstractmethod
    def prior_features(self, name: str, fields: Mapping[str, str], labels: Sequence[str]) -> tuple[int, ...]:
        """Return what a prior reads of a row.

        Args:
            name: One of `priors`.
            fields: Template field -> value.
            labels: Labels of all tasks, the target's first.
        """

    @abstractmethod
    def fit_prior(self, name: str, recency: float, rows: PriorRows) -> PriorTensors:
        """Fit a prior.

        Args:
            name: One of `priors`.
            recency: See `Candidate.prior_recency`.
            rows: What it is fitted on.

        Returns:
            Its tensors, float32 or int32, each called `prior.` and a name.
        """

    @abstractmethod
    def prior_logits(
        self, name: str, recency: float, tensors: PriorTensors, features: Sequence[tuple[int, ...]]
    ) -> Outputs:
        """Compute what a prior adds to the logits of all tasks' labels.

        Each row's are the same, bit for bit, whatever rows are beside it.

        Args:
            name: One of `priors`.
            recency: See `Candidate.prior_recency`.
            tensors: From `fit_prior`.
            features: Of each row, from `prior_features`.

        Returns:
            Shape (rows, labels).
        """

    @abstractmethod
    def check_prior(self, name: str, tensors: PriorTensors, n_labels: int) -> None:
        """Refuse tensors of a file that someone else may have written.

        Args:
            name: One of `priors`.
            tensors: What the file has of it.
            n_labels: Number of the labels of all tasks.

        Raises:
            InvalidInputError: If one is missing, or has another form, or values that it can't have.
        """


def seen(fields: Mapping[str, str]) -> list[str]:
    """Return the items of a row's history, newest first."""
    return [name.strip() for text in fields.values() for name in text.split(SEPARATOR)]


def check_tensors(tensors: PriorTensors, shapes: Mapping[str, tuple[int, ...]], most: int = 0) -> None:
    """Refuse tensors of a prior that haven't the right names, shapes and values.

    Args:
        tensors: What a file has.
        shapes: Name -> shape of each that it must have.
        most: Numbers of places, which are int32, must be smaller.

    Raises:
        InvalidInputError: With the first that is wrong.
    """
    for name in sorted(shapes.keys() ^ tensors.keys()):
        raise InvalidInputError(f"the tensor {name} is {'missing' if name in shapes else 'not one of the prior'}")
    for name, value in tensors.items():
        if value.shape != shapes[name]:
            raise InvalidInputError(f"the tensor {name} has shape {value.shape}, expected {shapes[name]}")
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InvalidInputError(f"the tensor {name} holds values that are not finite")
        if value.dtype.kind == "i" and value.size and not (value.min() >= 0 and value.max() < most):
            raise InvalidInputError(f"the tensor {name} holds places outside [0, {most - 1}]")
