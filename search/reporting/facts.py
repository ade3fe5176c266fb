"""`promptgraft report`: everything that a study found, as typed facts; `search.reporting.page` shows them."""

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import optuna
import pandas as pd
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from promptgraft.objectives.data import drawn_frame
from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging import NAMES, WINNER, ControlRow
from promptgraft.search.reporting.error_analysis import Errors, analyze_errors
from promptgraft.search.reporting.history import (
    COSTS,
    TemplateFacts,
    TrialFacts,
    VerbalizerFacts,
    history_of,
    names_of,
    templates_of,
    verbalizers_of,
)
from promptgraft.search.reporting.importances import Importances, measure_importances
from promptgraft.search.reporting.other_study import SideBySide
from promptgraft.search.reporting.provenance import Cost, Provenance, TableFacts, cost_of, data_of, provenance_of
from promptgraft.search.reporting.status import Summary, summarize
from promptgraft.search.sampling import study_as_run
from promptgraft.search.storage import (
    DELTA_FILE,
    NothingToExportError,
    Opening,
    StudyRecord,
    StudyReference,
    TrialRecord,
    to_json,
    trial_file,
)
from promptgraft.search.study import Study
from promptgraft.search.trials import metric_of
from promptgraft.spaces import InvalidInputError, Scalar

T = TypeVar("T")

_IDS = ("template", "verbalizer")


def study_with_rows(reference: StudyReference, stored: optuna.Study) -> tuple[Study | None, str | None]:
    """Load a study with its rows and the templates that joined; if that can't be done, say why."""
    try:
        return study_as_run(reference, stored), None
    except (InvalidInputError, OSError) as error:
        return None, str(error)


@dataclass(frozen=True, slots=True)
class Race:
    """What the repeats that chose the winner found.

    Attributes:
        mean: Mean of the metric.
        standard_error: That of the mean.
        values: The metric of each.
    """

    mean: float
    standard_error: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TestScore:
    """What the winner scores on the test rows.

    Attributes:
        value: The study's metric.
        low: Lower end of its interval; None if the opening recorded none.
        high: Its upper end.
        table: Name and metrics of each system, the winner first.
        opened: When the rows were opened.
        who: By whom.
        rows: Their hash.
    """

    __test__ = False  # pytest would take it for tests.

    value: float
    low: float | None
    high: float | None
    table: Sequence[tuple[str, Mapping[str, float]]]
    opened: str
    who: str | None
    rows: str


@dataclass(frozen=True, slots=True)
class Gap:
    """How much better the winner looked in the search.

    Attributes:
        to: Than where.
        value: By how much; positive is optimistic.
    """

    to: str
    value: float


@dataclass(frozen=True, slots=True)
class Frame:
    """A soft prompt that is a frame of pixels.

    Attributes:
        width: In pixels.
        most: The most that it adds to a pixel's channel or takes off, on the scale on which the model reads pixels.
        picture: What it adds, as a data URI of a JPEG file.
    """

    width: int
    most: float
    picture: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reader wants to know first.

    Attributes:
        trial: The winner.
        candidate: Its candidate, with names of template and verbalizer.
        searched: Parameters that were searched.
        in_search: What the search measured.
        best_step: The step at which it was best.
        float32: Its score in float32, if it has one.
        race: What the repeats that chose it found; None without any.
        fresh: What fresh repeats found; None without any.
        fresh_rows: What these were scored on.
        test: What it scores on the test rows; None while they are sealed.
        gaps: How much better it looked in the search.
        costs: What its trial cost.
        example: The first validation row, rendered; None without the rows, or where they are images.
        load_report: What the migration did with the weights.
        frame: Its soft prompt, if that is a frame of pixels and its weights are still there.
    """

    trial: int
    candidate: Mapping[str, Scalar | None]
    searched: tuple[str, ...]
    in_search: float
    best_step: int | None
    float32: float | None
    race: Race | None
    fresh: ControlRow | None
    fresh_rows: str | None
    test: TestScore | None
    gaps: tuple[Gap, ...]
    costs: Mapping[str, float]
    example: str | None
    load_report: str | None
    frame: Frame | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a study found.

    Attributes:
        study: Its name.
        metric: What is optimised.
        direction: `maximize` or `minimize`.
        made: When this was collected.
        level: Of the intervals.
        summary: The study in short.
        answer: What a reader wants to know first.
        history: What every trial did.
        importances: Which knobs mattered.
        templates: Its templates.
        verbalizers: Its verbalizers.
        predictions: What the winner got wrong.
        cost: What it took.
        data: Task -> its table; None without the rows.
        cautions: What may be too good to be true.
        missing: What is left out, and why.
        provenance: Where the numbers come from.
        compared: Another study beside this one, if one was asked for.
    """

    study: str
    metric: str
    direction: str
    made: str
    level: float
    summary: Summary
    answer: Answer
    history: tuple[TrialFacts, ...]
    importances: Importances
    templates: tuple[TemplateFacts, ...]
    verbalizers: tuple[VerbalizerFacts, ...]
    predictions: tuple[Errors, ...]
    cost: Cost
    data: Mapping[str, TableFacts] | None
    cautions: tuple[str, ...]
    missing: tuple[str, ...]
    provenance: Provenance
    compared: SideBySide | None = None


