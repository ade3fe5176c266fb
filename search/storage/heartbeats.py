"""Who runs a trial: the driver's process on this host, and its heartbeat across hosts."""

import logging
import os
import platform
import secrets
import threading
from collections.abc import Callable, Iterable
from types import TracebackType

import psutil
from optuna.storages import RDBStorage

from promptgraft.search.storage.optuna_private import has_heartbeat
from promptgraft.search.storage.records import Owner

logger = logging.getLogger(__name__)

# Seconds between two heartbeats, and without one until a trial of another host counts as an orphan.
HEARTBEAT_S = 20
GRACE_S = 120


def new_owner() -> Owner:
    """Return what tells a driver in this process from every other one."""
    return Owner(secrets.token_hex(4), platform.node(), os.getpid(), psutil.Process().create_time())


def is_alive(owner: Owner | None) -> bool | None:
    """Tell whether a trial's driver still runs.

    Returns:
        None if it is on another host, where only its heartbeat tells.
    """
    if owner is None:
        return False
    if owner.host != platform.node():
        return None
    try:
        process = psutil.Process(owner.pid)
        alive = abs(float(process.create_time()) - owner.started) < 1
        return alive and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_heartbeat(storage: RDBStorage, trial_id: int) -> None:
    """Beat for a trial that never did, since its driver died before it could: so it becomes stale in time."""
    if not has_heartbeat(storage, trial_id):
        storage.record_heartbeat(trial_id)


class Heartbeat:
    """Tells the storage every `HEARTBEAT_S` that this driver's trials are alive, by the storage's own clock.

    Optuna's heartbeat starts with `study.optimize` only, so ask-and-tell has to beat for itself. A thread
    beats, since the driver may be kept from it for long, by a restart of Ray for instance.

    Args:
        storage: The study's storage.
        live_ids: Returns the ids of the trials that are alive.
    """

    def __init__(self, storage: RDBStorage, live_ids: Callable[[], Iterable[int]]) -> None:
        self.storage = storage
        self.live_ids = live_ids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="promptgraft-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=HEARTBEAT_S)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            for trial_id in list(self.live_ids()):
                try:
                    self.storage.record_heartbeat(trial_id)
                except Exception as error:  # noqa: BLE001  # A lost beat is made up for by the next one.
                    logger.warning("no heartbeat for trial id %d: %s", trial_id, type(error).__name__)
