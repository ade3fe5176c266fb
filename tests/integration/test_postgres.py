"""One study in PostgreSQL, two drivers with a Ray each: `make test-postgres`."""

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psutil
import pytest

from promptgraft.search.judging import reach_verdict
from promptgraft.search.running import SearchSettings, StudyLedger
from promptgraft.search.storage import RunFolder, StorageLostError, StudyRecord, load_existing, open_storage
from promptgraft.search.storage import waiting as patience
from promptgraft.search.study import EngineSection
from promptgraft.search.trials import FINISHED
from promptgraft.spaces import InvalidInputError
from tests.support import faults
from tests.support.commands import PROMPTGRAFT
from tests.support.faults import Driver, Figures
from tests.support.postgres import Server
from tests.support.studies import CHEAP, WIDE
from tests.support.waiting import wait_until


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for the sessions of Ray whose name is short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


pytestmark = [pytest.mark.postgres, pytest.mark.timeout(1200)]


def test_two_drivers_share_a_study_and_one_is_killed(
    write_study: Callable[..., Path], tmp_path: Path, postgres_url: Callable[[Path], str]
) -> None:
    url = postgres_url(tmp_path)
    study = write_study(space=CHEAP, pruner="median", sampler="tpe", budget={"trials": 60})
    folder, figures = RunFolder(tmp_path / "run"), Figures()
    drivers = [Driver(study, folder, ("--concurrent", "1"), figures, url) for _ in range(2)]
    processes = [driver.start() for driver in drivers]
    owners: set[str] = set()

    def both_at_work() -> bool:
        assert all(process.poll() is None for process in processes), "a driver ended early"
        trials = faults.trials_of(folder, url)
        owners.update(trial.user_attrs["owner"]["driver"] for trial in trials)
        drivers[0].note_finished()
        return len(owners) == 2 and sum(trial.state in FINISHED for trial in trials) >= 15

    wait_until(both_at_work, 600)
    processes[0].kill()
    processes[0].wait()
    drivers[1].finish()
    found = faults.faults_found(drivers[1])
    trials = faults.trials_of(folder, url)
    share = Counter(trial.user_attrs["owner"]["driver"] for trial in trials if trial.state in FINISHED)
    print(
        f"\nPostgreSQL, two drivers, one killed: {sum(share.values())} finished, {sorted(share.values())} each; {found}"
    )
    assert found == dict.fromkeys(found, 0)
    assert sum(share.values()) == 60
    assert len(share) == 2


def test_the_password_is_nowhere(
    write_study: Callable[..., Path], tmp_path: Path, postgres_url: Callable[[Path], str], ray_folder: Path
) -> None:
    """Not in what is printed, stored or logged, by Ray too, nor in a command line; wherever the URL has it."""
    url = postgres_url(tmp_path)
    user, _, place = url.rpartition("@")
    password = user.rpartition(":")[2]
    of_files = "Zx9files9xZ"
    command = [*PROMPTGRAFT, "run", str(write_study(budget={"trials": 2}))]
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder)}
    texts: list[str] = []
    for name, storage in (("user", url), ("query", f"{user.rpartition(':')[0]}@{place}?password={password}")):
        workdir = f"file://{tmp_path}/{name}?token={of_files}"
        where = ["--workdir", workdir, "--new-study", name]
        with subprocess.Popen(
            [*command, *where],
            env=environment | {"PROMPTGRAFT_STORAGE": storage},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
        ) as process:
            lines: set[str] = set()
            while process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
                for child in children:
                    with contextlib.suppress(psutil.Error):
                        lines.add(" ".join(child.cmdline()))
                time.sleep(0.2)  # How often command lines are looked at.
            output, _ = process.communicate()
        assert process.returncode == 0, output
        assert any("raylet" in line for line in lines)
        status = [*PROMPTGRAFT, "status", name, "--workdir", workdir]
        told = subprocess.run(
            status,
            env=environment | {"PROMPTGRAFT_STORAGE": storage},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=True,
        )
        study = load_existing(name, storage)
        texts += [output, *lines, told.stdout, told.stderr, repr(study.user_attrs), repr(study.get_trials())]
        texts += [repr(open_storage(storage).get_study_system_attrs(study._study_id))]
    written = [file for file in (*tmp_path.rglob("*"), *ray_folder.rglob("*")) if file.is_file()]
    texts += [file.read_bytes().decode(errors="replace") for file in written]
    assert [file for file in written if file.name.startswith(("gcs_server", "raylet"))], "the logs of Ray"
    assert [text[:300] for text in texts if password in text] == []
    assert [text[:300] for text in texts if of_files in text] == []


