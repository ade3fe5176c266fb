"""`promptgraft status` and `best`: the study read back, without torch or Ray."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.measures import PromptAsTokens
from promptgraft.search.judging import (
    LearningCurves,
    TransferGain,
    VerdictTable,
    collect_learning_curves,
    curve_lines,
    headline_of,
    reach_verdict,
    transfer,
    transfer_lines,
    verdict_lines,
)
from promptgraft.search.reporting.run_view import orphans_and_owners, run_goes_on
from promptgraft.search.storage import Float32Score, Pool, StudyRecord, TrialRecord, own_files
from promptgraft.search.trials import (
    FINISHED,
    Forecast,
    FrontTrial,
    Limits,
    best_trial,
    compute_seconds,
    describe_use,
    float32_scores,
    forecast,
    front_table,
    leading_trial,
    metric_of,
)
from promptgraft.search.wording import duration, rounded, size
from promptgraft.spaces import MASK, InvalidInputError


@dataclass(frozen=True, slots=True)
class ShownTrial:
    """A trial as `status` and `best` show it.

    Attributes:
        number: The trial.
        value: The study's metric on validation rows, as the search measured it.
        candidate: Its candidate; None for a trial that a user added.
        float32: What it scores in float32; left out where it wasn't scored again.
    """

    number: int
    value: float | None
    candidate: Mapping[str, Any] | None
    float32: Float32Score | None = None


@dataclass(frozen=True, slots=True)
class BestTrial(ShownTrial):
    """The winner, or the best trial so far, as `best` shows it.

    Attributes:
        number: The trial.
        value: The study's metric on validation rows, as the search measured it.
        candidate: Its candidate.
        float32: What it scores in float32; left out where it wasn't scored again.
        front: With several objectives, the trials that no other one dominates; left out with a single one.
    """

    front: tuple[FrontTrial, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedTestSet:
    """An opening of the test set.

    Attributes:
        trial: The trial that it was opened for.
        opened: When.
        who: Who opened it.
        rows: Hash of the rows.
    """

    trial: int
    opened: str
    who: str | None
    rows: str


@dataclass(frozen=True, slots=True)
class Shared:
    """What trials shared.

    Attributes:
        found: How often a stage was found that another trial had computed.
        computed: How often one was computed.
        saved_s: Seconds that this saved.
    """

    found: float
    computed: float
    saved_s: float


@dataclass(frozen=True, slots=True)
class Disk:
    """What a study takes up.

    Attributes:
        used_bytes: All its files.
        free_bytes: Room on its disk; None if it isn't a local one.
    """

    used_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """A study in short.

    Attributes:
        study: Its name.
        headline: What to ship, in a sentence; None before there is a COMPLETE trial.
        metric: What is optimised.
        states: State -> number of trials.
        finished: Trials that are COMPLETE or PRUNED.
        wanted: Finished trials to reach.
        best: The best trial of the search; None if there is none.
        winner: The trial that won, or else the best.
        reading: The winner's soft prompt read as tokens; None before it was exported.
        verdict: What the repeats of the best trials say.
        transfer: What the source is worth, by the test rows once they were opened; None without controls.
        learning_curves: What more data may be worth; None without curves.
        front: With several objectives, the trials that no other one dominates.
        test_openings: Openings of the test set.
        finalists: Trial -> value in float32.
        stages: Live trial -> the stage that it is in, if that takes long.
        drivers: Drivers that have live trials.
        running: Whether a run goes on: its trials, or the judging of its winner.
        orphans: Trials left RUNNING by a dead driver.
        interrupted: Trials that were cut off through no fault of theirs.
        retries: Trials that run lost ones again.
        seconds: Time of all trials together.
        budget: Limit -> use, in words.
        forecast: When the search will end; None while that is unknown.
        shared: What trials shared.
        pool: What joined while it ran.
        disk: What it takes up; None before its first run.
    """

    study: str
    headline: str | None
    metric: str
    states: Mapping[str, int]
    finished: int
    wanted: int | None
    best: ShownTrial | None
    winner: ShownTrial | None
    reading: PromptAsTokens | None
    verdict: VerdictTable
    transfer: TransferGain | None
    learning_curves: LearningCurves | None
    front: tuple[FrontTrial, ...]
    test_openings: tuple[OpenedTestSet, ...]
    finalists: Mapping[int, float]
    stages: Mapping[int, str]
    drivers: int
    running: bool
    orphans: int
    interrupted: int
    retries: int
    seconds: float
    budget: Mapping[str, str]
    forecast: Forecast | None
    shared: Shared
    pool: Pool
    disk: Disk | None

    @property
    def best_trial(self) -> BestTrial | None:
        """What `best` shows."""
        won = self.winner
        return BestTrial(won.number, won.value, won.candidate, won.float32, self.front) if won else None


def summarize(study: optuna.Study) -> Summary:
    """Summarise a study."""
    now = time.time()
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    record, run = StudyRecord.of(study), StudyRecord.of(study).run
    dead, live = orphans_and_owners(trials)
    drivers = {(owner.host, owner.pid) for owner in live}
    # What a dead driver left RUNNING uses nothing, and waits for the next run to be queued again.
    trials = [trial for trial in trials if trial.number not in dead]
    scores, judged = float32_scores(study), reach_verdict(study)
    winner = judged.winner or leading_trial(study)
    limits = Limits(**run.limits) if run else Limits(record.wanted or 0)
    if not drivers:
        limits = replace(limits, ends_at=None)  # That was the time of a run that is over.
    use = _disk_use(run.files) if run else None
    places = max(len(live), run.concurrent if run else 1)
    ahead = forecast(trials, limits, places, now) if drivers else None
    return Summary(
        study=study.study_name,
        headline=headline_of(study),
        metric=(study.metric_names or ["value"])[0],
        states=dict(states),
        finished=sum(trial.state in FINISHED for trial in trials),
        wanted=record.wanted,
        best=_shown(best_trial(study), scores),
        winner=_shown(winner, scores),
        reading=record.reading(winner.number) if winner else None,
        verdict=judged.table(),
        transfer=_transfer(study, judged.winner),
        learning_curves=collect_learning_curves(study, judged.winner),
        front=front_table(study),
        test_openings=tuple(OpenedTestSet(own.trial, own.opened, own.who, own.rows) for own in record.openings),
        finalists={number: score.value for number, score in sorted(scores.items())},
        stages={
            t.number: stage for t in trials if t.state == TrialState.RUNNING and (stage := TrialRecord.of(t).stage)
        },
        drivers=len(drivers),
        running=bool(drivers) or run_goes_on(run),
        orphans=len(dead),
        interrupted=sum(TrialRecord.of(trial).is_interrupted for trial in trials),
        retries=sum(TrialRecord.of(trial).retry_of is not None for trial in trials),
        seconds=round(compute_seconds(trials, now), 1),
        budget=describe_use(trials, limits, use.used_bytes if use else None, now),
        forecast=ahead,
        shared=Shared(
            _total(trials, "stages_found"),
            _total(trials, "stages_computed"),
            round(_total(trials, "seconds_saved"), 1),
        ),
        pool=record.pool,
        disk=use,
    )


def status_lines(summary: Summary) -> list[str]:
    """Write a summary for people."""
    best = summary.best
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items()))
    shown = f"best {summary.metric} {rounded(best.value)} (trial {best.number})" if best else "no best yet"
    lines = [f"{summary.study}: {summary.finished}/{summary.wanted} finished; {states}; {shown}"]
    if summary.headline:
        lines.append(f"  {summary.headline}")
    use = "; ".join(f"{name} {value}" for name, value in summary.budget.items() if name != "trials")
    free = summary.disk.free_bytes if summary.disk else None
    lines.append(f"  used      {use}" + (f"; {size(free)} of disk free" if free is not None else ""))
    shared = summary.shared
    if shared.computed:
        found, computed = int(shared.found), int(shared.computed)
        lines.append(f"  shared    {duration(shared.saved_s)} saved: {computed} stages computed, found {found} times")
    pool = summary.pool
    if pool.rounds:
        joined = f"{len(pool.templates)} templates and {len(pool.verbalizers)} verbalizers joined"
        lines.append(f"  pool      {joined} in {pool.rounds} rounds")
    if summary.finalists:
        scored = ", ".join(f"trial {number} {rounded(value)}" for number, value in summary.finalists.items())
        lines.append(f"  float32   finalists scored again: {scored}")
    lines += [f"  {line}" for line in verdict_lines(summary.verdict, summary.metric)]
    lines += [f"  {line}" for line in transfer_lines(summary.transfer, summary.metric)]
    lines += [f"  {line}" for line in curve_lines(summary.learning_curves, summary.metric)]
    if summary.reading:
        lines.append(f"  {reading_line(summary.reading, summary.metric)}")
    opened = ", ".join(f"{entry.opened} for trial {entry.trial}" for entry in summary.test_openings)
    lines.append(f"  test rows {'opened ' + opened if opened else 'sealed'}")
    if summary.front:
        lines += ["  front     trials that no other one dominates:", *front_lines(summary.front)]
    if summary.forecast:
        lines.append(f"  forecast  {summary.forecast}")
    is_judging = summary.running and not summary.drivers
    at_work = "judging the winner" if is_judging else f"{summary.drivers or 'none'} at work"
    lines.append(f"  drivers   {at_work}" + _left_by_dead(summary.orphans))
    lines += [f"  trial {number:<4}{stage}" for number, stage in summary.stages.items()]
    if summary.interrupted:
        lines.append(f"  cut off   {summary.interrupted} trials; {summary.retries} queued again")
    return lines


def _stages(trials: Sequence[FrozenTrial]) -> dict[int, str]:
    stages = {own.number: TrialRecord.of(own).stage for own in trials if own.state == TrialState.RUNNING}
    return {number: stage for number, stage in stages.items() if stage}


def _transfer(study: optuna.Study, winner: FrozenTrial | None) -> TransferGain | None:
    """Return what the source is worth, by the test rows if they were opened for the winner."""
    opening = StudyRecord.of(study).opening(winner.number) if winner is not None else None
    if opening is not None and opening.transfer:
        return TransferGain.from_json(opening.transfer)
    return transfer(study, winner)


def reading_line(reading: PromptAsTokens, metric: str) -> str:
    """Say what a soft prompt is near to, and what it scores as that."""
    tokens = " ".join(f"{token.strip()!r}" for token in reading.tokens)
    return (
        f"soft prompt: nearest tokens {tokens}, cosine {min(reading.similarities):.2f} to "
        f"{max(reading.similarities):.2f}; validation {metric} {rounded(reading.value)} as trained, "
        f"{rounded(reading.as_tokens)} with these in its place, {rounded(reading.as_random)} with random ones"
    )


def _shown(trial: FrozenTrial | None, scores: Mapping[int, Float32Score]) -> ShownTrial | None:
    if trial is None:
        return None
    return ShownTrial(trial.number, metric_of(trial), TrialRecord.of(trial).values or None, scores.get(trial.number))


def front_lines(front: Sequence[FrontTrial]) -> list[str]:
    """Write a Pareto front as a table for people."""
    names = list(front[0].values)
    rows = [["trial", *names]] + [
        [str(entry.number), *(f"{value:.6g}" for value in entry.values.values())] for entry in front
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["    " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _left_by_dead(orphans: int) -> str:
    return f"; {orphans} RUNNING left by one that died, which the next run starts again" if orphans else ""


def _total(trials: list[FrozenTrial], attr: str) -> float:
    return sum(float(TrialRecord.of(trial).figure(attr) or 0) for trial in trials)


def _disk_use(url: str) -> Disk | None:
    """Return what a study takes up; None where its files can't be reached from here."""
    if MASK in url:
        return None
    try:
        files = FileStore(url)
        return Disk(sum(file.size_bytes for file in own_files(files)), files.free_bytes())
    except (InvalidInputError, OSError):
        return None
