"""`promptgraft report`: everything that a study found, as plain JSON types; `search.report_page` shows it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from safetensors import SafetensorError
from scipy.special import softmax

from promptgraft.objectives.files import FileStore
from promptgraft.objectives.tasks import Row, Task, rows_hash
from promptgraft.search.identity import changed_rows
from promptgraft.search.importances import importances
from promptgraft.search.judging import judging_section
from promptgraft.search.pool import with_pool
from promptgraft.search.ranking import FINISHED
from promptgraft.search.reports import FLOAT32_LOGITS_FILE, LOGITS_FILE, trial_file
from promptgraft.search.sealed import openings, prediction_file
from promptgraft.search.status import NothingToExportError, status
from promptgraft.search.studies import Study, load_study
from promptgraft.search.tradeoffs import metric_of
from promptgraft.spaces import InvalidInputError

logger = logging.getLogger(__name__)

BINS = 10
# Examples shown for each kind of error, those that the model was surest of.
EXAMPLES = 3


def study_with_rows(path: Path, name: str, stored: optuna.Study) -> Study | None:
    """Load a study with its rows and the templates that joined.

    None, with a warning, if that can't be done, or if they aren't the rows that the study was started with.
    """
    try:
        study = load_study(path, name)
    except (InvalidInputError, OSError) as error:
        logger.warning("the report leaves out what needs the rows: %s", error)
        return None
    changed = changed_rows(study, stored)
    if changed:
        logger.warning("the report leaves out what needs the rows: %s have changed", " and ".join(changed))
        return None
    return with_pool(study, stored)


def report(stored: optuna.Study, study: Study | None, files: FileStore) -> dict[str, Any]:
    """Collect what a study found.

    Args:
        stored: The study's record.
        study: The study with its rows; None if they can't be read any more, and what needs them is left out.
        files: Its files.

    Returns:
        `study`, `metric`, `direction`, `made` (when), `summary` (see `status`), `answer`, `history`, `knobs`,
        `values`, `importances`, `templates` (name -> text), `predictions` (errors and calibration of the winner; None
        without its outputs or the rows), `data` (None without the rows) and `provenance`.

    Raises:
        NothingToExportError: If no trial has finished.
    """
    summary = status(stored)
    if summary["winner"] is None:
        raise NothingToExportError(
            f"study {stored.study_name!r} has no COMPLETE trial yet, so there is nothing to report"
        )
    trials = stored.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and "candidate" in trial.user_attrs]
    names = _names(study)
    candidates = [_shown_candidate(trial.user_attrs["candidate"], names) for trial in complete]
    winner = summary["winner"]["number"]
    sign = 1 if stored.directions[0] == StudyDirection.MAXIMIZE else -1
    opening = next((record for record in openings(stored) if record["trial"] == winner), None)
    return {
        "study": stored.study_name,
        "metric": summary["metric"],
        "direction": stored.directions[0].name.lower(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "summary": summary,
        "answer": _answer(summary, opening, names, trials[winner], sign, judging_section(stored.user_attrs).level),
        "history": _history(trials, sign),
        "knobs": [candidate | {"trial": t.number} for candidate, t in zip(candidates, complete, strict=True)],
        "values": [_metric(trial) for trial in complete],
        "importances": importances(candidates, [_metric(trial) for trial in complete]),
        "templates": {entry.name: entry.text for entry in study.objective.space.templates} if study else {},
        "predictions": _predictions(study, files, winner, opening) if study else None,
        "data": _data(study) if study else None,
        "provenance": {
            **{name: stored.user_attrs.get(name) for name in ("study_file", "identity", "edits", "run")},
            "hosts": sorted({t.user_attrs["owner"]["host"] for t in trials if "owner" in t.user_attrs}),
            "openings": summary["test_openings"],
        },
    }


def tables(facts: Mapping[str, Any], stored: optuna.Study) -> dict[str, pd.DataFrame]:
    """Return a report's tables: `trials`, `curves`, `finalists`, `controls`, `importances`."""
    knobs = {entry["trial"]: entry for entry in facts["knobs"]}
    trials = [entry | knobs.get(entry["trial"], {}) for entry in facts["history"]]
    curves = [
        {"trial": trial.number, "step": step, "value": value}
        for trial in stored.get_trials(deepcopy=False)
        for step, value in sorted(trial.intermediate_values.items())
    ]
    controls = (facts["summary"]["transfer"] or {"controls": []})["controls"]
    return {
        "trials": pd.DataFrame(trials),
        "curves": pd.DataFrame(curves, columns=["trial", "step", "value"]),
        "finalists": pd.DataFrame(facts["summary"]["verdict"]["finalists"]),
        "controls": pd.json_normalize(controls),
        "importances": pd.DataFrame(facts["importances"], columns=["name", "importance", "low", "high"]),
    }


def _metric(trial: FrozenTrial) -> float:
    return float(metric_of(trial) or 0.0)


def _names(study: Study | None) -> dict[str, str]:
    """Return id -> name of templates and verbalizers."""
    if study is None:
        return {}
    space = study.objective.space
    return {t.id: t.name for t in space.templates} | {v.id: v.name for v in space.verbalizers}


