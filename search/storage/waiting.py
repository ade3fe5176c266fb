"""Waiting for a storage that is away: a database that restarts, a disk that is full for a moment."""

import functools
import logging
import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

import sqlalchemy
from optuna.exceptions import StorageInternalError

from promptgraft.spaces import PromptgraftError

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

PATIENCE_S = 300.0
_LONGEST_PAUSE_S = 15.0


class StorageLostError(PromptgraftError, ConnectionError):
    """The storage has not answered for `PATIENCE_S`."""


def wait_for_storage(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Call the method again, after longer and longer pauses, while the storage is away.

    Raises (the decorated method):
        StorageLostError: If it is away for longer than `PATIENCE_S`, or was lost before.
    """

    @functools.wraps(method)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        lost: StorageLostError | None = getattr(self, "lost", None)
        if lost is not None:
            raise lost
        deadline = time.monotonic() + PATIENCE_S
        pause = 0.5
        while True:
            try:
                return method(self, *args, **kwargs)
            except (StorageInternalError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
                cause = str(error.__cause__ or error).splitlines()[0]
                if time.monotonic() + pause > deadline:
                    found = StorageLostError(
                        f"the study's storage has not answered for {PATIENCE_S:.0f} s ({cause}); what is finished is "
                        "recorded. Mend the storage (is its disk full, is its server up?) and run the same command"
                    )
                    self.lost = found  # type: ignore[attr-defined]
                    raise found from error
                logger.warning("the study's storage does not answer (%s); trying again in %.0f s", cause, pause)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    return cast("Callable[Concatenate[S, P], R]", call)
