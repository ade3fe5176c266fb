"""`promptgraft export`: the winner as a bundle, and its held-out score beside the controls."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import torch

from promptgraft.bundles import TOLERANCE, Examples, Manifest, Staging, staged_bundle, verify
from promptgraft.objectives.backbones import model_folder
from promptgraft.objectives.data import WHOLE, Outputs, Split, Task
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.measures import (
    best_words,
    has_zero_shot,
    is_readable,
    prompt_as_tokens,
    tfidf,
    written_templates,
)
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.exporting.confidence import Confidence, measure_confidence, scored_outputs
from promptgraft.search.exporting.exported_trial import ExportedTrial, as_shipped, load_trial
from promptgraft.search.exporting.model_card import render_model_card
from promptgraft.search.exporting.shipped import Shipped, examples_of, manifest_of
from promptgraft.search.judging import (
    Finalist,
    HeldOut,
    OpenedScores,
    RowMetric,
    TransferGain,
    check_same,
    control_names,
    control_outcomes,
    logits_of_test_set,
    opened_for,
    openings,
    reach_verdict,
    score_interval,
    transfer,
    transfer_on_test,
)
from promptgraft.search.reporting import save_study_note
from promptgraft.search.running import check_edits
from promptgraft.search.storage import (
    DELTA_FILE,
    PROMPT_AS_TOKENS,
    NothingToExportError,
    Opening,
    RunFolder,
    StudyRecord,
    own_folder,
    until_storage_answers,
    write_study,
)
from promptgraft.search.study import Study
from promptgraft.search.tracking import Tracking
from promptgraft.spaces import InvalidInputError

logger = logging.getLogger(__name__)

# Validation rows that a bundle holds, if nothing else is asked for.
EXAMPLES = 32
# Up to this, as a share of the largest logit, another machine may compute something else with a trial's own weights.
UNLIKE = 0.01


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
        members: Numbers of the trials of an ensemble, that trial first; none if it ships alone.
        confidence: How sure the bundle may be of its predictions, if that could be measured.
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
    members: tuple[int, ...] = ()
    confidence: Confidence | None = None


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
        force: Whether the bundle may take the place of another study's.
    """

    output: Path | None = None
    trial: int | None = None
    anyway: bool = False
    reopen: bool = False
    with_backbone: bool = False
    examples: int = EXAMPLES
    force: bool = False


def export_winner(
    study: Study,
    optuna_study: optuna.Study,
    folder: RunFolder,
    options: ExportOptions | None = None,
    say: Callable[[str], None] = logger.info,
) -> Export:
    """Write the winner, or the ensemble that it leads, as a bundle and compare it with the controls on held-out rows.

    The weights are those that the trial kept; if they were dropped, it is run again. The test rows are opened once, and
    what the trial scores there is recorded in the study: a second export repeats the record, and that of another trial
    leaves them sealed; see `search.judging.test_set`.

    Args:
        study: The checked study.
        optuna_study: Its record.
        folder: Its folder.
        options: Which trial, where to, and with what; the defaults if None.
        say: Shows a line before each step that takes long.

    Raises:
        InvalidInputError: If the rows or the study file aren't those that the trials were run with, something else is
            in the folder, or the weights aren't those that the trial recorded.
        NothingToExportError: If there is no such trial, or nothing of ours has run it and kept its weights.
        BundleNotWrittenError: If the bundle can't be written; an earlier one is whole then.
    """
    options = options or ExportOptions()
    folder = own_folder(optuna_study, folder)
    check_same(optuna_study, study.target.test)
    check_edits(optuna_study, study)
    quiet_transformers()
    if options.trial is None and not options.anyway:
        _refuse_what_is_worse(optuna_study)
    with staged_bundle(options.output or folder.bundle, study.name, force=options.force) as staging:
        shipped = _load_shipped(study, optuna_study, folder, options.trial, say)
        number = shipped.winner.trial.number
        scored = study.target, shipped.winner.files, [entry.trial.number for entry in shipped.trials], shipped.weights
        confidence = measure_confidence(*scored)
        shipped = replace(shipped, thresholds=_thresholds(study.target, scored_outputs(*scored)))
        manifest, examples = manifest_of(shipped, confidence), examples_of(shipped, options.examples or EXAMPLES)
        backbone = model_folder(shipped.winner.spec.backbone.path) if options.with_backbone else None
        card = render_model_card(study, manifest, None, confidence)
        deltas, shown = [entry.delta for entry in shipped.trials], examples if options.examples else None
        manifest = staging.write(manifest, deltas, card, shown, backbone)
        _check_staged(staging, manifest, examples)
        _read_prompt(shipped.winner)
        found = _open_test_set(shipped, say, reopen=options.reopen)
        held_out = tuple(HeldOut(name, dict(metrics)) for name, metrics in found.table or ()) if found else ()
        interval, transfer = (found.interval, found.transfer) if found else (None, None)
        if held_out:
            metrics = {**manifest.metrics, "test": held_out[0].metrics}
            intervals = {"test": {study.file.metric: interval}} if interval else {}
            manifest = manifest.model_copy(update={"metrics": metrics, "intervals": intervals})
        staging.describe(manifest, render_model_card(study, manifest, found, confidence))
        staging.put_in_place()
    until_storage_answers(lambda: save_study_note(optuna_study, study))
    if study.file.track:
        Tracking(study, optuna_study, folder).add_bundle(
            options.output or folder.bundle, held_out[0].metrics if held_out else {}
        )
    return Export(
        folder=options.output or folder.bundle,
        trial=number,
        validation=shipped.winner.validation,
        held_out=held_out,
        test_rows=len(study.target.test),
        openings=tuple(record.trial for record in openings(optuna_study)),
        repeats=next((entry for entry in reach_verdict(optuna_study).finalists if entry.number == number), None),
        interval=interval,
        transfer=TransferGain.from_json(transfer) if transfer else None,
        members=shipped.members,
        confidence=confidence,
    )


