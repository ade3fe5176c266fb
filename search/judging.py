"""Which trial has won: of the finalists that tie with the best of them, the cheapest.

The best validation score of a search is a lucky number: it was chosen. Repeats on other seeds and splits were not. They
are recorded in the study one by one (`search.confirmation`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.search.ranking import best_trial, ranked_trials
from promptgraft.search.study_file import JudgingSection
from promptgraft.search.tie_set import Finalist, judge

# User attribute of the study, trial and number of the repeat appended: `value`, `metrics` and `seconds`, or `failure`.
REPEAT = "repeat_trial_"


def repeats(study: optuna.Study) -> dict[int, dict[int, dict[str, Any]]]:
    """Return what repeats found: trial -> number of the repeat -> outcome."""
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for name, outcome in study.user_attrs.items():
        if name.startswith(REPEAT):
            trial, repeat = map(int, name.removeprefix(REPEAT).split("_"))
            found.setdefault(trial, {})[repeat] = outcome
    return found


def judging_of(study: optuna.Study) -> JudgingSection:
    """Return how a stored study is judged; not at all if it is from before there was such a thing."""
    section = study.user_attrs.get("definition", {}).get("judging", {"finalists": 0})
    return JudgingSection.model_validate(section)


def finalists_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that are repeated: the best by what the search measured, best first."""
    return ranked_trials(study)[: judging_of(study).finalists]


def verdict(study: optuna.Study) -> list[Finalist]:
    """Compare the present finalists by the repeats that all of them have had.

    A finalist of which a repeat failed takes no part, and can't win: it would be judged by the others alone.

    Returns:
        The winner first; none while the best trial hasn't had its repeats.
    """
    section, trials, found = judging_of(study), finalists_of(study), repeats(study)
    outcomes = {trial.number: found.get(trial.number, {}) for trial in trials}
    sound = {number: own for number, own in outcomes.items() if not any("failure" in entry for entry in own.values())}
    common = sorted(set.intersection(*map(set, sound.values()))) if sound else []
    values = {number: [own[repeat]["value"] for repeat in common] for number, own in sound.items()}
    costs = {trial.number: float(trial.user_attrs[section.cost]) for trial in trials}
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    return judge(values, costs, maximize=maximize, level=section.level)


def winner(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial that won: by the verdict if there is one, otherwise the best of the search."""
    found = verdict(study)
    if not found:
        return best_trial(study)
    return next(trial for trial in finalists_of(study) if trial.number == found[0].number)


def verdict_table(study: optuna.Study) -> dict[str, Any]:
    """Return the verdict in JSON types.

    Returns:
        `cost` (its name), `finalists` (winner first: `number`, `in_search`, `values` of its repeats, `mean`,
        `standard_error`, `cost`, `p_value`, `tied`) and `failed` (`number`, `repeat`, `failure`).
    """
    trials = finalists_of(study)
    searched, found = {trial.number: trial.values[0] for trial in trials}, repeats(study)
    finalists = [
        asdict(entry)
        | {"mean": entry.mean, "standard_error": entry.standard_error, "in_search": searched[entry.number]}
        for entry in verdict(study)
    ]
    failed = [
        {"number": number, "repeat": repeat, "failure": outcome["failure"]}
        for number in searched
        for repeat, outcome in found.get(number, {}).items()
        if "failure" in outcome
    ]
    return {"cost": judging_of(study).cost, "finalists": finalists, "failed": failed}


def verdict_lines(table: Mapping[str, Any], metric: str) -> list[str]:
    """Write a verdict for people; nothing where there is none."""
    lines, cost = [], table["cost"].replace("_", " ")
    for place, entry in enumerate(table["finalists"]):
        figures = f"{entry['mean']:.4f} (standard error {entry['standard_error']:.4f})"
        if place == 0:
            lines.append(
                f"winner: trial {entry['number']}, {metric} {figures} over {len(entry['values'])} repeats on other "
                f"seeds and splits; {entry['in_search']:.4f} in the search, which chose it"
            )
        against = "ties with the best" if entry["tied"] else f"worse than the best, p {entry['p_value']:.3f}"
        lines.append(f"  trial {entry['number']}  {figures}, {cost} {entry['cost']:g}; {against}")
    for entry in table["failed"]:
        lines.append(f"  trial {entry['number']}  is out: repeat {entry['repeat']} failed: {entry['failure']}")
    return lines
