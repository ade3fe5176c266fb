"""How much a source promises for the target, told before anything is trained: what sources are ranked by.

Only training rows are looked at, of the target too. Two numbers, on one frozen backbone:

- **Transfer**: LogME (You et al. 2021, arXiv:2102.11005), the evidence that features give for the target's labels. It
  compares feature extractors; here these are the sources' classifiers, as in LEEP (Nguyen et al. 2020,
  arXiv:2002.12462): a linear one is fitted to each source's rows, and its logits of the target's rows are the features.
  The source may have other labels than the target, under other names. LEEP itself is left out: it counts what few
  target rows fit by chance, and so prefers sources with many labels.
- **Prompt similarity**: SPoT (Vu et al. 2022, arXiv:2110.07904) compares soft prompts that were trained on two tasks.
  Here it is the first step that they would take from a common start.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity

from promptgraft.objectives.controls import features, written_templates
from promptgraft.objectives.objective import Objective
from promptgraft.objectives.tasks import Row, Task, by_turns
from promptgraft.objectives.text_classification import drop_known
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt

# Rows of each task that are looked at, at most; labels take turns among them.
ROWS = 512
# The same for prompt similarity, which goes backwards through the backbone.
PROMPT_ROWS = 128
PROMPT_TOKENS = 4
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
        prompt_similarity: Cosine of the first steps of a soft prompt on both tasks; see `prompt_direction`.
    """

    source: str
    rows: int
    labels: tuple[str, ...]
    transfer: float
    prompt_similarity: float


def rank_sources(objective: Objective) -> list[SourceScore]:
    """Score a study's sources on the pretrained backbone.

    Args:
        objective: The study's objective; a cycle that is open on it is over.

    Returns:
        The sources, the most promising first: by transfer, then by prompt similarity.

    Raises:
        InvalidInputError: If a source is nothing but rows of the target.
    """
    target = objective.target
    rows = by_turns(target.train)[:ROWS]
    labels = np.array([row.label for row in rows])
    found, direction = features(objective, rows), prompt_direction(objective, target.labels, rows)
    scores = []
    for name, source in objective.sources.items():
        own = _own_rows(name, source, target)
        gain = evidence_gain(source_logits(objective, own, found), labels)
        cosine = cosine_similarity(direction, prompt_direction(objective, source.labels, own), dim=0)
        scores.append(SourceScore(name, len(source.train), source.labels, gain, float(cosine)))
    return sorted(scores, key=lambda score: (-score.transfer, -score.prompt_similarity))


def _own_rows(name: str, source: Task, target: Task) -> list[Row]:
    """Choose rows of a source that aren't the target's too: those would tell their labels."""
    rows, _ = drop_known(source.train, target.train)
    if len({row.label for row in rows}) < 2:
        raise InvalidInputError(f"source {name!r} has fewer than two labels beside the target's own training rows")
    return by_turns(rows)[:ROWS]


def source_logits(objective: Objective, rows: Sequence[Row], wanted: npt.NDArray[np.float32]) -> Features:
    """Fit a linear classifier to a source's frozen features, and apply it to others.

    Args:
        objective: The study's objective.
        rows: Rows of the source.
        wanted: Features of other rows, shape (rows, hidden).

    Returns:
        Logits, shape (rows, 1) with two labels, (rows, labels) with more.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    model.fit(features(objective, rows), [row.label for row in rows])
    logits: Features = model.decision_function(wanted).reshape(len(wanted), -1).astype(np.float64)
    return logits


def evidence_gain(found: Features, labels: npt.NDArray[np.int64]) -> float:
    """Compute LogME, less what it is without any features.

    Each label against the rest is a Bayesian linear regression, y = F w + b + noise, with w ~ N(0, 1 / alpha) and noise
    ~ N(0, 1 / beta); its evidence is maximised over alpha and beta, and averaged over labels and rows. Given alpha /
    beta the best beta is known, so that one number is left to be searched. An intercept b, without a prior, is LogME's
    own with columns centred.

    Args:
        found: Features F, shape (rows, dimensions).
        labels: Index of each row's label, shape (rows,).

    Returns:
        Nats a row; at least 0, but for rounding, and near it where features tell nothing.
    """
    left, sizes, _ = np.linalg.svd(found - found.mean(0), full_matrices=False)
    energies = sizes**2
    if not np.isfinite(energies).all() or energies.max() <= 0:
        return 0.0
    ratios = energies.max() * RATIOS[:, None]
    penalty = np.log1p(energies / ratios).sum(1) / 2
    gains = []
    for label in np.unique(labels):
        wanted = (labels == label) - np.mean(labels == label)
        explained = ((left.T @ wanted) ** 2 * energies / (energies + ratios)).sum(1) / max(
            float(wanted @ wanted), 1e-12
        )
        gains.append((-len(labels) / 2 * np.log(np.maximum(1 - explained, 1e-12)) - penalty).max())
    return float(np.mean(gains)) / len(labels)


def prompt_direction(objective: Objective, labels: Sequence[str], rows: Sequence[Row]) -> Tensor:
    """Return the direction of a soft prompt's first step on a task: its task embedding; shape (tokens * hidden,).

    The step is that of raising each label's logit, against the mean of all, on that label's own rows, all labels
    counting alike: of cross-entropy where all labels are as likely. So rows whose labels tell nothing pull nowhere,
    while the pull of cross-entropy towards the labels that the untrained prompt neglects is the same for all tasks.

    Args:
        objective: The study's objective.
        labels: Labels of the target or a source.
        rows: Rows of it; the first `PROMPT_ROWS` of them are looked at.
    """
    rows = rows[:PROMPT_ROWS]
    space = objective.spec.space
    soft = SoftPrompt(PROMPT_TOKENS, "vocabulary", "suffix")
    candidate = Candidate(written_templates(space)[0].id, space.verbalizers[0].id, soft_prompt=soft, steps=0)
    (model,) = objective.untrained([candidate.canonical(space.facts)])
    weights = [weight for name, weight in model.attached().items() if name.startswith("soft_prompt.")]
    model.backbone.model.eval()
    encoded, shares = model.encode(rows), _shares(rows)
    total = [torch.zeros_like(weight) for weight in weights]
    for chosen in model.split(encoded, objective.spec.evaluation_batch_size):
        batch = model.batch([encoded[index] for index in chosen])
        logits = model.logits(batch, labels)
        own = logits.gather(1, batch.labels[:, None])[:, 0] - logits.mean(1)
        share = torch.tensor([shares[index] for index in chosen], device=own.device)
        for part, gradient in zip(total, torch.autograd.grad((own * share).sum(), weights), strict=True):
            part += gradient
    return torch.cat([part.float().flatten().cpu() for part in total])


def _shares(rows: Sequence[Row]) -> list[float]:
    """Weigh rows so that all labels that occur count alike."""
    counts = np.bincount([row.label for row in rows])
    return [1.0 / float(counts[row.label]) for row in rows]
