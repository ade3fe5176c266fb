"""`promptgraft report`: everything that a study found, as plain JSON types; `search.reporting.page` shows it."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging import NAMES, WINNER
from promptgraft.search.reporting.error_analysis import analyze_errors
from promptgraft.search.reporting.history import COSTS, history_of, results, templates_of, verbalizers_of
from promptgraft.search.reporting.importances import measure_importances
from promptgraft.search.reporting.provenance import cost_of, data_of, provenance_of
from promptgraft.search.reporting.status import summarize
from promptgraft.search.sampling import with_pool
from promptgraft.search.storage import NothingToExportError, StudyRecord, StudyReference, TrialRecord
from promptgraft.search.study import Study, load_study
from promptgraft.search.trials import metric_of
from promptgraft.spaces import InvalidInputError

_IDS = ("template", "verbalizer")


def study_with_rows(reference: StudyReference, stored: optuna.Study) -> tuple[Study | None, str | None]:
    """Load a study with its rows and the templates that joined; if that can't be done, say why."""
    try:
        return with_pool(load_study(reference.study_file(stored), reference.name), stored), None
    except (InvalidInputError, OSError) as error:
        return None, str(error)


def collect_facts(
    stored: optuna.Study, study: Study | None, files: FileStore, reason: str | None = None
) -> dict[str, Any]:
    """Collect what a study found. Test rows stay as they are: nothing is scored, and nothing is written.

    Args:
        stored: The study's record.
        study: The study with its rows; None if they can't be read any more, and what needs them is left out.
        files: Its files.
        reason: Why they can't.

    Returns:
        `study`, `metric`, `direction`, `made` (when), `level` (of the intervals), `summary` (see `status`), `answer`,
        `history` (of every trial), `importances`, `templates`, `verbalizers`, `predictions` (of the winner), `cost`,
        `data` (None without the rows), `cautions`, `missing` (what is left out, and why) and `provenance`. Numbers that
        aren't finite are None.

    Raises:
        NothingToExportError: If no trial is COMPLETE.
    """
    summary = summarize(stored)
    if summary["winner"] is None:
        raise NothingToExportError(f"study {stored.study_name!r} has no COMPLETE trial yet, so nothing to report")
    trials = stored.get_trials(deepcopy=False)
    templates, verbalizers = templates_of(stored), verbalizers_of(stored)
    names = {entry["id"]: entry["name"] for entry in (*templates, *verbalizers)}
    history = history_of(stored, trials, names)
    complete = [entry for entry in history if entry["state"] == "COMPLETE" and math.isfinite(entry["value"] or 0.0)]
    # Trials that a user added have no candidate.
    known = [entry for entry in complete if entry["knobs"]] or complete
    winner = trials[summary["winner"]["number"]]
    found, missing = analyze_errors(stored, study.target, files, winner.number) if study else ([], [])
    if study is None:
        missing = [f"data, errors, calibration and the example of a prompt: {reason or 'the rows were not given'}"]
    facts = {
        "study": stored.study_name,
        "metric": summary["metric"],
        "direction": stored.directions[0].name.lower(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "level": StudyRecord.of(stored).judging.level,
        "summary": summary,
        "answer": _answer(stored, summary, winner, names, study),
        "history": history,
        "importances": measure_importances([entry["knobs"] for entry in known], [entry["value"] for entry in known]),
        "templates": [entry | results(history, "template", entry["name"]) for entry in templates],
        "verbalizers": verbalizers,
        "predictions": found,
        "cost": cost_of(stored, trials, summary),
        "data": data_of(stored, study) if study else None,
        "cautions": list(study.cautions) if study else [],
        "missing": missing,
        "provenance": provenance_of(stored, trials, summary),
    }
    return dict(_finite(facts))


def _answer(
    stored: optuna.Study, summary: Mapping[str, Any], winner: FrozenTrial, names: Mapping[str, str], study: Study | None
) -> dict[str, Any]:
    """Put together what a reader wants to know first.

    Returns:
        `trial`, `candidate`, `in_search`, `float32` (its score in float32, if it has one), `race`, `fresh` and `test`
        (what it scored since), `gaps` (how much better it looked in the search; positive is optimistic), `costs`,
        `example` and `load_report`.
    """
    transfer, metric = summary.get("transfer"), summary["metric"]
    compared = (transfer or {"controls": []})["controls"]
    fresh = next((entry for entry in compared if entry["name"] == NAMES[WINNER]), None)
    raced = next((e for e in summary["verdict"]["finalists"] if e["number"] == winner.number), None)
    opening = StudyRecord.of(stored).opening(winner.number)
    test: dict[str, Any] | None = None
    if opening and opening.table:
        low, high = opening.interval or (None, None)
        test = {"value": opening.table[0][1][metric], "low": low, "high": high, "table": opening.table}
        test |= {name: getattr(opening, name) for name in ("opened", "who", "rows")}
    searched = float(metric_of(winner) or 0.0)
    sign = 1 if stored.directions[0] == StudyDirection.MAXIMIZE else -1
    since = {"the repeats that chose it": raced and raced["mean"]}
    since |= {f"fresh repeats on {transfer['rows']} rows" if transfer else "fresh repeats": fresh and fresh["mean"]}
    since |= {"the test rows": test and test["value"]}
    own, candidate = TrialRecord.of(winner), TrialRecord.of(winner).values
    return {
        "trial": winner.number,
        "candidate": {name: names.get(value, value) if name in _IDS else value for name, value in candidate.items()},
        "searched": sorted(winner.params),
        "in_search": searched,
        "best_step": own.best_step,
        "float32": (summary["winner"].get("float32") or {}).get("value"),
        "race": {name: raced[name] for name in ("mean", "standard_error", "values")} if raced else None,
        "fresh": fresh,
        "fresh_rows": transfer["rows"] if transfer else None,
        "test": test,
        "gaps": [
            {"to": name, "value": sign * (searched - later)} for name, later in since.items() if later is not None
        ],
        "costs": {name: own.figure(name) for name in COSTS if own.figure(name) is not None},
        "example": _example(study, candidate) if study else None,
        "load_report": own.load_report,
    }


def _example(study: Study, candidate: Mapping[str, Any]) -> str | None:
    """Render the first validation row with a candidate's template, its label in brackets, demonstrations aside."""
    template = next((t for t in study.objective.space.templates if t.id == candidate.get("template")), None)
    if template is None or not study.target.validation:
        return None
    row = study.target.validation[0]
    return template.render(row.fields).with_label(f"[{study.target.labels[row.label]}]")


def _finite(value: Any) -> Any:
    """Replace numbers that JSON doesn't know by None."""
    if isinstance(value, Mapping):
        return {str(name): _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
