"""`promptgraft export`: the winner as a bundle, and its held-out score beside the controls."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor

from promptgraft.bundles import (
    BackboneReference,
    Examples,
    Manifest,
    Predictor,
    TemplatePart,
    VerbalizerPart,
    demonstration_rows,
    write_bundle,
)
from promptgraft.objectives.backbones import file_hashes, model_folder
from promptgraft.objectives.data import all_labels
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.measures import (
    best_words,
    is_readable,
    majority,
    prompt_as_tokens,
    tfidf,
    written_templates,
)
from promptgraft.objectives.prompting import DemonstrationPools
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting.model_card import render_model_card
from promptgraft.search.judging import (
    NAMES,
    Finalist,
    HeldOut,
    OpenedScores,
    TransferGain,
    check_same,
    control_outcomes,
    logits_of_test_set,
    opened_for,
    openings,
    reach_verdict,
    record_float32_scores,
    rescoring_jobs,
    score_in_float32,
    score_interval,
    transfer_on_test,
    trials_to_rescore,
    winning_trial,
)
from promptgraft.search.storage import (
    DELTA_FILE,
    FLOAT32_LOGITS_FILE,
    LOGITS_FILE,
    PROMPT_AS_TOKENS,
    Float32Score,
    NothingToExportError,
    RunFolder,
    StudyRecord,
    TrialRecord,
    keep_result,
    trial_file,
    write_study,
)
from promptgraft.search.study import Study, row_hashes
from promptgraft.search.trials import float32_scores, metric_of

logger = logging.getLogger(__name__)

# Validation rows that a bundle holds, if nothing else is asked for.
EXAMPLES = 32
# Up to this a value is the same, computed again.
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Export:
    """What an export wrote.

    Attributes:
        folder: The bundle.
        trial: Number of the exported trial.
        validation: The study's metric on validation rows.
        held_out: The winner first, then the controls, on the test rows; none if these stayed sealed.
        test_rows: Number of test rows.
        openings: The trials that the test rows were opened for, in order.
        repeats: What its repeats found, if it was a finalist that had any.
        interval: Ends of the interval of its score on rows like the test rows, if these were opened for it.
        transfer: What the source is worth on them; see `search.judging.transfer_gain.transfer`.
    """

    folder: Path
    trial: int
    validation: float
    held_out: tuple[HeldOut, ...]
    test_rows: int
    openings: tuple[int, ...]
    repeats: Finalist | None = None
    interval: tuple[float, float] | None = None
    transfer: TransferGain | None = None


def export_winner(
    study: Study,
    optuna_study: optuna.Study,
    folder: RunFolder,
    output: Path | None,
    number: int | None,
    *,
    reopen: bool = False,
    with_backbone: bool = False,
    examples: int = EXAMPLES,
    say: Callable[[str], None] = logger.info,
) -> Export:
    """Write the winner as a bundle and compare it with the controls on the held-out rows.

    The weights are those that the trial kept; if they were dropped, it is run again. The test rows are opened once, and
    what the trial scores there is recorded in the study: a second export repeats the record, and that of another trial
    leaves them sealed; see `search.judging.test_set`.

    Args:
        study: The checked study.
        optuna_study: Its record.
        folder: Its folder.
        output: Where to; the folder's `bundle` if None.
        number: The trial to export; the winner if None.
        reopen: Whether to open the test rows though they were opened for another trial.
        with_backbone: Whether the bundle brings the backbone along.
        examples: Validation rows that the bundle holds in clear text, for `verify`.
        say: Is told what takes long.

    Raises:
        InvalidInputError: If the test rows aren't those that the study was started with.
        NothingToExportError: If there is no such trial, or nothing of ours has run it and kept its weights.
    """
    check_same(optuna_study, study.target.test)
    quiet_transformers()
    chosen, files = _choose(optuna_study, number), folder.files()
    if not files.exists(trial_file(chosen.number, DELTA_FILE)):
        _run_again(replace(study.objective, files=folder.files_url), files, chosen, study.file.seed)
    pending = trials_to_rescore(optuna_study, study, [chosen])
    if pending:
        record_float32_scores(
            optuna_study, score_in_float32(replace(study.objective, files=folder.files_url), rescoring_jobs(pending))
        )
    trial = _choose(optuna_study, number)
    score = float32_scores(optuna_study).get(trial.number)
    delta = files.read_tensors(trial_file(trial.number, DELTA_FILE))
    target = output or folder.bundle
    manifest = _manifest(study, trial, score)
    brought = (
        _examples(study, files, trial.number, bool(score), examples),
        model_folder(study.objective.backbone.path) if with_backbone else None,
    )
    write_bundle(target, manifest, delta, render_model_card(study, manifest, None), *brought)
    objective = cache(lambda: Objective(replace(study.objective, backbone=study.objective.backbone.in_float32())))
    _read_prompt(objective, optuna_study, trial, delta, study.file.seed)
    found = opened_for(
        optuna_study,
        trial.number,
        study.target.test,
        lambda: _compare(study, objective(), optuna_study, trial, target, files, say),
        reopen=reopen,
        again=_misses_controls(optuna_study, trial.number),
    )
    held_out = tuple(HeldOut(name, dict(metrics)) for name, metrics in found.table or ()) if found else ()
    if held_out:
        metrics = {**manifest.metrics, "test": held_out[0].metrics}
        intervals = {"test": {study.file.metric: found.interval}} if found and found.interval else {}
        written = manifest.model_copy(update={"metrics": metrics, "intervals": intervals})
        write_bundle(target, written, delta, render_model_card(study, written, found), *brought)
    value = float(score.value if score else metric_of(trial) or 0.0)
    opened = tuple(record.trial for record in openings(optuna_study))
    repeats = next((entry for entry in reach_verdict(optuna_study).finalists if entry.number == trial.number), None)
    interval, transfer = (found.interval, found.transfer) if found else (None, None)
    counts = (len(study.target.test), opened, repeats, interval, TransferGain.from_json(transfer) if transfer else None)
    return Export(target, trial.number, value, held_out, *counts)


def _choose(optuna_study: optuna.Study, number: int | None) -> FrozenTrial:
    if number is None:
        trial = winning_trial(optuna_study)
        if trial is None:
            raise NothingToExportError(f"study {optuna_study.study_name!r} has no COMPLETE trial yet")
        return trial
    trials = {trial.number: trial for trial in optuna_study.get_trials(deepcopy=False)}
    if number not in trials or trials[number].state != TrialState.COMPLETE:
        state = trials[number].state.name if number in trials else "unknown"
        raise NothingToExportError(f"trial {number} is {state}; only COMPLETE trials can be exported")
    return trials[number]


def _run_again(spec: ObjectiveSpec, files: FileStore, trial: FrozenTrial, seed: int) -> None:
    """Compute weights anew that were dropped when better trials came: the same candidate and seed give the same."""
    if not TrialRecord.of(trial).has_candidate:
        raise NothingToExportError(f"trial {trial.number} was not run by promptgraft, so it has no weights to export")
    logger.warning("the weights of trial %d were dropped when others were better: it is run again", trial.number)
    result = Objective(spec).evaluate(TrialRecord.of(trial).candidate, seed)
    before = float(metric_of(trial) or 0.0)
    if abs(result.value - before) > SAME:
        logger.warning(
            "run again, trial %d has %s %.6g in place of %.6g: this machine or its libraries round otherwise",
            *(trial.number, spec.metric, result.value, before),
        )
    keep_result(files, trial.number, result)


def _manifest(study: Study, trial: FrozenTrial, score: Float32Score | None) -> Manifest:
    space, backbone = study.objective.space, study.objective.backbone
    candidate = TrialRecord.of(trial).candidate
    template = space.template(candidate.template)
    verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
    pool = DemonstrationPools(study.target, {}, space).get(candidate, "target", study.file.seed)
    return Manifest(
        study=study.name,
        trial=trial.number,
        seed=study.file.seed,
        candidate=candidate.to_dict(),
        template=TemplatePart(name=template.name, text=template.text),
        verbalizer=VerbalizerPart(name=verbalizer.name, words=dict(verbalizer.words)) if verbalizer else None,
        labels=study.target.labels,
        head_labels=all_labels(study.target, study.sources.values()),
        columns=dict(study.objective.target.fields),
        backbone=BackboneReference(
            path=backbone.path,
            family=backbone.family,
            max_tokens=backbone.max_tokens,
            files=file_hashes(backbone.path),
            trust_remote_code=backbone.trust_remote_code,
            attn_implementation=backbone.in_float32().attn_implementation,
        ),
        evaluation_batch_size=study.objective.evaluation_batch_size,
        metrics={"validation": dict(score.metrics) if score else TrialRecord.of(trial).metrics},
        data=row_hashes(study),
        demonstrations=demonstration_rows(pool, study.target.labels),
    )


def _examples(study: Study, files: FileStore, trial: int, in_float32: bool, count: int) -> Examples | None:
    """Take the first validation rows with the trial's own logits, as its worker computed them."""
    rows = study.target.validation[:count]
    if not rows:
        return None
    name = FLOAT32_LOGITS_FILE if in_float32 else LOGITS_FILE
    try:
        logits = files.read_tensors(trial_file(trial, name))["logits"].float()[: len(rows)]
    except FileNotFoundError:
        logger.warning("the logits of trial %d are gone, so the bundle holds no examples to verify it by", trial)
        return None
    return Examples(rows=tuple(dict(row.fields) for row in rows), logits=tuple(map(tuple, logits.tolist())))


