"""At least 200 random kills of drivers, workers, nodes and Ray, across cheap but real trials: `make test-faults`."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptgraft.search.judging import reach_verdict
from promptgraft.search.storage import RunFolder, StudyRecord, load_existing
from promptgraft.search.trials import FINISHED, best_trial
from tests.support import faults
from tests.support.answers import write_pairs
from tests.support.faults import SEED, Driver, Figures
from tests.support.histories import section_of_histories
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.studies import CHEAP

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
# Divides the number of kills, to try the suite itself.
SHORTER = int(os.environ.get("PROMPTGRAFT_FEWER_FAULTS", "1"))
JUDGED: dict[str, Any] = {"finalists": 2, "repeats": 3, "controls": []}
FEW = {"train_rows": 24, "validation_rows": 12, "test_rows": 12}
SMALL: dict[str, Any] = {
    "templates": {"plain": "{{ text }} {{ label }}"},
    "source_steps": [0, 6],
    "alpha": [0.0, 0.5],
    "steps": [4, 8],
    "batch_size": 4,
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}
NONE = {"lost": 0, "duplicated": 0, "left RUNNING": 0, "left WAITING": 0, "wrong state": 0}


@pytest.fixture
def study_file(write_study: Callable[..., Path]) -> Callable[..., Path]:
    def write(trials: int, **sections: object) -> Path:
        # Half of the reserve goes to repeats while the search goes on.
        budget = {"trials": trials, "max_retries": 1000, "max_failure_rate": 1.0, "reserve": 0.5}
        return write_study(**({"space": CHEAP, "pruner": "none", "sampler": "random", "budget": budget} | sections))

    return write


def _driver(study: Path, tmp_path: Path, concurrent: int, *options: str) -> Driver:
    return Driver(study, RunFolder(tmp_path / "run"), ("--concurrent", str(concurrent), *options), Figures())


def _report(name: str, driver: Driver, found: dict[str, int]) -> None:
    trials = faults.trials_of(driver.folder)
    finished = sum(trial.state in FINISHED for trial in trials)
    retried = sum("retry_of" in trial.user_attrs for trial in trials)
    kills = ", ".join(f"{count} {what}" for what, count in sorted(driver.figures.kills.items()))
    print(f"\n{name}: {driver.figures.kills.total()} kills ({kills}) in {driver.figures.runs} runs; ", end="")
    print(f"{finished} finished, {retried} run again; {found}")


def _results(folder: RunFolder) -> dict[str, object]:
    """Candidate -> value, of every COMPLETE trial."""
    trials: list[FrozenTrial] = load_existing("tiny", folder.storage_url()).get_trials()
    return {trial.user_attrs["candidate_key"]: trial.value for trial in trials if trial.state in FINISHED}


def _repeats(folder: RunFolder) -> dict[tuple[str, int], float]:
    """Candidate and number of the repeat -> value; all that the race needs are there."""
    study = load_existing("tiny", folder.storage_url())
    assert not reach_verdict(study).missing
    keys = [trial.user_attrs.get("candidate_key") for trial in study.get_trials()]
    found = StudyRecord.of(study).repeats
    return {(keys[number], repeat): own[repeat].value for number, own in found.items() for repeat in own}


def _same_as_uninterrupted(driver: Driver, tmp_path: Path) -> None:
    """Run the study without a fault: the same candidates, the same values, the same winner."""
    calm = Driver(driver.study, RunFolder(tmp_path / "calm" / "run"), driver.options, Figures())
    calm.folder.path.parent.mkdir()
    calm.finish()
    assert _results(driver.folder) == _results(calm.folder)
    winners = [best_trial(load_existing("tiny", each.folder.storage_url())) for each in (driver, calm)]
    assert winners[0] is not None
    assert winners[1] is not None
    assert winners[0].user_attrs["candidate_key"] == winners[1].user_attrs["candidate_key"]
    assert winners[0].value == winners[1].value
    repeated, calmly = _repeats(driver.folder), _repeats(calm.folder)
    assert len(repeated.keys() & calmly.keys()) >= JUDGED["repeats"], "those of the finalists, at least of the better"
    assert all(repeated[which] == calmly[which] for which in repeated.keys() & calmly.keys())


@pytest.mark.parametrize(
    ("concurrent", "sampler", "pruner"),
    [(1, "tpe", "median"), (2, "random", "none")],
    ids=["one at a time, TPE and pruner", "two at a time"],
)
def test_killed_drivers(
    study_file: Callable[..., Path], tmp_path: Path, concurrent: int, sampler: str, pruner: str
) -> None:
    """The schedule allows equality where what is drawn doesn't depend on which of two trials ends first."""
    study = study_file(150, sampler={"name": sampler}, pruner={"name": pruner}, judging=JUDGED)
    driver = _driver(study, tmp_path, concurrent)
    faults.kill_drivers(driver, 50 // SHORTER)
    driver.finish()
    found = faults.faults_found(driver)
    _report(f"drivers, {concurrent} at a time", driver, found)
    assert found == NONE
    _same_as_uninterrupted(driver, tmp_path)


@pytest.mark.parametrize("kind", ["multi_label", "regression", "token_classification", "translation"])
def test_killed_drivers_of_other_kinds(
    kind: str, study_file: Callable[..., Path], tmp_path: Path, tiny_models: TinyModels
) -> None:
    writes = kind == "translation"
    family = "seq2seq" if writes else "encoder"
    write, text, label = (write_pairs, "en", "es") if writes else (write_kinds, "text", COLUMNS[kind])
    rows: dict[str, Any] = {"kind": kind, "text": text, "label": label}
    languages = {"source_language": "English", "target_language": "Spanish"} if writes else {}
    study = study_file(
        30,
        backbone={"path": tiny_models[family], "family": family, "max_tokens": 48},
        source={"train": str(write(tmp_path / "source.csv", seed=1)), "train_rows": 32, **rows},
        target={"train": str(write(tmp_path / "target.csv")), **FEW, **rows, **languages},
        space=SMALL | ({"decoding": {"max_new_tokens": 8}} if writes else {}),
        judging=JUDGED,
    )
    driver = _killed_five_times(kind, study, tmp_path)
    assert faults.faults_found(driver) == NONE
    _same_as_uninterrupted(driver, tmp_path)


@pytest.mark.parametrize(
    ("kind", "family", "head", "priors"),
    [
        ("recommendation", "encoder", "linear", ["none", "neighbours"]),
        ("recommendation", "causal_lm", "titles", ["popularity", "neighbours"]),
        ("user_profile", "encoder", "linear", ["none", "words"]),
    ],
    ids=["recommendation", "titles", "user_profile"],
)
def test_killed_drivers_of_histories(
    kind: str,
    family: str,
    head: str,
    priors: list[str],
    study_file: Callable[..., Path],
    tmp_path: Path,
    tiny_models: TinyModels,
) -> None:
    """Among what is shared between trials are counts and the embeddings of items."""
    history = {"templates": {"plain": "{{ history }} {{ label }}"}, "prior": priors, "text_weight": [0.3, 1.0]}
    study = study_file(
        30,
        backbone={"path": tiny_models[family], "family": family, "max_tokens": 48},
        source={**section_of_histories(tmp_path / "source", kind, users=60, seed=1), "train_rows": 32},
        target={**section_of_histories(tmp_path / "target", kind, users=60), **FEW},
        space=SMALL | history | {"head": head},
        judging=JUDGED,
    )
    driver = _killed_five_times(head if head == "titles" else kind, study, tmp_path)
    assert faults.faults_found(driver) == NONE
    _same_as_uninterrupted(driver, tmp_path)


def _killed_five_times(name: str, study: Path, tmp_path: Path) -> Driver:
    """Kill the driver of a study of 30 trials while it runs some, then let it finish; return it."""
    driver = _driver(study, tmp_path, 1)
    faults.kill_drivers(driver, 5, at_work=True)
    driver.finish()
    _report(name, driver, faults.faults_found(driver))
    return driver


def test_killed_workers(study_file: Callable[..., Path], tmp_path: Path) -> None:
    driver = _driver(study_file(150, judging=JUDGED), tmp_path, 2)
    faults.kill_workers(driver, 75 // SHORTER)
    driver.finish()
    found = faults.faults_found(driver)
    _report("workers", driver, found)
    assert found == NONE
    _same_as_uninterrupted(driver, tmp_path)


def test_killed_ray(study_file: Callable[..., Path], tmp_path: Path) -> None:
    driver = _driver(study_file(60), tmp_path, 2)
    faults.kill_ray(driver, max(2, 10 // SHORTER))
    driver.finish()
    found = faults.faults_found(driver)
    _report("Ray itself", driver, found)
    assert found == NONE


def test_killed_nodes(study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of real Ray nodes: one is killed every few seconds, and another one joins."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    driver = _driver(study_file(160), tmp_path, 2, "--address", cluster.address)
    chance = random.Random(SEED)
    try:
        process = driver.start()
        while driver.figures.kills.total() < 35 // SHORTER and process.poll() is None:
            faults.sleep_until(time.monotonic() + chance.uniform(1.0, 12.0), process)
            driver.note_finished()
            cluster.remove_node(nodes.pop(chance.randrange(2)), allow_graceful=False)
            driver.figures.kills["node SIGKILL"] += 1
            nodes.append(cluster.add_node(num_cpus=1))
        driver.finish()
    finally:
        for node in nodes:
            cluster.remove_node(node, allow_graceful=False)
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=True)
    found = faults.faults_found(driver)
    _report("nodes", driver, found)
    assert found == NONE
    causes = {trial.user_attrs["cause"] for trial in faults.trials_of(driver.folder) if "cause" in trial.user_attrs}
    assert "the node of the worker is gone" in causes
