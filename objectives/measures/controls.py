"""What a winner must beat: the same without the source, what is simpler, and what needs no training at all.

A trained control is a candidate: it runs through the same cycle, with as many updates as the winner had. The others are
fitted to their end on the training rows. All see the rows of one split and nothing of the held-out ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from sklearn.preprocessing import StandardScaler

from promptgraft.objectives.backbones import FAMILIES, Encoder, at_words
from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.data import Row, Task, fields_key, rows_hash
from promptgraft.objectives.measures.item_baselines import factorisation, popular_lately
from promptgraft.objectives.measures.sequence_models import SequenceSettings, sequence_control
from promptgraft.objectives.spec import SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, SearchSpace, SoftPrompt, Template

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class TrainedControl:
    """One side of a comparison: a candidate and the step at which it is evaluated.

    Attributes:
        candidate: What is trained.
        step: Where it ends.
    """

    candidate: Candidate
    step: int


def trained_controls(
    winner: TrainedControl, space: SearchSpace, shared_labels: bool, source: SourceTraining
) -> dict[str, TrainedControl]:
    """Return the controls that are trained, by name, with as many updates as the winner had on source and target.

    `target_only` is the winner without the source. `source_only` is the winner on the source alone: the label words
    of the target must be those of the source then. `full_fine_tuning` trains all weights on the target, without a
    soft prompt. A winner without updates, such as a probe on the text embeddings, is still compared with itself without
    the source's rows; one that is the source's weights as they are, with the same updates on the target.

    Args:
        winner: The winner.
        space: The search space.
        shared_labels: Whether every label of the target is one of the source.
        source: How the winner's source stage trains.
    """
    updates = winner.candidate.source_steps + winner.step
    alone = replace(winner.candidate, alpha=0.0, source_steps=0, steps=updates)
    if updates and not alone.canonical(space.facts).is_trained:
        alone = replace(
            alone,
            frozen_layers=source.frozen_layers,
            batch_size=source.batch_size,
            learning_rate=source.learning_rate,
        )
    defaults = Candidate(
        alone.template,
        alone.verbalizer,
        alone.head,
        steps=updates,
        batch_size=alone.batch_size,
        decoding=alone.decoding,
        backbone=alone.backbone,
    )
    found: dict[str, TrainedControl] = {}
    if updates:
        tuned = replace(defaults, adapter=Adapter(), soft_prompt=SoftPrompt())
        found["full_fine_tuning"] = TrainedControl(tuned, updates)
    if winner.candidate.uses_source:
        found["target_only"] = TrainedControl(alone, updates)
    if space.facts.has_source and shared_labels and winner.step:
        found["source_only"] = TrainedControl(replace(winner.candidate, alpha=1.0), winner.step)
    return {name: TrainedControl(arm.candidate.canonical(space.facts), arm.step) for name, arm in found.items()}


def tfidf(task: Task, rows: Sequence[Row], train: Sequence[Row] | None = None) -> Logits:
    """Fit logistic regression on TF-IDF of words and pairs, or what the kind of task has for it.

    Args:
        task: The task.
        rows: What is predicted.
        train: What it is fitted on; the task's training rows if None.
    """
    return task.fit_by_words(train or task.train, rows)


def linear_probe(objective: Objective, rows: Sequence[Row]) -> Logits:
    """Fit a linear model to the frozen backbone's features of the first template.

    A row's features are the mean of the last hidden states of its tokens, a word's that of its first token;
    standardised over the training rows.
    """
    task = objective.target
    scaler = StandardScaler()
    known, others = features(objective, task.train), features(objective, rows)
    is_read, is_other = known.any(-1), others.any(-1)
    known[is_read], others[is_other] = scaler.fit_transform(known[is_read]), scaler.transform(others[is_other])
    return task.fit_linear(known, task.train, others, c=0.1)


def zero_shot(objective: Objective, rows: Sequence[Row]) -> Logits:
    """Score with the pretrained weights and the first template; shape (rows, labels).

    It gets the verbalizer with which it does best on the training rows, by the metric of its kind, then by loss.
    """
    template = written_templates(objective.spec.space)[0]
    return objective.score(best_words(objective, template, objective.target.train), {}, rows)


def best_words(objective: Objective, template: Template, rows: Sequence[Row]) -> Candidate:
    """Return the untrained candidate of a template and the verbalizer with which it does best on some rows."""
    space, task = objective.spec.space, objective.target
    if not space.verbalizers:
        head = first_head(objective)
        plain = Candidate(template.id, "", head=head, steps=0, decoding=space.first_decoding)
        return plain.canonical(space.facts)

    def rank(candidate: Candidate) -> tuple[float, float]:
        metrics = task.measure(objective.score(candidate, {}, rows), rows)
        return metrics[task.default_metric], -metrics["loss"]

    candidates = [Candidate(template.id, entry.id, steps=0).canonical(space.facts) for entry in space.verbalizers]
    return max(candidates, key=rank) if len(candidates) > 1 else candidates[0]


def first_head(objective: Objective) -> str:
    """Return the head that the target's kind and the backbone's family have, the default of those that there are."""
    return FAMILIES[objective.spec.backbone.family].heads(objective.target.heads)[0]


def has_zero_shot(objective: Objective) -> bool:
    """Whether the untrained backbone can score the target's labels."""
    return FAMILIES[objective.spec.backbone.family].has_words and not objective.target.refuses_baseline("zero_shot")


