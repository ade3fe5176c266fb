"""The verdict in a sentence."""

from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from promptgraft.search.judging import headline_of


@pytest.fixture
def study() -> optuna.Study:
    found = optuna.create_study(direction="maximize")
    found.set_metric_names(["accuracy"])
    return found


def add(study: optuna.Study, folds: list[float], baseline: str | None = None, **changes: Any) -> None:
    attrs = {
        "best_step": 8,
        "candidate": {"steps": 8},
        "fold_values": folds,
        "standard_error": 0.01,
        "seconds": changes.pop("seconds", 10.0),
        "validation_loss": changes.pop("loss", 0.5),
    }
    if baseline:
        attrs["baseline"] = baseline
    state = changes.pop("state", TrialState.COMPLETE)
    value = changes.pop("value", None) or sum(folds) / len(folds)
    study.add_trial(create_trial(state=state, value=value, user_attrs=attrs, **changes))


def said(study: optuna.Study) -> str:
    found = headline_of(study)
    assert found is not None
    return found


def test_before_a_trial_has_ended_there_is_nothing_to_say(study: optuna.Study) -> None:
    assert headline_of(study) is None


def test_a_winner_that_is_clearly_better(study: optuna.Study) -> None:
    add(study, [0.7, 0.72, 0.74, 0.7], "full_fine_tuning")
    add(study, [0.6, 0.62, 0.6, 0.61], "linear_probe")
    add(study, [0.8, 0.83, 0.84, 0.81])
    assert said(study) == (
        "Ship trial 2: accuracy 0.820 over 4 folds, standard error 0.010, the best of a search. It is better than the "
        "best baseline, full fine-tuning on the target, by +10.5 points (standard error 0.3): the search was worth it."
    )


def test_a_baseline_that_is_as_good_and_cheaper(study: optuna.Study) -> None:
    add(study, [0.8, 0.7, 0.8, 0.7], "linear_probe", seconds=1.0)
    add(study, [0.7, 0.81, 0.7, 0.81], seconds=40.0, loss=0.4)
    assert said(study).endswith(
        "The best baseline, linear probe on the target, is as good within noise (+0.5 points (standard error 6.1)), "
        "and 40 times cheaper to train."
    )


@pytest.mark.parametrize(
    ("pruned", "expected"),
    [
        (
            [0.82, 0.81],
            "The best baseline, contrastive training on the target, then a linear probe (SetFit), was pruned "
            "0.5 points (standard error 0.5) behind; by how much it is worse isn't known.",
        ),
        (
            [0.6, 0.6],
            "It is better than the best baseline, contrastive training on the target, then a linear probe (SetFit), "
            "which was pruned 22.0 points (standard error 1.0) behind: the search was worth it.",
        ),
    ],
    ids=["near", "far"],
)
def test_a_baseline_that_was_pruned_between_folds(pruned: list[float], expected: str, study: optuna.Study) -> None:
    """They are compared on the folds that both have run."""
    add(study, pruned, "contrastive", state=TrialState.PRUNED)
    add(study, [0.83, 0.81, 0.72, 0.72])
    assert said(study).endswith(expected)


def test_a_baseline_that_was_pruned_after_one_fold(study: optuna.Study) -> None:
    """The winner's own error says what that shows."""
    add(study, [0.80], "contrastive", state=TrialState.PRUNED)
    add(study, [0.82, 0.80, 0.86, 0.80])
    assert said(study).endswith("(SetFit), was pruned 2.0 points behind; by how much it is worse isn't known.")


def test_a_baseline_that_was_pruned_within_its_first_fold(study: optuna.Study) -> None:
    """It has nothing to be compared by, and where others do, they are named."""
    add(study, [], "full_fine_tuning", state=TrialState.PRUNED, value=0.9)
    add(study, [0.82, 0.83, 0.81, 0.82])
    assert said(study).endswith(
        "The best baseline, full fine-tuning on the target, was pruned within its first fold; by how much it is worse "
        "isn't known."
    )
    add(study, [0.5, 0.51, 0.5, 0.49], "linear_probe")
    assert "better than the best baseline, linear probe on the target, by +32.0 points" in said(study)


def test_a_baseline_that_was_ahead_in_the_search(study: optuna.Study) -> None:
    """Though a race on further seeds chose another trial."""
    add(study, [0.8, 0.84, 0.8, 0.8], "full_fine_tuning", params={}, distributions={})
    add(study, [0.79, 0.8, 0.79, 0.78])
    definition = {"judging": {"finalists": 2, "repeats": 2}}
    study.set_user_attr("definition", definition)
    for trial, value in ((0, 0.7), (1, 0.9)):
        for repeat in (1, 2):
            study.set_user_attr(f"repeat_trial_{trial}_{repeat}", {"value": value})
    assert said(study).startswith("Ship trial 1: accuracy 0.790 over 4 folds")
    assert said(study).endswith(
        "The best baseline, full fine-tuning on the target, was +2.0 points (standard error 0.7) ahead in the search: "
        "--trial 0 exports it."
    )


