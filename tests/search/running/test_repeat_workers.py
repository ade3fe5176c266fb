"""Repeats whose workers die, on real Ray actors that load no model."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from promptgraft.search.running.ray_session import LocalRay, RayLostError, prepare_environment
from promptgraft.search.running.repeat_workers import MAX_LOST, Job, RepeatWorkers, WorkersLostError, shared_tasks
from promptgraft.search.storage import Outcome
from promptgraft.search.study import load_study
from tests.support.studies import WriteStudy


class Runner:
    """Dies of whatever it is told to die of."""

    def __init__(self, dies_at_start: bool) -> None:
        if dies_at_start:
            raise MemoryError("no room for the backbone")

    def work(self, name: str) -> Outcome:
        if "deadly" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "disk" in name:
            raise OSError("the disk is full")
        return Outcome(0.5, {"pid": os.getpid()})

    def wait_for_a_signal(self, pid_file: str) -> Outcome:
        if not Path(pid_file).exists():
            Path(pid_file).write_text(str(os.getpid()))
            time.sleep(600)
        return Outcome(0.5)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    prepare_environment(None)
    LocalRay(2).start()
    yield
    ray.shutdown()


def workers(*, dies_at_start: bool = False) -> RepeatWorkers:
    actor = ray.remote(Runner).options(num_cpus=1)
    return RepeatWorkers(lambda: actor.remote(dies_at_start), lambda: True)


def job(name: str) -> Job:
    return Job(name, name, lambda runner: runner.work.remote(name))


@dataclass
class Run:
    """What came of jobs that were run one after another until each was recorded."""

    outcomes: dict[str, Any]
    lost: int


def run(pool: RepeatWorkers, *names: str) -> Run:
    """Run jobs as `finals.Confirmation.run` does, with room for one."""
    outcomes: dict[str, Any] = {}
    lost = 0
    while True:
        left = [job(name) for name in names if name not in outcomes and not pool.has(job(name))]
        if left and not pool.running:
            pool.begin(left[0])
        is_idle = not pool.running
        ended = pool.failed() if is_idle else pool.next_outcomes()
        lost += not is_idle and not ended
        outcomes |= {entry.attr: outcome for entry, outcome in ended}
        if is_idle and not ended:
            return Run(outcomes, lost)


def test_a_repeat_that_kills_its_workers_fails_and_the_others_are_run() -> None:
    found = run(workers(), "deadly", "a", "b")
    assert set(found.outcomes) == {"deadly", "a", "b"}
    failure = f"the worker died: killed, out of memory, or crashed, {MAX_LOST} times"
    assert found.outcomes["deadly"] == Outcome(failure=failure)
    assert found.lost == MAX_LOST, "each of which was run again but the last"
    assert found.outcomes["a"].metrics == found.outcomes["b"].metrics, "a worker stays"


@pytest.mark.slow
def test_losses_are_counted_for_each_repeat_whatever_succeeds_in_between() -> None:
    names = [name for number in range(MAX_LOST - 1) for name in (f"good {number}", f"deadly {number}")]
    found = run(workers(), *names)
    assert {name for name, outcome in found.outcomes.items() if outcome.failure} == set(names[1::2])


def test_the_last_repeat_that_is_left_fails_though_none_has_succeeded() -> None:
    assert run(workers(), "deadly").outcomes["deadly"].failure


@pytest.mark.slow
def test_where_nothing_works_no_repeat_is_failed() -> None:
    with pytest.raises(WorkersLostError, match=r"nothing could be judged: the worker died.* at deadly 0, deadly 1, d"):
        run(workers(), *(f"deadly {number}" for number in range(MAX_LOST)))


def test_workers_that_cannot_start_are_nobody_s_fault() -> None:
    with pytest.raises(WorkersLostError, match=r"4 workers in a row were lost: .*no room for the backbone"):
        run(workers(dies_at_start=True), "a", "b")


def test_what_is_no_death_is_raised() -> None:
    with pytest.raises(OSError, match="the disk is full"):
        run(workers(), "disk")


def test_a_ray_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = RepeatWorkers(lambda: ray.remote(Runner).options(num_cpus=0).remote(False), lambda: False)
    pool.begin(job("a"))
    with pytest.raises(RayLostError):
        pool.next_outcomes()


def test_a_worker_that_is_asked_to_go_counts_against_no_repeat(tmp_path: Path) -> None:
    """As a batch system does that wants its node back."""
    pool, file = workers(), tmp_path / "pid"
    asked = Job("a", "a", lambda runner: runner.wait_for_a_signal.remote(str(file)))
    pool.begin(asked)
    terminator = threading.Thread(target=_terminate, args=(file,))
    terminator.start()
    assert pool.next_outcomes() == []
    terminator.join()
    assert not pool.has(asked)
    pool.begin(asked)
    assert pool.next_outcomes() == [(asked, Outcome(0.5))]


def _terminate(pid_file: Path) -> None:
    """Ask the process to go that has written its id into a file."""
    while not pid_file.is_file() or not pid_file.read_text():
        time.sleep(0.02)
    psutil.Process(int(pid_file.read_text())).terminate()


def test_tasks_that_can_t_be_sent_are_read_by_each_worker(write_study: WriteStudy) -> None:
    study = load_study(write_study())
    target, sources = ray.get(shared_tasks(study))
    assert (target, sources) == (study.target, dict(study.sources))
    study.target.__dict__["lock"] = threading.Lock()  # As a plugin's may have one.
    assert shared_tasks(study) is None
