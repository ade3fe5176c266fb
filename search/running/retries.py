"""What becomes of a trial that was cut off: FAIL, and queued again with its history."""

import time
from collections.abc import Iterable
from enum import Enum

from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.search.storage import (
    RAN_S,
    TrialRecord,
    failure_attrs,
    rerun_attrs,
    retry_attrs,
    retry_history,
    silent_seconds,
    trial_id_of,
    write_trial,
)
from promptgraft.spaces import masked


class Loss(Enum):
    """How a trial was cut off."""

    STOPPED = "stopped"  # Ctrl-C, SIGTERM, the end of the time, a full disk.
    PREEMPTED = "pre-empted"  # The node is gone, or the worker was asked to go.
    ORPHANED = "orphaned"  # The driver died.
    WORKER_DIED = "worker died"  # Killed, out of memory, crashed.
    CANNOT_START = "cannot start"  # Whatever it runs: a file is missing, a model can't be read.

    @property
    def counts(self) -> bool:
        """Whether it uses up one of the trial's retries: it may have been the candidate's doing."""
        return self in (Loss.ORPHANED, Loss.WORKER_DIED)

    @property
    def interrupted(self) -> bool:
        """Whether it is left out of the study's failure rate."""
        return self not in (Loss.WORKER_DIED, Loss.CANNOT_START)


# What may be over by the next try, where a worker could not start; anything else will be the same again.
_PASSING = (
    "emory",
    "CUDA",
    "HIP",
    "NCCL",
    "Connection",
    "Timeout",
    "timed out",
    "Stale file",
    "Input/output",
    "open files",
)


def lost_worker(error: str) -> tuple[Loss, str]:
    """Tell from Ray's words how a worker ended.

    Args:
        error: The text of Ray's error.

    Returns:
        The kind of loss, and its cause in words.
    """
    if "its node has died" in error or "node was terminated" in error:
        return Loss.PREEMPTED, "the node of the worker is gone"
    if "owner has died" in error or "Owner's node has crashed" in error:
        return Loss.PREEMPTED, "Ray itself ended"
    if "SIGTERM" in error:
        return Loss.PREEMPTED, "the worker was asked to go (SIGTERM)"
    if "running low on memory" in error:
        return Loss.WORKER_DIED, "the worker was killed by Ray because its node ran out of memory"
    if "creation task" in error:
        last = error.strip().splitlines()[-1]
        loss = Loss.WORKER_DIED if any(sign in last for sign in _PASSING) else Loss.CANNOT_START
        return loss, masked(f"the worker could not start: {last}")
    return Loss.WORKER_DIED, "the worker died: killed, out of memory, or crashed"


def is_retry(trials: Iterable[FrozenTrial], number: int) -> bool:
    """Tell whether a trial has been queued again already."""
    return any(retry_history(trial)[-1:] == [number] for trial in trials)


def retry_of_lost(trial: FrozenTrial, loss: Loss, max_retries: int) -> FrozenTrial | None:
    """Return the trial that runs a lost one again; None if it was lost too often.

    Its history is kept the way Optuna's `RetryHeartbeatStaleTrialCallback` does, which can read it.
    """
    losses = TrialRecord.of(trial).times_lost + loss.counts
    if losses > max_retries or loss is Loss.CANNOT_START:
        return None
    return create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs=rerun_attrs(trial, losses),
        system_attrs=retry_attrs(trial),
    )


def fail_and_queue(
    storage: RDBStorage, study_id: int, trial: FrozenTrial, loss: Loss, cause: str, max_retries: int | None
) -> bool:
    """Record a trial that was cut off as FAIL, and queue it again if it has retries left.

    The retry is written first and the end second: a crash in between leaves an orphan that has its retry.

    Args:
        storage: The study's storage.
        study_id: The study there.
        trial: The trial.
        loss: How it was cut off.
        cause: The same in words.
        max_retries: Times that a trial may be lost and run again; None if this one is queued again already.

    Returns:
        Whether it was queued.
    """
    retry = None if max_retries is None else retry_of_lost(trial, loss, max_retries)
    if retry is not None:
        storage.create_new_trial(study_id, retry)
    elif max_retries is not None and loss.counts:
        cause += f"; not run again, since it was lost {max_retries + 1} times"
    trial_id = trial_id_of(trial)
    ran = {RAN_S: _seconds_until_silent(storage, trial)} if loss is Loss.ORPHANED else {}
    write_trial(storage, trial_id, failure_attrs(cause, interrupted=loss.interrupted) | ran)
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    return retry is not None


def _seconds_until_silent(storage: RDBStorage, trial: FrozenTrial) -> float:
    """Return how long an orphan ran: it may be found days later, which must not count as compute."""
    silent_s = silent_seconds(storage, trial_id_of(trial))
    if silent_s is None or trial.datetime_start is None:
        return 0.0
    return max(0.0, round(time.time() - trial.datetime_start.timestamp() - silent_s, 3))
