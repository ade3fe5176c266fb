"""Who runs a trial: the driver's process as this machine knows it, and its heartbeat everywhere else.

Host name and process id are not enough: two containers may share a name, and each has a process 1. So a process is
only looked for where its id means something: on the same boot of the same machine, in the same namespaces. The system
clock doesn't decide either, since it can be set while a driver runs: a process is known by the ticks since boot at
which it started, and a driver elsewhere is dead once no beat came for `GRACE_S` of the observer's monotonic clock.
"""

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType

from optuna.storages import RDBStorage

from promptgraft.search.storage.optuna_private import has_heartbeat
from promptgraft.search.storage.records import Owner

logger = logging.getLogger(__name__)

# Seconds between two heartbeats, and without one until a trial counts as an orphan whose process can't be looked for.
HEARTBEAT_S = 20
GRACE_S = 120


def new_owner() -> Owner:
    """Return what tells a driver in this process from every other one."""
    own = _process(os.getpid())
    return Owner(
        driver=secrets.token_hex(4),
        host=platform.node(),
        pid=os.getpid(),
        started=time.time(),
        machine=_machine(),
        ticks=own[1] if own else 0,
    )


def is_alive(owner: Owner | None) -> bool | None:
    """Tell whether a trial's driver still runs.

    Returns:
        None if its process can't be looked for from here: then only its heartbeat tells.
    """
    if owner is None:
        return False
    if not owner.machine or owner.machine != _machine():
        return None
    found = _process(owner.pid)
    if found is None:
        return None if _exists(owner.pid) else False
    state, ticks = found
    return ticks == owner.ticks and state not in "ZX"  # Zombies and the dead.


def _machine() -> str:
    """Name this boot of this machine and the namespaces of this process; nothing where that can't be known."""
    try:
        if os.getpid() != int(Path("/proc/self").readlink().name):
            return ""  # This /proc shows another namespace's processes.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        spaces = [str(path.readlink()) for name in ("pid", "time") if (path := Path(f"/proc/self/ns/{name}")).exists()]
    except (OSError, ValueError):  # Not Linux, or there is no /proc.
        return ""
    return " ".join([boot, *spaces])


def _process(pid: int) -> tuple[str, int] | None:
    """Return a process's state and the ticks since boot at which it started; None if it isn't shown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])


def _exists(pid: int) -> bool:
    """Tell whether there is a process, which /proc may hide from other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def start_heartbeat(storage: RDBStorage, trial_id: int) -> None:
    """Beat for a trial that never did, since its driver died before it could: so it is seen to be silent in time."""
    if not has_heartbeat(storage, trial_id):
        storage.record_heartbeat(trial_id)


class Pulses:
    """Sees which hearts have stopped.

    Args:
        clock: Seconds of a clock that nobody sets.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[str, float]] = {}

    def stopped(self, beats: Mapping[int, str]) -> set[int]:
        """Return the trials whose last beat has been the same for `GRACE_S`.

        Args:
            beats: The last beat of each trial, as the storage has it.
        """
        now, before = self._clock(), self._seen
        self._seen = {
            trial: before[trial] if before.get(trial, ("", 0.0))[0] == beat else (beat, now)
            for trial, beat in beats.items()
        }
        return {trial for trial, (_, since) in self._seen.items() if now - since >= GRACE_S}


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
