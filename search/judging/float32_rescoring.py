"""The finalists of a search in low precision, scored again in float32, as production will run them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.judging.verdict import reach_verdict
from promptgraft.search.storage import (
    DELTA_FILE,
    FLOAT32,
    FLOAT32_LOGITS_FILE,
    LOGITS_FILE,
    Float32Score,
    StudyRecord,
    TrialRecord,
    hash_of_weights,
    trial_file,
    write_study,
)
from promptgraft.search.study import Study
from promptgraft.search.trials import KEPT_DELTAS, float32_scores, pareto_front, top_trials
from promptgraft.spaces import BACKBONE, Candidate

if TYPE_CHECKING:
    from promptgraft.objectives.trial import LoadedTasks

logger = logging.getLogger(__name__)

# Number, candidate, and the hash of the weights if it is known.
RescoringJob: TypeAlias = tuple[int, dict[str, Any], str | None]


def trials_to_rescore(optuna_study: optuna.Study, study: Study, also: Sequence[FrozenTrial] = ()) -> list[FrozenTrial]:
    """Return the finalists that have no score in float32 though the search was in lower precision.

    Args:
        optuna_study: The stored study.
        study: The checked study.
        also: Trials to count among the finalists.
    """
    if study.target.folds > 1:
        return []  # What ships after cross-validation is fitted anew, in float32.
    specs, scored = study.objective.backbones or {"": study.objective}, float32_scores(optuna_study)
    low = {name for name, spec in specs.items() if spec.backbone.computes_in != "float32"}
    if not low:
        return []
    chosen = {trial.number: trial for trial in (*top_trials(optuna_study, KEPT_DELTAS), *also)}
    return [
        trial
        for number, trial in chosen.items()
        if number not in scored and TrialRecord.of(trial).values.get(BACKBONE, "") in low
    ]


def trials_to_keep(optuna_study: optuna.Study, ranked: Sequence[FrozenTrial], count: int = 0) -> set[int]:
    """Return the numbers of the trials whose weights stay.

    Args:
        optuna_study: The stored study; its Pareto front stays, the finalists of a search in low precision, and those
            that are in the race of the best.
        ranked: Its trials, best first.
        count: How many of them stay, if more than usual.
    """
    best = (*ranked[: max(count, KEPT_DELTAS)], *top_trials(optuna_study, KEPT_DELTAS), *pareto_front(optuna_study))
    return {trial.number for trial in best} | reach_verdict(optuna_study).racing


def record_float32_scores(optuna_study: optuna.Study, scores: Mapping[int, Float32Score]) -> None:
    """Store what `score_in_float32` found."""
    for number, score in scores.items():
        write_study(optuna_study, f"{FLOAT32}{number}", score)


def rescoring_jobs(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[RescoringJob]:
    """Return trials as `score_in_float32` takes them."""
    record = StudyRecord.of(study)
    own = [(trial.number, TrialRecord.of(trial)) for trial in trials]
    return [(number, trial.values, record.weights_hash(number) or trial.weights_hash) for number, trial in own]


def score_in_float32(
    spec: ObjectiveSpec, trials: Sequence[RescoringJob], tasks: "LoadedTasks | None" = None
) -> dict[int, Float32Score]:
    """Score the validation rows with the kept weights of some trials, on the backbone in float32.

    What calibration takes off stays as the search computed it: production has no training rows to compute it from, and
    what is scored here must be what is shipped.

    Args:
        spec: The study's fixed part, with its files.
        trials: Number, candidate and hash of the weights of each.
        tasks: The study's tasks; they are read here if None.

    Returns:
        The score of each trial whose own weights are there, by its number.
    """
    import torch

    from promptgraft.objectives.trial import Objective

    assert spec.files is not None
    files = FileStore(spec.files)
    objective = Objective(replace(spec.in_float32(), files=None), tasks=tasks)
    found: dict[int, Float32Score] = {}
    for number, values, expected in trials:
        try:
            delta = files.read_tensors(trial_file(number, DELTA_FILE))
            before = files.read_tensors(trial_file(number, LOGITS_FILE))["logits"].numpy()
        except FileNotFoundError:
            logger.warning("the weights of trial %d are gone, so it is not scored in float32", number)
            continue
        if expected not in (None, hash_of_weights(delta)):
            logger.warning("the weights of trial %d are not its own, so it is not scored in float32", number)
            continue
        rows = objective.target.validation
        logits = objective.score(Candidate.from_values(values), delta, rows)
        files.write_tensors(trial_file(number, FLOAT32_LOGITS_FILE), {"logits": torch.from_numpy(logits)})
        metrics = scores(objective.target, logits, rows)
        chances, chances_before = (objective.target.expected(own) for own in (logits, before))
        difference = np.abs(chances - chances_before).max()
        found[number] = Float32Score(metrics[spec.metric], metrics, float(difference))
    return found
