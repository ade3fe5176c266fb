"""Where studies are: URLs with options, odd characters in paths, other folders, and databases that are damaged."""

import errno
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import torch
from typer.testing import CliRunner

from promptgraft.objectives.file_store import FileStore
from promptgraft.search.cli.studies import app
from promptgraft.search.storage import RunFolder, StudyReference, keep_copy, open_storage, study_lock, upgrade_storage
from promptgraft.search.storage.database import DamagedDatabaseError, copy_database, sqlite_file
from promptgraft.spaces import InvalidInputError

ODD = ("a b", "a#b", "a?b=c", "a%20b", "a&b", "{x}", "a'b", 'a"b', "ü–ß", "a::b", "[x]*", "a;b", "a+b", "~a", "a=b@c:d")


def started(folder: Path, name: str = "s", url: str | None = None) -> str:
    """Create a study with a trial; returns its storage."""
    url = url or RunFolder(folder).storage_url()
    study = optuna.create_study(study_name=name, storage=open_storage(url), load_if_exists=True)
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={"candidate": {"template": "plain"}}))
    return url


def test_a_study_of_another_program_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values are of something else: they would be the best of the search, or what `status` fails on."""
    monkeypatch.chdir(tmp_path)
    started(tmp_path / "runs" / "ours", "ours")
    storage = open_storage(RunFolder(tmp_path / "runs" / "theirs").storage_url())
    optuna.create_study(study_name="theirs", storage=storage).add_trial(optuna.trial.create_trial(value=0.5))
    with pytest.raises(
        InvalidInputError, match="study 'theirs' has 1 trials of another program than promptgraft; give"
    ):
        StudyReference.resolve("theirs", None, None).load()
    listed = CliRunner().invoke(app, ["status"])
    assert (listed.exit_code, "ours: 1" in listed.stdout) == (0, True)
    assert "left out: study 'theirs' has" in listed.stderr


@pytest.mark.parametrize("name", ODD)
def test_a_folder_may_have_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for workdir in (f"x/{name}", str(tmp_path / name)):
        reference = StudyReference.resolve("s", None, workdir)
        assert started(reference.folder.path) == reference.storage_url
        assert reference.folder.database.is_file()
        stored = reference.load()
        assert len(stored.trials) == 1
        with study_lock(open_storage(reference.storage_url), "s"):
            pass
        keep_copy(reference.storage_url)
        assert upgrade_storage(reference.storage_url)
        files = reference.folder.files()
        files.create_text("artifacts/x", "text")
        assert [file.name for file in files.files() if file.name.startswith("artifacts")] == ["artifacts/x"]
        assert (reference.folder.path / "artifacts" / "x").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "x"})


@pytest.mark.parametrize("options", ["", "?timeout=60", "?timeout=60&check_same_thread=false", "?cache=private"])
@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
def test_a_storage_may_have_options(tmp_path: Path, scheme: str, options: str) -> None:
    url = f"{scheme}:///{tmp_path}/deep/s.db{options}"
    started(tmp_path, url=url)
    assert len(StudyReference.resolve("s", url, None).load().trials) == 1
    assert sqlite_file(url) == tmp_path / "deep" / "s.db"
    assert {path.name.partition("-")[0] for path in (tmp_path / "deep").iterdir()} == {"s.db"}
    assert CliRunner().invoke(app, ["status", "s", "--storage", url]).exit_code == 0


def test_sqlites_own_uris_are_files_too(tmp_path: Path) -> None:
    url = f"sqlite:///file:{tmp_path}/s.db?uri=true"
    started(tmp_path, url=url)
    assert (tmp_path / "s.db").is_file()
    assert len(StudyReference.resolve("s", url, None).load().trials) == 1


def test_home_is_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    started(tmp_path, url="sqlite:///~/s.db")
    assert (tmp_path / "s.db").is_file()
    started(tmp_path / "runs" / "x", "x")
    for arguments in (["x", "--workdir", "~/runs/x"], ["s", "--storage", "sqlite:///~/s.db"]):
        assert CliRunner().invoke(app, ["status", *arguments]).exit_code == 0
    assert not (tmp_path / "~").exists()


def test_a_study_that_is_not_here_is_looked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says where it looked, and what is there."""
    for name in ("one", "two"):
        started(tmp_path / "runs" / name, name)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    shown = CliRunner().invoke(app, ["status", "one"])
    assert shown.exit_code == 2
    assert str(tmp_path / "other" / "runs" / "one" / "study.db") in shown.output
    assert "--workdir" in shown.output
    assert not (tmp_path / "other" / "runs").exists()
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["status", "onne"])
    assert "holds one, two" in shown.output
    shown = CliRunner().invoke(app, ["best", "onne", "--workdir", "runs/one"])
    assert "did you mean 'one'?" in shown.output