def written_templates(space: SearchSpace) -> list[Template]:
    """Return the templates that a search was given: what it has made is no control of it."""
    return [template for template in space.templates if template.source in ("written", "promptsource")]


# Controls that are no candidates: name -> logits of some rows.
FITTED: Mapping[str, Callable[[Objective, Sequence[Row]], Logits]] = {
    "linear_probe": linear_probe,
    "tfidf": lambda objective, rows: tfidf(objective.target, rows),
    "zero_shot": zero_shot,
    "majority": lambda objective, rows: objective.target.constant(rows),
    "popular_lately": popular_lately,
    "svd": factorisation,
    "sasrec": sequence_control(SequenceSettings()),
    "gru4rec": sequence_control(SequenceSettings(reader="gru", layers=1)),
}


def features(objective: Objective, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    """Average the frozen backbone's last hidden states over the first template's tokens, or take those of words.

    Those of the labelled rows are computed together, once for all folds, repeats and workers.

    Returns:
        Shape (rows, hidden), or (rows, words, hidden) with zeros for words that aren't read.
    """
    labelled, space = objective.target.labelled, objective.spec.space
    places = {fields_key(row.fields): place for place, row in enumerate(labelled)}
    wanted = [places.get(fields_key(row.fields), -1) for row in rows]
    together = labelled if min(wanted, default=-1) >= 0 else tuple(rows)
    template = written_templates(space)[0].id
    first = Candidate(template, space.first_verbalizer, first_head(objective), steps=0).canonical(space.facts)
    key = {
        "stage": "features",
        "template": written_templates(space)[0].text,
        "verbalizer": first.verbalizer,
        "batch_size": objective.spec.evaluation_batch_size,
        "rows": rows_hash(together),
        **({"words": "first token"} if objective.target.words() else {}),
    }
    stage = StageKey.of(objective.backbone_key() | key)
    found = objective.stages.get(stage, lambda: {"features": torch.from_numpy(_embed(objective, first, together))})
    features = found["features"].numpy()
    return features[wanted] if together is labelled else features.copy()


def _embed(objective: Objective, first: Candidate, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
    (model,) = objective.untrained([first])
    encoded = model.encode(rows)
    width = [max(len(own.words or ()) for own in encoded)] if model.words else []
    found = np.zeros((len(rows), *width, objective.backbone.hidden_size), dtype=np.float32)
    model.backbone.model.eval()
    with torch.inference_mode():
        for chosen in model.split(encoded, objective.spec.evaluation_batch_size):
            batch = model.batch([encoded[index] for index in chosen])
            hidden = model.stack(batch.input_ids, batch.lengths, batch.lengths)
            if batch.words is None:
                found[chosen] = Encoder.pool(hidden.float(), batch.lengths, 0).cpu().numpy()
            else:
                found[chosen, : batch.words.shape[1]] = at_words(hidden.float(), batch.words, 0).cpu().numpy()
    return found
