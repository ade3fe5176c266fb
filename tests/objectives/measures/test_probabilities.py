"""Averages of models, the choice of an ensemble, temperature and coverage."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from promptgraft.objectives.kinds.text_classification import mean_logits
from promptgraft.objectives.measures import (
    best_temperature,
    calibration_error,
    choose_members,
    coverage_curve,
)


def planted(rows: int, labels: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Logits that are as sure as they are right once they are divided by a temperature, and labels."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(size=(rows, labels)) * 1.5
    drawn = np.array([generator.choice(labels, p=chances) for chances in softmax(honest, axis=1)])
    return (honest * temperature).astype(np.float32), drawn


def test_the_mean_is_that_of_probabilities() -> None:
    first, second = (planted(50, 3, 1.0, seed)[0] for seed in (1, 2))
    found = mean_logits([first, second], [0.75, 0.25])
    expected = 0.75 * softmax(first, axis=1) + 0.25 * softmax(second, axis=1)
    assert np.abs(softmax(found, axis=1) - expected).max() < 1e-6
    assert np.abs(found - log_softmax(found, axis=1)).max() < 1e-6
    assert mean_logits([first], [1.0]) is first


def test_an_ensemble_takes_near_equals_the_best_first_and_leaves_a_poor_one() -> None:
    draw = np.random.default_rng(0)
    right = draw.uniform(0.5, 0.9, 40)
    noise = draw.normal(0, 0.1, (2, 40))
    noise -= noise.mean(axis=1, keepdims=True)
    scores = {0: right, 1: right - 0.2, 2: right + noise[0] - 0.01, 3: right + noise[1] - 0.005, 4: right.copy()}
    values = dict.fromkeys(scores, np.array([0.8, 0.7, 0.9, 0.9])) | {0: np.full(4, 0.9), 1: np.full(4, 0.6)}
    values |= {2: np.array([0.9, 0.8, 0.8, 0.9]), 3: np.array([0.8, 0.9, 0.9, 0.8])}
    assert choose_members(scores, values, 0, 5) == [0, 3, 2]
    assert choose_members(scores, values, 0, 2) == [0, 3]
    assert choose_members(scores, values, 0, 1) == [0]


def test_who_is_surer_but_clearly_worse_by_the_metric_stays_out() -> None:
    scores = {0: np.array([0.6, 0.6, 0.7, 0.4]), 1: np.array([0.9, 0.9, 0.9, 0.1])}
    best, near, worse = np.full(4, 0.8), np.array([0.8, 0.7, 0.8, 0.7]), np.array([0.8, 0.7, 0.7, 0.7])
    assert choose_members(scores, {0: best, 1: near}, 0, 5) == [0, 1], "1.7 standard errors below"
    assert choose_members(scores, {0: best, 1: worse}, 0, 5) == [0], "3 standard errors"


def test_who_is_less_sure_joins_if_its_metric_is_near() -> None:
    scores = {0: np.full(30, 0.9), 1: np.full(30, 0.6), 2: np.full(30, 0.7)}
    values = {0: np.array([0.8, 0.9, 0.85]), 1: np.array([0.82, 0.87, 0.85]), 2: np.array([0.7, 0.8, 0.75])}
    assert choose_members(scores, values, 0, 5) == [0, 1]


def test_nothing_joins_that_is_shown_to_be_worse() -> None:
    scores = {4: np.full(30, 0.8), 5: np.full(30, 0.79)}
    values = {4: np.full(3, 0.8), 5: np.full(3, 0.79)}
    assert choose_members(scores, values, 4, 5) == [4]
    one = {4: np.array([0.8]), 5: np.array([0.7])}
    assert choose_members(one, one, 4, 5) == [4]


@pytest.mark.parametrize("planted_at", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_planted_is_found_and_calibrates(planted_at: float) -> None:
    logits, labels = planted(4000, 4, planted_at)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(planted_at, rel=0.1)
    fresh, fresh_labels = planted(4000, 4, planted_at, seed=9)

    def error(chances: np.ndarray) -> float:  # type: ignore[type-arg]
        return calibration_error(chances.max(1), chances.argmax(1) == fresh_labels)

    after = error(softmax(fresh / found, axis=1))
    assert after < 0.03
    if planted_at != 1.0:
        assert after < error(softmax(fresh, axis=1)) / 2


@pytest.mark.parametrize(("rows", "labels"), [(16, 2), (16, 5), (200, 2)])
def test_few_rows_that_are_all_right_do_not_make_a_model_certain(rows: int, labels: int) -> None:
    answers = np.arange(rows) % labels
    logits = np.eye(labels, dtype=np.float32)[answers]
    sure = softmax(logits / best_temperature(logits, answers), axis=1)[np.arange(rows), answers]
    assert sure == pytest.approx((rows + 1) / (rows + 2), abs=1e-3)


def test_accuracy_rises_where_doubtful_rows_are_left_to_a_person() -> None:
    logits, labels = planted(2000, 3, 1.0)
    curve = coverage_curve(softmax(logits, axis=1), labels)
    assert curve[0].coverage == 1.0
    assert curve[0].accuracy == pytest.approx(float((logits.argmax(1) == labels).mean()))
    assert [point.coverage for point in curve] == pytest.approx([tenth / 10 for tenth in range(10, 0, -1)], abs=0.01)
    assert curve[-1].accuracy > curve[5].accuracy > curve[0].accuracy
    assert [point.threshold for point in curve] == sorted(point.threshold for point in curve)


def test_ties_in_probability_are_kept_together() -> None:
    chances = np.tile([0.8, 0.2], (10, 1))
    (point,) = coverage_curve(chances, np.zeros(10, dtype=int))
    assert (point.coverage, point.accuracy, point.threshold) == (1.0, 1.0, 0.8)
