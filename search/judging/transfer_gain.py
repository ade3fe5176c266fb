"""The winner against its controls: how good is it, does transfer help at all, and by how much?

All are repeated on fresh seeds and splits (`search.running.finals`), which had no part in choosing the winner, and
recorded in the study one by one. Where there is a single finalist, its own repeats are fresh but for the first. What
they predict for the test rows lies in the study's files, unlooked at until these are opened; see decisions 9 and 10.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging.intervals import Interval, Logits, Measure, gain_on_rows, gain_over_repeats
from promptgraft.search.judging.race import CHOOSING, MIN_REPEATS
from promptgraft.search.judging.rival import Rival, compare_on_folds
from promptgraft.search.judging.verdict import last_repeat
from promptgraft.search.storage import SHARED, Outcome, StudyRecord
from promptgraft.search.wording import difference, rounded, unit

# Fresh repeats are numbered from here on where finalists raced: the best mean of a race is lucky too.
FRESH = 1001
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
    "popular_lately": "most popular items lately",
    "svd": "singular vectors of who had what (PureSVD)",
    "sasrec": "SASRec, by the order of item ids",
    "gru4rec": "GRU4Rec, by the order of item ids",
}
# What studies are of that say nothing else.
_USUAL_KIND = "text_classification"
_UNKNOWN = {
    "not tried": "Whether transfer helps was not found out: nothing to compare with has had two reruns.",
    "no source": "The study names no source, so there was nothing to transfer from.",
}

Outcomes = Mapping[str, Mapping[int, Outcome]]


TransferVerdict = Literal["helped", "made no difference", "hurt", "not tried", "no source"]


@dataclass(frozen=True, slots=True)
class ControlRow:
    """A control, or the winner among them.

    Attributes:
        name: What it is.
        mean: Mean of its repeats; None if all failed.
        standard_error: That of the mean; None with fewer than two.
        repeats: Repeats that have a value.
        failed: Repeats that failed.
        behind: How much better the winner is; None where that is unknown.
    """

    name: str
    mean: float | None
    standard_error: float | None
    repeats: int
    failed: int
    behind: Interval | None


@dataclass(frozen=True, slots=True)
class TransferGain:
    """What the source is worth, and how the winner compares with its controls.

    Attributes:
        level: Of the intervals.
        rows: What it was measured on: `validation` or `test`.
        controls: The winner and its controls.
        warning: Which controls are better than the winner; None if none is shown to be.
        verdict: What the source did.
        sentence: The same in words.
        repeats: Repeats that both sides have.
        gain: How much better it is with the source; None without a comparison.
        low: Lower end of the interval of `gain`.
        high: Its upper end.
    """

    level: float
    rows: str
    controls: tuple[ControlRow, ...]
    warning: str | None
    verdict: TransferVerdict
    sentence: str
    repeats: int
    gain: float | None
    low: float | None
    high: float | None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "TransferGain":
        """Read it as an opening of the test set stores it; older versions didn't compare controls with the winner."""
        controls = [{"behind": None, **entry} for entry in content["controls"]]
        return TypeAdapter(cls).validate_python({"warning": None, **content, "controls": controls})


def control_names(study: optuna.Study) -> Mapping[str, str]:
    """Return what the winner and its controls are called in a study, some of them by its kind of task."""
    kind = StudyRecord.of(study).definition.get("target", {}).get("kind", _USUAL_KIND)
    if kind == _USUAL_KIND:
        return NAMES
    from promptgraft.objectives.data import TASK_KINDS

    return {**NAMES, **TASK_KINDS[kind].baseline_names}


def control_logits_file(trial: int | str, control: str, repeat: int) -> str:
    """Return where what it predicts for the test rows lies in the study's files; `SHARED` for that of all winners."""
    return f"controls/trial-{trial}/{control}-{repeat}.safetensors"


