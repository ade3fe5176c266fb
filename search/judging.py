"""Which trial has won: of the finalists that tie with the best of them, the cheapest.

The best validation score of a search is a lucky number: it was chosen. Repeats on other seeds and splits were not. They
are recorded in the study one by one (`search.confirmation`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.search.ranking import best_trial, ranked_trials
from promptgraft.search.study_file import JudgingSection
from promptgraft.search.tie_set import Finalist, judge, race

# User attribute of the study, trial and number of the repeat appended: `value`, `metrics` and `seconds`, or `failure`.
REPEAT = "repeat_trial_"


def judging_section(attrs: Mapping[str, Any]) -> JudgingSection:
    """Return how a study is judged; not at all if it is from before there was such a thing."""
    return JudgingSection.model_validate(attrs.get("definition", {}).get("judging", {"finalists": 0}))


def repeat_outcomes(attrs: Mapping[str, Any]) -> dict[int, dict[int, dict[str, Any]]]:
    """Return what the repeats of a race found: trial -> number of the repeat -> outcome."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for name, outcome in attrs.items():
        if name.startswith(REPEAT):
            trial, repeat = map(int, name.removeprefix(REPEAT).split("_"))
            found.setdefault(trial, {})[repeat] = outcome
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the repeats of a study's finalists say.

    Attributes:
        cost: Name of what the cheapest is cheapest in.
        trials: The finalists, best of the search first.
        finalists: How they compare, the winner first; none while they haven't had their repeats.
        failed: Failed repeats of theirs: `number` of the trial, `repeat` and `failure`.
        next_round: What of the race is to be run next: trials, and number of the repeat; nothing if it is over.
    """

    cost: str
    trials: Sequence[FrozenTrial]
    finalists: Sequence[Finalist]
    failed: Sequence[Mapping[str, Any]]
    next_round: Sequence[tuple[FrozenTrial, int]] = ()

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


def verdict(study: optuna.Study) -> Verdict:
    """Compare the present finalists by the repeats that they have had; see `tie_set.race` and `tie_set.judge`.

    A finalist of which a repeat failed takes no part, and can't win: it would be judged by the others alone.
    """
    attrs = study.user_attrs
    section, found = judging_section(attrs), repeat_outcomes(attrs)
    trials = _finalists(study, section)
    outcomes = {trial.number: found.get(trial.number, {}) for trial in trials}
    failed = [
        {"number": number, "repeat": repeat, "failure": outcome["failure"]}
        for number, own in outcomes.items()
        for repeat, outcome in own.items()
        if "failure" in outcome
    ]
    values = _sound(outcomes)
    costs = {trial.number: float(trial.user_attrs[section.cost]) for trial in trials}
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    raced = race(values, maximize=maximize, level=section.level)
    rounds = range(1, raced.round + 1)
    alive = {number: [values[number][repeat] for repeat in rounds] for number in raced.alive}
    judged = judge(alive, costs, maximize=maximize, level=section.level)
    out = [
        Finalist(number, tuple(values[number].values()), costs[number], p_value, tied=False)
        for number, p_value in reversed(list(raced.dropped.items()))
    ]
    following = raced.round + 1
    missing = [n for n in raced.alive if following <= section.repeats and following not in values[n]]
    next_round = [(trial, following) for trial in trials if trial.number in missing]
    return Verdict(section.cost, trials, [*judged, *out], failed, next_round)


def _sound(outcomes: Mapping[int, Mapping[int, Mapping[str, Any]]]) -> dict[int, dict[int, float]]:
    """Return the values of trials of which no repeat failed, in the order of their repeats."""
    return {
        number: {repeat: own[repeat]["value"] for repeat in sorted(own)}
        for number, own in outcomes.items()
        if not any("failure" in outcome for outcome in own.values())
    }


def winner(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that won: by the verdict if there is one, otherwise the best of the search."""
    return verdict(study).winner or best_trial(study)


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


def _finalists(study: optuna.Study, section: JudgingSection) -> list[FrozenTrial]:
    """Leave out trials that no worker of ours has run, which a user may have added."""
    ranked = ranked_trials(study) if section.finalists else []
    return [trial for trial in ranked if "best_step" in trial.user_attrs][: section.finalists]
