"""The pool of templates that grows while a study runs: kept in the study, shared by its drivers.

From the moment that a round's outcome is written, every draw is made from the larger pool. A template's id is made
from its text, so that a trial means the same whatever joins. See docs/decisions/0007-a-pool-that-grows.md.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TypedDict

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.growth import Growth
from promptgraft.objectives.measures import UntrainedScore
from promptgraft.search.storage import (
    TEMPLATE_POOL,
    UNTRAINED_SCORES,
    Pool,
    StudyRecord,
    StudyReference,
    TrialRecord,
    write_study,
)
from promptgraft.search.study import Study, load_study, with_recorded_rows
from promptgraft.spaces import Candidate, SearchSpace, Template, Verbalizer

logger = logging.getLogger(__name__)

# A template's mean result counts as if it had this many more results, all of them the study's mean.
SHRINKAGE = 2.0


class Wording(TypedDict):
    """A candidate's template and verbalizer, as jobs carry them."""

    templates: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]


def wording_of(space: SearchSpace, candidate: Candidate) -> Wording:
    """Return a candidate's template and verbalizer: a worker that began before they joined doesn't know them."""
    words = (space.verbalizer(candidate.verbalizer),) if candidate.verbalizer else ()
    return {"templates": (space.template(candidate.template),), "verbalizers": words}


def with_pool(study: Study, optuna_study: optuna.Study) -> Study:
    """Return a study with the templates that joined while it ran."""
    space = StudyRecord.of(optuna_study).pool.added_to(study.objective.space)
    return replace(study, objective=replace(study.objective, space=space))


def study_as_run(reference: StudyReference, optuna_study: optuna.Study) -> Study:
    """Load a study with the rows that it was started with, and the templates that joined.

    Args:
        reference: Which study.
        optuna_study: Its record.

    Raises:
        InvalidInputError: If its file isn't there, or isn't valid any more.
    """
    study = load_study(reference.study_file(optuna_study), reference.name)
    return with_pool(with_recorded_rows(study, StudyRecord.of(optuna_study).identity), optuna_study)


def ranked_templates(
    space: SearchSpace, trials: Sequence[FrozenTrial], untrained: Sequence[UntrainedScore], *, maximize: bool
) -> tuple[Template, ...]:
    """Order the templates of a space, the best first.

    By the mean value of their finished trials, drawn towards the mean of all by `SHRINKAGE`, since a single good trial
    proves little; at equal values, as before any trial, by how they do untrained.

    Args:
        space: The space.
        trials: The study's trials.
        untrained: Scores of untrained prompts, the best first.
        maximize: Whether larger values are better.
    """
    values: dict[str, list[float]] = {}
    for trial in trials:
        record = TrialRecord.of(trial)
        if trial.state == TrialState.COMPLETE and trial.values and record.has_candidate:
            values.setdefault(record.values["template"], []).append(trial.values[0])
    every = [value for own in values.values() for value in own]
    mean = sum(every) / len(every) if every else 0.0
    sign = 1 if maximize else -1
    ranks: dict[str, int] = {}
    for rank, entry in enumerate(untrained):
        ranks.setdefault(entry.template, rank)

    def order(template: Template) -> tuple[float, int]:
        own = values.get(template.id, [])
        shrunk = (sum(own) + SHRINKAGE * mean) / (len(own) + SHRINKAGE)
        return -sign * shrunk, ranks.get(template.id, len(untrained))

    return tuple(sorted(space.templates, key=order))


def merge_scores(known: Sequence[UntrainedScore], new: Sequence[UntrainedScore]) -> list[UntrainedScore]:
    """Add scores of untrained prompts to those of a study; of a pair that is in both, the new one counts.

    Returns:
        All of them, the best first.
    """
    by_pair = {(entry.template, entry.verbalizer): entry for entry in (*known, *new)}
    return sorted(by_pair.values(), key=lambda entry: (-entry.rows, -entry.score))


def record_growth(study: optuna.Study, round_: int, growth: Growth | None) -> None:
    """Write what a round found to the study, whose lock must be held.

    Args:
        study: The study.
        round_: Number of the round; nothing is written if another driver has run it meanwhile.
        growth: What was found; None if nothing.
    """
    record = StudyRecord.of(study)
    pool = record.pool
    if round_ != pool.rounds:
        return
    larger, scores = replace(pool, rounds=pool.rounds + 1), record.untrained
    if growth is not None:
        larger = Pool(larger.rounds, (*pool.templates, *growth.templates), (*pool.verbalizers, *growth.verbalizers))
        scores = merge_scores(scores, growth.scores)
    write_study(study, UNTRAINED_SCORES, [asdict(entry) for entry in scores])
    write_study(study, TEMPLATE_POOL, larger)
