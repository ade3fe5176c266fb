"""What is said of finalists none of which could be judged; with real workers in tests/integration."""

from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.trial import create_trial

from promptgraft.search.running.compatibility import record_study
from promptgraft.search.running.finals import Confirmation
from promptgraft.search.storage import repeat_attr
from promptgraft.search.study import load_study
from promptgraft.search.trials import Limits


def test_a_study_of_which_no_trial_could_be_judged_says_so_in_each_run(write_study: Callable[..., Path]) -> None:
    study = load_study(write_study(judging={"finalists": 1, "repeats": 2}))
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 2)
    confirmation = Confirmation(study, stored, "", Limits(2, None, None), None, lambda line: None)
    assert confirmation.nothing_judged() is None
    costs = {"prompt_tokens": 3, "trainable_parameters": 1, "latency_ms": 1.0}
    for number, value in enumerate((0.9, 0.8)):
        stored.add_trial(create_trial(value=value, user_attrs={"candidate": {"steps": 4}, "best_step": 4, **costs}))
        stored.set_user_attr(repeat_attr(number, 1), {"failure": f"out of memory at {number}"})
    said = confirmation.nothing_judged()
    assert said is not None
    assert said.startswith("no finalist could be judged: ")
    assert "that of trial 0 with: out of memory at 0. Failed repeats are not run again" in said
    assert not confirmation.is_needed()
    stored.add_trial(create_trial(value=0.7, user_attrs={"candidate": {"steps": 6}, "best_step": 4, **costs}))
    assert confirmation.nothing_judged() is None
    assert confirmation.is_needed()
