"""How well a prompt adapts to a task before any training: in content and in form, each a number in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from promptgraft.objectives.first_looks import Pair, by_turns, look, untrained_models
from promptgraft.objectives.objective import Objective
from promptgraft.spaces import Candidate
from promptgraft.spaces.form import form

# Rows that contents are measured on, at most; labels take turns among them.
CONTENT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Adaptability:
    """How well a prompt adapts to a task.

    Attributes:
        content: How far what it says fits the task; see `content`.
        form: How short and plain it is; see `spaces.form`.
    """

    content: float
    form: float


class PromptMeter:
    """Measures the adaptability of a study's prompts, each once.

    Args:
        objective: The study's objective; a cycle that is open on it ends when something is measured.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._contents: dict[Pair, float] = {}

    def measure(self, candidate: Candidate) -> Adaptability:
        """Measure a candidate's template with its verbalizer.

        Where a candidate has no label words, those of the study's verbalizers that fit best count.

        Raises:
            InvalidInputError: If the template leaves no room for the text.
        """
        space = self.objective.spec.space
        names = [candidate.verbalizer] if candidate.verbalizer else [entry.id for entry in space.verbalizers]
        pairs: list[Pair] = [(candidate.template, name) for name in names]
        self._measure_contents([pair for pair in pairs if pair not in self._contents])
        tokenizer = self.objective.backbone.tokenizer
        return Adaptability(
            max(self._contents[pair] for pair in pairs),
            form(
                space.template(candidate.template),
                lambda text: tokenizer.encode(text, add_special_tokens=False),
            ),
        )

    def _measure_contents(self, pairs: Sequence[Pair]) -> None:
        rows = by_turns(self.objective.target.train)[:CONTENT_ROWS]
        models = untrained_models(self.objective, pairs)
        size = self.objective.spec.evaluation_batch_size
        logits: dict[Pair, list[npt.NDArray[np.float64]]] = {pair: [] for pair in pairs}
        for start in range(0, len(rows) if pairs else 0, size):
            for pair, scores in look(self.objective, models, rows[start : start + size]):
                logits[pair].append(scores)
        for pair, parts in logits.items():
            self._contents[pair] = content(np.concatenate(parts), [row.label for row in rows])


def content(logits: npt.NDArray[np.float64], labels: Sequence[int]) -> float:
    """Measure how well an untrained model's logits tell the labels apart: max(0, 2 * AUC - 1).

    AUC is the area under the ROC curve of each label against the rest, averaged over labels (Fawcett 2006,
    doi:10.1016/j.patrec.2005.10.010); rows are ranked by the label's log-probability after each label's mean logit is
    taken off (batch calibration; Zhou et al. 2023, arXiv:2309.17249). So a bias towards a label's words, and the scale
    of the logits of two labels, don't count: training mends them within a few updates. 0 is chance or worse, 1 a
    perfect order.

    Args:
        logits: Shape (rows, labels).
        labels: Index of each row's label; shape (rows,). Labels without a row, or with all of them, are left out.

    Returns:
        A number in [0, 1]; 0 where logits aren't finite.
    """
    if not np.isfinite(logits).all():
        return 0.0
    centred = logits - logits.mean(0)
    scores = centred - np.logaddexp.reduce(centred, axis=1, keepdims=True)
    own = np.asarray(labels)
    areas = [_area(scores[:, label], own == label) for label in np.unique(own) if not (own == label).all()]
    return max(0.0, 2 * float(np.mean(areas)) - 1) if areas else 0.0


def _area(scores: npt.NDArray[np.float64], is_positive: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how often a positive row is above a negative one, ties counting half."""
    positives = int(is_positive.sum())
    pairs = positives * (len(scores) - positives)
    return float((rankdata(scores)[is_positive].sum() - positives * (positives + 1) / 2) / pairs)
