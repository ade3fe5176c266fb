"""Which trial has won: of the finalists that tie with the best of them, the cheapest.

The best validation score of a search is a lucky number: it was chosen. Repeats on other seeds and splits were not. They
are recorded in the study one by one (`search.running.finals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.search.judging.race import (
    CHOOSING,
    MIN_REPEATS,
    TESTED_FROM,
    Finalist,
    Race,
    compare_finalists,
    plan_race,
)
from promptgraft.search.storage import Outcome, StudyRecord, TrialRecord
from promptgraft.search.study import JudgingSection
from promptgraft.search.trials import float32_scores, leading_trial, ranked_trials
from promptgraft.search.wording import rounded


@dataclass(frozen=True, slots=True)
class FailedRepeat:
    """A repeat that failed, which takes its trial out of the race.

    Attributes:
        number: The trial.
        repeat: Number of the repeat.
        failure: Why it failed.
    """

    number: int
    repeat: int
    failure: str


@dataclass(frozen=True, slots=True)
class FinalistRow:
    """A finalist in a verdict's table.

    Attributes:
        number: The trial.
        values: The metric of each of its repeats.
        cost: What the tie set is judged by.
        p_value: Of the hypothesis that it is no worse than the best, corrected for the number of finalists.
        tied: Whether it is not shown to be worse than the best.
        mean: Mean of its repeats.
        standard_error: That of the mean.
        in_search: What the search measured.
    """

    number: int
    values: tuple[float, ...]
    cost: float
    p_value: float
    tied: bool
    mean: float
    standard_error: float
    in_search: float


@dataclass(frozen=True, slots=True)
class VerdictTable:
    """A verdict as it is shown.

    Attributes:
        cost: Name of what the cheapest is cheapest in.
        finalists: The finalists that have had repeats enough, the winner first; none while none has.
        failed: Failed repeats.
    """

    cost: str
    finalists: tuple[FinalistRow, ...]
    failed: tuple[FailedRepeat, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the repeats of a study's best trials say.

    Attributes:
        cost: Name of what the cheapest is cheapest in.
        trials: The trials that may win, best of the search first.
        finalists: How those compare that have had repeats enough, the winner first; none while none has.
        failed: Failed repeats.
        missing: What the race misses as it stands: trials, and number of the repeat, most urgent first; nothing if it
            is over.
        racing: Numbers of the trials that are in the race.
    """

    cost: str
    trials: Sequence[FrozenTrial]
    finalists: Sequence[Finalist]
    failed: Sequence[FailedRepeat]
    missing: Sequence[tuple[FrozenTrial, int]]
    racing: frozenset[int]

    @property
    def winner(self) -> FrozenTrial | None:
        """The trial that won; None while there is no verdict."""
        return next((t for t in self.trials if self.finalists and t.number == self.finalists[0].number), None)

    def table(self) -> "VerdictTable":
        """Put it into a table."""
        searched = {trial.number: trial.values[0] for trial in self.trials}
        rows = tuple(
            FinalistRow(
                entry.number,
                entry.values,
                entry.cost,
                entry.p_value,
                entry.tied,
                entry.mean,
                entry.standard_error,
                searched[entry.number],
            )
            for entry in self.finalists
        )
        return VerdictTable(self.cost, rows, tuple(self.failed))


def reach_verdict(study: optuna.Study) -> Verdict:
    """Compare the best trials by the repeats that they have had; see `tie_set.race` and `tie_set.judge`.

    A trial of which a repeat failed takes no part, and can't win: it would be judged by the others alone.
    """
    record = StudyRecord.of(study)
    section, found = record.judging, record.repeats
    failed = [
        FailedRepeat(number, repeat, outcome.failure)
        for number, own in found.items()
        for repeat, outcome in own.items()
        if outcome.failure is not None
    ]
    out = {entry.number for entry in failed}
    searched = {number: entry for number, entry in _in_search(study, section).items() if number not in out}
    trials = {number: trial for number, (trial, _) in searched.items()}
    in_search = {number: value for number, (_, value) in searched.items()}
    repeats = {number: _in_order(found.get(number, {})) for number in trials}
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    raced = plan_race(in_search, repeats, section.finalists, maximize=maximize, level=section.level)
    racing = frozenset((*raced.waiting, *raced.finalists, *raced.dropped))
    costs = {number: float(TrialRecord.of(trials[number]).figure(section.cost) or 0.0) for number in racing}
    compared = {number: repeats[number] for number in raced.finalists if len(repeats[number]) >= MIN_REPEATS}
    settled = _is_settled(raced, compared, next(iter(in_search), None))
    judged = compare_finalists(compared if settled else {}, costs, maximize=maximize, level=section.level)
    dropped = [
        Finalist(number, tuple(repeats[number]), costs[number], p_value, tied=False)
        for number, p_value in sorted(raced.dropped.items(), key=lambda entry: -entry[1])
    ]
    missing = [(trials[number], 1) for number in raced.waiting] or [
        (trials[number], repeat)
        for repeat in range(2, last_repeat(section) + 1)
        for number in raced.finalists
        if repeat not in found[number]
    ]
    return Verdict(section.cost, list(trials.values()), [*judged, *dropped], failed, missing, racing)


