"""How well a prompt adapts to a task before any training: in content and in form, each a number in [0, 1]."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.data import Row, by_turns, rows_hash
from promptgraft.objectives.measures.untrained_race import Pair, score_untrained_prompts, untrained_models
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, form_score

# Rows that contents are measured on, at most; labels take turns among them.
CONTENT_ROWS = 64


@dataclass(frozen=True, slots=True)
class Adaptability:
    """How well a prompt adapts to a task.

    Attributes:
        content: How far what it says fits the task; see `content`. None where the study has no label words.
        form: How short and plain it is; see `spaces.form_score`. None where rows aren't texts.
    """

    content: float | None
    form: float | None


class PromptMeter:
    """Measures the adaptability of a study's prompts, each once: what it finds is a stage, shared by all workers.

    Args:
        objective: The study's objective; a cycle that is open on it ends when something is measured.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._contents: dict[tuple[str, Pair], float] = {}

    def measure(self, candidate: Candidate) -> Adaptability:
        """Measure a candidate's template with its verbalizer.

        Where a candidate has no label words, those of the study's verbalizers that fit best count.

        Raises:
            InvalidInputError: If the template leaves no room for the text.
        """
        if self.objective.target.reads != "text":
            return Adaptability(None, None)
        self.objective.use_backbone(candidate.backbone)
        space = self.objective.spec.space
        names = [candidate.verbalizer] if candidate.verbalizer else [entry.id for entry in space.verbalizers]
        pairs: list[Pair] = [(candidate.template, name) for name in names]
        tokenizer = self.objective.backbone.tokenizer
        return Adaptability(
            max((self._content(candidate.backbone, pair) for pair in pairs), default=None),
            form_score(
                space.template(candidate.template),
                lambda text: tokenizer.encode(text, add_special_tokens=False),
            ),
        )

    def _content(self, backbone: str, pair: Pair) -> float:
        """Return a prompt's content, from the store if it was measured before."""
        if (backbone, pair) not in self._contents:
            spec, rows = self.objective.spec, by_turns(self.objective.target.train)[:CONTENT_ROWS]
            verbalizer = spec.space.verbalizer(pair[1])
            key = {
                **self.objective.backbone_key(),
                "stage": "content",
                "template": spec.space.template(pair[0]).text,
                "verbalizer": {label: list(words) for label, words in verbalizer.words.items()},
                "rows": rows_hash(rows),
            }
            found = self.objective.stages.get(StageKey.of(key), lambda: self._measured(pair, rows))
            self._contents[backbone, pair] = found["content"].item()
        return self._contents[backbone, pair]

    def _measured(self, pair: Pair, rows: Sequence[Row]) -> dict[str, Tensor]:
        models = untrained_models(self.objective, [pair])
        size = self.objective.spec.evaluation_batch_size
        parts = [
            scores
            for start in range(0, len(rows), size)
            for _, scores in score_untrained_prompts(self.objective, models, rows[start : start + size])
        ]
        found = content(np.concatenate(parts), [row.label for row in rows])
        return {"content": torch.tensor([found], dtype=torch.float64)}


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
    return float((pd.Series(scores).rank().to_numpy()[is_positive].sum() - positives * (positives + 1) / 2) / pairs)
