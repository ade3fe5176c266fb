"""`promptgraft status` and `best`: the study read back, without torch or Ray."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.judging import (
    collect_learning_curves,
    curve_lines,
    reach_verdict,
    transfer,
    transfer_lines,
    verdict_lines,
)
from promptgraft.search.storage import Float32Score, StudyRecord, TrialRecord, is_alive
from promptgraft.search.trials import (
    FINISHED,
    DiskUse,
    Forecast,
    Limits,
    best_trial,
    compute_seconds,
    describe_use,
    float32_scores,
    forecast,
    front_table,
    metric_of,
)
from promptgraft.search.wording import duration, size


def summarize(study: optuna.Study) -> dict[str, Any]:
    """Summarise a study in JSON types.

    Returns:
        `study`, `states` (name -> count), `best` (`number`, `value`, `candidate`, and `float32` if it was scored again
        in it; None if there is none), `winner` (the same of the trial that won), `reading` (of its soft prompt as
        tokens; None before it was exported), `verdict` (see `judging`), `transfer`
        (what the source is worth, see `comparison`; by the test rows once they were opened), `learning_curves`, `front`
        (with several objectives: `number` and `values` of the trials that none dominates), `test_openings` (`trial`,
        `opened`, `who` and the hash of `rows`), `finalists` (number -> value in float32), `finished` (complete or
        pruned), `wanted`, `metric`, `drivers` (that have live trials), `orphans` (left RUNNING by a dead driver),
        `interrupted` (cut off through no fault of theirs), `retries` (of lost trials), `seconds` (of all trials),
        `budget` (limit -> use in words), `forecast` (`limit`, `ends_at`, `trials`; None if there is none), `shared`
        (`found` and `computed` stages, `saved_s`), `pool` and `disk` (`used_bytes`, `free_bytes`).
    """
    now = time.time()
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in trials)
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    owners = {trial.number: TrialRecord.of(trial).owner for trial in running}
    dead = {number for number, owner in owners.items() if is_alive(owner) is False}
    live = [owner for number, owner in owners.items() if owner is not None and number not in dead]
    drivers = {(owner.host, owner.pid) for owner in live}
    # What a dead driver left RUNNING uses nothing, and waits for the next run to be queued again.
    trials = [trial for trial in trials if trial.number not in dead]
    scores, best, judged = float32_scores(study), best_trial(study), reach_verdict(study)
    record, run = StudyRecord.of(study), StudyRecord.of(study).run
    limits = Limits(**run.limits) if run else Limits(record.wanted or 0)
    if not drivers:
        limits = replace(limits, ends_at=None)  # That was the time of a run that is over.
    use = _disk_use(run.files) if run else None
    places = max(len(live), run.concurrent if run else 1)
    ahead = forecast(trials, limits, places, now) if drivers else None
    reading = record.reading((judged.winner or best).number) if best else None
    return {
        "study": study.study_name,
        "metric": (study.metric_names or ["value"])[0],
        "states": dict(states),
        "finished": sum(trial.state in FINISHED for trial in trials),
        "wanted": record.wanted,
        "best": _shown(best, scores),
        "winner": _shown(judged.winner or best, scores),
        "reading": asdict(reading) if reading else None,
        "verdict": judged.table(),
        "transfer": _transfer(study, judged.winner),
        "learning_curves": collect_learning_curves(study, judged.winner),
        "front": front_table(study),
        "test_openings": [
            {name: getattr(entry, name) for name in ("trial", "opened", "who", "rows")} for entry in record.openings
        ],
        "finalists": {number: score.value for number, score in sorted(scores.items())},
        "drivers": len(drivers),
        "orphans": len(dead),
        "interrupted": sum(TrialRecord.of(trial).is_interrupted for trial in trials),
        "retries": sum(TrialRecord.of(trial).retry_of is not None for trial in trials),
        "seconds": round(compute_seconds(trials, now), 1),
        "budget": describe_use(trials, limits, use.used_bytes if use else None, now),
        "forecast": asdict(ahead) if ahead else None,
        "shared": {
            "found": _total(trials, "stages_found"),
            "computed": _total(trials, "stages_computed"),
            "saved_s": round(_total(trials, "seconds_saved"), 1),
        },
        "pool": record.pool.to_json(),
        "disk": {"used_bytes": use.used_bytes, "free_bytes": use.free_bytes} if use else None,
    }


def status_lines(summary: dict[str, Any]) -> list[str]:
    """Write a summary for people."""
    best = summary["best"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(summary["states"].items()))
    shown = f"best {summary['metric']} {best['value']:.4f} (trial {best['number']})" if best else "no best yet"
    lines = [f"{summary['study']}: {summary['finished']}/{summary['wanted']} finished; {states}; {shown}"]
    use = "; ".join(f"{name} {value}" for name, value in summary["budget"].items() if name != "trials")
    free = (summary["disk"] or {}).get("free_bytes")
    lines.append(f"  used      {use}" + (f"; {size(free)} of disk free" if free is not None else ""))
    shared = summary["shared"]
    if shared["computed"]:
        found, computed = int(shared["found"]), int(shared["computed"])
        lines.append(
            f"  shared    {duration(shared['saved_s'])} saved: {computed} stages computed, found {found} times"
        )
    pool = summary["pool"]
    if pool["rounds"]:
        joined = f"{len(pool['templates'])} templates and {len(pool['verbalizers'])} verbalizers joined"
        lines.append(f"  pool      {joined} in {pool['rounds']} rounds")
    if summary["finalists"]:
        scored = ", ".join(f"trial {number} {value:.4f}" for number, value in summary["finalists"].items())
        lines.append(f"  float32   finalists scored again: {scored}")
    lines += [f"  {line}" for line in verdict_lines(summary["verdict"], summary["metric"])]
    lines += [f"  {line}" for line in transfer_lines(summary["transfer"], summary["metric"])]
    lines += [f"  {line}" for line in curve_lines(summary["learning_curves"], summary["metric"])]
    if summary["reading"]:
        lines.append(f"  {reading_line(summary['reading'], summary['metric'])}")
    opened = ", ".join(f"{entry['opened']} for trial {entry['trial']}" for entry in summary["test_openings"])
    lines.append(f"  test rows {'opened ' + opened if opened else 'sealed'}")
    if summary["front"]:
        lines += ["  front     trials that no other one dominates:", *front_lines(summary["front"])]
    if summary["forecast"]:
        lines.append(f"  forecast  {Forecast(**summary['forecast'])}")
    lines.append(f"  drivers   {summary['drivers'] or 'none'} at work" + _left_by_dead(summary["orphans"]))
    if summary["interrupted"]:
        lines.append(f"  cut off   {summary['interrupted']} trials; {summary['retries']} queued again")
    return lines


def _transfer(study: optuna.Study, winner: FrozenTrial | None) -> dict[str, Any] | None:
    """Return what the source is worth, by the test rows if they were opened for the winner."""
    opening = StudyRecord.of(study).opening(winner.number) if winner is not None else None
    recorded = dict(opening.transfer) if opening and opening.transfer else None
    return recorded or transfer(study, winner)


def reading_line(reading: Mapping[str, Any], metric: str) -> str:
    """Say what a soft prompt is near to, and what it scores as that."""
    tokens = " ".join(f"{token.strip()!r}" for token in reading["tokens"])
    return (
        f"soft prompt: nearest tokens {tokens}, cosine {min(reading['similarities']):.2f} to "
        f"{max(reading['similarities']):.2f}; validation {metric} {reading['value']:.4f} as trained, "
        f"{reading['as_tokens']:.4f} with these in its place, {reading['as_random']:.4f} with random ones"
    )


def _shown(trial: FrozenTrial | None, scores: Mapping[int, Float32Score]) -> dict[str, Any] | None:
    if trial is None:
        return None
    shown = {"number": trial.number, "value": metric_of(trial), "candidate": TrialRecord.of(trial).values or None}
    return shown | ({"float32": asdict(scores[trial.number])} if trial.number in scores else {})


def front_lines(front: list[dict[str, Any]]) -> list[str]:
    """Write a Pareto front as a table for people."""
    names = list(front[0]["values"])
    rows = [["trial", *names]] + [
        [str(entry["number"]), *(f"{value:.6g}" for value in entry["values"].values())] for entry in front
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["    " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def _left_by_dead(orphans: int) -> str:
    return f"; {orphans} RUNNING left by one that died, which the next run starts again" if orphans else ""


def _total(trials: list[FrozenTrial], attr: str) -> float:
    return sum(float(TrialRecord.of(trial).figure(attr) or 0) for trial in trials)


def _disk_use(url: str) -> DiskUse:
    files = FileStore(url)
    return DiskUse(sum(file.size_bytes for file in files.files()), files.free_bytes())
