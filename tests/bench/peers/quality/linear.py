"""Linear models with cross-validated regularization: over the backbone's embeddings, and over TF-IDF."""

from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from peers.quality.job import Job, Rows

C_GRID = np.logspace(-4, 2, 13)
FOLDS = 5
ITERATIONS = 2000


def folds(labels: list[int], seed: int) -> StratifiedKFold:
    return StratifiedKFold(min(FOLDS, min(np.bincount(labels))), shuffle=True, random_state=seed)


def probe(job: Job, with_source: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit a logistic regression on standardized embeddings; C by cross-validated log-likelihood."""
    from peers.quality.encoder import sentence_encoder  # Which TF-IDF does without.

    encoder = sentence_encoder(job)

    def features(rows: Rows) -> np.ndarray:
        return encoder.encode(rows.joined, batch_size=32, show_progress_bar=False)

    rows = job.train + job.source if with_source else job.train
    head = LogisticRegressionCV(
        Cs=C_GRID,
        cv=folds(rows.labels, job.seed),
        scoring="neg_log_loss",
        max_iter=ITERATIONS,
        l1_ratios=(0,),
        use_legacy_attributes=False,
    )
    model = make_pipeline(StandardScaler(), head).fit(features(rows), rows.labels)
    return model.predict_proba(features(job.test)), {"C": float(head.C_)}


def tfidf(job: Job) -> tuple[np.ndarray, dict[str, Any]]:
    """Fit a logistic regression on TF-IDF; words or characters, and C, by cross-validation."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(max_iter=ITERATIONS))
    grid = [
        {
            "tfidfvectorizer__analyzer": [analyzer],
            "tfidfvectorizer__ngram_range": [ngrams],
            "logisticregression__C": np.logspace(-2, 3, 11),
        }
        for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (1, 4)))
    ]
    cv = folds(job.train.labels, job.seed)
    search = GridSearchCV(model, grid, cv=cv, scoring="neg_log_loss").fit(job.train.joined, job.train.labels)
    return search.predict_proba(job.test.joined), {name: str(value) for name, value in search.best_params_.items()}
