"""From `promptgraft run` to the first update of the first trial: what happens when, in which process, at what cost.

    python -m tests.bench.first_update [studies/demo.yaml] [--times 3] [--split]

The study is run with full fine-tuning as its first trial, in a folder of its own, and stopped after the first update.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from ruamel.yaml import YAML

from tests.bench.startup import APP, ONE_THREAD

MODEL, UPDATE = "worker: model loaded", "worker: update"
_POINTS = {
    "promptgraft.search.study.loading:StudyLoader.read": "driver: study read",
    "promptgraft.search.study.loading:StudyLoader._load_tasks": "driver: tables read, cleaned, split",
    "promptgraft.search.study.loading:StudyLoader._cautions": "driver: cautions",
    "promptgraft.search.workers.rehearsal:RehearsalProcess.rehearse": "driver: waits for the rehearsal",
    "promptgraft.search.running.ray_session:LocalRay.start": "driver: Ray starts",
    "promptgraft.search.running.starting:run_study": "driver: run",
    "promptgraft.search.running.starting:_started_ledger": "driver: study stored",
    "promptgraft.search.running.driver:Driver._fit": "driver: Ray Tune",
    "promptgraft.search.running.searcher:StudySearcher._next_job": "driver: next job",
    "promptgraft.objectives.measures.rehearsal:Rehearsal.__init__": "rehearsal: model's shapes read",
    "promptgraft.search.workers.worker:TrialRunner.setup": "worker: set up",
    "promptgraft.objectives.trial.trial_data:StudyTasks.load": "worker: tables read, cleaned, split",
    "promptgraft.objectives.caching.loaded_backbones:LoadedBackbones.get": MODEL,
    "promptgraft.search.workers.worker:TrialRunner._begin": "worker: candidate measured",
    "promptgraft.objectives.trial.cycle:Cycle._prepare": "worker: model prepared",
    "promptgraft.objectives.trial.cycle:Cycle._evaluate": "worker: evaluated",
    "promptgraft.objectives.trial.training:Update.__init__": UPDATE,
}


def _changed(study: Path, folder: Path) -> Path:
    """Write the study with full fine-tuning as its first trial, beside links to what lies beside it."""
    for found in study.parent.iterdir():
        if found.is_dir():
            (folder / found.name).symlink_to(found.resolve())
    yaml, path = YAML(), folder / "study.yaml"
    # Of three trials none is a start point, which might come first.
    yaml.dump(yaml.load(study) | {"baselines": ["full_fine_tuning"], "budget": {"trials": 3}}, path)
    return path


def first_update(study: Path, package: str) -> tuple[list[tuple[float, int, float, str]], list[str]]:
    """Run a study to its first update.

    Returns:
        What happened for the first time: seconds since the start, process, its CPU-seconds then, what; and each process
        with its CPU-seconds when the update was done.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = folder / "trace"
        trace.touch()
        points = ";".join(f"{place}={what}" for place, what in _POINTS.items())
        path = os.pathsep.join([str(Path(__file__).parent / "tracing"), package])
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": path}
        environment |= {"STARTUP_TRACE": str(trace), "STARTUP_POINTS": points}
        command = [sys.executable, "-c", APP, "run", str(_changed(study, folder)), "--quiet"]
        started = time.time()
        process = psutil.Popen([*command, "--workdir", str(folder / "run")], env=environment, stdout=subprocess.DEVNULL)
        try:
            while f"{UPDATE}: ends" not in trace.read_text():
                if process.poll() is not None or time.time() > started + 120:
                    raise RuntimeError("there was no update")
                time.sleep(0.1)
            costs = [_cost(own) for own in (process, *process.children(recursive=True))]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
        lines = [line.split("\t") for line in trace.read_text().splitlines()]
        first = {what: (float(at) - started, int(pid), float(cpu), what) for at, pid, cpu, what in reversed(lines)}
        return sorted(first.values()), costs


def _cost(process: psutil.Process) -> str:
    times = process.cpu_times()
    # Ray's workers and agents name themselves; of other processes the command's end says most.
    words = " ".join(process.cmdline())
    return f"{times.user + times.system:6.2f}  {process.pid}  {words[:40]} ... {words[-60:]}"


def main() -> None:
    """Print when the first update came, of that the loading of the model, and if wanted the split of the last run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/demo.yaml"))
    parser.add_argument("--package", action="append", default=[], help="A checkout's .package, measured as well.")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--split", action="store_true")
    wanted = parser.parse_args()
    packages = [os.environ.get("PYTHONPATH", ""), *wanted.package]
    taken: dict[str, list[float]] = {package: [] for package in packages}
    loading: dict[str, list[float]] = {package: [] for package in packages}
    for _ in range(wanted.times):
        for package in packages:
            events, costs = first_update(wanted.study, package)
            at = {what: seconds for seconds, _, _, what in events}
            taken[package].append(at[f"{UPDATE}: ends"])
            loading[package].append(at[f"{MODEL}: ends"] - at[f"{MODEL}: begins"])
            if wanted.split:
                print("\n".join(f"{seconds:6.2f}  {pid}  {cpu:5.2f}  {what}" for seconds, pid, cpu, what in events))
                print("\n".join(costs))
            print(f"{taken[package][-1]:.2f} {loading[package][-1]:.2f} {package}", flush=True)
    for package in packages:
        median, own = statistics.median(taken[package]), statistics.median(loading[package])
        print(f"first update after {median:.1f} s, {own:.1f} of them to load the model  {package}")


if __name__ == "__main__":
    main()