def test_what_is_wrong_with_a_server_is_said_without_the_password(postgres_url: Callable[[Path], str]) -> None:
    url = postgres_url(Path("any"))
    user, _, rest = url.rpartition("@")
    for wrong, named in (
        (f"{user.rsplit(':', 1)[0]}:hunter2@{rest}", "password authentication failed"),
        (f"{url}_missing", "does not exist"),
        ("postgresql://graft:hunter2@127.0.0.1:1/any", "Connection refused"),
    ):
        with pytest.raises(InvalidInputError, match=named) as caught:
            open_storage(wrong)
        assert "hunter2" not in str(caught.value)
        assert url.split(":")[2].split("@")[0] not in str(caught.value)


def test_a_server_that_restarts_is_waited_for(
    postgres_server: Server, postgres_url: Callable[[Path], str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = open_storage(postgres_url(tmp_path))
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    book = StudyLedger(study, storage, WIDE, SearchSettings(EngineSection(name="tpe"), EngineSection(name="median"), 0))
    asked = book.ask()
    assert asked is not None

    def restart() -> None:
        with postgres_server.down():
            wait_until(lambda: "does not answer" in caplog.text)

    restarting = threading.Thread(target=restart)
    restarting.start()
    steps = 0
    while restarting.is_alive():
        book.report(asked.number, steps, 0.5, compared=True)
        steps += 1
    book.complete(asked.number, 0.5)
    assert "does not answer" in caplog.text
    (trial,) = study.get_trials()
    assert (trial.state.name, len(trial.intermediate_values)) == ("COMPLETE", steps)


def test_a_server_that_restarts_while_the_winner_is_judged_is_waited_for(
    write_study: Callable[..., Path], tmp_path: Path, postgres_server: Server, postgres_url: Callable[[Path], str]
) -> None:
    url = postgres_url(tmp_path)
    judging = {"finalists": 2, "repeats": 3, "controls": ["majority"]}
    study = write_study(budget={"trials": 3, "reserve": 0}, judging=judging, pruner="none")
    command = [*PROMPTGRAFT, "run", str(study), "--workdir", str(tmp_path / "run"), "--storage", url]
    errors = tmp_path / "errors"
    with errors.open("w") as stream, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream) as process:
        wait_until(lambda: process.poll() is not None or faults.trials_of(RunFolder(tmp_path / "run"), url), 600)
        stored = load_existing("tiny", url)  # One for all looks, as a server has few connections.
        wait_until(lambda: process.poll() is not None or StudyRecord.of(stored).repeats, 600)
        assert process.poll() is None, errors.read_text()
        before = StudyRecord.of(stored).repeats
        with postgres_server.down():
            wait_until(lambda: "does not answer" in errors.read_text(), 60)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, errors.read_text()
    assert "the study's storage does not answer" in errors.read_text()
    assert "Traceback" not in errors.read_text()
    assert b"Ship " in output
    after = StudyRecord.of(load_existing("tiny", url)).repeats
    assert sum(map(len, before.values())) < sum(map(len, after.values()))
    assert reach_verdict(load_existing("tiny", url)).winner is not None


def test_a_storage_that_stays_away_ends_the_run_with_one_error(
    postgres_server: Server, postgres_url: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 2.0)
    storage = open_storage(postgres_url(tmp_path))
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    book = StudyLedger(study, storage, WIDE, SearchSettings(EngineSection(name="tpe"), EngineSection(name="none"), 0))
    assert book.ask() is not None
    with postgres_server.down():
        with pytest.raises(StorageLostError, match="run the same command"):
            book.ask()
        with pytest.raises(StorageLostError):
            book.refresh()  # At once: it was given up.
