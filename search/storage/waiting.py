"""Waiting for a storage that is away: a database that restarts, a disk that is full for a moment."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError

from promptgraft.search.storage.database import StorageAwayError
from promptgraft.spaces import PromptgraftError, masked

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

PATIENCE_S = 300.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class StorageLostError(PromptgraftError, ConnectionError):
    """The storage has not answered for `PATIENCE_S`."""


def until_storage_answers(call: Callable[[], R]) -> R:
    """Call a function, and call it again after longer and longer pauses while the storage is away.

    Args:
        call: Reads or writes the storage. It may be cut off anywhere and called again, so what it does twice must be
            the same as once.

    Returns:
        What the function returned.

    Raises:
        StorageLostError: If the storage is away for longer than `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    pause = _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except (StorageAwayError, StorageInternalError, OperationalError, InterfaceError) as error:
            cause = masked(str(error.__cause__ or error).splitlines()[0])
            if time.monotonic() + pause > deadline:
                raise StorageLostError(
                    f"the study's storage has not answered for {PATIENCE_S:.0f} s ({cause}); what is finished is "
                    "recorded. Mend the storage (is its disk full, is its server up?) and run the same command"
                ) from error
            logger.warning("the study's storage does not answer (%s); trying again in %.0f s", cause, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def wait_for_storage(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method wait for a storage that is away; see `until_storage_answers`.

    Raises (the decorated method):
        StorageLostError: If it is away for longer than `PATIENCE_S`, or was lost before.
    """

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        lost: StorageLostError | None = getattr(self, "lost", None)
        if lost is not None:
            raise lost
        try:
            return until_storage_answers(lambda: method(self, *args, **kwargs))
        except StorageLostError as error:
            self.lost = error  # type: ignore[attr-defined]
            raise

    return cast("Callable[Concatenate[S, P], R]", call)
