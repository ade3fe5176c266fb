"""What a study's trials did, in JSON types: values, curves, knobs, and the templates that they had to choose from."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import StudyRecord, TrialRecord, base_name
from promptgraft.search.trials import metric_of
from promptgraft.spaces import DEFAULTS, content_id

# What a trial cost, by the names of its attributes.
COSTS = ("prompt_tokens", "trainable_parameters", "latency_ms", "seconds", "max_rss_bytes")


def history_of(stored: optuna.Study, trials: Sequence[FrozenTrial], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """List every trial.

    Args:
        stored: The study.
        trials: Its trials.
        names: Id -> name of templates and verbalizers.

    Returns:
        Of each trial `trial` (its number), `state`, `value` (the metric; of one that isn't COMPLETE the last that it
        reported), `best` (of all up to it), `values` (of all objectives), what it cost, `best_step`, `failure`, `knobs`
        and `curve` (steps and values).
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
        entry = {"trial": trial.number, "state": trial.state.name, "value": value, "best": best, "values": objectives}
        entry |= {name: record.figure(name) for name in (*COSTS, "best_step")}
        entry["failure"] = record.cause if trial.state == TrialState.FAIL else None
        found.append(entry | {"knobs": _knobs(trial, names), "curve": [list(point) for point in curve]})
    return found


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


def results(history: Iterable[Mapping[str, Any]], knob: str, name: str) -> dict[str, Any]:
    """Count the trials with a value of a knob, and the mean of those that are COMPLETE."""
    own = [entry for entry in history if entry["knobs"].get(knob) == name]
    values = [entry["value"] for entry in own if entry["state"] == "COMPLETE" and entry["value"] is not None]
    return {"trials": len(own), "complete": len(values), "mean": sum(values) / len(values) if values else None}


def templates_of(stored: optuna.Study) -> list[dict[str, Any]]:
    """List the templates of the study's record, those that joined last: `id`, `name`, `text`, `source`, `parents`."""
    record = StudyRecord.of(stored)
    written = record.definition.get("space", {}).get("templates", {})
    ids = record.identity.get("space", {}).get("template", {})
    pool = {template.name: template for template in record.pool.templates}
    found = []
    for name in dict.fromkeys((*ids, *written, *pool)):
        grown = pool.get(name)
        text = written.get(name) or (grown.text if grown else None)
        own = ids.get(name) or content_id(name, text or "")
        source = "written" if name in written else grown.source if grown else "promptsource"
        parents = list(grown.parents) if grown else []
        found.append({"id": own, "name": name, "text": text, "source": source, "parents": parents})
    return found


def verbalizers_of(stored: optuna.Study) -> list[dict[str, Any]]:
    """List the verbalizers of the study's record and those that joined: `id`, `name` and `words`."""
    record = StudyRecord.of(stored)
    written = record.definition.get("space", {}).get("verbalizers", {})
    ids = record.identity.get("space", {}).get("verbalizer", {})
    pool = {entry.name: entry for entry in record.pool.verbalizers}
    joined = {name: entry.id for name, entry in pool.items()}
    words = {name: {label: list(own) for label, own in entry.words.items()} for name, entry in pool.items()} | written
    return [{"id": own, "name": name, "words": words.get(name, {})} for name, own in (joined | ids).items()]
