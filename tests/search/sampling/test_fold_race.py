"""The race between folds."""

import random

import pytest

from promptgraft.search.sampling import FoldRace
from promptgraft.search.trials import FoldScores

FOLDS, ROWS = 4, 32


def scores(value: float, likely: float, folds: int = FOLDS, seed: int = 0) -> FoldScores:
    """Make values of folds around one, each third of them 0.03 higher or lower, and row scores around a mean."""
    draw = random.Random(seed)
    rows = tuple(min(1.0, max(0.0, draw.gauss(likely, 0.2))) for _ in range(ROWS * folds))
    return FoldScores(tuple(value + 0.03 * (fold % 3 - 1) for fold in range(folds)), rows)


@pytest.fixture
def race() -> FoldRace:
    found = FoldRace(maximize=True)
    found.finished(scores(0.9, 0.8))
    found.finished(scores(0.7, 0.6, seed=1))
    return found


def test_who_is_clearly_worse_is_behind(race: FoldRace) -> None:
    assert race.is_behind(scores(0.6, 0.5, 1, seed=2))
    assert race.is_behind(scores(0.6, 0.5, 3, seed=2))


def test_who_is_as_good_is_not(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.88, 0.79, 1, seed=2))


def test_who_is_right_as_often_is_not_though_less_sure(race: FoldRace) -> None:
    """Near equals, by a standard error of the metric, may be averaged in the end."""
    assert not race.is_behind(scores(0.95, 0.52, 1, seed=2))
    assert not race.is_behind(scores(0.88, 0.52, 2, seed=2))
    assert race.is_behind(scores(0.87, 0.52, 2, seed=2))


def test_who_is_behind_by_the_metric_alone_is_not(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.8, 0.8, 2))


def test_what_counts_are_the_folds_that_both_have_run() -> None:
    """The first fold is the easiest: who has 0.9 there is behind who has 0.99, though that one's mean is lower."""
    race = FoldRace(maximize=True)
    sure, unsure = (tuple(own + 0.01 * (row % 3) for row in range(ROWS)) for own in (0.9, 0.4))
    race.finished(FoldScores((0.99, 0.85, 0.83, 0.85), sure * FOLDS))
    assert race.is_behind(FoldScores((0.9,), unsure))
    assert not race.is_behind(FoldScores((0.96,), unsure))


def test_who_has_run_all_folds_is_not(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.5, 0.3, seed=2))


def test_nobody_is_behind_before_a_trial_has_finished() -> None:
    assert not FoldRace(maximize=True).is_behind(scores(0.1, 0.1, 1))


def test_where_less_is_better_the_signs_turn() -> None:
    race = FoldRace(maximize=False)
    race.finished(scores(0.3, 0.8))
    assert race.is_behind(scores(0.9, 0.4, 1, seed=2))
    assert not race.is_behind(scores(0.2, 0.4, 1, seed=2))
