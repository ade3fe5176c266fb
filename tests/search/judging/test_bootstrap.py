"""Intervals by resampled rows, where a score is no mean over rows."""

import numpy as np
import pytest

from promptgraft.search.judging.intervals import Indices, Logits, gain_on_rows, score_interval


def mean_of(logits: Logits, rows: Indices) -> float:
    assert len(logits) == len(rows)
    return float(logits.mean())


@pytest.fixture
def scores() -> Logits:
    return np.random.default_rng(0).normal(50, 10, size=(200, 1)).astype(np.float32)


def test_it_is_as_wide_as_the_mean_varies(scores: Logits) -> None:
    found = score_interval(scores, mean_of, "chrf", 0.05, bootstrap=True)
    error = float(scores.std(ddof=1)) / len(scores) ** 0.5
    assert found.value == pytest.approx(float(scores.mean()))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)
    assert score_interval(scores, mean_of, "chrf", 0.05, bootstrap=True) == found


def test_both_sides_have_the_same_rows_in_each_sample(scores: Logits) -> None:
    ours, theirs = [scores + 1.0, scores + 3.0], [scores, scores]
    found = gain_on_rows(ours, theirs, mean_of, 0.05, bootstrap=True)
    assert found.value == pytest.approx(2.0, abs=1e-4)
    # What varies is the repeats alone, of which two are drawn: 1 and 1, 1 and 3, or 3 and 3.
    assert (found.low, found.high) == pytest.approx((1.0, 3.0), abs=1e-4)
    same = gain_on_rows(theirs, theirs, mean_of, 0.05, bootstrap=True)
    assert (same.low, same.high) == (0.0, 0.0)
