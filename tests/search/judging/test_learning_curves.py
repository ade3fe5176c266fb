"""Learning curves of the winner: what more rows of target and source, and more trials, are worth."""

from itertools import combinations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from promptgraft.search.judging import (
    FRESH,
    LearningCurves,
    collect_learning_curves,
    curve_lines,
    fewer_rows,
    reach_verdict,
)
from promptgraft.search.storage import REPEAT, control_attr, curve_attr

VALUES = [0.9, 0.7, 0.85, 0.6, 0.8]


def stored() -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    attrs = {"candidate": {"template": "t", "verbalizer": "v"}, "prompt_tokens": 3, "best_step": 0}
    for value in VALUES:
        study.add_trial(create_trial(value=value, user_attrs=attrs))
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs=attrs, intermediate_values={0: 0.5}))
    study.set_user_attr("definition", {"judging": {"finalists": 1, "repeats": 2}})
    for repeat in (1, 2):
        study.set_user_attr(f"{REPEAT}0_{repeat}", {"value": 0.8})
    return study


def with_points(study: optuna.Study) -> optuna.Study:
    for n, value in enumerate((0.80, 0.84, 0.82)):
        study.set_user_attr(control_attr(0, "winner", FRESH + n), {"value": value})
        study.set_user_attr(curve_attr(0, "target", 32, FRESH + n), {"value": value - 0.05 - n / 200})
        study.set_user_attr(curve_attr(0, "target", 16, FRESH + n), {"value": value - 0.1})
        study.set_user_attr(curve_attr(0, "source", 500, FRESH + n), {"value": value - 0.01 * (n - 1)})
    study.set_user_attr(curve_attr(0, "target", 16, FRESH + 3), {"failure": "out of memory"})
    return study


def curves_of(study: optuna.Study) -> LearningCurves | None:
    return collect_learning_curves(study, reach_verdict(study).winner)


def test_a_curve_s_points() -> None:
    study = stored()
    assert curves_of(study) is None
    found = curves_of(with_points(study))
    assert found is not None
    target = found.curves["target"]
    assert [(point.rows, point.repeats) for point in target] == [(16, 3), (32, 3), (None, 3)]
    assert target[-1].mean == pytest.approx(0.82)
    gain = found.doubling["target"]
    assert gain.value == pytest.approx(0.055)
    assert 0 < gain.low < gain.value < gain.high
    assert found.doubling["source"].low < 0 < found.doubling["source"].high
    sentence = found.sentence
    assert "the last doubling of the source rows brought +0.0 points" in sentence.lower()
    assert "last doubling of the target rows brought +5.5 points" in sentence
    assert sentence.endswith("More target rows promise most.")
    assert "  value: 16 target rows 0.7200, 32 target rows 0.7650, all target rows 0.8200" in curve_lines(
        found, "value"
    )


def test_doubling_the_trials_is_the_mean_over_all_halves() -> None:
    found = curves_of(with_points(stored()))
    assert found is not None
    scores = [*VALUES, min(VALUES)]  # The pruned one is no better than the worst.
    halves = [max(half) for half in combinations(scores, 3)]
    assert found.trials == pytest.approx(max(scores) - sum(halves) / len(halves))


def test_which_points_there_are() -> None:
    uses = {"source_steps": 8, "alpha": 0.0}
    assert fewer_rows(64, 1000, uses) == [("target", 16), ("target", 32), ("source", 250), ("source", 500)]
    assert fewer_rows(64, 1000, {"source_steps": 0, "alpha": 0.0}) == [("target", 16), ("target", 32)]
    assert fewer_rows(8, 0, uses) == []
