"""The order of finished trials."""

import optuna
from optuna.trial import create_trial

from promptgraft.search.storage import baseline_attrs
from promptgraft.search.trials import best_trial, leading_trial, ranked_trials
from promptgraft.spaces import Candidate


def test_among_equals_a_trial_that_uses_the_source_comes_before_one_with_a_lower_loss() -> None:
    study = optuna.create_study(direction="maximize")
    source, alpha = Candidate("plain", "", source_steps=8), Candidate("plain", "", alpha=0.5)
    for value, loss, candidate in (
        (0.75, 0.2, Candidate("plain", "", steps=8)),
        (0.75, 0.6, source),
        (0.75, 0.5, alpha),
        (0.80, 0.9, Candidate("plain", "", steps=16)),
        (0.75, 0.1, None),  # As a user may add one.
    ):
        attrs = {} if candidate is None else baseline_attrs("full_fine_tuning", candidate)
        study.add_trial(create_trial(value=value, user_attrs={**attrs, "validation_loss": loss}))
    assert [trial.number for trial in ranked_trials(study)] == [3, 2, 1, 4, 0]


def test_first_comes_the_surest_of_those_that_folds_do_not_tell_from_the_best() -> None:
    """The others keep the order of their values, and of single validation rows the best value stays the best."""
    study = optuna.create_study(direction="maximize")
    folds = [
        (0.9, 1.0, 0.9, 1.0),  # The best value, without the source.
        (0.9, 0.9, 1.0, 0.9),  # Its mean is 0.025 behind, the standard error of the four differences 0.048.
        (1.0, 0.8, 1.0, 0.9),  # As far behind, by 0.063.
        (0.8, 0.9, 0.8, 0.9),  # Behind on each fold by the same.
        (0.9, 0.9, 0.9, 0.9),  # Behind by 0.05, by 0.029.
    ]
    losses, source = (0.1, 0.5, 0.4, 0.2, 0.3), Candidate("plain", "", source_steps=8)
    for values, loss, candidate in zip(folds, losses, [Candidate("plain", "", steps=8), *[source] * 4], strict=True):
        attrs = {**baseline_attrs("full_fine_tuning", candidate), "validation_loss": loss, "fold_values": values}
        study.add_trial(create_trial(value=sum(values) / 4, user_attrs=attrs))
    assert [trial.number for trial in ranked_trials(study)] == [2, 0, 1, 4, 3]
    leading, best = leading_trial(study), best_trial(study)
    assert leading is not None
    assert best is not None
    assert (leading.number, best.number) == (2, 0)
    alone = optuna.create_study(direction="maximize")
    for trial in study.trials:
        kept = {name: value for name, value in trial.user_attrs.items() if name != "fold_values"}
        alone.add_trial(create_trial(value=trial.value, user_attrs=kept))
    assert [trial.number for trial in ranked_trials(alone)] == [0, 2, 1, 4, 3]
