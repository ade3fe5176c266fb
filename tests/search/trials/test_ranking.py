"""The order of finished trials."""

import optuna
from optuna.trial import create_trial

from promptgraft.search.storage import baseline_attrs
from promptgraft.search.trials import ranked_trials
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
