"""Kills drivers, workers, nodes and Ray at random moments, and counts what was lost; used by test_faults.py."""

import contextlib
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import LOGITS_FILE, RunFolder, load_existing, trial_file
from promptgraft.search.trials import FINISHED
from promptgraft.spaces import Candidate, InvalidInputError
from tests.support.commands import PROMPTGRAFT

SEED = 20261124


@dataclass
class Figures:
    """What a series of kills did to a study.

    Attributes:
        kills: How often what was killed, by name.
        runs: Drivers that were started.
        seen: Finished trials that were ever seen, as they were then.
    """

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    seen: dict[int, tuple[object, ...]] = field(default_factory=dict)


def heed_ctrl_c() -> None:
    """Undo what a shell does to jobs in the background: they, and all that they start, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def trials_of(folder: RunFolder, url: str | None = None) -> list[FrozenTrial]:
    try:
        return load_existing("tiny", url or folder.storage_url()).get_trials(deepcopy=False)
    except InvalidInputError:
        return []


def outcome(trial: FrozenTrial) -> tuple[object, ...]:
    return trial.state, trial.value, tuple(sorted(trial.intermediate_values.items())), trial.user_attrs["candidate_key"]


@dataclass
class Driver:
    """A `promptgraft run` in a process of its own."""

    study: Path
    folder: RunFolder
    options: tuple[str, ...]
    figures: Figures
    storage: str | None = None
    process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [*PROMPTGRAFT, "run", str(self.study), "--workdir", str(self.folder.path), *self.options]
        if self.storage:
            command += ["--storage", self.storage]
        self.figures.runs += 1
        log = (self.folder.path.parent / "driver.log").open("a")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, text=True, preexec_fn=heed_ctrl_c)
        return self.process

    def note_finished(self) -> None:
        """Remember what is finished, so that it can be missed later."""
        for trial in trials_of(self.folder, self.storage):
            if trial.state in FINISHED:
                self.figures.seen.setdefault(trial.number, outcome(trial))

    def finish(self, timeout_s: float = 600) -> None:
        """Run until it ends by itself; again if a fault took it down in the meantime."""
        for _ in range(5):
            process = self.process if self.process and self.process.poll() is None else self.start()
            if process.wait(timeout_s) == 0:
                return
        raise AssertionError(f"the search does not end: {(self.folder.path.parent / 'driver.log').read_text()[-3000:]}")


def sleep_until(moment: float, process: subprocess.Popen[str]) -> None:
    while time.monotonic() < moment and process.poll() is None:
        time.sleep(0.02)


def processes_of(process: subprocess.Popen[Any], wanted: Callable[[str, str], bool]) -> Iterator[psutil.Process]:
    """Yield the descendants whose name and title are wanted."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if wanted(child.name(), " ".join(child.cmdline())):
                    yield child


def is_worker(name: str, title: str) -> bool:
    return title.startswith("ray::") and "Trainable" in title


def kill_drivers(driver: Driver, kills: int, *, at_work: bool = False) -> None:
    """Kill the driver at a random moment of its first 15 seconds: start, first trials, reports, writes.

    Args:
        driver: The driver.
        kills: How often.
        at_work: Whether it is killed while trials are run: in the first seconds after there is a worker.
    """
    chance = random.Random(SEED)
    signals = [signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT]
    while driver.figures.kills.total() < kills:
        process = driver.start()
        while at_work and process.poll() is None and not any(processes_of(process, is_worker)):
            time.sleep(0.05)
        sleep_until(time.monotonic() + chance.uniform(0.0, 5.0 if at_work else 14.0), process)
        driver.note_finished()
        if process.poll() is None:
            sign = chance.choice(signals)
            process.send_signal(sign)
            driver.figures.kills[f"driver {sign.name}"] += 1
            process.wait(60)
        elif process.returncode == 0:
            return


def kill_workers(driver: Driver, kills: int) -> None:
    """Kill a random worker every few seconds, while the driver goes on."""
    chance = random.Random(SEED)
    process = driver.start()
    while driver.figures.kills.total() < kills and process.poll() is None:
        sleep_until(time.monotonic() + chance.uniform(0.2, 4.0), process)
        driver.note_finished()
        workers = list(processes_of(process, is_worker))
        if workers:
            sign = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(workers).send_signal(sign)
                driver.figures.kills[f"worker {sign.name}"] += 1


def kill_ray(driver: Driver, kills: int) -> None:
    """Kill a process of Ray itself, under a driver that then starts it again or is started again."""
    chance = random.Random(SEED)
    while driver.figures.kills.total() < kills:
        process = driver.process
        if process is None or process.poll() is not None:
            process = driver.start()
        sleep_until(time.monotonic() + chance.uniform(4.0, 15.0), process)
        driver.note_finished()
        victim = chance.choice(["raylet", "raylet", "gcs_server"])
        for found in processes_of(process, lambda name, title: name == victim):  # noqa: B023
            with contextlib.suppress(psutil.NoSuchProcess):
                found.kill()
                driver.figures.kills[f"Ray's {victim} SIGKILL"] += 1
        if process.poll() == 0:
            return


def faults_found(driver: Driver) -> dict[str, int]:
    """Count what must not be: lost, duplicated, left RUNNING, or in a state that isn't what happened."""
    driver.note_finished()
    trials = trials_of(driver.folder, driver.storage)
    finished = [trial for trial in trials if trial.state in FINISHED]
    keys = Counter(trial.user_attrs["candidate_key"] for trial in finished)
    now = {trial.number: outcome(trial) for trial in finished}
    return {
        "lost": sum(now.get(number) != then for number, then in driver.figures.seen.items()),
        "duplicated": sum(count - 1 for count in keys.values()),
        "left RUNNING": sum(trial.state == TrialState.RUNNING for trial in trials),
        "left WAITING": sum(trial.state == TrialState.WAITING for trial in trials),
        "wrong state": sum(not _is_right(trial, trials, driver.folder) for trial in trials),
    }


def _is_right(trial: FrozenTrial, trials: list[FrozenTrial], folder: RunFolder) -> bool:
    """Tell whether the state is what the curve, the files and the retries say."""
    steps = Candidate.from_values(trial.user_attrs["candidate"]).steps
    last = max(trial.intermediate_values, default=-1)
    wrote = (folder.path / trial_file(trial.number, LOGITS_FILE)).is_file()
    if trial.state == TrialState.COMPLETE:
        return last == steps and wrote
    if trial.state == TrialState.PRUNED:
        return last < steps and not wrote
    retried = any(other.user_attrs.get("retry_of") == trial.number for other in trials)
    return trial.state == TrialState.FAIL and retried and bool(trial.user_attrs["cause"])