def _load_shipped(
    study: Study, optuna_study: optuna.Study, folder: RunFolder, trial: int | None, say: Callable[[str], None]
) -> Shipped:
    """Load the trial that was asked for, or the winner and the others of its ensemble."""
    winner = load_trial(study, optuna_study, folder, trial, say)
    ensemble = StudyRecord.of(optuna_study).shipped_ensemble(winner.trial.number) if trial is None else None
    others = [load_trial(study, optuna_study, folder, own, say) for own in ensemble.members[1:]] if ensemble else []
    return Shipped((winner, *others), ensemble.weights if ensemble else (1.0,))


def _thresholds(task: Task, outputs: Outputs | None) -> tuple[float, ...]:
    """Let the kind of task choose thresholds by the rows that what ships was scored by; none if outputs are gone."""
    return () if outputs is None else task.decided(outputs, task.scored()).thresholds


def _check_staged(staging: Staging, manifest: Manifest, examples: Examples | None) -> None:
    """Refuse weights that aren't those that gave the recorded logits, before anything irrevocable is done.

    Raises:
        InvalidInputError: If the bundle, loaded as production will, gives others.
    """
    found = verify(staging.path, examples=examples, trust_remote_code=manifest.backbone.trust_remote_code)
    if found.problems:
        problems = "; ".join(f"{name} {problem}" for name, problem in found.problems)
        raise InvalidInputError(f"trial {manifest.trial} can't be exported: {problems}")
    trials = ", ".join(str(member.trial) for member in manifest.models)
    if found.difference is not None and not found.difference <= UNLIKE:
        raise InvalidInputError(
            f"the weights of trial {trials} don't give the scores that were recorded for it: logits differ by "
            f"{found.difference:.1e} of the largest, so they are damaged or another trial's; delete {DELTA_FILE} in "
            "its folder of the study's artifacts, and the next export trains it again"
        )
    if not found.passed:
        logger.warning(
            "the logits of trial %s differ by %.1e of the largest from those recorded (verify allows %.0e): this "
            "machine computes otherwise than the one that ran it",
            *(trials, found.difference, TOLERANCE),
        )


