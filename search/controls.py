"""What the winner must beat: majority class, TF-IDF with logistic regression, and the untrained backbone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from promptgraft.objectives.objective import Objective
from promptgraft.objectives.tasks import Row, Task
from promptgraft.spaces import Candidate


@dataclass(frozen=True, slots=True)
class Control:
    """A reference point on the held-out rows.

    Attributes:
        name: What it is.
        metrics: Metric -> value on the test rows.
    """

    name: str
    metrics: dict[str, float]


def majority(task: Task) -> Control:
    """Predict the most frequent label of the training rows."""
    counts = np.bincount([row.label for row in task.train], minlength=len(task.labels)).astype(np.float32)
    logits = np.tile(np.log(np.maximum(counts, 1e-9) / counts.sum()), (len(task.test), 1))
    return Control("majority class", task.measure(logits, task.test))


def tfidf(task: Task, rows: tuple[Row, ...], name: str) -> Control:
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
    return Control(f"TF-IDF + logistic regression, {name} ({len(rows)} rows)", task.measure(logits, task.test))


def zero_shot(objective: Objective, verbalizer: str) -> Iterator[Control]:
    """Score the pretrained backbone with every template and one verbalizer, untrained."""
    for template in objective.spec.space.templates:
        candidate = Candidate(template.id, verbalizer, steps=0).canonical(objective.spec.space.facts)
        logits = objective.score_test(candidate)
        metrics = objective.target.measure(logits, objective.target.test)
        yield Control(f"zero-shot, template {template.name}", metrics)


def _text(row: Row) -> str:
    return "\n".join(row.fields[name] for name in sorted(row.fields))
