"""Overhead of a no-op trial with five reports, two at a time: ours, Ray Tune's OptunaSearch, plain Optuna.

python -m tests.bench.overhead [--trials 200]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from promptgraft.search.running import Progress, RunOptions, SearchSettings, StudyLedger
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.running.driver import Driver
from promptgraft.search.running.ray_session import prepare_environment
from promptgraft.search.storage import RunFolder, open_storage
from promptgraft.search.study import load_study
from promptgraft.search.trials import Limits
from tests.bench.studies import write_small_study

REPORTS, CONCURRENT = 5, 2


def _nothing(reported: Callable[[int], dict[str, Any]]) -> type:
    """Return a trial that does nothing but say `reported(1)`, `reported(2)`, ..."""
    from ray import tune

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.reset_config(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.reports = 0
            return True

        def step(self) -> dict[str, Any]:
            self.reports += 1
            return reported(self.reports)

    return Nothing


def ours(trials: int, folder: Path) -> list[float]:
    """The whole driver of `promptgraft run`, with a trial that does nothing."""
    from promptgraft.search.trials import Evaluated, TrialSummary

    def reported(reports: int) -> dict[str, Any]:
        value = reports / 10
        summary = TrialSummary(value, reports) if reports == REPORTS else None
        return {"message": Evaluated(reports, value, {"loss": 0.5}, summary=summary)}

    class EmptyDriver(Driver):
        def trainable(self) -> object:
            return _nothing(reported)

        def on_trial_ending(self, number: int, messages: list[Evaluated]) -> None:
            """Write no note: there is no candidate's prompt to show."""

    study = load_study(write_small_study(folder, trials))
    storage = open_storage(RunFolder(folder / "run").storage_url())
    stored = optuna.create_study(storage=storage, study_name=study.name, direction="maximize")
    record_study(stored, study, trials)
    ledger = StudyLedger(stored, storage, study.objective.space, SearchSettings.of(study))
    options = RunOptions(RunFolder(folder / "run"), concurrent=CONCURRENT)
    EmptyDriver(study, options, ledger, Progress("bench", "accuracy", trials, console=_quiet()), Limits(trials)).run()
    return _ends(stored)


def stock(trials: int, folder: Path, *, reuse: bool) -> list[float]:
    """Ray Tune with its own OptunaSearch, in memory as it comes."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def reported(reports: int) -> dict[str, Any]:
        return {"value": reports / 10, "done": reports == REPORTS}

    ends = folder / "ends"  # A file, since Ray runs a copy of the callback.

    class Clock(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            with ends.open("a") as stream:
                stream.write(f"{time.time()}\n")

    ray.init(address="local", num_cpus=CONCURRENT, include_dashboard=False, log_to_driver=False)
    space = {"x": tune.uniform(0, 1), "y": tune.randint(0, 9), "z": tune.choice(["a", "b"]), "w": tune.uniform(0, 1)}
    tuner = tune.Tuner(
        tune.with_resources(_nothing(reported), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="value", mode="max"),
            num_samples=trials,
            max_concurrent_trials=CONCURRENT,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            callbacks=[Clock()],
        ),
    )
    tuner.fit()
    ray.shutdown()
    return [float(line) for line in ends.read_text().split()]


def plain(trials: int, folder: Path) -> list[float]:
    """`study.optimize` with two threads and the same SQLite settings; no processes at all."""
    study = optuna.create_study(storage=open_storage(f"sqlite:///{folder / 'plain.db'}"), direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        trial.suggest_int("y", 0, 8)
        trial.suggest_categorical("z", ["a", "b"])
        trial.suggest_float("w", 0, 1)
        for report in range(REPORTS):
            trial.report(report / 10, report)
            trial.should_prune()
        return 0.5

    study.optimize(objective, n_trials=trials, n_jobs=CONCURRENT)
    return _ends(study)


def _ends(study: optuna.Study) -> list[float]:
    return sorted(trial.datetime_complete.timestamp() for trial in study.get_trials() if trial.datetime_complete)


def _quiet() -> Any:
    from rich.console import Console

    return Console(quiet=True)


def _steady_ms(ends: list[float]) -> float:
    """Milliseconds a trial between the first tenth and the end: the start isn't counted."""
    first = len(ends) // 10
    return 1000 * (ends[-1] - ends[first]) / (len(ends) - 1 - first)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--fresh-trials", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    prepare_environment(None)
    few, many = arguments.fresh_trials, arguments.trials
    systems: dict[str, Callable[[Path], list[float]]] = {
        "promptgraft": lambda folder: ours(many, folder),
        "Ray Tune + OptunaSearch, reused actors": lambda folder: stock(many, folder, reuse=True),
        "Ray Tune + OptunaSearch, fresh actors": lambda folder: stock(few, folder, reuse=False),
        "plain Optuna, threads": lambda folder: plain(many, folder),
    }
    times: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(arguments.runs):
        for name, system in systems.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(_steady_ms(system(Path(folder))))
    base = statistics.median(times["promptgraft"])
    print(
        f"ms a trial, {REPORTS} reports, {CONCURRENT} at a time, median of {arguments.runs} (range), and ratio to ours"
    )
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"  {name:40} {middle:7.1f}  ({min(values):.1f}-{max(values):.1f})  {middle / base:5.2f}x")


if __name__ == "__main__":
    main()
