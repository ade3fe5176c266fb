"""What a study's trials did, in JSON types: values, curves, knobs, and the templates that they had to choose from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import StudyRecord, TrialRecord, base_name
from promptgraft.search.trials import metric_of
from promptgraft.spaces import DEFAULTS, Scalar, content_id

# What a trial cost, by the names of its attributes.
COSTS = ("prompt_tokens", "trainable_parameters", "latency_ms", "seconds", "max_rss_bytes")


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """What a trial did.

    Attributes:
        trial: Its number.
        state: Its state.
        value: The metric; of one that isn't COMPLETE the last that it reported.
        best: The best metric of all trials up to it.
        values: Objective -> value.
        prompt_tokens: Tokens that its prompt adds to a text.
        trainable_parameters: Weights that its target stage trained.
        latency_ms: Time of a prediction.
        seconds: How long it took.
        max_rss_bytes: Largest memory of its worker.
        best_step: The step at which it was best.
        failure: Why it failed.
        knobs: Parameter -> what was suggested; None where it didn't matter to its candidate.
        curve: Steps and values.
    """

    trial: int
    state: str
    value: float | None
    best: float | None
    values: Mapping[str, float | None]
    prompt_tokens: float | None
    trainable_parameters: float | None
    latency_ms: float | None
    seconds: float | None
    max_rss_bytes: float | None
    best_step: float | None
    failure: str | None
    knobs: Mapping[str, Scalar | None]
    curve: tuple[tuple[int, float | None], ...]


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """A template, and how trials with it did.

    Attributes:
        id: Its id.
        name: Its name.
        text: Its text; None if the record doesn't hold it.
        source: Its origin.
        parents: Ids of the templates that it was drafted from.
        trials: Trials with it.
        complete: Those of them that are COMPLETE.
        mean: Mean of their values; None without any.
    """

    id: str
    name: str
    text: str | None
    source: str
    parents: tuple[str, ...]
    trials: int
    complete: int
    mean: float | None


@dataclass(frozen=True, slots=True)
class VerbalizerFacts:
    """A verbalizer.

    Attributes:
        id: Its id.
        name: Its name.
        words: Label -> words.
    """

    id: str
    name: str
    words: Mapping[str, tuple[str, ...]]


def history_of(stored: optuna.Study, trials: Sequence[FrozenTrial], names: Mapping[str, str]) -> tuple[TrialFacts, ...]:
    """List every trial.

    Args:
        stored: The study.
        trials: Its trials.
        names: Id -> name of templates and verbalizers.
    """
    better = max if stored.directions[0] == StudyDirection.MAXIMIZE else min
    best: float | None = None
    found = []
    for trial in trials:
        curve = sorted(trial.intermediate_values.items())
        value = metric_of(trial) if trial.state == TrialState.COMPLETE else curve[-1][1] if curve else None
        if trial.state == TrialState.COMPLETE and value is not None:
            best = value if best is None else better(best, value)
        objectives = dict(zip(stored.metric_names or ["value"], trial.values or (), strict=False))
        record = TrialRecord.of(trial)
        found.append(
            TrialFacts(
                trial=trial.number,
                state=trial.state.name,
                value=value,
                best=best,
                values=objectives,
                **{name: record.figure(name) for name in COSTS},
                best_step=record.best_step,
                failure=record.cause if trial.state == TrialState.FAIL else None,
                knobs=_knobs(trial, names),
                curve=tuple(curve),
            )
        )
    return tuple(found)


def _knobs(trial: FrozenTrial, names: Mapping[str, str]) -> dict[str, Any]:
    """Return what was suggested for a trial: a knob that didn't matter to its candidate is None.

    A candidate has the default there, such as the learning rate's where all layers are frozen.
    """
    candidate = TrialRecord.of(trial).values
    if not candidate:
        return {}
    found: dict[str, Any] = {}
    for stored, suggested in trial.params.items():
        name = base_name(stored)
        if name in ("template", "verbalizer"):
            value = names.get(candidate[name], candidate[name]) or None
        else:
            ran = candidate.get(name, DEFAULTS.get(name))
            value = suggested if ran is None or ran == suggested else None
        found[name] = value
    return found


def _results(history: Iterable[TrialFacts], template: str) -> tuple[int, int, float | None]:
    """Count the trials with a template and those that are COMPLETE, with the mean of these."""
    own = [entry for entry in history if entry.knobs.get("template") == template]
    values = [entry.value for entry in own if entry.state == "COMPLETE" and entry.value is not None]
    return len(own), len(values), sum(values) / len(values) if values else None


def names_of(stored: optuna.Study) -> dict[str, str]:
    """Return id -> name of the templates and verbalizers of the study's record, and of those that joined."""
    found = {own: name for name, (own, *_) in _templates(stored).items()}
    return found | {entry.id: entry.name for entry in verbalizers_of(stored)}


def templates_of(stored: optuna.Study, history: Sequence[TrialFacts]) -> tuple[TemplateFacts, ...]:
    """List the templates of the study's record, those that joined last, with what the trials of a history did."""
    found = _templates(stored).items()
    return tuple(
        TemplateFacts(own, name, text, source, parents, *_results(history, name))
        for name, (own, text, source, parents) in found
    )


def _templates(stored: optuna.Study) -> dict[str, tuple[str, str | None, str, tuple[str, ...]]]:
    """Return name -> id, text, source and parents."""
    record = StudyRecord.of(stored)
    written = record.definition.get("space", {}).get("templates", {})
    ids = record.identity.get("space", {}).get("template", {})
    pool = {template.name: template for template in record.pool.templates}
    found = {}
    for name in dict.fromkeys((*ids, *written, *pool)):
        grown = pool.get(name)
        text = written.get(name) or (grown.text if grown else None)
        own = ids.get(name) or content_id(name, text or "")
        source = "written" if name in written else grown.source if grown else "promptsource"
        found[name] = own, text, source, grown.parents if grown else ()
    return found


def verbalizers_of(stored: optuna.Study) -> tuple[VerbalizerFacts, ...]:
    """List the verbalizers of the study's record and those that joined."""
    record = StudyRecord.of(stored)
    written = record.definition.get("space", {}).get("verbalizers", {})
    ids = record.identity.get("space", {}).get("verbalizer", {})
    pool = {entry.name: entry for entry in record.pool.verbalizers}
    joined = {name: entry.id for name, entry in pool.items()}
    words = {name: entry.words for name, entry in pool.items()} | written
    return tuple(
        VerbalizerFacts(own, name, {label: tuple(given) for label, given in words.get(name, {}).items()})
        for name, own in (joined | ids).items()
    )