def _shown_candidate(candidate: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    ids = {name: names.get(candidate[name], candidate[name]) for name in ("template", "verbalizer")}
    return {**candidate, **ids}


def _answer(
    summary: Mapping[str, Any],
    opening: Mapping[str, Any] | None,
    names: Mapping[str, str],
    winner: FrozenTrial,
    sign: int,
    level: float,
) -> dict[str, Any]:
    """Put together what a reader wants to know first; `gap` is positive where the search was optimistic."""
    transfer, metric = summary["transfer"], summary["metric"]
    fresh = next((entry for entry in (transfer or {"controls": []})["controls"] if entry["name"] == "winner"), None)
    raced = next((e for e in summary["verdict"]["finalists"] if e["number"] == winner.number), None)
    test = None
    if opening and opening["table"]:
        low, high = opening.get("interval", (None, None))
        test = {"value": opening["table"][0][1][metric], "low": low, "high": high}
    searched = _metric(winner)
    held_out = test["value"] if test else fresh["mean"] if fresh else raced["mean"] if raced else None
    return {
        "trial": winner.number,
        "candidate": _shown_candidate(winner.user_attrs.get("candidate", {}), names),
        "in_search": searched,
        "race": {name: raced[name] for name in ("mean", "standard_error", "values")} if raced else None,
        "fresh": fresh,
        "fresh_rows": transfer["rows"] if transfer else None,
        "test": test,
        "gap": sign * (searched - held_out) if held_out is not None else None,
        "level": level,
        "costs": {
            name: winner.user_attrs.get(name)
            for name in ("prompt_tokens", "trainable_parameters", "latency_ms", "seconds", "max_rss_bytes")
            if name in winner.user_attrs
        },
    }


def _history(trials: Sequence[FrozenTrial], sign: int) -> list[dict[str, Any]]:
    best: float | None = None
    found = []
    for trial in trials:
        last = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        value = _metric(trial) if trial.state == TrialState.COMPLETE else last
        if trial.state == TrialState.COMPLETE and value is not None:
            best = value if best is None else sign * max(sign * best, sign * value)
        attrs = trial.user_attrs
        found.append(
            {
                "trial": trial.number,
                "state": trial.state.name,
                "value": value,
                "best": best,
                "seconds": attrs.get("seconds"),
                "prompt_tokens": attrs.get("prompt_tokens"),
                "trainable_parameters": attrs.get("trainable_parameters"),
                "failure": attrs.get("cause") if trial.state not in FINISHED else None,
            }
        )
    return found


def _predictions(
    study: Study, files: FileStore, winner: int, opening: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Look at the winner's outputs: on the test rows if they were opened for it, otherwise on the validation rows."""
    task = study.target
    sources: list[tuple[str, str, Sequence[Row]]] = [("test", prediction_file(winner), task.test)] if opening else []
    sources += [
        ("validation", trial_file(winner, name), task.validation) for name in (FLOAT32_LOGITS_FILE, LOGITS_FILE)
    ]
    for part, name, rows in sources:
        try:
            logits = np.asarray(files.read_tensors(name)["logits"], dtype=np.float32)
        except FileNotFoundError:
            continue
        except (OSError, SafetensorError, KeyError) as error:
            logger.warning("the report leaves out %s, which can't be read: %s", name, error)
            continue
        if len(logits) == len(rows):
            return {"rows": part, "count": len(rows), "hash": rows_hash(rows), **_errors(task, logits, rows)}
    return None


def _errors(task: Task, logits: npt.NDArray[np.float32], rows: Sequence[Row]) -> dict[str, Any]:
    chances = softmax(logits.astype(np.float64), axis=1)
    predicted, sure = chances.argmax(1), chances.max(1)
    labels = np.array([row.label for row in rows])
    by_class = []
    for label, name in enumerate(task.labels):
        own = labels == label
        wrong = [int(i) for i in np.argsort(-sure) if own[i] and predicted[i] != label]
        by_class.append(
            {
                "label": name,
                "rows": int(own.sum()),
                "wrong": len(wrong),
                "examples": [
                    {"text": dict(rows[i].fields), "predicted": task.labels[predicted[i]], "chance": float(sure[i])}
                    for i in wrong[:EXAMPLES]
                ],
            }
        )
    return {
        "labels": list(task.labels),
        "confusion": task.confusion(logits, rows),
        "classes": by_class,
        "metrics": task.measure(logits, rows),
        "calibration": _calibration(sure, predicted == labels),
    }


def _calibration(sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Compare how sure a model is with how often it is right (Guo et al. 2017, arXiv:1706.04599)."""
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        {
            "from": b / BINS,
            "to": (b + 1) / BINS,
            "rows": int((place == b).sum()),
            "sure": float(sure[place == b].mean()),
            "right": float(right[place == b].mean()),
        }
        for b in range(BINS)
        if (place == b).any()
    ]
    error = sum(entry["rows"] * abs(entry["sure"] - entry["right"]) for entry in bins) / len(sure)
    return {"bins": bins, "expected_calibration_error": float(error)}


def _data(study: Study) -> dict[str, Any]:
    tasks = {"target": study.target} | ({"source": study.source} if study.source else {})
    specs = {"target": study.objective.target, "source": study.objective.source}
    return {
        name: {
            "file": Path(getattr(specs[name], "train", "")).name,
            "labels": list(task.labels),
            "rows": {part: len(getattr(task, part)) for part in ("train", "validation", "test")},
            "hashes": {
                part: rows_hash(getattr(task, part)) for part in ("train", "validation", "test") if getattr(task, part)
            },
            "cleaning": asdict(task.cleaning),
        }
        for name, task in tasks.items()
    }
