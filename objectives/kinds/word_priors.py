"""Priors of kinds of task whose rows have labels: TF-IDF of words or of characters, beside the pretrained model."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from promptgraft.objectives.data import HasPriors, Outputs, PriorRows, PriorTensors


class HasWordPriors(HasPriors):
    """The part of a kind of task that reads words and characters by logistic regression; see `HasPriors`."""

    one_label: ClassVar[bool]
    labels: tuple[str, ...]

    def prior_features(self, name: str, fields: Mapping[str, str], labels: Sequence[str]) -> tuple[int, ...]:
        """Return the hashes of a row's words, characters or items; see `HasPriors`."""
        del labels
        from promptgraft.objectives.priors import hashed

        return hashed(name, fields)

    def fit_prior(self, name: str, recency: float, rows: PriorRows) -> PriorTensors:
        """Fit logistic regression on TF-IDF; see `HasPriors`."""
        del recency
        from promptgraft.objectives.priors import fit_word_prior

        return fit_word_prior(name, rows, self.labels, one_label=self.one_label)

    def prior_logits(
        self, name: str, recency: float, tensors: PriorTensors, features: Sequence[tuple[int, ...]]
    ) -> Outputs:
        """Score what was read; see `HasPriors`."""
        del name, recency
        from promptgraft.objectives.priors import word_logits

        return word_logits(tensors, features)

    def check_prior(self, name: str, tensors: PriorTensors, n_labels: int) -> None:
        """Refuse tensors of another form; see `HasPriors`."""
        del name
        from promptgraft.objectives.priors import check_word_prior

        check_word_prior(tensors, n_labels)
