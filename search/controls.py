"""What the winner must beat: majority class, TF-IDF with logistic regression, and the untrained backbone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
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


def tfidf(task: Task, rows: tuple[Row, ...], name: str, seed: int) -> Control:
    """Fit logistic regression on TF-IDF of words and word pairs, its C chosen by cross-validation."""
    labels = [row.label for row in rows]
    folds = min(5, min(np.bincount(labels)[np.unique(labels)]))
    pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": [0.1, 1.0, 10.0, 100.0]}
    model = pipeline.set_params(logisticregression__C=10.0)
    if folds >= 2:
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        model = GridSearchCV(pipeline, grid, cv=splitter)
    model.fit([_text(row) for row in rows], labels)
    found = np.full((len(task.test), len(task.labels)), -30.0, dtype=np.float32)
    probabilities: npt.NDArray[np.float64] = model.predict_proba([_text(row) for row in task.test])
    found[:, model.classes_] = np.log(np.maximum(probabilities, 1e-12))
    return Control(f"TF-IDF + logistic regression, {name} ({len(rows)} rows)", task.measure(found, task.test))


def zero_shot(objective: Objective, verbalizer: str) -> Iterator[Control]:
    """Score the pretrained backbone with every template and one verbalizer, untrained."""
    for template in objective.spec.space.templates:
        candidate = Candidate(template.id, verbalizer, steps=0).canonical(objective.spec.space.facts)
        logits = objective.score_test(candidate)
        metrics = objective.target.measure(logits, objective.target.test)
        yield Control(f"zero-shot, template {template.name}", metrics)


def _text(row: Row) -> str:
    return "\n".join(row.fields[name] for name in sorted(row.fields))
