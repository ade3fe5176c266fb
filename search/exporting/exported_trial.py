"""The trial to export: chosen, run again if its weights were dropped, and scored in float32."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import mean

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial, TrialState
from safetensors import SafetensorError
from torch import Tensor

from promptgraft.objectives.data import WHOLE, Task
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.judging import (
    record_float32_scores,
    rescoring_jobs,
    score_in_float32,
    trials_to_rescore,
    winning_trial,
)
from promptgraft.search.storage import (
    DELTA_FILE,
    LOGITS_FILE,
    REFIT_LOGITS_FILE,
    WEIGHTS,
    Float32Score,
    NothingToExportError,
    RunFolder,
    StudyRecord,
    TrialRecord,
    hash_of_weights,
    keep_result,
    trial_file,
    write_study,
)
from promptgraft.search.study import Study
from promptgraft.search.trials import float32_scores, metric_of
from promptgraft.spaces import Candidate, InvalidInputError

logger = logging.getLogger(__name__)

# Up to this a value is the same, computed again.
SAME = 1e-6


@dataclass(frozen=True)
class ExportedTrial:
    """The trial to export.

    Attributes:
        study: The checked study.
        stored: Its record.
        files: Its files.
        trial: The trial.
        score: Its score in float32, where the search was in lower precision.
        delta: Its weights.
    """

    study: Study
    stored: optuna.Study
    files: FileStore
    trial: FrozenTrial
    score: Float32Score | None
    delta: Mapping[str, Tensor]

    @property
    def candidate(self) -> Candidate:
        """What the trial evaluated."""
        return TrialRecord.of(self.trial).candidate

    @property
    def spec(self) -> ObjectiveSpec:
        """The study's fixed part on the trial's backbone."""
        return self.study.objective.on(self.candidate.backbone)

    @property
    def validation(self) -> float:
        """The study's metric on the validation rows."""
        return float(self.score.value if self.score else metric_of(self.trial) or 0.0)

    @cached_property
    def objective(self) -> Objective:
        """The backbone in float32, as production will run it; loaded when it is first needed."""
        return Objective(self.spec.in_float32())


def load_trial(
    study: Study, optuna_study: optuna.Study, folder: RunFolder, number: int | None, say: Callable[[str], None]
) -> ExportedTrial:
    """Choose the trial, and compute what is missing of it: its weights, and its score in float32.

    Raises:
        InvalidInputError: If its files aren't those that it left.
        NothingToExportError: See `search.exporting.export_winner`.
    """
    chosen, files = _choose(optuna_study, number), folder.files()
    spec = replace(study.objective, files=folder.files_url)
    _compute_weights(study, optuna_study, spec, chosen, say)
    pending = trials_to_rescore(optuna_study, study, [chosen])
    if pending:
        record_float32_scores(optuna_study, score_in_float32(spec, rescoring_jobs(optuna_study, pending)))
    # The scores may have made another trial the winner.
    trial = _choose(optuna_study, number)
    return ExportedTrial(
        study=study,
        stored=optuna_study,
        files=files,
        trial=trial,
        score=float32_scores(optuna_study).get(trial.number),
        delta=_own_weights(study, optuna_study, files, trial),
    )


def as_shipped(target: Task) -> Task:
    """Return the target with the rows that the model that ships is trained on."""
    return target.on(WHOLE) if target.folds > 1 else target


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


def _compute_weights(
    study: Study, stored: optuna.Study, spec: ObjectiveSpec, trial: FrozenTrial, say: Callable[[str], None]
) -> None:
    """Train what is to ship where the weights are gone, or were never kept, and record their hash."""
    assert spec.files is not None
    files, seed = FileStore(spec.files), study.file.seed
    if study.target.folds > 1:
        there = all(files.exists(trial_file(trial.number, name)) for name in (DELTA_FILE, REFIT_LOGITS_FILE))
        # An older export's weights have no hash: they may be another study's that was in the same folder.
        if there and StudyRecord.of(stored).weights_hash(trial.number):
            return
        found: str | None = _refit(spec, files, trial, seed, say)
    elif files.exists(trial_file(trial.number, DELTA_FILE)):
        return
    else:
        found = _run_again(spec, files, trial, seed)
    write_study(stored, f"{WEIGHTS}{trial.number}", found)