def _read_prompt(
    objective: Callable[[], Objective],
    optuna_study: optuna.Study,
    trial: FrozenTrial,
    delta: Mapping[str, Tensor],
    seed: int,
) -> None:
    """Record what the trial's soft prompt is near to, once; see `objectives.measures.prompt_reading`."""
    candidate = TrialRecord.of(trial).candidate
    if is_readable(candidate.soft_prompt) and StudyRecord.of(optuna_study).reading(trial.number) is None:
        reading = prompt_as_tokens(objective(), candidate, delta, seed)
        write_study(optuna_study, f"{PROMPT_AS_TOKENS}{trial.number}", reading)


def _misses_controls(optuna_study: optuna.Study, number: int) -> bool:
    """Whether the test rows were opened for a trial before all repeats of its controls had been run."""
    known = {entry["name"]: entry["repeats"] for entry in _recorded_controls(optuna_study, number)}
    outcomes = control_outcomes(optuna_study, number)
    return known != {
        NAMES[name]: sum(entry.value is not None for entry in own.values()) for name, own in outcomes.items()
    }


def _recorded_controls(optuna_study: optuna.Study, number: int) -> list[dict[str, Any]]:
    opening = StudyRecord.of(optuna_study).opening(number)
    return list(opening.transfer["controls"]) if opening and opening.transfer else []


