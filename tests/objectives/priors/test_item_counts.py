"""Priors of recommendations: what they count, what they never see, and items that nobody had."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from promptgraft.objectives.data import PriorRows, Row, Split, TaskSpec, all_labels
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.priors import item_counts
from promptgraft.objectives.priors.item_counts import HAD, PLACES, POPULARITY, WEIGHTS, fit_item_prior, item_logits
from promptgraft.spaces import InvalidInputError
from tests.support.histories import spec_of_histories, write_histories


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Recommendation:
    return Recommendation.load_target(spec(tmp_path_factory.mktemp("shop")), 0)


def spec(folder: Path) -> TaskSpec:
    return spec_of_histories(*write_histories(folder, users=60))


def rows_of(task: Recommendation, **changes: object) -> PriorRows:
    return replace(PriorRows(task.train, (), (), 0.0, task.labels), **changes)  # type: ignore[arg-type]


def logits_of(task: Recommendation, name: str, recency: float = 0.0, rows: PriorRows | None = None) -> np.ndarray:
    tensors = task.fit_prior(name, recency, rows or rows_of(task))
    features = [task.prior_features("ease", row.fields, task.labels) for row in task.validation]
    return task.prior_logits(name, recency, tensors, features)


def test_neighbours_rank_as_the_baseline_does(task: Recommendation) -> None:
    """But for popularity, the mean cosine is item-kNN."""
    tensors = dict(task.fit_prior("neighbours", 0.0, rows_of(task)))
    tensors[POPULARITY] = np.zeros_like(tensors[POPULARITY])
    features = [task.prior_features("ease", row.fields, task.labels) for row in task.validation]
    found = task.measure(task.prior_logits("neighbours", 0.0, tensors, features), task.validation)
    expected = task.measure(task.fit_by_words(task.train, task.validation), task.validation)
    assert found["ndcg_at_10"] == pytest.approx(expected["ndcg_at_10"], abs=1e-6)


def test_ease_is_the_ridge_regression_of_each_item_on_the_others(task: Recommendation) -> None:
    """The closed form minimises |X - XB|^2 + penalty * |B|^2 with a diagonal of 0."""
    items = item_counts._items_of_users(task.train, task.labels, {name: n for n, name in enumerate(task.labels)})
    users = item_counts._matrix(list(items.values()), [], 0.0, len(task.labels))
    (weights,) = item_counts._ease(users)
    dense = users.toarray()
    others = [place for place in range(dense.shape[1]) if place != 3]
    known = dense[:, others]
    expected = np.linalg.solve(known.T @ known + item_counts.RIDGE * np.eye(len(others)), known.T @ dense[:, 3])
    assert weights[others, 3] == pytest.approx(expected, abs=1e-9)
    assert weights[3, 3] == 0


@pytest.mark.parametrize("name", ["neighbours", "ease"])
def test_what_came_last_counts_more(task: Recommendation, name: str) -> None:
    """Here an item follows those just before it."""
    plain, recent = (task.measure(logits_of(task, name, recency), task.validation) for recency in (0.0, 1.5))
    popular = task.measure(logits_of(task, "popularity"), task.validation)
    assert recent["ndcg_at_5"] > plain["ndcg_at_5"] > popular["ndcg_at_5"]
    assert recent["loss"] < popular["loss"]


@pytest.mark.parametrize("name", ["popularity", "neighbours", "ease"])
def test_held_out_rows_take_no_part(task: Recommendation, name: str) -> None:
    """A planted leak: whatever validation and test rows say, the prior is the same."""
    usual = logits_of(task, name, 0.5)
    planted = replace(
        task,
        validation=tuple(replace(row, answer=0) for row in task.validation),
        test=tuple(replace(row, answer=0) for row in task.test),
    )
    assert np.array_equal(usual, logits_of(planted, name, 0.5))
    leaking = rows_of(task, target=(*task.train, *task.validation))
    found = task.measure(logits_of(task, name, 0.5, leaking), task.validation)
    assert found["loss"] < task.measure(usual, task.validation)["loss"], "a leak would have been seen"
    whole = task.on(Split(whole=True))
    assert len(whole.train) == len(task.train) + len(task.validation)


def test_factors_are_fitted_on_users_that_were_not_counted(task: Recommendation) -> None:
    """Counts that mean nothing get no weight: on their own rows they would."""
    shuffled = np.random.default_rng(0)
    rows = [
        Row({"history": task.labels[shuffled.integers(24)]}, int(shuffled.integers(24)), f"u{n}") for n in range(300)
    ]
    tensors = fit_item_prior("neighbours", 0.0, rows_of(task, target=rows))
    logits = item_logits("neighbours", 0.0, tensors, [(3,)])[0]
    others = np.delete(logits, 3)
    assert others.max() - others.min() < 1


def test_a_source_counts_by_alpha(task: Recommendation) -> None:
    rows = task.train
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    names = all_labels(task, [])
    mixed = rows_of(task, target=halves[0], source=halves[1], source_labels=names, alpha=0.5)
    together = task.fit_prior("ease", 0.5, rows_of(task))[WEIGHTS]
    found = task.fit_prior("ease", 0.5, mixed)[WEIGHTS]
    assert np.corrcoef(together.ravel(), found.ravel())[0, 1] > 0.999, "users of both count the same"
    alone = task.fit_prior("ease", 0.5, replace(mixed, alpha=0.0))[WEIGHTS]
    without = task.fit_prior("ease", 0.5, rows_of(task, target=halves[0]))[WEIGHTS]
    assert np.array_equal(alone, without)


@pytest.mark.parametrize("name", ["popularity", "neighbours", "ease"])
def test_items_that_nobody_had_are_left_to_the_text(task: Recommendation, name: str) -> None:
    labels = (*task.labels, "new bike", "new boat")
    tensors = task.fit_prior(name, 0.5, rows_of(task, labels=labels))
    features = [task.prior_features(name, {"history": f"new bike\n{task.labels[0]}"}, labels), (), (len(labels) - 2,)]
    logits = task.prior_logits(name, 0.5, tensors, features)
    assert np.isfinite(logits).all()
    assert features[0] == (len(labels) - 2, 0)
    assert logits[1, -1] == logits[1, -2], "both are new: the prior says nothing"
    assert logits[0, -2] == logits[0, 0] == np.float32(HAD)


def test_large_catalogues_keep_the_largest_weights(task: Recommendation, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = logits_of(task, "neighbours", 1.0)
    monkeypatch.setattr(item_counts, "MOST_WEIGHTS", 24 * 8)
    monkeypatch.setattr(item_counts, "LEAST_KEPT", 4)
    monkeypatch.setattr(item_counts, "_TOGETHER", 5)
    tensors = task.fit_prior("neighbours", 1.0, rows_of(task))
    assert tensors[WEIGHTS].shape == tensors[PLACES].shape == (24, 8)
    task.check_prior("neighbours", tensors, 24)
    found = logits_of(task, "neighbours", 1.0)
    assert task.measure(found, task.validation)["ndcg_at_10"] > task.measure(whole, task.validation)["ndcg_at_10"] - 0.1
    monkeypatch.setattr(item_counts, "MOST_OF_EASE", 20)
    with pytest.raises(InvalidInputError, match="at most 20 items, got 24"):
        task.fit_prior("ease", 0.0, rows_of(task))


def test_a_row_is_scored_the_same_whatever_is_beside_it(task: Recommendation) -> None:
    tensors = task.fit_prior("ease", 0.5, rows_of(task))
    features = [task.prior_features("ease", row.fields, task.labels) for row in task.validation]
    together = task.prior_logits("ease", 0.5, tensors, features)
    alone = np.concatenate([task.prior_logits("ease", 0.5, tensors, [own]) for own in features])
    assert np.array_equal(together, alone)
    assert all(
        np.array_equal(value, task.fit_prior("ease", 0.5, rows_of(task))[name]) for name, value in tensors.items()
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHTS: None}, "prior.weights is missing"),
        ({"prior.other": np.zeros(2, np.float32)}, "prior.other is not one"),
        ({POPULARITY: np.zeros(3, np.float32)}, "has shape"),
        ({POPULARITY: np.full(24, np.nan, np.float32)}, "not finite"),
        ({PLACES: np.full((24, 24), 24, np.int32)}, "not one of the prior"),
    ],
)
def test_other_tensors_are_refused(task: Recommendation, change: dict[str, np.ndarray | None], message: str) -> None:
    tensors = {**task.fit_prior("ease", 0.0, rows_of(task)), **change}
    with pytest.raises(InvalidInputError, match=message):
        task.check_prior("ease", {name: value for name, value in tensors.items() if value is not None}, 24)
