"""Storages: what can't do the job is refused with its reason, and old schemas are upgraded by a command."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from typer.testing import CliRunner

from promptgraft.search.cli.studies import app
from promptgraft.search.storage import open_storage
from promptgraft.spaces import InvalidInputError, masked_url


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite://", "a study in memory dies with its process"),
        ("sqlite:///:memory:", "a study in memory dies with its process"),
        ("mysql://root:hunter2@db/optuna", "can't be stored in 'mysql'"),
        ("redis://:hunter2@db", "can't be stored in 'redis'"),
        ("journal.log", "is no storage URL; expected sqlite:///FILE or postgresql://"),
        ("postgresql//graft:hunter2@db", "is no storage URL"),
        ("postgresql://graft:hunter2@db:port/x", "is no storage URL"),
    ],
)
def test_a_storage_that_can_t_do_the_job_is_refused(url: str, named: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        open_storage(url)
    assert named in str(caught.value)
    if "://" in url:
        assert "hunter2" not in str(caught.value)


def test_passwords_are_hidden() -> None:
    assert masked_url("postgresql://graft:hunter2@db/x") == "postgresql://graft:***@db/x"


@pytest.fixture
def old_database(tmp_path: Path) -> str:
    """A study in the schema of Optuna 3.0: it lacks the index on the trials' study and says its revision."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    storage = RDBStorage(url)
    study = optuna.create_study(storage=storage, study_name="old", direction="maximize")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    storage.engine.dispose()
    with closing(sqlite3.connect(tmp_path / "study.db")) as connection, connection:
        connection.execute("DROP INDEX ix_trials_study_id")
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    return url


def test_an_old_schema_names_the_command_that_upgrades_it(old_database: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="promptgraft upgrade --storage sqlite:///"):
        open_storage(old_database)
    runner = CliRunner()
    result = runner.invoke(app, ["upgrade", "--storage", old_database])
    assert result.exit_code == 0, result.output
    assert "v3.0.0.d -> " in result.output
    study = optuna.load_study(study_name="old", storage=open_storage(old_database))
    assert len(study.get_trials()) == 3
    with closing(sqlite3.connect(tmp_path / "study.db.before-upgrade")) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == ("v3.0.0.d",)
    assert "up to date" in runner.invoke(app, ["upgrade", "--storage", old_database]).output


def test_a_newer_schema_asks_for_a_newer_optuna(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    open_storage(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
    with pytest.raises(InvalidInputError, match="pip install --upgrade optuna"):
        open_storage(f"sqlite:///{path}")
    result = CliRunner().invoke(app, ["upgrade", "--storage", f"sqlite:///{path}"])
    assert result.exit_code == 2
    assert "pip install --upgrade optuna" in result.output


def test_several_processes_may_open_a_new_storage_at_once(tmp_path: Path) -> None:
    """A driver creates the tables while `status` looks, or two drivers start together."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    code = f"from promptgraft.search.storage import open_storage; open_storage({url!r})"
    started = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(6)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