def _compare(
    study: Study,
    objective: Objective,
    optuna_study: optuna.Study,
    trial: FrozenTrial,
    bundle: Path,
    files: FileStore,
    say: Callable[[str], None],
) -> OpenedScores:
    """Score the trial and the controls on the test rows; see `search.judging.test_set.opened_for`."""
    task, metric = study.target, study.file.metric
    say(f"opening the test rows: the winner scores {len(task.test)}")
    predictor = Predictor(bundle, trust_remote_code=study.objective.backbone.trust_remote_code)
    logits = predictor.logits([row.fields for row in task.test])
    files.write_tensors(logits_of_test_set(trial.number), {"logits": torch.from_numpy(logits)})

    def measure(found: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> float:
        return task.measure(found, [task.test[index] for index in kept])[metric]

    level = StudyRecord.of(optuna_study).judging.level
    interval = score_interval(logits, measure, metric, level)
    both = (*task.train, *task.validation)
    rows = [
        (f"winner (trial {trial.number})", logits),
        ("majority class", majority(task, task.test)),
        (f"TF-IDF + logistic regression, training rows ({len(task.train)} rows)", tfidf(task, task.test)),
        (
            f"TF-IDF + logistic regression, training and validation rows ({len(both)} rows)",
            tfidf(task, task.test, both),
        ),
        *_zero_shot(objective, say),
    ]
    return OpenedScores(
        tuple((name, task.measure(own, task.test)) for name, own in rows),
        (interval.low, interval.high),
        transfer_on_test(optuna_study, trial.number, files, measure),
    )


def _zero_shot(objective: Objective, say: Callable[[str], None]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """Score every template that the search was given, untrained.

    Each gets the verbalizer with which it does best on the validation rows: the winner's label words were chosen there
    too.
    """
    space, task = objective.spec.space, objective.target
    templates = written_templates(space)
    for number, template in enumerate(templates, 1):
        say(f"untrained, for comparison: template {template.name}, {number} of {len(templates)}")
        chosen = best_words(objective, template, task.validation)
        words = space.verbalizer(chosen.verbalizer).name
        yield f"zero-shot, template {template.name}, words {words}", objective.score(chosen, {}, task.test)
