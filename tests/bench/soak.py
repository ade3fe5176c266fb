"""A thousand real trials, two at a time: processor time, memory, overhead and disk as the study grows.

python -m tests.bench.soak [--trials 1000] [--out FILE.json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import RunFolder, load_existing
from promptgraft.spaces import InvalidInputError
from tests.bench.studies import write_small_study
from tests.support.commands import PROMPTGRAFT
from tests.support.faults import is_worker, processes_of

CONCURRENT, WINDOW = 2, 50
MARKS = (10, 30, 100, 300, 1000)


class ProcessorTime:
    """Adds up the processor time of a process and of all that it starts, those that have ended included."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._root = psutil.Process(process.pid)
        self._seconds: dict[tuple[int, float], float] = {}

    def read(self) -> float:
        """Look at the processes that there are; return the seconds of all that were ever seen."""
        for found in (self._root, *self._root.children(recursive=True)):
            try:
                times = found.cpu_times()
                self._seconds[found.pid, found.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        return sum(self._seconds.values())


def memory_mib(process: subprocess.Popen[bytes]) -> tuple[float, list[float]]:
    """Memory that only these processes have: of the driver and of each worker."""

    def unique(found: psutil.Process) -> float:
        return float(found.memory_full_info().uss) / 2**20

    return unique(psutil.Process(process.pid)), sorted(unique(each) for each in processes_of(process, is_worker))


def overhead_ms(trials: list[FrozenTrial], upto: int) -> float:
    """Time of the two places that no trial's cycle used, a trial, over the last finished ones."""
    ended = sorted((t for t in trials if t.datetime_complete), key=lambda trial: trial.datetime_complete)  # type: ignore[arg-type, return-value]
    window = ended[max(0, upto - WINDOW) : upto]
    wall = (window[-1].datetime_complete - window[0].datetime_complete).total_seconds()  # type: ignore[operator]
    used = sum(float(trial.user_attrs["seconds"]) for trial in window[1:])
    return 1000 * (CONCURRENT * wall - used) / (len(window) - 1)


@contextmanager
def search(study: Path, folder: RunFolder) -> Iterator[subprocess.Popen[bytes]]:
    """Run a whole search in a process of its own."""
    command = [*PROMPTGRAFT, "run", str(study), "--concurrent", str(CONCURRENT), "--workdir", str(folder.path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        yield process
        assert process.wait(600) == 0
    finally:
        process.kill()


def soak(wanted: int) -> list[dict[str, Any]]:
    """Run a search and look at it now and then.

    Returns:
        For each mark, the trials that were finished, what all processes had used until then in processor seconds,
        MiB of the driver and of each worker, and the overhead in ms a trial.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    points: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run")
        started = time.monotonic()
        with search(write_small_study(Path(name), wanted), folder) as process:
            used = ProcessorTime(process)
            left = [mark for mark in MARKS if mark <= wanted]
            study: optuna.Study | None = None  # Opened once: it keeps finished trials, and looking takes little.
            while left and process.poll() is None:
                time.sleep(0.3)
                cpu_s = used.read()
                try:
                    study = study or load_existing("small", folder.storage_url())
                except InvalidInputError:
                    continue
                trials = study.get_trials(deepcopy=False)
                done = sum(trial.state == TrialState.COMPLETE for trial in trials)
                # The last mark is read just before the end, while the processes are there.
                if done >= left[0] - (5 if left[0] == wanted else 0):
                    left.pop(0)
                    driver, workers = memory_mib(process)
                    points.append({"trials": done, "cpu_s": cpu_s, "driver_mib": driver, "workers_mib": workers})
        trials = load_existing("small", folder.storage_url()).get_trials(deepcopy=False)
        for point in points:
            point["overhead_ms"] = overhead_ms(trials, point["trials"])
            shown = " ".join(f"{worker:.0f}" for worker in point["workers_mib"])
            print(
                f"{point['trials']:5} trials: {point['cpu_s']:.0f} CPU-s, driver {point['driver_mib']:.0f} MiB, "
                f"workers {shown} MiB, overhead {point['overhead_ms']:.0f} ms a trial",
                flush=True,
            )
        seconds = sum(float(trial.user_attrs["seconds"]) for trial in trials) / len(trials)
        print(f"{len(trials)} trials in {time.monotonic() - started:.0f} s; a cycle takes {1000 * seconds:.0f} ms")
        sizes = {part: sum(f.stat().st_size for f in folder.path.glob(part) if f.is_file()) for part in ("*", "*/**/*")}
        print(f"disk: study.db {sizes['*'] / 1e6:.1f} MB, files {sizes['*/**/*'] / 1e6:.1f} MB")
    return points


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    points = soak(arguments.trials)
    if arguments.out:
        arguments.out.write_text(json.dumps(points, indent=1))


if __name__ == "__main__":
    main()
