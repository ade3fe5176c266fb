"""What the winner must beat: majority class, TF-IDF with logistic regression, and the untrained backbone."""

from collections.abc import Iterator

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from promptgraft.objectives.objective import Objective
from promptgraft.objectives.tasks import Row, Task
from promptgraft.search.sealed import HeldOut
from promptgraft.spaces import Candidate


def majority(task: Task) -> HeldOut:
    """Predict the most frequent label of the training rows."""
    counts = np.bincount([row.label for row in task.train], minlength=len(task.labels)).astype(np.float32)
    logits = np.tile(np.log(np.maximum(counts, 1e-9) / counts.sum()), (len(task.test), 1))
    return HeldOut("majority class", task.measure(logits, task.test))


def tfidf(task: Task, rows: tuple[Row, ...], name: str) -> HeldOut:
    """Fit logistic regression on TF-IDF of words and word pairs.

    C is 10: on few rows cross-validation picks the strongest regularisation, which predicts the majority
    class, and this control must not be weaker than it needs to be.
    """
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
    )
    model.fit([_text(row) for row in rows], [row.label for row in rows])
    logits = np.full((len(task.test), len(task.labels)), -30.0, dtype=np.float32)
    logits[:, model.classes_] = model.predict_log_proba([_text(row) for row in task.test])
    return HeldOut(f"TF-IDF + logistic regression, {name} ({len(rows)} rows)", task.measure(logits, task.test))


def zero_shot(objective: Objective) -> Iterator[HeldOut]:
    """Score the pretrained backbone, untrained, with every template that the search was given.

    Each template gets the verbalizer with which it does best on the validation rows (by accuracy, then by
    loss): the winner's label words were chosen there too.
    """
    target, space = objective.target, objective.spec.space
    for template in space.templates:
        if template.source not in ("written", "promptsource"):
            continue  # What a search has made is no control of it.
        candidates = [Candidate(template.id, entry.id, steps=0).canonical(space.facts) for entry in space.verbalizers]

        def rank(candidate: Candidate) -> tuple[float, float]:
            metrics = target.measure(objective.score(candidate, {}, target.validation), target.validation)
            return metrics["accuracy"], -metrics["loss"]

        chosen = max(candidates, key=rank)
        logits = objective.score(chosen, {}, target.test)
        words = space.verbalizer(chosen.verbalizer).name
        yield HeldOut(f"zero-shot, template {template.name}, words {words}", target.measure(logits, target.test))


def _text(row: Row) -> str:
    return "\n".join(row.fields[name] for name in sorted(row.fields))
