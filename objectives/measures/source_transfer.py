"""How much a source promises for the target, before anything is trained: what sources are ranked by.

Only training rows are looked at, of the target too. Two numbers, on one frozen backbone:

- **Transfer**: LogME (You et al. 2021, arXiv:2102.11005), the evidence that features give for the target's labels. It
  compares feature extractors; here these are the sources' classifiers, as in LEEP (Nguyen et al. 2020,
  arXiv:2002.12462): a linear one is fitted to each source's rows, and its logits of the target's rows are the features.
  The source may have other labels than the target, under other names. LEEP itself is left out: it counts what few
  target rows fit by chance, and so prefers sources with many labels. With several labels a row, or numbers, the kind's
  own linear model takes the classifier's place.
- **Prompt similarity**: the cosine of the mean features of both tasks' rendered prompts, the text embedding of Vu et
  al. 2020 (arXiv:2005.00770). It says how alike the texts are, and nothing of the labels. SPoT (Vu et al. 2022,
  arXiv:2110.07904) compares soft prompts that were trained on both tasks. The first step of such a training, which
  costs little, was tried in its place: it put labels by length above the right ones in three of six splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from promptgraft.objectives.data import Row, Task, TextTask, by_turns, drop_known
from promptgraft.objectives.measures.controls import features
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import InvalidInputError

# Rows of each task that are looked at, at most; labels take turns among them.
ROWS = 512
# Weak enough for a few hundred rows of a few hundred standardised features.
INVERSE_PENALTY = 0.01
# Ratios of the prior's precision to the noise's that are tried, relative to the largest squared singular value.
RATIOS = np.logspace(-8, 8, 321)

Features = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SourceScore:
    """What a source promises.

    Attributes:
        source: Its name; empty for a single one.
        rows: Its training rows.
        labels: Its labels.
        transfer: How much likelier the target's labels are to one who knows this source's classifier than to one who
            knows nothing, in nats a row; 0 if it tells nothing. See `evidence_gain`.
        standard_error: That of `transfer`, from the target's rows.
        prompt_similarity: Cosine of the mean features of both tasks' rendered prompts.
    """

    source: str
    rows: int
    labels: tuple[str, ...]
    transfer: float
    standard_error: float
    prompt_similarity: float


def rank_sources(objective: Objective) -> list[SourceScore]:
    """Score a study's sources on the pretrained backbone.

    Args:
        objective: The study's objective; a cycle that is open on it is over.

    Returns:
        The sources, the most promising first: by transfer, then by prompt similarity.

    Raises:
        InvalidInputError: If a source is nothing but rows of the target, or rows don't have one label each.
    """
    target = objective.target
    if target.in_places or not (target.has_labels or target.has_numbers):
        raise InvalidInputError(
            "sources are ranked by the labels or the number of each row, which this kind of task has not; compare them "
            "in a search, by `space.source`"
        )
    rows = _chosen(target, target.train)
    wanted = _columns(target, rows)
    found = features(objective, rows)
    scores = []
    for name, source in objective.sources.items():
        own = _own_rows(name, source, target)
        known = features(objective, own)
        logits = source_logits(source, own, known, found)
        numbers = (evidence_gain(logits, wanted), standard_error(logits, wanted))
        alike = _cosine(known.mean(0), found.mean(0))
        scores.append(SourceScore(name, len(source.train), source.labels, *numbers, alike))
    return sorted(scores, key=lambda score: (-score.transfer, -score.prompt_similarity))


def _own_rows(name: str, source: Task, target: Task) -> list[Row]:
    """Choose rows of a source that aren't the target's too: those would tell their labels."""
    known = source.without_known if isinstance(source, TextTask) else drop_known
    rows, _ = known(source.train, target.train, "fields")
    if len({row.answer for row in rows}) < 2:
        what = "labels" if target.has_labels else "numbers"
        raise InvalidInputError(f"source {name!r} has fewer than two {what} beside the target's own training rows")
    return _chosen(source, rows)


def _chosen(task: Task, rows: Sequence[Row]) -> list[Row]:
    """Choose the rows that are looked at, by turns of their labels, or of the parts that splits have."""
    return by_turns(rows, None if task.one_label else task.strata(rows))[:ROWS]


def _columns(task: Task, rows: Sequence[Row]) -> Features:
    """Return the answers: zeros and ones in a column for each label, or the numbers; shape (rows, columns)."""
    if task.has_numbers:
        return np.array([[row.answer] for row in rows], dtype=np.float64)
    found = np.zeros((len(rows), len(task.labels)))
    for place, row in enumerate(rows):
        found[place, list(task.labels_of(row.answer))] = 1.0
    return found


def source_logits(source: Task, rows: Sequence[Row], known: npt.NDArray[np.float32], others: Any) -> Features:
    """Fit a linear model to the frozen features of a source, and apply it to other rows.

    Args:
        source: The source.
        rows: Its rows.
        known: Their features, shape (source rows, hidden).
        others: Features of the other rows, shape (rows, hidden).

    Returns:
        Logits or numbers, shape (rows, 1) with two labels that exclude each other, (rows, labels) otherwise.
    """
    if not source.one_label:
        scaler = StandardScaler().fit(known)
        return source.fit_linear(scaler.transform(known), rows, scaler.transform(others), INVERSE_PENALTY).astype(float)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    model.fit(known, [row.label for row in rows])
    logits: Features = model.decision_function(others).reshape(len(others), -1).astype(np.float64)
    return logits


def evidence_gain(found: Features, wanted: Features) -> float:
    """Compute LogME, less what it is without any features.

    Each label against the rest is a Bayesian linear regression, y = F w + b + noise, with w ~ N(0, 1 / alpha) and noise
    ~ N(0, 1 / beta); its evidence is maximised over alpha and beta, and averaged over labels and rows. Given alpha /
    beta the best beta is known, so that one number is left to be searched. An intercept b, without a prior, is LogME's
    own with columns centred.

    Args:
        found: Features F, shape (rows, dimensions).
        wanted: Answers Y, shape (rows, columns); constant columns are left out.

    Returns:
        Nats a row, the mean over columns; 0 or near it where features tell nothing.
    """
    left, sizes, _ = np.linalg.svd(found - found.mean(0), full_matrices=False)
    energies = sizes**2
    if not np.isfinite(energies).all() or energies.max() <= 0:
        return 0.0
    ratios = energies.max() * RATIOS[:, None]
    penalty = np.log1p(energies / ratios).sum(1) / 2
    gains = []
    for column in (wanted - wanted.mean(0)).T:
        size = float(column @ column)
        if size > 0:
            explained = ((left.T @ column) ** 2 * energies / (energies + ratios)).sum(1) / size
            gains.append((-len(wanted) / 2 * np.log(np.maximum(1 - explained, 1e-12)) - penalty).max())
    return max(0.0, float(np.mean(gains))) / len(wanted) if gains else 0.0


def standard_error(found: Features, wanted: Features) -> float:
    """Estimate by how much `evidence_gain` would differ with other rows of the target: the jackknife."""
    rows = np.arange(len(wanted))
    left_out = np.array([evidence_gain(found[rows != row], wanted[rows != row]) for row in rows])
    return float(np.sqrt((len(rows) - 1) * left_out.var()))


def _cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
