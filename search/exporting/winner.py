"""`promptgraft export`: the winner as a bundle, and its held-out score beside the controls."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch

from promptgraft.bundles import (
    BackboneReference,
    Examples,
    Manifest,
    TemplatePart,
    VerbalizerPart,
    demonstration_rows,
    write_bundle,
)
from promptgraft.objectives.backbones import file_hashes, model_folder
from promptgraft.objectives.data import WHOLE, Split, all_labels
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
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting.exported_trial import ExportedTrial, as_shipped, load_trial
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
    score_interval,
    transfer,
    transfer_on_test,
)
from promptgraft.search.storage import (
    FLOAT32_LOGITS_FILE,
    LOGITS_FILE,
    PROMPT_AS_TOKENS,
    REFIT_LOGITS_FILE,
    NothingToExportError,
    RunFolder,
    StudyRecord,
    TrialRecord,
    trial_file,
    write_study,
)
from promptgraft.search.study import Study, row_hashes

logger = logging.getLogger(__name__)

# Validation rows that a bundle holds, if nothing else is asked for.
EXAMPLES = 32


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


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the command line decides about an export.

    Attributes:
        output: Folder to write; the study's `bundle` if None.
        trial: Number of the trial to export; the winner if None.
        anyway: Whether to export a winner that a baseline is shown to be better than.
        reopen: Whether to open the test rows though they were opened for another trial.
        with_backbone: Whether the bundle brings the backbone along.
        examples: Validation rows that the bundle holds in clear text, for `verify`.
    """

    output: Path | None = None
    trial: int | None = None
    anyway: bool = False
    reopen: bool = False
    with_backbone: bool = False
    examples: int = EXAMPLES


def export_winner(
    study: Study,
    optuna_study: optuna.Study,
    folder: RunFolder,
    options: ExportOptions | None = None,
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
        options: Which trial, where to, and with what; the defaults if None.
        say: Is told what takes long.

    Raises:
        InvalidInputError: If the test rows aren't those that the study was started with.
        NothingToExportError: If there is no such trial, or nothing of ours has run it and kept its weights.
    """
    options = options or ExportOptions()
    check_same(optuna_study, study.target.test)
    quiet_transformers()
    if options.trial is None and not options.anyway:
        _refuse_what_is_worse(optuna_study)
    winner = load_trial(study, optuna_study, folder, options.trial, say)
    number = winner.trial.number
    manifest, examples = _manifest(winner), _examples(winner, options.examples)
    backbone = model_folder(study.objective.backbone.path) if options.with_backbone else None
    _read_prompt(winner)
    found = opened_for(
        optuna_study,
        number,
        study.target.test,
        lambda: _compare(winner, say),
        reopen=options.reopen,
        again=_misses_controls(optuna_study, number),
    )
    held_out = tuple(HeldOut(name, dict(metrics)) for name, metrics in found.table or ()) if found else ()
    interval, transfer = (found.interval, found.transfer) if found else (None, None)
    if held_out:
        metrics = {**manifest.metrics, "test": held_out[0].metrics}
        intervals = {"test": {study.file.metric: interval}} if interval else {}
        manifest = manifest.model_copy(update={"metrics": metrics, "intervals": intervals})
    target = options.output or folder.bundle
    write_bundle(target, manifest, winner.delta, render_model_card(study, manifest, found), examples, backbone)
    return Export(
        folder=target,
        trial=number,
        validation=winner.validation,
        held_out=held_out,
        test_rows=len(study.target.test),
        openings=tuple(record.trial for record in openings(optuna_study)),
        repeats=next((entry for entry in reach_verdict(optuna_study).finalists if entry.number == number), None),
        interval=interval,
        transfer=TransferGain.from_json(transfer) if transfer else None,
    )


def _refuse_what_is_worse(optuna_study: optuna.Study) -> None:
    """Refuse to ship a winner of the race that one of its controls is shown to be better than."""
    found = transfer(optuna_study, reach_verdict(optuna_study).winner)
    if found is not None and found.warning:
        raise NothingToExportError(
            f"{found.warning} To export the winner all the same: --anyway; another trial: --trial N"
        )


def _manifest(winner: ExportedTrial) -> Manifest:
    study, trial, candidate = winner.study, winner.trial, winner.candidate
    space, backbone = study.objective.space, study.objective.backbone
    template = space.template(candidate.template)
    verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
    pool = DemonstrationPools(as_shipped(study.target), {}, space).get(candidate, "target", study.file.seed)
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
        metrics={"validation": dict(winner.score.metrics) if winner.score else TrialRecord.of(trial).metrics},
        data=row_hashes(study),
        demonstrations=demonstration_rows(pool, study.target.labels),
    )


def _examples(winner: ExportedTrial, count: int) -> Examples | None:
    """Take the first rows that it was scored by, or refitted on, with the logits that were computed then."""
    rows, number = as_shipped(winner.study.target).validation[:count], winner.trial.number
    if not rows:
        return None
    name = FLOAT32_LOGITS_FILE if winner.score else LOGITS_FILE
    if winner.study.target.folds > 1:
        name = REFIT_LOGITS_FILE
    try:
        logits = winner.files.read_tensors(trial_file(number, name))["logits"].float()[: len(rows)]
    except FileNotFoundError:
        logger.warning("the logits of trial %d are gone, so the bundle holds no examples to verify it by", number)
        return None
    return Examples(rows=tuple(dict(row.fields) for row in rows), logits=tuple(map(tuple, logits.tolist())))


def _read_prompt(winner: ExportedTrial) -> None:
    """Record what the trial's soft prompt is near to, once; see `objectives.measures.prompt_reading`."""
    candidate, number = winner.candidate, winner.trial.number
    if is_readable(candidate.soft_prompt) and StudyRecord.of(winner.stored).reading(number) is None:
        reading = prompt_as_tokens(winner.objective, candidate, winner.delta, winner.study.file.seed)
        write_study(winner.stored, f"{PROMPT_AS_TOKENS}{number}", reading)


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


def _compare(winner: ExportedTrial, say: Callable[[str], None]) -> OpenedScores:
    """Score the trial and the controls on the test rows; see `search.judging.test_set.opened_for`."""
    study, number = winner.study, winner.trial.number
    task, metric = as_shipped(study.target), study.file.metric
    winner.objective.use_split(WHOLE if task.folds > 1 else Split())
    say(f"opening the test rows: the winner scores {len(task.test)}")
    logits = winner.objective.score(winner.candidate, winner.delta, task.test, study.file.seed)
    winner.files.write_tensors(logits_of_test_set(number), {"logits": torch.from_numpy(logits)})

    def measure(found: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> float:
        return task.measure(found, [task.test[index] for index in kept])[metric]

    level = StudyRecord.of(winner.stored).judging.level
    interval = score_interval(logits, measure, metric, level)
    rows = [
        (f"winner (trial {number})", logits),
        ("majority class", majority(task, task.test)),
        (
            f"TF-IDF + logistic regression, all labelled rows ({len(task.labelled)} rows)",
            tfidf(task, task.test, task.labelled),
        ),
        *_zero_shot(winner.objective, say),
    ]
    return OpenedScores(
        tuple((name, task.measure(own, task.test)) for name, own in rows),
        (interval.low, interval.high),
        transfer_on_test(winner.stored, number, winner.files, measure),
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