def fresh_repeats(study: optuna.Study, trial: int) -> range:
    """Return the numbers of the repeats that compare a trial with its controls: those that had no part in choosing it.

    The repeats of a race choose its winner, so that it is repeated once more. Among those that qualify for a single
    place, the first repeat chooses, and the others are fresh as they are. A winner that was repeated beside its
    controls nevertheless, as in older versions, keeps these repeats.
    """
    record = StudyRecord.of(study)
    section = record.judging
    if section.finalists == 1 and WINNER not in record.controls(trial):
        return range(CHOOSING + 1, last_repeat(section) + 1)
    return range(FRESH, FRESH + section.repeats)


def winner_outcomes(study: optuna.Study, trial: int) -> dict[int, Outcome]:
    """Return what the fresh repeats of a trial found."""
    record, first = StudyRecord.of(study), fresh_repeats(study, trial).start
    if first == FRESH:
        return record.controls(trial).get(WINNER, {})
    return {repeat: outcome for repeat, outcome in record.repeats.get(trial, {}).items() if repeat >= first}


def control_outcomes(study: optuna.Study, trial: int) -> dict[str, dict[int, Outcome]]:
    """Return what a trial and its controls found: control -> number of the repeat -> outcome; nothing without either.

    Those that aren't trained as candidates are the same for every winner.
    """
    record = StudyRecord.of(study)
    winner, own = winner_outcomes(study, trial), record.controls(trial)
    found = {name: {**shared, **own.get(name, {})} for name, shared in record.controls(SHARED).items()}
    found = {**own, **found, WINNER: winner}
    if not winner or not (own or len(found) > 1):
        return {}
    return {name: _of_one_trial(found[name]) for name in NAMES if name in found}


def _of_one_trial(outcomes: Mapping[int, Outcome]) -> dict[int, Outcome]:
    """Leave out what another trial found that was the best of the search before: the first repeat is run anew first."""
    trial = outcomes[min(outcomes)].trial
    return {repeat: outcome for repeat, outcome in outcomes.items() if outcome.trial == trial}


def transfer(study: optuna.Study, winner: FrozenTrial | None) -> TransferGain | None:
    """Say what the source is worth, by the repeats of the winner and its controls on validation rows.

    Returns:
        None while no winner has had its controls.
    """
    found = control_outcomes(study, winner.number) if winner else {}
    if not found:
        return None
    values = _values(found)

    def gain(ours: str, theirs: str, common: Sequence[int], level: float) -> Interval:
        return gain_over_repeats([values[ours][r] for r in common], [values[theirs][r] for r in common], level)

    level = StudyRecord.of(study).judging.level
    rival = compare_on_folds(study, winner, level) if winner else None
    return Comparison(study, found, values, "validation", gain, rival).table()


def transfer_on_test(
    study: optuna.Study,
    trial: int,
    files: FileStore,
    measure: Measure,
    of: Callable[[Logits], Logits] = lambda logits: logits,
) -> TransferGain | None:
    """Say the same by the test rows, which must have been opened for the trial.

    Args:
        study: The stored study.
        trial: The winner.
        files: The study's files.
        measure: Computes the study's metric on test rows.
        of: Turns logits into what it takes; see `RowMetric`.

    Returns:
        None if the trial has had no controls.
    """
    from promptgraft.objectives.data import TASK_KINDS  # Here, since commands that show a study have no use for it.

    found = control_outcomes(study, trial)
    if not found:
        return None
    kind = TASK_KINDS[StudyRecord.of(study).definition.get("target", {}).get("kind", _USUAL_KIND)]

    def predicted(name: str) -> dict[int, Logits]:
        read = {r: _test_logits(files, trial, name, r) for r in _values(found)[name]}
        return {r: of(own) for r, own in read.items() if own is not None}

    logits = {name: predicted(name) for name in found}

    def gain(ours: str, theirs: str, common: Sequence[int], level: float) -> Interval:
        first, second = ([logits[name][r] for r in common] for name in (ours, theirs))
        return gain_on_rows(first, second, measure, level, bootstrap=kind.bootstrap)

    values = {name: {r: measure(own[r], np.arange(len(own[r]))) for r in own} for name, own in logits.items()}
    (winner,) = (each for each in study.get_trials(deepcopy=False) if each.number == trial)
    rival = compare_on_folds(study, winner, StudyRecord.of(study).judging.level)
    return Comparison(study, found, values, "test", gain, rival).table()


