"""A thousand real trials, two at a time: memory, overhead and disk at 100, 500 and 1,000.

python -m tests.bench.soak [--trials 1000]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.storage import RunFolder, load_existing
from promptgraft.spaces import InvalidInputError
from tests.bench.studies import write_small_study
from tests.search.faults import PROMPTGRAFT, is_worker, processes_of

CONCURRENT, WINDOW = 2, 50


def memory_mib(process: subprocess.Popen[bytes]) -> tuple[float, list[float]]:
    """Memory that only these processes have: of the driver and of each worker."""

    def unique(found: psutil.Process) -> float:
        return float(found.memory_full_info().uss) / 2**20

    return unique(psutil.Process(process.pid)), sorted(unique(each) for each in processes_of(process, is_worker))


def overhead_ms(trials: list[FrozenTrial], upto: int) -> float:
    """Time of the two places that no trial's cycle used, a trial, over the last finished ones."""
    ended = sorted((t for t in trials if t.datetime_complete), key=lambda trial: trial.datetime_complete)  # type: ignore[arg-type, return-value]
    window = ended[upto - WINDOW : upto]
    wall = (window[-1].datetime_complete - window[0].datetime_complete).total_seconds()  # type: ignore[operator]
    used = sum(float(trial.user_attrs["seconds"]) for trial in window[1:])
    return 1000 * (CONCURRENT * wall - used) / (len(window) - 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    wanted = parser.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name) / "run")
        study = write_small_study(Path(name), wanted)
        command = [*PROMPTGRAFT, "run", str(study), "--concurrent", str(CONCURRENT), "--workdir", str(folder.path)]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        marks = [mark for mark in (20, 100, 500, 1000) if mark <= wanted]
        while marks:
            time.sleep(0.3)
            if process.poll() is not None:
                break
            try:
                trials = load_existing("small", folder.storage_url()).get_trials(deepcopy=False)
            except InvalidInputError:
                continue
            done = sum(trial.state == TrialState.COMPLETE for trial in trials)
            # The last mark is read just before the end, while the processes are there.
            if done >= marks[0] - (5 if marks[0] == wanted else 0):
                driver, workers = memory_mib(process)
                shown = " ".join(f"{worker:.0f}" for worker in workers)
                print(f"{marks.pop(0):5} trials: driver {driver:.0f} MiB, workers {shown} MiB", flush=True)
        assert process.wait(600) == 0
        trials = load_existing("small", folder.storage_url()).get_trials(deepcopy=False)
        seconds = sum(float(trial.user_attrs["seconds"]) for trial in trials) / len(trials)
        print(f"{len(trials)} trials in {time.monotonic() - started:.0f} s; a cycle takes {1000 * seconds:.0f} ms")
        for mark in (100, 500, 1000):
            if mark <= wanted:
                print(f"{mark:5} trials: overhead {overhead_ms(trials, mark):.0f} ms a trial")
        sizes = {part: sum(f.stat().st_size for f in folder.path.glob(part) if f.is_file()) for part in ("*", "*/**/*")}
        print(f"disk: study.db {sizes['*'] / 1e6:.1f} MB, files {sizes['*/**/*'] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
