"""The pool of templates that grows while a study runs: kept in the study, shared by its drivers.

From the moment that a round's outcome is written, every draw is made from the larger pool. A template's id is made
from its text, so that a trial means the same whatever joins. See docs/decisions/0007-a-pool-that-grows.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.growth import Growth
from promptgraft.spaces import Candidate, SearchSpace, Template, Verbalizer

if TYPE_CHECKING:
    from promptgraft.search.study import Study

logger = logging.getLogger(__name__)

# User attributes of the study: what joined, and the scores of untrained prompts.
POOL, UNTRAINED_SCORES = "template_pool", "untrained_scores"
# A template's mean result counts as if it had this many more results, all of them the study's mean.
SHRINKAGE = 2.0
# What a study has before any round.
NOTHING: Mapping[str, Any] = {"rounds": 0, "templates": [], "verbalizers": []}


@dataclass(frozen=True, slots=True)
class Pool:
    """What a study has found beside the templates of its file.

    Attributes:
        rounds: Rounds of growth that were run.
        templates: The templates that joined.
        verbalizers: Likewise.
    """

    rounds: int = 0
    templates: tuple[Template, ...] = ()
    verbalizers: tuple[Verbalizer, ...] = ()

    @classmethod
    def of(cls, study: optuna.Study) -> "Pool":
        """Read the pool of a study."""
        content = study.user_attrs.get(POOL, NOTHING)
        templates = tuple(Template(**{**entry, "parents": tuple(entry["parents"])}) for entry in content["templates"])
        verbalizers = tuple(verbalizer_of(entry) for entry in content["verbalizers"])
        return cls(content["rounds"], templates, verbalizers)

    @staticmethod
    def rounds_of(study: optuna.Study) -> int:
        """Return how many rounds were run, without reading the rest."""
        return int(study.user_attrs.get(POOL, NOTHING)["rounds"])

    def added_to(self, space: SearchSpace) -> SearchSpace:
        """Return a space with all that joined; what its file has by now is left out."""
        return space.with_more(self.templates, self.verbalizers)


def verbalizer_content(verbalizer: Verbalizer) -> dict[str, Any]:
    """Return a verbalizer as JSON types."""
    return {"name": verbalizer.name, "words": {label: list(words) for label, words in verbalizer.words.items()}}


def verbalizer_of(content: Mapping[str, Any]) -> Verbalizer:
    """Build a verbalizer from what `verbalizer_content` returned."""
    return Verbalizer(content["name"], {label: tuple(words) for label, words in content["words"].items()})


class Wording(TypedDict):
    """A candidate's template and verbalizer, as jobs carry them."""

    templates: tuple[Template, ...]
    verbalizers: tuple[Verbalizer, ...]


def wording_of(space: SearchSpace, candidate: Candidate) -> Wording:
    """Return a candidate's template and verbalizer: a worker that began before they joined doesn't know them."""
    words = (space.verbalizer(candidate.verbalizer),) if candidate.verbalizer else ()
    return {"templates": (space.template(candidate.template),), "verbalizers": words}


def with_pool(study: "Study", optuna_study: optuna.Study) -> "Study":
    """Return a study with the templates that joined while it ran."""
    space = Pool.of(optuna_study).added_to(study.objective.space)
    return replace(study, objective=replace(study.objective, space=space))


def ranked_templates(
    space: SearchSpace, trials: Sequence[FrozenTrial], untrained: Sequence[Mapping[str, Any]], *, maximize: bool
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
        if trial.state == TrialState.COMPLETE and trial.values and "candidate" in trial.user_attrs:
            values.setdefault(trial.user_attrs["candidate"]["template"], []).append(trial.values[0])
    every = [value for own in values.values() for value in own]
    mean = sum(every) / len(every) if every else 0.0
    sign = 1 if maximize else -1
    ranks: dict[str, int] = {}
    for rank, entry in enumerate(untrained):
        ranks.setdefault(entry["template"], rank)

    def order(template: Template) -> tuple[float, int]:
        own = values.get(template.id, [])
        shrunk = (sum(own) + SHRINKAGE * mean) / (len(own) + SHRINKAGE)
        return -sign * shrunk, ranks.get(template.id, len(untrained))

    return tuple(sorted(space.templates, key=order))


def merge_scores(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add scores of untrained prompts to those of a study; of a pair that is in both, the new one counts.

    Returns:
        All of them, the best first.
    """
    by_pair = {(entry["template"], entry["verbalizer"]): entry for entry in (*known, *new)}
    return sorted(by_pair.values(), key=lambda entry: (-entry["rows"], -entry["score"]))


def record_growth(study: optuna.Study, round_: int, growth: Growth | None) -> None:
    """Write what a round found to the study, whose lock must be held.

    Args:
        study: The study.
        round_: Number of the round; nothing is written if another driver has run it meanwhile.
        growth: What was found; None if nothing.
    """
    pool = Pool.of(study)
    if round_ != pool.rounds:
        return
    content = {
        "rounds": pool.rounds + 1,
        "templates": [asdict(template) for template in (*pool.templates, *(growth.templates if growth else ()))],
        "verbalizers": [
            verbalizer_content(entry) for entry in (*pool.verbalizers, *(growth.verbalizers if growth else ()))
        ],
    }
    found = [asdict(entry) for entry in growth.scores] if growth else []
    known = study.user_attrs.get(UNTRAINED_SCORES, [])
    study.set_user_attr(UNTRAINED_SCORES, merge_scores(known, found))
    study.set_user_attr(POOL, content)
