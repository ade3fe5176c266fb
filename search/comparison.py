"""The winner against its controls: does transfer help at all, and by how much?

Controls are repeated on the seeds and splits that the winner was repeated on (`search.confirmation`) and recorded in
the study one by one. What they predict for the test rows lies in the study's files, unlooked at until these are opened;
see decision 10.
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection

from promptgraft.objectives.files import FileStore
from promptgraft.search.intervals import Interval, Logits, Measure, gain_on_rows, gain_over_repeats
from promptgraft.search.judging import judging_section, verdict

# User attribute of the study; trial, control and number of the repeat appended: as `judging.REPEAT`.
CONTROL = "control_trial_"
WINNER, TARGET_ONLY, BEST_TARGET_ONLY, WITH_SOURCE = "winner", "target_only", "target_only_searched", "with_source"
# In the order in which they are shown.
NAMES: Mapping[str, str] = {
    WINNER: "winner",
    TARGET_ONLY: "target only, the winner's settings and updates",
    BEST_TARGET_ONLY: "target only, the best of the search",
    WITH_SOURCE: "with the source, the best of the search",
    "source_only": "source only",
    "full_fine_tuning": "full fine-tuning on the target",
    "linear_probe": "linear probe",
    "tfidf": "TF-IDF + logistic regression",
    "zero_shot": "zero-shot, first template",
    "majority": "majority class",
}
# What a gain in these is said in.
_UNITS: Mapping[str, tuple[float, str]] = {"loss": (1.0, "nats")}
_POINTS = (100.0, "points")

Outcomes = Mapping[str, Mapping[int, Mapping[str, Any]]]


def control_attr(trial: int, control: str, repeat: int) -> str:
    """Return the user attribute that a control's repeat is recorded under."""
    return f"{CONTROL}{trial}_{control}_{repeat}"


def prediction_file(trial: int, control: str, repeat: int) -> str:
    """Return where what it predicts for the test rows lies in the study's files."""
    return f"controls/trial-{trial}/{control}-{repeat}.safetensors"