def collect_facts(stored: optuna.Study, study: Study | None, files: FileStore, reason: str | None = None) -> Facts:
    """Collect what a study found. Test rows stay as they are: nothing is scored, and nothing is written.

    Args:
        stored: The study's record.
        study: The study with its rows; None if they can't be read any more, and what needs them is left out.
        files: Its files.
        reason: Why they can't.

    Returns:
        The facts; numbers that aren't finite are None.

    Raises:
        NothingToExportError: If no trial is COMPLETE.
    """
    summary = summarize(stored)
    if summary.winner is None:
        raise NothingToExportError(f"study {stored.study_name!r} has no COMPLETE trial yet, so nothing to report")
    trials, names = stored.get_trials(deepcopy=False), names_of(stored)
    history = history_of(stored, trials, names)
    complete = [entry for entry in history if entry.state == "COMPLETE" and math.isfinite(entry.value or 0.0)]
    # Trials that a user added have no candidate.
    known = [entry for entry in complete if entry.knobs] or complete
    winner = trials[summary.winner.number]
    found, missing = analyze_errors(stored, study.target, files, winner.number) if study else ((), ())
    if study is None:
        missing = (f"data, errors, calibration and the example of a prompt: {reason or 'the rows were not given'}",)
    facts = Facts(
        study=stored.study_name,
        metric=summary.metric,
        direction=stored.directions[0].name.lower(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        level=StudyRecord.of(stored).judging.level,
        summary=summary,
        answer=_answer(stored, summary, winner, names, study, files),
        history=history,
        importances=measure_importances([own.knobs for own in known], [own.value or 0.0 for own in known]),
        templates=templates_of(stored, history),
        verbalizers=verbalizers_of(stored),
        predictions=found,
        cost=cost_of(stored, trials, summary),
        data=data_of(stored, study) if study else None,
        cautions=tuple(study.cautions) if study else (),
        missing=missing,
        provenance=provenance_of(stored, trials, summary),
    )
    return _finite(facts)


def _answer(
    stored: optuna.Study,
    summary: Summary,
    winner: FrozenTrial,
    names: Mapping[str, str],
    study: Study | None,
    files: FileStore,
) -> Answer:
    """Put together what a reader wants to know first."""
    transfer, own = summary.transfer, TrialRecord.of(winner)
    fresh = next((entry for entry in transfer.controls if entry.name == NAMES[WINNER]), None) if transfer else None
    raced = next((entry for entry in summary.verdict.finalists if entry.number == winner.number), None)
    test = _test_score(StudyRecord.of(stored).opening(winner.number), summary.metric)
    searched = float(metric_of(winner) or 0.0)
    sign = 1 if stored.directions[0] == StudyDirection.MAXIMIZE else -1
    since = {"the reruns that chose it": raced.mean if raced else None}
    since |= {f"fresh reruns on {transfer.rows} rows" if transfer else "fresh reruns": fresh.mean if fresh else None}
    since |= {"the test rows": test.value if test else None}
    costs = {name: cost for name in COSTS if (cost := own.figure(name)) is not None}
    scored = summary.winner.float32 if summary.winner else None
    return Answer(
        trial=winner.number,
        candidate={name: names.get(value, value) if name in _IDS else value for name, value in own.values.items()},
        searched=tuple(sorted(winner.params)),
        in_search=searched,
        best_step=own.best_step,
        float32=scored.value if scored else None,
        race=Race(raced.mean, raced.standard_error, raced.values) if raced else None,
        fresh=fresh,
        fresh_rows=transfer.rows if transfer else None,
        test=test,
        gaps=tuple(Gap(name, sign * (searched - late)) for name, late in since.items() if late is not None),
        costs=costs,
        example=_example(study, own.values) if study else None,
        load_report=own.load_report,
        frame=_frame(files, winner.number) if own.values.get("soft_prompt.place") == "frame" else None,
    )


def _frame(files: FileStore, trial: int) -> Frame | None:
    """Draw a trial's frame; None if it has none, or its weights were dropped."""
    try:
        weights = files.read_arrays(trial_file(trial, DELTA_FILE))
    except OSError:
        return None
    prefix = "soft_prompt."
    sides = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not sides:
        return None
    picture = b64encode(drawn_frame(sides)).decode()
    most = max(float(abs(own).max()) for own in sides.values())
    return Frame(sides["top"].shape[1], most, f"data:image/jpeg;base64,{picture}")


def _test_score(opening: Opening | None, metric: str) -> TestScore | None:
    if opening is None or not opening.table:
        return None
    low, high = opening.interval or (None, None)
    value = opening.table[0][1][metric]
    return TestScore(value, low, high, opening.table, opening.opened, opening.who, opening.rows)


def _example(study: Study, candidate: Mapping[str, Any]) -> str | None:
    """Render the first validation row with a candidate's template, its label in brackets, demonstrations aside.

    Returns:
        The text; None without rows, or where it shows images, of which it would be the path.
    """
    template = next((t for t in study.objective.space.templates if t.id == candidate.get("template")), None)
    if template is None or not study.target.validation or (study.target.reads != "text" and template.fields):
        return None
    row = study.target.validation[0]
    return template.render(row.fields).with_label(f"[{study.target.show(row)}]")


def fact_tables(facts: Facts) -> dict[str, pd.DataFrame]:
    """Return a report's tables: `trials`, `curves`, `finalists`, `controls` and `importances`."""
    trials = [
        {name: value for name, value in entry.items() if name not in ("knobs", "curve", "values")}
        | {f"values.{name}": value for name, value in entry["values"].items()}
        | {f"params.{name}": value for name, value in entry["knobs"].items()}
        for entry in to_json(facts.history)
    ]
    curves = [(entry["trial"], *point) for entry in to_json(facts.history) for point in entry["curve"]]
    judged = to_json(facts.summary.verdict.finalists)
    repeats = [
        {name: value for name, value in entry.items() if name != "values"}
        | {f"repeat_{place}": value for place, value in enumerate(entry["values"], 1)}
        for entry in judged
    ]
    columns = ["name", "mean", "standard_error", "repeats", "failed"]
    controls = pd.json_normalize(to_json(facts.summary.transfer.controls) if facts.summary.transfer else [])
    return {
        "trials": pd.DataFrame(trials),
        "curves": pd.DataFrame(curves, columns=["trial", "step", "value"]),
        "finalists": pd.DataFrame(repeats, columns=None if repeats else ["number", "mean", "standard_error"]),
        "controls": controls if len(controls) else pd.DataFrame(columns=columns),
        "importances": pd.DataFrame(
            to_json(facts.importances.knobs), columns=["name", "importance", "low", "high", "by_chance"]
        ),
    }


def _finite(value: T) -> T:
    """Replace numbers that JSON doesn't know by None."""
    found: Any = value
    if is_dataclass(value) and not isinstance(value, type):
        changes = {entry.name: _finite(getattr(value, entry.name)) for entry in fields(value)}
        found = replace(value, **changes)
    elif isinstance(value, Mapping):
        found = {name: _finite(own) for name, own in value.items()}
    elif isinstance(value, list | tuple):
        found = type(value)(_finite(own) for own in value)
    elif isinstance(value, float) and not math.isfinite(value):
        found = None
    return cast("T", found)
