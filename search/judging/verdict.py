"""Which trial has won: of the finalists that tie with the best of them, the cheapest.

The best validation score of a search is a lucky number: it was chosen. Repeats on other seeds and splits were not. They
are recorded in the study one by one (`search.running.finals`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.search.judging.race import MIN_REPEATS, Finalist, compare_finalists, plan_race
from promptgraft.search.storage import Outcome, StudyRecord, TrialRecord
from promptgraft.search.study import JudgingSection
from promptgraft.search.trials import best_trial, float32_scores, ranked_trials


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the repeats of a study's best trials say.

    Attributes:
        cost: Name of what the cheapest is cheapest in.
        trials: The trials that may win, best of the search first.
        finalists: How those compare that have had repeats enough, the winner first; none while none has.
        failed: Failed repeats: `number` of the trial, `repeat` and `failure`.
        missing: What the race misses as it stands: trials, and number of the repeat, most urgent first; nothing if it
            is over.
        racing: Numbers of the trials that are in the race.
    """

    cost: str
    trials: Sequence[FrozenTrial]
    finalists: Sequence[Finalist]
    failed: Sequence[Mapping[str, Any]]
    missing: Sequence[tuple[FrozenTrial, int]]
    racing: frozenset[int]

    @property
    def winner(self) -> FrozenTrial | None:
        """The trial that won; None while there is no verdict."""
        return next((t for t in self.trials if self.finalists and t.number == self.finalists[0].number), None)

    def table(self) -> dict[str, Any]:
        """Return it in JSON types.

        Returns:
            `cost`, `finalists` (`number`, `in_search`, `values` of its repeats, `mean`, `standard_error`, `cost`,
            `p_value`, `tied`) and `failed`.
        """
        searched = {trial.number: trial.values[0] for trial in self.trials}
        finalists = [
            asdict(entry)
            | {"mean": entry.mean, "standard_error": entry.standard_error, "in_search": searched[entry.number]}
            for entry in self.finalists
        ]
        return {"cost": self.cost, "finalists": finalists, "failed": list(self.failed)}


def reach_verdict(study: optuna.Study) -> Verdict:
    """Compare the best trials by the repeats that they have had; see `tie_set.race` and `tie_set.judge`.

    A trial of which a repeat failed takes no part, and can't win: it would be judged by the others alone.
    """
    record = StudyRecord.of(study)
    section, found = record.judging, record.repeats
    failed = [
        {"number": number, "repeat": repeat, "failure": outcome.failure}
        for number, own in found.items()
        for repeat, outcome in own.items()
        if outcome.failure is not None
    ]
    out = {entry["number"] for entry in failed}
    searched = {number: entry for number, entry in _in_search(study, section).items() if number not in out}
    trials = {number: trial for number, (trial, _) in searched.items()}
    in_search = {number: value for number, (_, value) in searched.items()}
    repeats = {number: _in_order(found.get(number, {})) for number in trials}
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    raced = plan_race(in_search, repeats, section.finalists, maximize=maximize, level=section.level)
    racing = frozenset((*raced.waiting, *raced.finalists, *raced.dropped))
    costs = {number: float(TrialRecord.of(trials[number]).figure(section.cost) or 0.0) for number in racing}
    compared = {number: repeats[number] for number in raced.finalists if len(repeats[number]) >= MIN_REPEATS}
    judged = compare_finalists(compared, costs, maximize=maximize, level=section.level)
    dropped = [
        Finalist(number, tuple(repeats[number]), costs[number], p_value, tied=False)
        for number, p_value in sorted(raced.dropped.items(), key=lambda entry: -entry[1])
    ]
    missing = [(trials[number], 1) for number in raced.waiting] or [
        (trials[number], repeat)
        for repeat in range(2, section.repeats + 1)
        for number in raced.finalists
        if repeat not in found[number]
    ]
    return Verdict(section.cost, list(trials.values()), [*judged, *dropped], failed, missing, racing)


def _in_order(outcomes: Mapping[int, Outcome]) -> list[float]:
    """Return the values of a trial's first repeats, as far as none of them is missing."""
    values: list[float] = []
    while (outcome := outcomes.get(len(values) + 1)) is not None and outcome.value is not None:
        values.append(outcome.value)
    return values


def winning_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that won: by the verdict if there is one, otherwise the best of the search."""
    return reach_verdict(study).winner or best_trial(study)


def repeat_name(trial: int, repeat: int) -> str:
    """Name a trial's repeat, for people."""
    return f"repeat {repeat} of trial {trial}"


def outcome_line(name: str, outcome: Outcome, metric: str) -> str:
    """Say what a repeat found."""
    result = f"{metric} {outcome.value:.4f}" if outcome.value is not None else f"failed: {outcome.failure}"
    return f"{name}  {result}"


def against_best(entry: Mapping[str, Any]) -> str:
    """Say how a finalist of a verdict's table compares with the best."""
    return "ties with the best" if entry["tied"] else f"worse than the best, p {entry['p_value']:.3f}"


def verdict_lines(table: Mapping[str, Any], metric: str) -> list[str]:
    """Write a verdict for people; nothing where there is none."""
    lines, cost = [], table["cost"].replace("_", " ")
    for place, entry in enumerate(table["finalists"]):
        figures = f"{entry['mean']:.4f} (standard error {entry['standard_error']:.4f})"
        if place == 0:
            lines.append(
                f"winner: trial {entry['number']}, {metric} {figures} over {len(entry['values'])} repeats on other "
                f"seeds and splits, which chose it among finalists; {entry['in_search']:.4f} in the search"
            )
        lines.append(f"  trial {entry['number']}  {figures}, {cost} {entry['cost']:g}; {against_best(entry)}")
    for entry in table["failed"]:
        lines.append(f"  trial {entry['number']}  is out: repeat {entry['repeat']} failed: {entry['failure']}")
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