def _is_settled(race: Race, compared: Mapping[int, Sequence[float]], best: int | None) -> bool:
    """Whether there are repeats enough to overrule the search.

    There are if a finalist has had enough for a test, or if the leader has had two and the best trial of the search at
    least one. Otherwise a trial that was repeated early would win a run that ends before better trials are repeated.

    Args:
        race: The race.
        compared: Repeats of the finalists that have had two.
        best: The best trial of the search.
    """
    if any(len(own) >= TESTED_FROM for own in compared.values()):
        return True
    return bool(race.finalists) and race.finalists[0] in compared and best not in race.waiting


def last_repeat(section: JudgingSection) -> int:
    """Return the number of a finalist's last repeat: a single one has enough of them that didn't choose it."""
    return section.repeats if section.finalists > 1 else max(section.repeats, CHOOSING + MIN_REPEATS)


def _in_order(outcomes: Mapping[int, Outcome]) -> list[float]:
    """Return the values of a trial's first repeats, as far as none of them is missing."""
    values: list[float] = []
    while (outcome := outcomes.get(len(values) + 1)) is not None and outcome.value is not None:
        values.append(outcome.value)
    return values


def winning_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that won: by the verdict if there is one, otherwise the one that leads the search."""
    return reach_verdict(study).winner or leading_trial(study)


def repeat_name(trial: int, repeat: int) -> str:
    """Name a trial's repeat, for people."""
    return f"rerun {repeat} of trial {trial}"


def outcome_line(name: str, outcome: Outcome, metric: str) -> str:
    """Say what a repeat found."""
    result = f"{metric} {rounded(outcome.value)}" if outcome.value is not None else f"failed: {outcome.failure}"
    return f"{name}  {result}"


def against_best(entry: FinalistRow) -> str:
    """Say how a finalist of a verdict's table compares with the best."""
    return "ties with the best" if entry.tied else f"worse than the best, p {rounded(entry.p_value, 3)}"


def verdict_lines(table: VerdictTable, metric: str) -> list[str]:
    """Write a verdict for people; nothing where there is none."""
    lines, cost = [], table.cost.replace("_", " ")
    for place, entry in enumerate(table.finalists):
        figures = f"{rounded(entry.mean)} (standard error {rounded(entry.standard_error)})"
        if place == 0:
            lines.append(
                f"winner: trial {entry.number}, {metric} {figures} over {len(entry.values)} reruns on other "
                f"seeds and splits, which chose it among finalists; {rounded(entry.in_search)} in the search"
            )
        lines.append(f"  trial {entry.number}  {figures}, {cost} {entry.cost:g}; {against_best(entry)}")
    for lost in table.failed:
        lines.append(f"  trial {lost.number}  is out: rerun {lost.repeat} failed: {lost.failure}")
    return lines


def _in_search(study: optuna.Study, section: JudgingSection) -> dict[int, tuple[FrozenTrial, float]]:
    """Return the trials that may win, best first, with their values: by number; none where nothing is judged.

    Trials that no worker of ours has run, which a user may have added, are left out. Where the search was in lower
    precision, those scored in float32 are alone.
    """
    scores = float32_scores(study)
    ranked = ranked_trials(study) if section.finalists else []
    return {
        trial.number: (trial, float(scores[trial.number].value if scores else trial.values[0]))
        for trial in ranked
        if TrialRecord.of(trial).best_step is not None and (not scores or trial.number in scores)
    }
