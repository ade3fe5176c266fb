"""Ray for the time of a run: started on this machine, or a cluster that is joined."""

import errno
import logging
import os
import secrets
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import psutil

from promptgraft.search.study import Finding, RehearsalJob, Rehearse, ResourcesSection, StudyFile, rehearse
from promptgraft.search.trials import cause_of
from promptgraft.search.workers import RehearsalProcess
from promptgraft.spaces import InvalidInputError, PromptgraftError, masked, masked_url, uncollected

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# What a local Ray reads as it starts: whether it starts workers before it is asked, and what these import.
_ON_DEMAND = {"RAY_prestart_worker_first_driver": "0"}
_IN_ADVANCE = {
    "RAY_prestart_worker_first_driver": "1",
    "RAY_preload_python_modules": "promptgraft.search.workers.preloading",
}
_READY_S = 60
_QUIET = {"log_to_driver": False, "configure_logging": False}
# Processes of a local Ray without which it can't go on.
_VITAL = ("gcs_server", "raylet")
# Methods of Ray's node that start processes of which trials need none.
_NEEDLESS = ("start_monitor", "start_log_monitor", "start_api_server")


# What a run imports once its study is read: its other parts, Ray Tune, and what that imports where MLflow is installed.
_NEEDED_NEXT = (
    "promptgraft.search.running.starting",
    "promptgraft.search.running.scheduler",
    "promptgraft.search.workers.worker",
    "ray.air.integrations.mlflow",
)


class RayLostError(PromptgraftError):
    """The local Ray has died under the run."""


def ray_error_in_words(error: Exception) -> str:
    """Say in one line why Ray gave up: in the words of what a worker raised, if it did."""
    cause = getattr(error, "cause", None)
    text = cause_of(cause) if isinstance(cause, Exception) else str(error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return masked(first.rstrip("."))


class RaySession:
    """A Ray that runs trials.

    Args:
        vital: Processes of a local Ray; none for a cluster.
        stop: Tells whether someone wants the run to stop.
    """

    def __init__(self, vital: list[psutil.Process], stop: "StopSignals") -> None:
        self.stop = stop
        self._vital = vital

    @property
    def is_alive(self) -> bool:
        """Whether the processes of the local Ray still run; a cluster looks after itself."""
        return all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self._vital)

    def resources(self) -> dict[str, float]:
        """Return what the cluster has in all: CPU, GPU and others by name."""
        import ray

        found: dict[str, float] = ray.cluster_resources()
        return found


def prepare_environment(address: str | None) -> None:
    """Set what Ray reads when it is imported, unless the user has set it.

    A local Ray listens on every interface; a token of this run keeps others out.

    Args:
        address: Cluster that will be joined; None for a local Ray.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.widgets").setLevel(logging.WARNING)  # In a notebook it asks for packages that aren't needed.
    if address is None:
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


class StopSignals:
    """Takes SIGTERM (a batch system, `kill`) and SIGHUP (a lost terminal) for Ctrl-C, and remembers that one came.

    A KeyboardInterrupt gets lost where Python can't raise it, in a callback from C for instance; the run ends then
    as soon as it looks.

    Attributes:
        came: Whether any of them was received.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, again if somebody else has set theirs."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in ((signal.SIGINT, self._stop), (signal.SIGTERM, self._pass), (signal.SIGHUP, self._pass)):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # As `nohup` wants it.
            found = signal.signal(number, handler)
            self._before.setdefault(number, found)

    def _stop(self, number: int, frame: Any) -> None:  # noqa: ARG002
        self.came = True
        raise KeyboardInterrupt

    def _pass(self, number: int, frame: Any) -> None:  # noqa: ARG002
        self.came = True
        if number == signal.SIGHUP:
            _let_go_of_terminal()
        signal.raise_signal(signal.SIGINT)  # While Ray Tune is at work, that is its own.


def _let_go_of_terminal() -> None:
    """Send to nowhere what would go to a terminal that is gone: writing there is an error."""
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                with open(os.devnull, "w") as nowhere:  # noqa: PTH123
                    os.dup2(nowhere.fileno(), stream)


def trial_slots(resources: ResourcesSection, total: Mapping[str, float], at_most: int | None) -> int:
    """Return how many trials fit at a time, or fewer if that is wanted.

    Args:
        resources: What one trial gets.
        total: What Ray has.
        at_most: How many are wanted; None for as many as fit.

    Raises:
        InvalidInputError: If not even one fits.
    """
    for kind, wanted in (("CPU", resources.cpu), ("GPU", resources.gpu)):
        if wanted > total.get(kind, 0):
            raise InvalidInputError(
                f"a trial wants {wanted:g} {kind}, but Ray has {total.get(kind, 0):g}; lower "
                f"resources.{kind.lower()} or join a cluster that has them with --address"
            )
    fit = int(total["CPU"] / resources.cpu)
    if resources.gpu:
        fit = min(fit, int(total["GPU"] / resources.gpu))
    return min(fit, at_most or fit)


