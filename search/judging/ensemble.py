"""Whether several trials are to ship together in place of the winner alone, by the rows out of their folds.

Every trial of a cross-validated search leaves logits of all labelled rows, each by a model that hasn't seen the row. So
an ensemble costs no training before it ships. To be fair, each fold is scored by members that the other folds chose.
"""

import logging

import numpy as np
import numpy.typing as npt
import optuna
from optuna.study import StudyDirection
from safetensors import SafetensorError

from promptgraft.objectives.data import Expected, Task
from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.kinds import scores
from promptgraft.objectives.measures import choose_members
from promptgraft.search.judging.verdict import winning_trial
from promptgraft.search.storage import LOGITS_FILE, Ensemble, TrialRecord, trial_file
from promptgraft.search.study import Study
from promptgraft.search.trials import ranked_trials
from promptgraft.search.wording import rounded
from promptgraft.spaces import BACKBONE

logger = logging.getLogger(__name__)

# Members are chosen among so many of the best trials.
_CANDIDATES = 30


def choose_ensemble(study: Study, stored: optuna.Study, files: FileStore) -> Ensemble | None:
    """Choose an ensemble around the winner.

    It ships unless the rows out of their folds show it to be worse than the winner alone: unless the metric falls by
    more than a standard error over the folds. A higher log-likelihood isn't required: that condition refused
    ensembles that were better (docs/benchmarks.md).

    Args:
        study: The checked study.
        stored: Its record.
        files: Its files.

    Returns:
        The members and how they compare with the winner alone; None if the study asks for no ensemble, isn't
        cross-validated, or has no winner that ran on every fold.
    """
    winner, task = winning_trial(stored), study.target
    if study.file.judging.ensemble < 2 or task.folds < 2 or winner is None:
        return None
    chances = _out_of_fold(stored, files, task, TrialRecord.of(winner))
    if winner.number not in chances:
        return None
    folds, rows = np.array(task.scored_folds()), task.scored()
    metric, sign = study.file.metric, 1 if stored.directions[0] == StudyDirection.MAXIMIZE else -1
    picks = study.file.judging.ensemble
    good = {number: task.row_scores(task.outputs_of(own), rows) for number, own in chances.items()}
    values = {number: sign * _by_fold(task, own, folds, metric) for number, own in chances.items()}
    together = np.empty_like(chances[winner.number])
    for fold in range(task.folds):
        inside = folds == fold
        rest = {number: own[~inside] for number, own in good.items()}
        other_folds = {number: np.delete(own, fold) for number, own in values.items()}
        chosen = choose_members(rest, other_folds, winner.number, picks)
        together[inside] = np.mean([chances[number][inside] for number in chosen], axis=0)
    members = choose_members(good, values, winner.number, picks)
    ours, alone = _by_fold(task, together, folds, metric), sign * values[winner.number]
    differences = sign * (ours - alone)
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    losses = [float(task.row_losses(found, rows).mean()) for found in (together, chances[winner.number])]
    return Ensemble(
        members=tuple(members),
        weights=(1 / len(members),) * len(members),
        value=float(ours.mean()),
        alone=float(alone.mean()),
        error=error,
        loss=losses[0],
        loss_alone=losses[1],
        chosen=len(members) > 1 and float(differences.mean()) >= -error,
    )


def _out_of_fold(stored: optuna.Study, files: FileStore, task: Task, winner: TrialRecord) -> dict[int, Expected]:
    """Read what the best trials made of the rows out of their folds: number -> probabilities, shape (rows, labels).

    Only trials on the winner's backbone count, since production loads a single one. If the winner uses the source, only
    trials that use it count: near equals that were trained on fewer rows are usually worse (docs/benchmarks.md).
    """
    found: dict[int, Expected] = {}
    shape = len(task.scored()), task.width
    records = [(trial, TrialRecord.of(trial)) for trial in ranked_trials(stored)]
    alike = [
        trial
        for trial, own in records
        if own.values.get(BACKBONE) == winner.values.get(BACKBONE) and own.uses_source >= winner.uses_source
    ]
    for trial in alike[:_CANDIDATES]:
        if TrialRecord.of(trial).best_step is None:
            continue
        try:
            logits = files.read_logits(trial_file(trial.number, LOGITS_FILE)).astype(np.float64)
        except (OSError, SafetensorError, KeyError):
            logger.warning("the logits of trial %d are gone, so it can't be a member of an ensemble", trial.number)
            continue
        if (len(logits), logits.shape[-1]) == shape:
            found[trial.number] = task.expected(logits)
    return found


def _by_fold(task: Task, chances: Expected, folds: npt.NDArray[np.int64], metric: str) -> Expected:
    """Return the metric of each fold, shape (folds,)."""
    logits, rows = task.outputs_of(chances), task.scored()
    parts = [np.flatnonzero(folds == fold) for fold in range(task.folds)]
    return np.array([scores(task, logits[own], [rows[place] for place in own])[metric] for own in parts])


def ensemble_line(found: Ensemble, metric: str) -> str:
    """Say what an ensemble is worth, and what it costs."""
    names = ", ".join(map(str, found.members))
    scores = f"{metric} {rounded(found.value)} against {rounded(found.alone)} of trial {found.members[0]} alone"
    figures = f"{scores} over the folds, log loss {rounded(found.loss, 3)} against {rounded(found.loss_alone, 3)}"
    if len(found.members) < 2:
        return f"ensemble: no other trial improves trial {found.members[0]}"
    price = f"{len(found.members)} models, so {len(found.members)} times the work of one"
    return f"ensemble of trials {names}: {figures}; {price if found.chosen else 'not better, so it is not used'}"
