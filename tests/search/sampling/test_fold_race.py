"""The race between folds."""

import random

import pytest

from promptgraft.search.sampling import FoldRace
from promptgraft.search.trials import FoldScores


def scores(value: float, likely: float, rows: int, seed: int = 0) -> FoldScores:
    """Make row scores around a mean."""
    draw = random.Random(seed)
    return FoldScores(value, tuple(min(1.0, max(0.0, draw.gauss(likely, 0.2))) for _ in range(rows)))


@pytest.fixture
def race() -> FoldRace:
    found = FoldRace(maximize=True)
    found.finished(scores(0.9, 0.8, 128))
    found.finished(scores(0.7, 0.6, 128, seed=1))
    return found


def test_who_is_clearly_worse_is_behind(race: FoldRace) -> None:
    assert race.is_behind(scores(0.6, 0.5, 32, seed=2))


def test_who_is_as_good_is_not(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.88, 0.79, 32, seed=2))


def test_who_is_right_more_often_is_not_though_less_sure(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.95, 0.52, 32, seed=2))


def test_who_has_run_all_folds_is_not(race: FoldRace) -> None:
    assert not race.is_behind(scores(0.5, 0.3, 128, seed=2))


def test_nobody_is_behind_before_a_trial_has_finished() -> None:
    assert not FoldRace(maximize=True).is_behind(scores(0.1, 0.1, 32))


def test_where_less_is_better_the_signs_turn() -> None:
    race = FoldRace(maximize=False)
    race.finished(scores(0.3, 0.8, 128))
    assert race.is_behind(scores(0.9, 0.4, 32, seed=2))
    assert not race.is_behind(scores(0.2, 0.4, 32, seed=2))