def control_outcomes(attrs: Mapping[str, Any], trial: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Return what the controls of a trial found: control -> number of the repeat -> outcome."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    start = f"{CONTROL}{trial}_"
    for attr, outcome in attrs.items():
        if attr.startswith(start):
            control, _, repeat = attr.removeprefix(start).rpartition("_")
            found.setdefault(control, {})[int(repeat)] = outcome
    return {name: found[name] for name in NAMES if name in found}


def transfer(study: optuna.Study) -> dict[str, Any] | None:
    """Say what the source is worth, by the repeats of the winner and its controls on validation rows.

    Returns:
        `verdict` (`helped`, `made no difference`, `hurt`, `not tried`, `no source`), `sentence`, `gain`, `low`, `high`
        (None without a comparison), `level`, `repeats`, `rows` (`validation` or `test`) and `controls` (`name`, `mean`,
        `standard_error`, `repeats`, `failed`); None while no winner has had its controls.
    """
    attrs = study.user_attrs
    winner = verdict(study).winner
    if winner is None:
        return None
    found = control_outcomes(attrs, winner.number)
    if not found:
        return None
    values = {name: {r: o["value"] for r, o in own.items() if "value" in o} for name, own in found.items()}
    level, metric = judging_section(attrs).level, (study.metric_names or ["value"])[0]
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    pair = _compared(values, maximize)
    gain = None
    if pair is not None:
        ours, theirs, common = pair
        gain = gain_over_repeats(
            [values[ours][repeat] for repeat in common], [values[theirs][repeat] for repeat in common], level
        )
    rows = "validation"
    has_source = attrs.get("definition", {}).get("source") is not None
    return _table(gain, pair, metric, maximize, level, has_source, rows) | {"controls": _controls(values, found)}


def transfer_on_test(study: optuna.Study, trial: int, files: FileStore, measure: Measure) -> dict[str, Any] | None:
    """Say the same by the test rows, which must have been opened for the trial.

    Args:
        study: The stored study.
        trial: The winner.
        files: The study's files.
        measure: Computes the study's metric on test rows.

    Returns:
        See `transfer`; None if the trial has had no controls.
    """
    attrs = study.user_attrs
    found = control_outcomes(attrs, trial)
    if not found:
        return None
    maximize = study.directions[0] == StudyDirection.MAXIMIZE
    level, metric = judging_section(attrs).level, (study.metric_names or ["value"])[0]

    def predicted(name: str, repeat: int) -> Logits:
        tensors = files.read_tensors(prediction_file(trial, name, repeat))
        return np.asarray(tensors["logits"], dtype=np.float32)

    logits = {name: {r: predicted(name, r) for r in own if "value" in own[r]} for name, own in found.items()}
    # Which of two controls is the better one is read from other rows than the comparison.
    chosen_by = {name: {r: o["value"] for r, o in own.items() if "value" in o} for name, own in found.items()}
    pair = _compared(chosen_by, maximize)
    gain = None
    if pair is not None:
        ours, theirs, common = pair
        gain = gain_on_rows([logits[ours][r] for r in common], [logits[theirs][r] for r in common], measure, level)
    values = {name: {r: measure(own[r], np.arange(len(own[r]))) for r in own} for name, own in logits.items()}
    has_source = attrs.get("definition", {}).get("source") is not None
    return _table(gain, pair, metric, maximize, level, has_source, "test") | {"controls": _controls(values, found)}


def transfer_lines(table: Mapping[str, Any] | None, metric: str) -> list[str]:
    """Write a comparison for people; nothing where there is none."""
    if table is None:
        return []
    lines = [table["sentence"]]
    width = max(len(entry["name"]) for entry in table["controls"])
    for entry in table["controls"]:
        error = "" if entry["standard_error"] is None else f" (standard error {entry['standard_error']:.4f})"
        value = "-" if entry["mean"] is None else f"{entry['mean']:.4f}{error}"
        failed = f"; {entry['failed']} repeats failed" if entry["failed"] else ""
        lines.append(f"  {entry['name'].ljust(width)}  {metric} {value}{failed}")
    return lines


def _compared(values: Mapping[str, Mapping[int, float]], maximize: bool) -> tuple[str, str, list[int]] | None:
    """Choose what is compared: with the source, without it, and the repeats that both have had."""
    sign = 1 if maximize else -1

    def average(name: str) -> float:
        return sign * mean(values[name].values())

    if values.get(WITH_SOURCE):
        ours, theirs = WITH_SOURCE, WINNER
    else:
        without = [name for name in (TARGET_ONLY, BEST_TARGET_ONLY) if values.get(name)]
        if not without:
            return None
        ours, theirs = WINNER, max(without, key=average)
    common = sorted(values.get(ours, {}).keys() & values.get(theirs, {}).keys())
    return (ours, theirs, common) if len(common) > 1 else None


def _table(
    gain: Interval | None,
    pair: tuple[str, str, Sequence[int]] | None,
    metric: str,
    maximize: bool,
    level: float,
    has_source: bool,
    rows: str,
) -> dict[str, Any]:
    """Put the answer into words."""
    base = {"level": level, "rows": rows, "repeats": len(pair[2]) if pair else 0}
    if gain is None or pair is None:
        kind = "not tried" if has_source else "no source"
        sentence = {
            "not tried": "Whether transfer helps was not found out: nothing to compare with has had two repeats.",
            "no source": "The study names no source, so there was nothing to transfer from.",
        }[kind]
        return base | {"verdict": kind, "sentence": sentence, "gain": None, "low": None, "high": None}
    sign = 1 if maximize else -1
    value, low, high = sign * gain.value, *sorted((sign * gain.low, sign * gain.high))
    kind = "helped" if low > 0 else "hurt" if high < 0 else "made no difference"
    scale, unit = _UNITS.get(metric, _POINTS)
    shown = f"{scale * value:+.1f} {unit}" if scale > 1 else f"{value:+.3f} {unit}"
    ends = f"{scale * low:+.1f} to {scale * high:+.1f}" if scale > 1 else f"{low:+.3f} to {high:+.3f}"
    said = "made no difference that could be shown" if kind == "made no difference" else kind
    sentence = (
        f"Transfer {said}: {NAMES[pair[0]]} against {NAMES[pair[1]]}, {metric} better by {shown} "
        f"({100 * (1 - level):g} % interval {ends}; {len(pair[2])} repeats on {rows} rows)."
    )
    return base | {"verdict": kind, "sentence": sentence, "gain": value, "low": low, "high": high}


def _controls(values: Mapping[str, Mapping[int, float]], found: Outcomes) -> list[dict[str, Any]]:
    return [
        {
            "name": NAMES[name],
            "mean": mean(own.values()) if own else None,
            "standard_error": stdev(own.values()) / len(own) ** 0.5 if len(own) > 1 else None,
            "repeats": len(own),
            "failed": sum("failure" in outcome for outcome in found[name].values()),
        }
        for name, own in values.items()
    ]