def test_a_baseline_that_wins(study: optuna.Study) -> None:
    add(study, [0.9, 0.9], "contrastive_source")
    add(study, [0.8, 0.8])
    add(study, [0.7, 0.7])
    assert said(study) == (
        "Ship trial 0, contrastive training on the source, then a linear probe: accuracy 0.900 over 2 folds, standard "
        "error 0.010, the best of a search. None of 2 searched candidates is better."
    )


def test_a_baseline_that_is_surer_than_a_candidate_with_a_better_value(study: optuna.Study) -> None:
    add(study, [0.8, 0.7, 0.8, 0.7], "contrastive_source", loss=0.4)
    add(study, [0.7, 0.81, 0.7, 0.81])
    assert said(study) == (
        "Ship trial 0, contrastive training on the source, then a linear probe: accuracy 0.750 over 4 folds, standard "
        "error 0.010, near the best of a search, 0.755. None of 1 searched candidates is shown to be better."
    )


def test_a_study_without_baselines_or_folds(study: optuna.Study) -> None:
    study.add_trial(create_trial(value=0.8))
    assert said(study) == "Ship trial 0: accuracy 0.800 on validation rows, the best of a search."


def test_without_folds_no_lead_is_called_noise(study: optuna.Study) -> None:
    add(study, [0.2], "full_fine_tuning", seconds=1.0)
    add(study, [0.8])
    assert said(study).endswith(
        "It was +60.0 points ahead of the best baseline, full fine-tuning on the target; without folds, no standard "
        "error is known."
    )


def test_once_the_test_set_was_opened_its_score_is_what_counts(study: optuna.Study) -> None:
    add(study, [0.8, 0.83])
    table = [["winner (trial 0)", {"accuracy": 0.79}]]
    opening = {"opened": "2026-01-01", "rows": "abc", "table": table, "interval": [0.77, 0.81]}
    study.set_user_attr("held_out_trial_0", opening)
    assert said(study) == "Ship trial 0: accuracy 0.790 on the test rows, 95% interval 0.770 to 0.810."


def test_a_baseline_that_is_ahead_within_the_interval_is_named(study: optuna.Study) -> None:
    add(study, [0.8, 0.83])
    table = [["winner (trial 0)", {"accuracy": 0.79}], ["TF-IDF", {"accuracy": 0.8}], ["majority", {"accuracy": 0.5}]]
    opening = {"opened": "2026-01-01", "rows": "abc", "table": table, "interval": [0.77, 0.81]}
    study.set_user_attr("held_out_trial_0", opening)
    assert said(study) == (
        "Ship trial 0: accuracy 0.790 on the test rows, 95% interval 0.770 to 0.810. On the same rows, TF-IDF has "
        "accuracy 0.800, which isn't shown to be better."
    )


def test_the_best_baseline_on_the_test_rows_is_named_where_it_is_behind(study: optuna.Study) -> None:
    add(study, [0.8, 0.83])
    table = [["winner (trial 0)", {"accuracy": 0.79}], ["majority", {"accuracy": 0.5}], ["TF-IDF", {"accuracy": 0.7}]]
    opening = {"opened": "2026-01-01", "rows": "abc", "table": table, "interval": [0.77, 0.81]}
    study.set_user_attr("held_out_trial_0", opening)
    assert said(study).endswith("0.770 to 0.810. On the same rows, TF-IDF has accuracy 0.700.")


def test_what_a_baseline_beats_on_the_test_rows_is_not_to_be_shipped(study: optuna.Study) -> None:
    add(study, [0.8, 0.83])
    table = [["winner (trial 0)", {"accuracy": 0.79}], ["TF-IDF", {"accuracy": 0.82}], ["majority", {"accuracy": 0.5}]]
    opening = {"opened": "2026-01-01", "rows": "abc", "table": table, "interval": [0.77, 0.81]}
    study.set_user_attr("held_out_trial_0", opening)
    assert said(study) == (
        "Trial 0: accuracy 0.790 on the test rows, 95% interval 0.770 to 0.810. Don't ship it yet: on the same rows, "
        "TF-IDF has accuracy 0.820."
    )
    study.set_user_attr("held_out_trial_0", {**opening, "interval": [0.75, 0.83]})
    assert said(study).startswith("Ship trial 0: accuracy 0.790")
