"""A run that goes on in another process, seen through its study."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import CONTROL, CURVE, REPEAT, Owner, RunRecord, StudyRecord, TrialRecord, is_alive
from promptgraft.search.trials import FINISHED, Forecast, Limits, best_trial, float32_scores, forecast, metric_of


@dataclass(frozen=True, slots=True)
class RunView:
    """A run at a moment.

    Attributes:
        states: State -> number of trials.
        finished: Trials that are COMPLETE or PRUNED.
        wanted: Finished trials to reach.
        best: Number and value of the best trial so far; None if there is none.
        curves: Trial that runs -> its values so far.
        forecast: When the search will end; None while that is unknown.
        ran_s: Seconds since the run began; 0 if unknown.
        repeats: Reruns of finalists and baselines that are recorded.
        goes_on: Whether it goes on: its trials, or the judging of its winner.
        ended: Why it ended, if it says so.
    """

    states: Mapping[str, int]
    finished: int
    wanted: int
    best: tuple[int, float] | None
    curves: Mapping[int, Sequence[float]]
    forecast: Forecast | None
    ran_s: float
    repeats: int
    goes_on: bool
    ended: str | None


def view_run(study: optuna.Study) -> RunView:
    """Look at a study's run; nothing is written."""
    now, trials = time.time(), study.get_trials(deepcopy=False)
    record = StudyRecord.of(study)
    run = record.run
    dead, live = orphans_and_owners(trials)
    trials = [trial for trial in trials if trial.number not in dead]
    limits = Limits(**run.limits) if run else Limits(record.wanted or 0)
    ahead = forecast(trials, limits, max(len(live), run.concurrent if run else 1), now) if live else None
    best, scores = best_trial(study), float32_scores(study)
    shown = scores.get(best.number) if best else None
    return RunView(
        states=dict(Counter(trial.state.name for trial in trials)),
        finished=sum(trial.state in FINISHED for trial in trials),
        wanted=limits.trials,
        best=(best.number, float((shown.value if shown else metric_of(best)) or 0.0)) if best else None,
        curves={
            trial.number: [value for _, value in sorted(trial.intermediate_values.items())]
            for trial in trials
            if trial.state == TrialState.RUNNING and trial.intermediate_values
        },
        forecast=ahead,
        ran_s=max(0.0, now - run.driver.started) if run and run.driver else 0.0,
        repeats=len(record.seconds(REPEAT, CONTROL, CURVE)),
        goes_on=bool(live) or run_goes_on(run),
        ended=run.ended if run else None,
    )


def orphans_and_owners(trials: Sequence[FrozenTrial]) -> tuple[set[int], list[Owner]]:
    """Return the trials that a dead driver left RUNNING, and who runs each of the others."""
    owners = {trial.number: TrialRecord.of(trial).owner for trial in trials if trial.state == TrialState.RUNNING}
    dead = {number for number, owner in owners.items() if is_alive(owner) is False}
    return dead, [owner for number, owner in owners.items() if owner is not None and number not in dead]


def run_goes_on(run: RunRecord | None) -> bool:
    """Whether a run that has no trial at work goes on; on another machine it does until it says that it has ended."""
    return run is not None and run.driver is not None and run.ended is None and is_alive(run.driver) is not False
