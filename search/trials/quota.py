"""Keeps a study's files within their quota, and the disk from filling up."""

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.file_store import FileStore, StoredFile
from promptgraft.search.storage import DELTA_FILE, own_files
from promptgraft.search.trials.ranking import candidate_key
from promptgraft.search.wording import size

# Finished trials whose weights are kept: the best ones, so that any of them can be exported.
KEPT_DELTAS = 3
_TRIAL_FILE = re.compile(r"artifacts/trial-(\d+)/(.+)")
_CHECKPOINT = re.compile(r"checkpoints/([^-]+)-\d+(?:-\d+)?\.safetensors")
# A file is being written while it has this ending; one that hasn't changed for so long has lost its writer.
_PARTIAL, _ABANDONED_S = ".partial", 3600.0


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a study takes up.

    Attributes:
        used_bytes: All its files.
        free_bytes: Room on its disk; None if it isn't a local one.
        full: Why no trial should start, if so.
    """

    used_bytes: int
    free_bytes: int | None
    full: str | None = None


def tidy(
    files: FileStore,
    trials: Collection[FrozenTrial],
    best: Collection[int],
    quota_bytes: int | None,
    stages_bytes: int | None = None,
) -> DiskUse:
    """Delete what can't be needed any more, then, if there is still too much, what can be computed again.

    First go the weights of trials that can't win, the checkpoints of trials that have ended, and what killed workers
    left half written; then, above the quota or where the disk is nearly full, stages, those not used for longest
    first. What stays: the weights of the best trials, checkpoints of trials that run or wait, and small files.

    Args:
        files: The study's files.
        trials: Its trials.
        best: Numbers of the trials whose weights stay.
        quota_bytes: What the files may take up; None for no limit.
        stages_bytes: What the stages among them may take up; None for no limit.
    """
    states = {trial.number: trial.state for trial in trials}
    unfinished = (TrialState.RUNNING, TrialState.WAITING)
    going_on = {candidate_key(trial) for trial in trials if trial.state in unfinished}
    left: list[StoredFile] = []
    for file in own_files(files):
        if _is_abandoned(file) or _is_spent(file.name, states, best, going_on):
            files.delete(file.name)
        else:
            left.append(file)
    used, free = sum(file.size_bytes for file in left), files.free_bytes()
    stages = sorted((file for file in left if _is_stage(file.name)), key=lambda file: file.used)
    kept = sum(stage.size_bytes for stage in stages)
    for stage in stages:
        if (stages_bytes is None or kept <= stages_bytes) and _full(files, used, free, quota_bytes) is None:
            break
        files.delete(stage.name)
        kept -= stage.size_bytes
        used -= stage.size_bytes
        free = files.free_bytes()
    return DiskUse(used, free, _full(files, used, free, quota_bytes))


def _is_stage(name: str) -> bool:
    return name.startswith("stages/") and name.endswith(".safetensors")


def _is_abandoned(file: StoredFile) -> bool:
    return file.name.endswith(_PARTIAL) and file.used < time.time() - _ABANDONED_S


def _is_spent(
    name: str, states: dict[int, TrialState], best: Collection[int], going_on: Collection[str | None]
) -> bool:
    trial_file = _TRIAL_FILE.fullmatch(name)
    if trial_file and trial_file.group(2) == DELTA_FILE:
        number = int(trial_file.group(1))
        state = states.get(number)
        return state is not None and state.is_finished() and number not in best
    checkpoint = _CHECKPOINT.fullmatch(name)
    return checkpoint is not None and checkpoint.group(1) not in going_on


def _full(files: FileStore, used: int, free: int | None, quota_bytes: int | None) -> str | None:
    if quota_bytes is not None and used > quota_bytes:
        return (
            f"the disk quota is used up: {size(used)} of {size(quota_bytes)} are weights of the best trials and "
            "checkpoints; raise budget.disk"
        )
    if free is not None and free < files.min_free_bytes:
        return f"the disk of {files.shown} is nearly full: {size(free)} are free; make room and run the same command"
    return None