def _open_test_set(shipped: Shipped, say: Callable[[str], None], *, reopen: bool) -> Opening | None:
    """Return what ships and the controls score on the test rows, opened now or before; None if these stay sealed."""
    winner, members = shipped.winner, shipped.members
    number, stored = winner.trial.number, winner.stored
    before = StudyRecord.of(stored).opening(number)
    # Another ensemble that the same trial leads is another system.
    is_another = before is not None and bool(before.members) and members not in ((), before.members)
    if is_another and not reopen:
        return None
    found = opened_for(
        stored,
        number,
        winner.study.target.test,
        lambda: _compare(shipped, say),
        reopen=reopen,
        again=lambda record: members not in ((), record.members) or _misses_controls(record, stored),
    )
    return found.alone() if found and not members else found


def _refuse_what_is_worse(optuna_study: optuna.Study) -> None:
    """Refuse to ship a winner of the race that one of its controls is shown to be better than."""
    found = transfer(optuna_study, reach_verdict(optuna_study).winner)
    if found is not None and found.warning:
        raise NothingToExportError(
            f"{found.warning} To export the winner all the same: --anyway; another trial: --trial N"
        )


def _read_prompt(winner: ExportedTrial) -> None:
    """Record what the trial's soft prompt is near to, once; see `objectives.measures.prompt_reading`."""
    candidate, number = winner.candidate, winner.trial.number
    if is_readable(candidate.soft_prompt) and StudyRecord.of(winner.stored).reading(number) is None:
        reading = prompt_as_tokens(winner.objective, candidate, winner.delta, winner.study.file.seed)
        if reading is not None:
            write_study(winner.stored, f"{PROMPT_AS_TOKENS}{number}", reading)


def _misses_controls(record: Opening, optuna_study: optuna.Study) -> bool:
    """Whether the test rows were opened for a trial before all repeats of its controls had been run."""
    recorded: Sequence[Mapping[str, Any]] = record.transfer["controls"] if record.transfer else ()
    known = {entry["name"]: entry["repeats"] for entry in recorded}
    outcomes = control_outcomes(optuna_study, record.trial)
    names = control_names(optuna_study)
    return known != {
        names[name]: sum(entry.value is not None for entry in own.values()) for name, own in outcomes.items()
    }


def _compare(shipped: Shipped, say: Callable[[str], None]) -> OpenedScores:
    """Score what ships and the controls on the test rows; see `search.judging.test_set.opened_for`."""
    winner = shipped.winner
    study, number = winner.study, winner.trial.number
    task, metric = as_shipped(study.target), study.file.metric
    winner.objective.use_split(WHOLE if task.folds > 1 else Split())
    say(f"opening the test rows: the winner scores {len(task.test)}")
    own = [winner.objective.score(entry.candidate, entry.delta, task.test, study.file.seed) for entry in shipped.trials]
    logits = task.combine(own, shipped.weights)
    members = shipped.members
    decided = replace(task, thresholds=shipped.thresholds)
    named = [(f"ensemble of trials {', '.join(map(str, members))}", logits)] if members else []
    if shipped.thresholds:
        named = [(f"{named[0][0] if named else f'winner (trial {number})'}, thresholds as shipped", logits)]
    winner.files.write_tensors(logits_of_test_set(number), {"logits": torch.from_numpy(logits)})

    plain, shipping = (RowMetric(own, metric, task.test) for own in (task, decided))
    level = StudyRecord.of(winner.stored).judging.level
    interval = score_interval(shipping.of(logits), shipping.measure, metric, level, bootstrap=task.bootstrap)
    names = control_names(winner.stored)
    rows = [
        *named,
        (f"winner (trial {number})", own[0]),
        (names["majority"], task.constant(task.test)),
        (
            f"{names['tfidf']}, all labelled rows ({len(task.labelled)} rows)",
            tfidf(task, task.test, task.labelled),
        ),
        *(_zero_shot(winner.objective, say) if has_zero_shot(winner.objective) else ()),
    ]
    return OpenedScores(
        tuple(
            (name, scores(decided if place == 0 else task, found, task.test))
            for place, (name, found) in enumerate(rows)
        ),
        (interval.low, interval.high),
        transfer_on_test(winner.stored, number, winner.files, plain.measure, plain.of),
        members,
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
        words = f", label words {space.verbalizer(chosen.verbalizer).name}" if chosen.verbalizer else ""
        yield f"zero-shot, template {template.name}{words}", objective.score(chosen, {}, task.test)