@dataclass(frozen=True, slots=True)
class LocalRay:
    """What a local Ray has.

    Attributes:
        cpus: Logical CPUs.
        in_advance: Whether a worker for each CPU is started at once, and imports what trials need. Not where a trial
            has several CPUs, since most would have nothing to do; nor where it has a GPU: which one a worker sees is
            set when it gets a trial, and has to be before it imports anything.
    """

    cpus: int
    in_advance: bool = False

    @classmethod
    def of(cls, file: StudyFile, concurrent: int | None) -> "LocalRay":
        """Return what a study needs.

        Args:
            file: The study file.
            concurrent: Trials at a time; None for as many as fit.
        """
        resources = file.resources
        return cls((concurrent or file.concurrent()) * resources.cpu, resources.cpu == 1 and not resources.gpu)

    def start(self) -> None:
        """Start it."""
        import ray

        with _only_what_trials_need(), _environment(_IN_ADVANCE if self.in_advance else _ON_DEMAND):
            ray.init(address="local", num_cpus=self.cpus, include_dashboard=False, **_QUIET)


class EarlyRay:
    """A local Ray that is started before a session needs it, while another process is at work; it is the next one's."""

    def __init__(self) -> None:
        self._running: LocalRay | None = None

    def start(self, wanted: LocalRay) -> None:
        """Start it, unless it is there."""
        if not self._is_there(wanted):
            self.stop()
            wanted.start()
            self._running = wanted

    def take(self, wanted: LocalRay) -> bool:
        """Whether it is there and as wanted; from now on it is the caller's. It ends if it is another one."""
        if not self._is_there(wanted):
            self.stop()
            return False
        self._running = None
        return True

    def stop(self) -> None:
        """End it, if no session has taken it."""
        if self._running is not None:
            import ray

            self._running = None
            ray.shutdown()

    def _is_there(self, wanted: LocalRay) -> bool:
        import ray

        return self._running == wanted and bool(ray.is_initialized())


EARLY_RAY = EarlyRay()


def _use_plain_workers() -> None:
    """Let trials run in workers that are there: with an environment of their own, Ray starts one anew for each.

    Ray Tune's says `PL_DISABLE_FORK`, for PyTorch Lightning. What other versions of Ray call otherwise stays.
    """
    from ray.tune.execution import class_cache

    getattr(class_cache, "DEFAULT_ENV_VARS", {}).clear()


@contextmanager
def ray_session(address: str | None, local: LocalRay) -> Iterator[RaySession]:
    """Start a local Ray or join a cluster; SIGTERM and SIGHUP then stop the run as Ctrl-C does.

    Args:
        address: Cluster to join; a local Ray is started if None.
        local: The local Ray.

    Raises:
        InvalidInputError: If no cluster answers at the address.
    """
    import ray

    with StopSignals() as stop:
        if address is not None:
            try:
                ray.init(address=address, **_QUIET)
            except (ConnectionError, ValueError, AssertionError) as error:
                raise InvalidInputError(
                    f"no Ray cluster answers at {masked_url(address)}: {ray_error_in_words(error)}; start one with "
                    "`ray start --head`, or leave out --address for a Ray on this machine"
                ) from error
        elif not EARLY_RAY.take(local):
            local.start()
        try:
            stop.install()  # Ray has taken SIGTERM for itself.
            _use_plain_workers()
            yield _ready_session(address, local.cpus, stop)
        finally:
            ray.shutdown()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while, except for those that the user has set."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _only_what_trials_need() -> Iterator[None]:
    """Start no autoscaler, dashboard and log monitor with a local Ray: nothing here asks them, and each costs seconds.

    `ray.init` has no option for that, unlike `ray start`. What another version of Ray calls otherwise is started.
    """
    from ray._private.node import Node

    def start_nothing(node: object, **options: object) -> None:
        """Stand in for a method that starts a process."""

    before = {name: getattr(Node, name) for name in _NEEDLESS if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, start_nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(Node, name, method)


def _ready_session(address: str | None, cpus: int, stop: "StopSignals") -> RaySession:
    """Wait until a local Ray has its node, or see that a cluster's nodes will do."""
    import ray

    if address is None:
        deadline = time.monotonic() + _READY_S
        while ray.cluster_resources().get("CPU", 0) < cpus and time.monotonic() < deadline:
            time.sleep(0.05)  # On a busy machine the node is registered a moment later.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    if address is not None:
        from promptgraft.search.workers import check_nodes

        check_nodes()
    vital = [] if address else [child for child in psutil.Process().children() if child.name() in _VITAL]
    return RaySession(vital, stop)


@contextmanager
def early_start(concurrent: int | None, address: str | None) -> Iterator[Rehearse]:
    """Yield what rehearses a study in another process, and starts Ray meanwhile if the run needs a local one.

    Where this process has imported torch already, there is nothing to win, and it rehearses here.

    Args:
        concurrent: Trials at a time; None for as many as fit.
        address: Ray cluster that will be joined; a local Ray is started if None.
    """
    if "torch" in sys.modules:
        yield lambda _, job: list(rehearse(job))
        return
    process = RehearsalProcess()

    def rehearse_elsewhere(file: StudyFile, job: RehearsalJob) -> list[Finding]:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(process.rehearse, job)
            prepare_environment(address)
            if address is None:
                EARLY_RAY.start(LocalRay.of(file, concurrent))
            with uncollected():
                for module in _NEEDED_NEXT:
                    import_module(module)
            findings = found.result()
        return list(rehearse(job)) if findings is None else findings

    try:
        yield rehearse_elsewhere
    except BaseException:
        EARLY_RAY.stop()
        raise
    finally:
        process.close()
