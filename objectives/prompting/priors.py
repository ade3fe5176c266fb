"""The prior of a candidate: what is counted on the training rows, added to its text's logits.

It acts on evaluation and prediction only; the training loss doesn't include it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptgraft.objectives.data import PRIOR, HasPriors, PriorRows
from promptgraft.objectives.prompting.encoded_rows import EncodedPrompt
from promptgraft.spaces import Candidate


class Prior:
    """Counts of one kind of task, with the tensors of a model once it is fitted or loaded.

    Args:
        kind: The target task, or one of its kind.
        candidate: Says which prior, and how much the text counts beside it.
        labels: Labels of all tasks, the target's first.

    Attributes:
        tensors: Name -> tensor on the CPU, as bundles and checkpoints store them; none before it is fitted.
    """

    def __init__(self, kind: HasPriors, candidate: Candidate, labels: Sequence[str]) -> None:
        self.kind = kind
        self.name, self.recency = candidate.prior, candidate.prior_recency
        self.labels = tuple(labels)
        self.tensors: dict[str, Tensor] = {}
        self._places = {label: place for place, label in enumerate(labels)}

    def features(self, fields: Mapping[str, str]) -> tuple[int, ...]:
        """Return what is read of a row; see `HasPriors.prior_features`."""
        return self.kind.prior_features(self.name, fields, self.labels)

    def fit(self, rows: PriorRows) -> dict[str, Tensor]:
        """Return the tensors of the prior of some rows; the present ones stay."""
        found = self.kind.fit_prior(self.name, self.recency, rows)
        return {name: torch.from_numpy(value) for name, value in found.items()}

    def take(self, state: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a snapshot; none if it has none."""
        self.tensors = {name: value for name, value in state.items() if name.startswith(PRIOR)}

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Refuse a file's tensors that aren't those of such a prior; see `HasPriors.check_prior`."""
        own = {name: value.numpy() for name, value in state.items() if name.startswith(PRIOR)}
        self.kind.check_prior(self.name, own, len(self.labels))

    def logits(self, rows: Sequence[EncodedPrompt], labels: Sequence[str]) -> Tensor:
        """Return what is added to the logits of rows; 0 before it is fitted, and of labels that came later.

        That is what an item has that nobody had.

        Args:
            rows: Encoded prompts with their features.
            labels: The labels that are scored.

        Returns:
            Shape (rows, len(labels)), on the CPU.
        """
        if not self.tensors:
            return torch.zeros(len(rows), len(labels))
        tensors = {name: value.numpy() for name, value in self.tensors.items()}
        features = [row.features or () for row in rows]
        found = torch.from_numpy(self.kind.prior_logits(self.name, self.recency, tensors, features))
        if all(label in self._places for label in labels):
            return found[:, [self._places[label] for label in labels]]
        padded = torch.cat([found, found.new_zeros(len(rows), 1)], dim=1)
        return padded[:, [self._places.get(label, len(self._places)) for label in labels]]
