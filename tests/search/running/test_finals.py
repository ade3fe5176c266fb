"""What is run to judge a study, and what is said where nothing could be; with real workers in tests/integration."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import create_trial

from promptgraft.search.judging import FRESH, WINNER, WITH_SOURCE, control_logits_file
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.running.finals import Confirmation
from promptgraft.search.running.repeat_workers import Job
from promptgraft.search.storage import SHARED, control_attr, repeat_attr
from promptgraft.search.study import load_study
from promptgraft.search.trials import Limits
from promptgraft.spaces import Candidate


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
    assert "that of trial 0 with: out of memory at 0. Failed reruns are not run again" in said
    assert not confirmation.is_needed()
    stored.add_trial(create_trial(value=0.7, user_attrs={"candidate": {"steps": 6}, "best_step": 4, **costs}))
    assert confirmation.nothing_judged() is None
    assert confirmation.is_needed()


def judged_study(
    write_study: Callable[..., Path], finalists: int = 1, limits: Limits | None = None, **judging: Any
) -> tuple[Confirmation, optuna.Study]:
    """A study of three trials: the best uses the source, the next doesn't; all have run four folds."""
    study = load_study(write_study(judging={"finalists": finalists, "repeats": 2, **judging}))
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 3)
    space = study.objective.space
    for value, source_steps in ((0.9, 4), (0.8, 0), (0.7, 4)):
        candidate = Candidate(space.templates[0].id, space.verbalizers[0].id, source_steps=source_steps, steps=4)
        attrs = {"candidate": candidate.to_dict(), "best_step": 4, "fold_values": [value] * 4, "prompt_tokens": 3}
        stored.add_trial(create_trial(value=value, user_attrs=attrs))
    return Confirmation(study, stored, "", limits or Limits(3, None, None), None, lambda line: None), stored


def attrs_of(confirmation: Confirmation) -> list[str]:
    return [job.attr for job in confirmation.jobs()]


class Recorder:
    """Stands for a worker: notes where the predictions of a repeat would go."""

    def __init__(self) -> None:
        self.train = self.fit = self
        self.file: str | None = None

    def remote(self, *arguments: Any) -> None:
        self.file = next((each for each in arguments if str(each).endswith(".safetensors")), None)


def file_of(job: Job) -> str | None:
    recorder = Recorder()
    job.start(recorder)
    return recorder.file


def test_a_single_finalist_is_compared_on_the_repeats_that_it_has(write_study: Callable[..., Path]) -> None:
    """Its best target-only rival was cross-validated in the search, and isn't run again."""
    confirmation, stored = judged_study(write_study, controls=["target_only", "tfidf"])
    assert attrs_of(confirmation) == [repeat_attr(0, 1), repeat_attr(1, 1)]
    assert [file_of(job) for job in confirmation.jobs()] == [None, None], "these choose"
    for number, value in ((0, 0.8), (1, 0.7)):
        stored.set_user_attr(repeat_attr(number, 1), {"value": value})
    assert attrs_of(confirmation) == [repeat_attr(0, 2), repeat_attr(0, 3)]
    assert [file_of(job) for job in confirmation.jobs()] == [control_logits_file(0, WINNER, n) for n in (2, 3)]
    for repeat in (2, 3):
        stored.set_user_attr(repeat_attr(0, repeat), {"value": 0.8})
    names = [control_attr(SHARED, "tfidf", 2), control_attr(0, "target_only", 2)]
    names += [control_attr(SHARED, "tfidf", 3), control_attr(0, "target_only", 3)]
    assert attrs_of(confirmation) == names
    assert file_of(confirmation.jobs()[0]) == control_logits_file(SHARED, "tfidf", 2)
    for name in names:
        stored.set_user_attr(name, {"value": 0.7})
    assert attrs_of(confirmation) == []
    without, record = judged_study(write_study, controls=[])
    for number in (0, 1):
        record.set_user_attr(repeat_attr(number, 1), {"value": 0.7})
    assert [file_of(job) for job in without.jobs()] == [None, None], "test rows that nobody compares"


def test_where_time_may_end_a_single_finalist_has_two_fresh_repeats_before_its_controls(
    write_study: Callable[..., Path],
) -> None:
    confirmation, stored = judged_study(write_study, limits=Limits(3, 1e12), controls=["majority"])
    for number, repeat in ((0, 1), (1, 1), (0, 2)):
        stored.set_user_attr(repeat_attr(number, repeat), {"value": 0.8 - number / 10})
    assert attrs_of(confirmation) == [repeat_attr(0, 3)]
    stored.set_user_attr(repeat_attr(0, 3), {"value": 0.8})
    assert attrs_of(confirmation) == [control_attr(SHARED, "majority", repeat) for repeat in (2, 3)]