def test_one_odd_folder_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    good = started(runs / "good", "good")
    for name in ("empty", "text", "folder", "torn", "link", "older", "nothing"):
        (runs / name).mkdir()
    (runs / "empty" / "study.db").touch()
    (runs / "text" / "study.db").write_text("no database at all, but long enough to have a header\n" * 9)
    (runs / "folder" / "study.db").mkdir()
    (runs / "torn" / "study.db").write_bytes(sqlite_file(good).read_bytes()[:5000])  # type: ignore[union-attr]
    (runs / "link" / "study.db").symlink_to(runs / "gone")
    with closing(sqlite3.connect(runs / "older" / "study.db")) as database:
        database.execute("CREATE TABLE studies (study_id INTEGER)")
    (runs / "file").write_text("a file among the folders")
    shutil.copytree(runs / "good", runs / "copy")
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("good: 1/") == 2  # The copy is shown as what it is.
    for name in ("empty", "text", "folder", "torn", "older"):
        assert f"left out: runs/{name}: " in shown.output, name
    assert "Traceback" not in shown.output


@pytest.mark.parametrize("damage", ["middle", "header", "half"])
def test_a_damaged_database_is_named_with_its_last_copy(tmp_path: Path, damage: str) -> None:
    url = started(tmp_path)
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    for number in range(40):
        study.set_user_attr(f"x{number}", "y" * 1500)
    storage.engine.dispose()
    path = tmp_path / "study.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    keep_copy(url)
    content = bytearray(path.read_bytes())
    if damage == "middle":
        content[4096 : len(content) - 4096] = b"\x7f" * (len(content) - 8192)
    elif damage == "header":
        content[:100] = b"\0" * 100
    else:
        content = content[: len(content) // 2]
    path.write_bytes(content)
    message = rf"{path} is damaged .*last copy is {path}\.copy"
    with pytest.raises(DamagedDatabaseError, match=message):
        keep_copy(url)  # As a run does, first of all.
    shown = CliRunner().invoke(app, ["status", "s", "--workdir", str(tmp_path)])
    assert (shown.exit_code, shown.output.count("\n")) == (2, 1), shown.output
    assert f"{path}.copy" in shown.output
    path.unlink()
    copy_database(tmp_path / "study.db.copy", path)
    assert len(StudyReference.resolve("s", None, str(tmp_path)).load().trials) == 1


def test_an_upgrade_never_overwrites_an_earlier_copy(tmp_path: Path) -> None:
    url, path = started(tmp_path), tmp_path / "study.db"
    for number in range(3):
        with closing(sqlite3.connect(path)) as database:
            database.execute("DROP INDEX IF EXISTS ix_trials_study_id")
            database.execute("DROP INDEX IF EXISTS trials_study_id_key")
            database.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
            database.execute(f"PRAGMA user_version = {number + 1}")
            database.commit()
        before, after = upgrade_storage(url)
        assert before != after
    copies = sorted(tmp_path.glob("study.db.before-upgrade*"))
    versions = [sqlite3.connect(copy).execute("PRAGMA user_version").fetchone()[0] for copy in copies]
    assert sorted(versions) == [1, 2, 3]


def test_a_url_that_nothing_knows_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        InvalidInputError, match="can't keep files at nowhere://u:\\*\\*\\*@bucket/x: Protocol not known"
    ):
        FileStore("nowhere://u:hunter2@bucket/x")


def test_files_on_a_disk_that_is_read_only_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They used to be reported as missing, since they could not be marked as used."""
    files = FileStore(str(tmp_path))
    files.write_tensors("logits.safetensors", {"logits": torch.ones(2, 2)})

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("os.utime", refuse)
    assert files.read_logits("logits.safetensors").sum() == 4
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    url = started(tmp_path / "locked")
    with pytest.raises(OSError, match=r"Read-only file system: .*study\.db\.lock"), study_lock(open_storage(url), "s"):
        pass
