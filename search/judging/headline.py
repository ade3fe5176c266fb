"""The verdict in a sentence: what to ship, how good it is, what it beats, and whether the search was worth it."""

from statistics import mean, stdev

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.judging.verdict import winning_trial
from promptgraft.search.storage import Ensemble, Opening, StudyRecord, TrialRecord
from promptgraft.search.trials import baseline_label, metric_of
from promptgraft.search.wording import difference, rounded, unit

# A gain of less than so many standard errors is within noise.
NOISE = 2.0
# A baseline that is as good is worth a word if it takes so many times less.
CHEAPER = 1.5


def headline_of(study: optuna.Study) -> str | None:
    """Say what to ship.

    The winner is compared with the best of the baselines that were tried as trials, on the same folds where there are
    folds: with one that was pruned, on the folds that it has run.

    Returns:
        Up to three sentences; None before there is a COMPLETE trial.
    """
    winner = winning_trial(study)
    if winner is None:
        return None
    name = TrialRecord.of(winner).baseline
    what = f"trial {winner.number}{f', {baseline_label(name)}' if name else ''}"
    ensemble = StudyRecord.of(study).shipped_ensemble(winner.number)
    if ensemble is not None:
        what = f"the ensemble of trials {', '.join(map(str, ensemble.members))}"
    other, is_ahead, is_shown = _best_other_on_test(study, winner) or ("", False, False)
    if is_shown:
        return f"T{what[1:]}: {_score(study, winner, ensemble)}. Don't ship it yet: on the same rows, {other}."
    shipped = f"Ship {what}: {_score(study, winner, ensemble)}."
    if other:
        shipped += f" On the same rows, {other}" + (", which isn't shown to be better." if is_ahead else ".")
    beaten = _against_baselines(study, winner, name) if ensemble is None else _against_one(study, ensemble)
    return f"{shipped} {beaten}".rstrip()


def _score(study: optuna.Study, winner: FrozenTrial, ensemble: Ensemble | None) -> str:
    record, metric = TrialRecord.of(winner), (study.metric_names or ["value"])[0]
    opening = StudyRecord.of(study).opening(winner.number)
    if opening is not None and ensemble is None:
        opening = opening.alone()
    members = ensemble.members if ensemble else ()
    if opening is not None and opening.table and opening.members == members:
        return _tested(opening, metric, StudyRecord.of(study).judging.level)
    if ensemble is not None:
        return (
            f"{metric} {rounded(ensemble.value, 3)} over {len(record.fold_values)} folds, "
            f"{rounded(ensemble.alone, 3)} with one model"
        )
    folds = len(record.fold_values)
    error = f", standard error {rounded(record.standard_error, 3)}" if record.standard_error is not None else ""
    over = f"over {folds} folds{error}" if folds else "on validation rows"
    own, best = metric_of(winner) or 0.0, _best_value(study)
    chosen = "the best of a search" if own == best else f"near the best of a search, {rounded(best, 3)}"
    return f"{metric} {rounded(own, 3)} {over}, {chosen}"


