"""Paths that can't be: one sentence and exit 2, before anything is computed or opened."""

from pathlib import Path

import optuna
import pytest
from optuna.trial import create_trial
from typer.testing import CliRunner

from promptgraft.search.cli.studies import app
from promptgraft.search.storage import RunFolder, open_storage
from promptgraft.search.study import load_study
from promptgraft.search.study.schema.units import parse_bytes, parse_seconds
from promptgraft.search.trials import Limits
from promptgraft.spaces import InvalidInputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a study that was started, a file and a folder."""
    monkeypatch.chdir(tmp_path)
    storage = open_storage(RunFolder(Path("runs/s")).storage_url())
    optuna.create_study(study_name="s", storage=storage).add_trial(
        create_trial(value=0.5, user_attrs={"candidate": {"template": "plain"}})
    )
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\0\1")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("report s --output folder", "folder is a folder; name a file"),
        ("report s --output file/report.html", "file is a file, so nothing can be written below it"),
        ("report s --csv file", "file is a file; name a folder"),
        ("report s --csv file/tables", "file is a file"),
        ("export s --output file", "file is a file; name a folder"),
        ("export s --output file/bundle", "file is a file"),
        ("convert folder file --to onnx", "file is a file; name a folder"),
        ("predict folder --input file --output folder", "folder is a folder; name a file"),
        ("new-recurrent file --tokenizer folder", "file is a file; name a folder"),
        ("run missing.yaml", "missing.yaml: no such study file"),
        ("run folder.yaml", "folder.yaml"),
        ("run loop.yaml", "loop.yaml"),
        ("validate binary.yaml", "not UTF-8 text"),
        ("validate file", "expected a mapping"),
        ("validate " + "x" * 300 + ".yaml", "xxx"),
        ("status s --workdir file", "file"),
        ("status s --storage sqlite:////proc/1/nothing/s.db", "/proc/1/nothing"),
        ("status s --storage sqlite:///folder", "folder"),
        ("status s --storage mysql://u:hunter2@h/d", "a study can't be stored in 'mysql'"),
        ("upgrade --storage sqlite:///folder", "no database at folder"),
        ("report s --workdir nowhere://u:hunter2@h/x --storage sqlite:///runs/s/study.db", "nowhere://u:***@h/x"),
        ("best t", "holds s"),
    ],
)
def test_a_place_that_can_not_be_is_one_message(here: Path, arguments: str, names: str) -> None:
    shown = CliRunner().invoke(app, arguments.split(" "))
    assert shown.exit_code == 2, (shown.output, shown.exception)
    assert names in " ".join(shown.output.split()), shown.output
    assert "hunter2" not in shown.output
    assert "Traceback" not in shown.output
    assert shown.output.startswith("error: ")
    assert (here / "file").read_text() == "text"
    assert not list((here / "folder").iterdir())


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("my study", "my-study"),
        ("étude n° 1", "etude-n-1"),
        ("-x", "x"),
        ("a/b", "a-b"),
        ("学习", "study-1"),
        ("..", "study-1"),
    ],
)
def test_a_name_that_can_not_be_gets_advice(tmp_path: Path, name: str, like: str) -> None:
    """In the file and on the command line: what a name may hold, and one that is like it; no pattern."""
    file = tmp_path / "study.yaml"
    file.write_text(f"study: {name!r}\n")
    for arguments in (["validate", str(file)], ["run", str(file), "--new-study", name]):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2
        assert repr(like) in shown.output
        assert "letters (a to z), digits" in shown.output
        assert "pattern" not in shown.output


def test_a_name_that_is_a_number_is_to_be_quoted(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study: 2024\n")
    with pytest.raises(InvalidInputError, match="for instance '2024', in quotes if it is a number"):
        load_study(file)


def test_times_and_sizes_are_written_as_people_do() -> None:
    for text, seconds in {"1h30m": 5400, "1h 30m": 5400, "2d12h": 216000, "90": 90, "90S": 90, "5 min": 300}.items():
        assert parse_seconds(text) == seconds
    for text, size in {"16GiB": 16 * 2**30, "1.5 MiB": 1572864, "20GB": 20 * 10**9, "20gb": 20 * 10**9, "5": 5}.items():
        assert parse_bytes(text) == size
    for text in ("30m1h", "1h30", "1h1h", "h", "-1h", "1x", ""):
        with pytest.raises(ValueError, match="expected a time such as 90s, 30m, 1h30m or 2d"):
            parse_seconds(text)
    for text in ("1G", "GiB", "-1GB"):
        with pytest.raises(ValueError, match="expected a size such as 500MB, 20GB or 16GiB"):
            parse_bytes(text)


def test_fewer_trials_than_are_finished_is_said() -> None:
    assert Limits(3).all_finished(5).startswith("5 trials are finished, more than the 3 asked for")
    assert Limits(5).all_finished(5) == "all 5 trials are finished"
