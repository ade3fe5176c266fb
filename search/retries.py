"""What becomes of a trial that was cut off: FAIL, and queued again with its history."""

from collections.abc import Iterable
from enum import Enum
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial


class Loss(Enum):
    """How a trial was cut off."""

    STOPPED = "stopped"  # Ctrl-C, SIGTERM, the end of the time, a full disk.
    PREEMPTED = "pre-empted"  # The node is gone, or the worker was asked to go.
    ORPHANED = "orphaned"  # The driver died.
    WORKER_DIED = "worker died"  # Killed, out of memory, crashed.

    @property
    def counts(self) -> bool:
        """Whether it uses up one of the trial's retries: it may have been the candidate's doing."""
        return self in (Loss.ORPHANED, Loss.WORKER_DIED)

    @property
    def interrupted(self) -> bool:
        """Whether it is left out of the study's failure rate."""
        return self is not Loss.WORKER_DIED


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
        return Loss.WORKER_DIED, f"the worker could not start: {error.strip().splitlines()[-1]}"
    return Loss.WORKER_DIED, "the worker died: killed, out of memory, or crashed"


def is_retry(trials: Iterable[FrozenTrial], number: int) -> bool:
    """Tell whether a trial has been queued again already."""
    return any(trial.system_attrs.get("retry_history", [])[-1:] == [number] for trial in trials)


def retry_of_lost(trial: FrozenTrial, loss: Loss, max_retries: int) -> FrozenTrial | None:
    """Return the trial that runs a lost one again; None if it was lost too often.

    Its history is kept the way Optuna's `RetryHeartbeatStaleTrialCallback` does, which can read it.
    """
    losses = int(trial.user_attrs.get("times_lost", 0)) + loss.counts
    if losses > max_retries:
        return None
    history = [*trial.system_attrs.get("retry_history", []), trial.number]
    kept: dict[str, Any] = {
        name: trial.user_attrs[name] for name in ("candidate", "candidate_key") if name in trial.user_attrs
    }
    system = {"failed_trial": history[0], "retry_history": history}
    return create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**kept, "retry_of": trial.number, "times_lost": losses},
        system_attrs={**trial.system_attrs, **system},
    )