def _test_logits(files: FileStore, trial: int, name: str, repeat: int) -> Logits | None:
    """Read what a control of a trial predicts for the test rows, shape (rows, labels); None if nobody asked for it."""
    for owner in (trial, SHARED):
        try:
            return files.read_logits(control_logits_file(owner, name, repeat))
        except FileNotFoundError:
            continue
    return None


class Comparison:
    """The winner against its controls on some rows.

    Args:
        study: The stored study.
        found: Outcomes of the winner's and the controls' repeats.
        values: Their scores on the rows: control -> number of the repeat -> metric.
        rows: What the rows are: `validation` or `test`.
        gain: Estimates how much larger the metric of one is than that of another, over common repeats, with the level
            of the interval.
        rival: The winner against the best target-only trial of the search, where folds of the search say that.
    """

    def __init__(
        self,
        study: optuna.Study,
        found: Outcomes,
        values: Mapping[str, Mapping[int, float]],
        rows: str,
        gain: Callable[[str, str, Sequence[int], float], Interval],
        rival: Rival | None = None,
    ) -> None:
        self.found, self.values, self.rows = found, values, rows
        self.names = control_names(study)
        repeats = _values(found).get(BEST_TARGET_ONLY, ())
        self.rival = rival if len(repeats) < MIN_REPEATS else None  # Older versions have repeated it.
        record = StudyRecord.of(study)
        self.level, self.has_source = record.judging.level, record.has_source
        self.metric = (study.metric_names or ["value"])[0]
        self.sign = 1 if study.directions[0] == StudyDirection.MAXIMIZE else -1
        self._gain = gain

    def table(self) -> TransferGain:
        """Put it into a table."""
        pair = self._pair()
        common = self._common(*pair) if pair else []
        shown = self.level, self.rows, self._controls(), self._warning()
        if pair is None or len(common) < MIN_REPEATS:
            kind: TransferVerdict = "not tried" if self.has_source else "no source"
            return TransferGain(*shown, kind, _UNKNOWN[kind], 0, None, None, None)
        ours, theirs = pair
        gain, over = self._better(ours, theirs, self.level), f"{len(common)} fresh reruns on {self.rows} rows"
        rival = self._closer_rival(*pair)
        if rival is not None and (gain.low > 0 or rival.gain.low <= 0):  # Folds alone don't show that it helped.
            gain, theirs, over = rival.gain, BEST_TARGET_ONLY, f"{rival.folds} folds of the search, which chose both"
        kind = "helped" if gain.low > 0 else "hurt" if gain.high < 0 else "made no difference"
        said = "made no difference that could be shown" if kind == "made no difference" else kind
        sentence = (
            f"Transfer {said}: {self.names[ours]} against {self.names[theirs]}, {self.metric} better by "
            f"{self._said(gain, self.level)} ({over})."
        )
        return TransferGain(*shown, kind, sentence, len(common), gain.value, gain.low, gain.high)

    def _closer_rival(self, ours: str, theirs: str) -> Rival | None:
        """Return the best target-only trial of the search, if it comes closer to the winner than the control does."""
        if self.rival is None:
            return None
        values = _values(self.found)
        common = values[ours].keys() & values[theirs].keys()
        gain = mean(self.sign * (values[ours][r] - values[theirs][r]) for r in common)
        return self.rival if self.rival.gain.value < gain else None

    def _pair(self) -> tuple[str, str] | None:
        """Choose what is compared: with the source and without it.

        Which of two controls is the better one is read from the validation rows, so that a comparison on the test rows
        is not one with the luckier of them.
        """
        chosen_by = {name: own for name, own in _values(self.found).items() if len(own) >= MIN_REPEATS}
        if chosen_by.get(WITH_SOURCE):
            return WITH_SOURCE, WINNER
        without = [name for name in (TARGET_ONLY, BEST_TARGET_ONLY) if chosen_by.get(name)]
        if not without or WINNER not in chosen_by:
            return None
        return WINNER, max(without, key=lambda name: self.sign * mean(chosen_by[name].values()))

    def _common(self, ours: str, theirs: str) -> list[int]:
        return sorted(self.values.get(ours, {}).keys() & self.values.get(theirs, {}).keys())

    def _better(self, ours: str, theirs: str, level: float) -> Interval:
        """Estimate how much better one is than another, whichever way the metric is better."""
        gain = self._gain(ours, theirs, self._common(ours, theirs), level)
        if self.sign > 0:
            return gain
        return Interval(-gain.value, -gain.high, -gain.low)

    def _controls(self) -> tuple[ControlRow, ...]:
        rows = [
            ControlRow(
                name=self.names[name],
                mean=mean(own.values()) if own else None,
                standard_error=stdev(own.values()) / len(own) ** 0.5 if len(own) > 1 else None,
                repeats=len(own),
                failed=sum(outcome.failure is not None for outcome in self.found[name].values()),
                behind=self._better(WINNER, name, self.level) if name in self._compared() else None,
            )
            for name, own in self.values.items()
        ]
        rival = self.rival
        if rival is not None and self.rows == "validation":
            name = f"{self.names[BEST_TARGET_ONLY]} (folds of the search)"
            rows.append(ControlRow(name, rival.mean, rival.standard_error, rival.folds, 0, rival.gain))
        return tuple(rows)

    def _compared(self) -> list[str]:
        """Return the controls that the winner can be compared with."""
        return [name for name in self.values if name != WINNER and len(self._common(WINNER, name)) >= MIN_REPEATS]

    def _warning(self) -> str | None:
        """Name the controls that are shown to be better than the winner, corrected for their number (Bonferroni)."""
        names = self._compared()
        level = self.level / max(1, len(names))
        means = {name: self.sign * mean(self.values[name].values()) for name in (*names, WINNER) if name in self.values}
        ahead = {name: self._better(name, WINNER, level) for name in names if means[name] > means[WINNER]}
        shown = [f"{self.names[name]} ({self._said(gain, level)})" for name, gain in ahead.items() if gain.low > 0]
        if not shown:
            return None
        return f"Better than the winner on {self.rows} rows: {', '.join(shown)}. Widen the space, or ship that."

    def _said(self, gain: Interval, level: float) -> str:
        value, *ends = (difference(end, self.metric) for end in (gain.value, gain.low, gain.high))
        return f"{value} {unit(self.metric)}, {100 * (1 - level):.3g} % interval {' to '.join(ends)}"


def transfer_lines(table: TransferGain | None, metric: str) -> list[str]:
    """Write a comparison for people; nothing where there is none."""
    if table is None:
        return []
    lines = [table.sentence, *([table.warning] if table.warning else [])]
    width = max(len(entry.name) for entry in table.controls)
    for entry in table.controls:
        error = "" if entry.standard_error is None else f" (standard error {rounded(entry.standard_error)})"
        value = "-" if entry.mean is None else f"{rounded(entry.mean)}{error}"
        failed = f"; {entry.failed} reruns failed" if entry.failed else ""
        lines.append(f"  {entry.name.ljust(width)}  {metric} {value}{failed}")
    return lines


def _values(found: Outcomes) -> dict[str, dict[int, float]]:
    return {name: {r: o.value for r, o in own.items() if o.value is not None} for name, own in found.items()}