def _best_value(study: optuna.Study) -> float:
    values = [metric_of(own) or 0.0 for own in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    return max(values) if study.directions[0] == StudyDirection.MAXIMIZE else min(values)


def _tested(opening: Opening, metric: str, level: float) -> str:
    assert opening.table is not None
    value = dict(opening.table[0][1])[metric]
    if not opening.interval:
        return f"{metric} {rounded(value, 3)} on the test rows"
    low, high = opening.interval
    interval = f"{100 * (1 - level):.3g}% interval {rounded(low, 3)} to {rounded(high, 3)}"
    return f"{metric} {rounded(value, 3)} on the test rows, {interval}"


def _best_other_on_test(study: optuna.Study, winner: FrozenTrial) -> tuple[str, bool, bool] | None:
    """Say what the best other system has on the test rows.

    Returns:
        That, whether it is ahead of what ships, and whether by more than the interval of that; None before the test
        rows are opened, or where nothing else was scored on them.
    """
    opening, metric = StudyRecord.of(study).opening(winner.number), (study.metric_names or ["value"])[0]
    if opening is None or not opening.table or not opening.interval:
        return None
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    (_, own), *rest = opening.table
    others = [(name, dict(figures)[metric]) for name, figures in rest if metric in dict(figures)]
    if not others:
        return None
    name, value = max(others, key=lambda entry: sign * entry[1])
    is_ahead = sign * (value - dict(own)[metric]) > 0
    is_shown = is_ahead and all(sign * (value - end) > 0 for end in opening.interval)
    return f"{name} has {metric} {rounded(value, 3)}", is_ahead, is_shown


def _against_one(study: optuna.Study, ensemble: Ensemble) -> str:
    """Say what an ensemble brings, and its price."""
    metric, models = (study.metric_names or ["value"])[0], len(ensemble.members)
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    gain = difference(sign * (ensemble.value - ensemble.alone), metric)
    error = difference(ensemble.error, metric).lstrip("+")
    losses = f"log loss {rounded(ensemble.loss, 3)} against {rounded(ensemble.loss_alone, 3)}"
    return (
        f"Against trial {ensemble.members[0]} alone, on the folds: {gain} {unit(metric)} (standard error {error}), "
        f"{losses}; {models} times the work."
    )


def _against_baselines(study: optuna.Study, winner: FrozenTrial, name: str | None) -> str:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
    baselines = [trial for trial in trials if TrialRecord.of(trial).baseline and trial.number != winner.number]
    searched = [trial for trial in trials if not TrialRecord.of(trial).baseline]
    if name is not None:
        better = "better" if metric_of(winner) == _best_value(study) else "shown to be better"
        return f"None of {len(searched)} searched candidates is {better}." if searched else ""
    if not baselines:
        return ""
    # Those that were pruned within their first fold have nothing to be compared by.
    compared = [own for own in baselines if TrialRecord.of(own).fold_values or own.state == TrialState.COMPLETE]
    gains = [(*_gain(winner, trial, sign), trial) for trial in compared or baselines]
    gain, error, best = min(gains, key=lambda found: (found[0], found[2].number))
    label = baseline_label(TrialRecord.of(best).baseline or "")
    metric = (study.metric_names or ["value"])[0]
    ends = f" (standard error {difference(error, metric).lstrip('+')})" if error else ""
    said = f"{difference(abs(gain), metric)} {unit(metric)}{ends}"
    if best.state == TrialState.PRUNED:
        # Of one that ran on a single fold, or not to its end, the winner's error says what that shows.
        shown = gain > NOISE * (error or TrialRecord.of(winner).standard_error or 0.0)
        behind = f"was pruned {said.lstrip('+')} behind" if gain > 0 else "was pruned within its first fold"
        better = f"It is better than the best baseline, {label}, which {behind}: the search was worth it."
        return better if shown else f"The best baseline, {label}, {behind}; by how much it is worse isn't known."
    if error is not None and gain > NOISE * error:
        return f"It is better than the best baseline, {label}, by {said}: the search was worth it."
    if best.state == TrialState.COMPLETE and gain < 0:
        noise = ", within noise" if error is None or -gain <= NOISE * error else ""
        return f"The best baseline, {label}, was {said} ahead in the search{noise}: --trial {best.number} exports it."
    if error is None and gain > 0:
        return f"It was {said} ahead of the best baseline, {label}; without folds, no standard error is known."
    times = _times_cheaper(winner, best)
    cheaper = f", and {times:.0f} times cheaper to train" if times is not None and times >= CHEAPER else ""
    return f"The best baseline, {label}, is as good within noise ({said}){cheaper}."


def _gain(winner: FrozenTrial, other: FrozenTrial, sign: int) -> tuple[float, float | None]:
    """Return how much better the winner is on the folds that both have run, and the standard error over them."""
    both = zip(TrialRecord.of(winner).fold_values, TrialRecord.of(other).fold_values, strict=False)
    differences = [sign * (ours - theirs) for ours, theirs in both]
    if differences:
        error = stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else None
        return mean(differences), error
    return sign * (float(metric_of(winner) or 0.0) - float(metric_of(other) or 0.0)), None


def _times_cheaper(winner: FrozenTrial, other: FrozenTrial) -> float | None:
    """Return how many times longer the winner's trial took, with the stages that it found computed."""

    def took(trial: FrozenTrial) -> float:
        record = TrialRecord.of(trial)
        return (record.figure("seconds") or 0.0) + (record.figure("seconds_saved") or 0.0)

    return took(winner) / took(other) if took(other) else None