def _own_weights(study: Study, stored: optuna.Study, files: FileStore, trial: FrozenTrial) -> dict[str, Tensor]:
    """Read a trial's weights, and see that they are those that it, or an export of it, has trained.

    Raises:
        InvalidInputError: If they aren't.
    """
    name = trial_file(trial.number, DELTA_FILE)
    expected = StudyRecord.of(stored).weights_hash(trial.number) or TrialRecord.of(trial).weights_hash
    try:
        delta = files.read_tensors(name)
        broken = [key for key, tensor in delta.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
        reason = f"{broken[0]} holds numbers that aren't finite" if broken else ""
    except FileNotFoundError:  # Run again, it has trained nothing: it is the pretrained backbone.
        return {}
    except SafetensorError as error:
        reason = str(error)
    if reason:
        raise InvalidInputError(
            f"the weights of trial {trial.number} are damaged: {files.shown}/{name}: {reason}; delete that file, and "
            "the next export trains it again"
        )
    found = hash_of_weights(delta)
    if expected not in (None, found):
        raise InvalidInputError(
            f"{files.shown}/{name} doesn't hold the weights that trial {trial.number} trained (hash {expected} -> "
            f"{found}); delete the file and run the same command, which trains the trial again"
        )
    if expected is None and not _left_by(study, files, trial):
        raise InvalidInputError(
            f"the files of trial {trial.number} in {files.shown} are another study's, or damaged: they don't give "
            "the trial's scores; with another --workdir (and this study's --storage) the trial is trained again there"
        )
    return delta


def _left_by(study: Study, files: FileStore, trial: FrozenTrial) -> bool:
    """Tell by its logits whether files are those of a trial that was run before weights were hashed."""
    task, number = study.target, trial.number
    try:
        logits = files.read_tensors(trial_file(number, LOGITS_FILE))["logits"].numpy()
    except FileNotFoundError:
        return True
    except (SafetensorError, KeyError):
        return False
    rows, folds = task.scored(), np.array(task.scored_folds())
    if (len(logits), logits.shape[-1]) != (len(rows), task.width):
        return False
    parts = [np.flatnonzero(folds == fold) for fold in range(task.folds)]
    found = [scores(task, logits[own], [rows[place] for place in own]) for own in parts]
    recorded = TrialRecord.of(trial).metrics
    known = {name: value for name, value in recorded.items() if name in found[0]}  # A plugin may be gone.
    return all(abs(mean(own[name] for own in found) - value) <= SAME for name, value in known.items())


def _run_again(spec: ObjectiveSpec, files: FileStore, trial: FrozenTrial, seed: int) -> str | None:
    """Compute weights anew that were dropped when better trials came: the same candidate and seed give the same."""
    _require_candidate(trial)
    logger.warning("the weights of trial %d were dropped when others were better: it is run again", trial.number)
    candidate = TrialRecord.of(trial).candidate
    result = Objective(spec.on(candidate.backbone)).evaluate(candidate, seed)
    before = float(metric_of(trial) or 0.0)
    if abs(result.value - before) > SAME:
        logger.warning(
            "run again, trial %d has %s %.6g in place of %.6g: this machine or its libraries round otherwise",
            *(trial.number, spec.metric, result.value, before),
        )
    return keep_result(files, trial.number, result)


def _refit(spec: ObjectiveSpec, files: FileStore, trial: FrozenTrial, seed: int, say: Callable[[str], None]) -> str:
    """Train what ships: on all labelled rows, in float32, for as many updates as the folds chose."""
    _require_candidate(trial)
    candidate = TrialRecord.of(trial).candidate
    objective = Objective(spec.on(candidate.backbone).in_float32())
    objective.use_split(WHOLE)
    say(f"fitting trial {trial.number} to all {len(objective.target.labelled)} labelled rows")
    result = objective.evaluate(candidate, seed, at=TrialRecord.of(trial).best_step)
    files.write_tensors(trial_file(trial.number, REFIT_LOGITS_FILE), {"logits": torch.from_numpy(result.logits)})
    files.write_tensors(trial_file(trial.number, DELTA_FILE), result.delta)
    return hash_of_weights(result.delta)


def _require_candidate(trial: FrozenTrial) -> None:
    if not TrialRecord.of(trial).has_candidate:
        raise NothingToExportError(f"trial {trial.number} was not run by promptgraft, so it has no weights to export")