def test_a_rerun_that_would_end_too_late_is_not_begun(write_study: Callable[..., Path]) -> None:
    """It is expected to take what the trial took, though the only repeat so far was a short one."""
    study = load_study(write_study(judging={"finalists": 1, "repeats": 2}))
    stored = optuna.create_study(direction="maximize")
    record_study(stored, study, 1)
    began = datetime.datetime.now() - datetime.timedelta(hours=1)
    attrs = {"candidate": {"steps": 4}, "best_step": 4, "prompt_tokens": 3}
    ended = began + datetime.timedelta(seconds=100)
    trial = create_trial(value=0.9, user_attrs=attrs)
    trial.datetime_start, trial.datetime_complete = began, ended
    stored.add_trial(trial)
    stored.set_user_attr(repeat_attr(0, 1), {"value": 0.9, "seconds": 2.0})

    def is_spent(left_s: float, job: Job | None = None) -> bool:
        limits = Limits(1, time.time() + left_s, left_s)
        confirmation = Confirmation(study, stored, "", limits, None, lambda line: None)
        return confirmation._is_spent(job or confirmation.jobs()[0])

    assert is_spent(90)
    assert not is_spent(110)
    assert not is_spent(90, Job("control", "a control", lambda runner: None)), "like other repeats, it takes 2 s"
    assert is_spent(1, Job("control", "a control", lambda runner: None))


def test_the_winner_of_a_race_is_repeated_afresh(write_study: Callable[..., Path]) -> None:
    confirmation, stored = judged_study(write_study, finalists=2, controls=["target_only", "majority"])
    assert [file_of(job) for job in confirmation.jobs()] == [None] * 3
    for number, value in ((0, 0.8), (1, 0.7), (2, 0.6)):
        for repeat in (1, 2):
            stored.set_user_attr(repeat_attr(number, repeat), {"value": value})
    first = [control_attr(SHARED, "majority", FRESH), control_attr(0, WINNER, FRESH)]
    assert attrs_of(confirmation)[:3] == [*first, control_attr(0, "target_only", FRESH)]
    assert len(attrs_of(confirmation)) == 6
    stored.set_user_attr(first[0], {"value": 0.5})
    stored.set_user_attr(control_attr(0, "majority", FRESH + 1), {"value": 0.5})  # As older versions named it.
    assert not [attr for attr in attrs_of(confirmation) if "majority" in attr]


def test_a_single_finalist_of_an_older_version_is_done(write_study: Callable[..., Path]) -> None:
    """It was repeated beside its controls once more; one more repeat of the race is all that is run."""
    confirmation, stored = judged_study(write_study, controls=["target_only", "tfidf"])
    stored.set_user_attr(repeat_attr(1, 1), {"value": 0.5})
    for repeat in (1, 2):
        stored.set_user_attr(repeat_attr(0, repeat), {"value": 0.8})
        for name in (WINNER, "target_only", "tfidf"):
            stored.set_user_attr(control_attr(0, name, FRESH + repeat - 1), {"value": 0.7})
    assert attrs_of(confirmation) == [repeat_attr(0, 3)]
    stored.set_user_attr(repeat_attr(0, 3), {"value": 0.8})
    assert attrs_of(confirmation) == []


def test_with_a_winner_that_does_not_use_the_source_the_best_that_does_is_repeated(
    write_study: Callable[..., Path],
) -> None:
    confirmation, stored = judged_study(write_study, controls=["target_only"])
    for number, value in ((0, 0.5), (1, 0.8)):
        stored.set_user_attr(repeat_attr(number, 1), {"value": value})
    for repeat in (2, 3):
        stored.set_user_attr(repeat_attr(1, repeat), {"value": 0.8})
    assert attrs_of(confirmation) == [control_attr(1, WITH_SOURCE, repeat) for repeat in (2, 3)]


def test_the_best_of_pruned_ones_is_repeated_where_all_that_use_the_source_were(
    write_study: Callable[..., Path],
) -> None:
    confirmation, stored = judged_study(write_study, controls=["target_only"])
    again = optuna.create_study(direction="maximize")
    record_study(again, confirmation.study, 5)
    (_, alone, other) = stored.get_trials(deepcopy=False)
    again.add_trial(alone)
    for values in ([0.7], [0.6, 0.5], [0.6, 0.6], []):
        attrs = {name: own for name, own in other.user_attrs.items() if name != "best_step"} | {"fold_values": values}
        again.add_trial(create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs=attrs))
    again.set_user_attr(repeat_attr(0, 1), {"value": 0.8})
    judged = Confirmation(confirmation.study, again, "", Limits(5, None, None), None, lambda line: None)
    for repeat in (2, 3):
        again.set_user_attr(repeat_attr(0, repeat), {"value": 0.8})
    first, second = judged.jobs()
    assert [first.attr, second.attr] == [control_attr(0, WITH_SOURCE, repeat) for repeat in (2, 3)]
    assert first.about == {"trial": 3}
    assert file_of(first) == control_logits_file(0, WITH_SOURCE, 2)
