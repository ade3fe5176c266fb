"""Commands as a user types them: output, exit codes, and what they import."""

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from promptgraft import __version__
from tests.support.commands import promptgraft, typed
from tests.support.outputs import printed
from tests.support.paths import STUDIES
from tests.support.studies import WriteStudy


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_models: dict[str, str]) -> Path:
    """Folder in which a small study was run by the command line; its study file is study.yaml."""
    from ruamel.yaml import YAML

    folder = tmp_path_factory.mktemp("cli")
    task = {"train": str(data / "amazon.csv"), "text": "text", "label": "label"}
    content: dict[str, Any] = {
        "study": "small",
        "backbone": {"path": tiny_models["encoder"], "family": "encoder", "max_tokens": 48},
        "target": {**task, "train_rows": 16, "validation_rows": 16, "test_rows": 60},
        "space": {
            "templates": {"a": "{{ text }} {{ label }}", "b": "Review: {{ text }} {{ label }}"},
            "verbalizers": {"v": {"negative": "bad", "positive": "good"}},
            "steps": 4,
            "batch_size": 4,
            "frozen_layers": [1, 2, 3],
        },
        "baselines": [],
        "budget": {"trials": 3},
        "judging": {"finalists": 0},
    }
    with (folder / "study.yaml").open("w") as stream:
        YAML().dump(content, stream)
    result = promptgraft("run", "study.yaml", cwd=folder)
    assert result.returncode == 0, result.stderr
    number = json.loads(promptgraft("best", "small", "--json", cwd=folder).stdout)["number"]
    counts, headline, end = result.stdout.splitlines()[-3:]
    assert counts == "study small: 3 of 3 trials finished (3 COMPLETE); ended: all 3 trials are finished"
    assert headline.startswith(f"Ship trial {number}: accuracy ")
    assert end == "details: promptgraft best study.yaml; the bundle: promptgraft export study.yaml"
    assert "Traceback" not in result.stderr
    return folder


def test_validate_refuses_a_deadline_that_has_passed_as_run_does(write_study: WriteStudy) -> None:
    said = typed("validate", str(write_study(budget={"deadline": "2020-01-01T07:00"})))
    assert (said.exit_code, "budget.deadline: expected a moment to come" in said.stderr) == (2, True)


def test_help_imports_nothing_heavy() -> None:
    result = promptgraft("--help", absent="torch,ray,optuna,transformers,pandas,sklearn")
    assert result.returncode == 0
    for command in ("validate", "run", "status", "best", "export", "report", "predict", "dashboard", "new-recurrent"):
        assert result.stdout.count(f"│ {command} ") == 1, command
    places = [result.stdout.index(f"│ {command} ") for command in ("init", "validate", "run", "export", "predict")]
    assert places == sorted(places)


def test_help_says_the_defaults_that_are_no_values() -> None:
    assert "[default: (the table's name with .yaml)]" in typed("init", "--help").stdout


def test_version_imports_nothing_heavy() -> None:
    result = promptgraft("--version", absent="torch,ray,optuna,transformers,pandas,sklearn")
    assert (result.returncode, result.stdout) == (0, f"promptgraft {__version__}\n")


@pytest.mark.slow
def test_a_recurrent_model_is_written_where_neither_optuna_nor_ray_is_installed(tmp_path: Path) -> None:
    arguments = ("new-recurrent", "gru", "--tokenizer", str(STUDIES / "models" / "minilm"), "--hidden-size", "8")
    written = promptgraft(*arguments, "--cell", "gru", "--one-way", absent="optuna,ray", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stderr == ""
    assert "backbone: {path: gru, family: recurrent}" in written.stdout
    config = json.loads((tmp_path / "gru" / "config.json").read_text())
    assert (config["cell"], config["bidirectional"], config["hidden_size"]) == ("gru", False, 8)
    again = promptgraft(*arguments, cwd=tmp_path)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


@pytest.mark.parametrize("study", ["study.yaml", "small"])
def test_status_reads_the_study_without_torch_or_ray(finished: Path, study: str) -> None:
    heavy = "torch,ray,transformers,sklearn,pandas,alembic"
    result = promptgraft("status", study, "--json", absent=heavy, cwd=finished)
    assert result.returncode == 0, result.stderr
    summary = printed("status", result.stdout)
    assert {"study", "states", "best", "finished", "wanted"} <= summary.keys()
    assert {"number", "value", "candidate"} == summary["best"].keys()
    assert (summary["study"], summary["finished"], summary["wanted"]) == ("small", 3, 3)
    assert summary["states"] == {"COMPLETE": 3}
    assert (summary["test_openings"], summary["verdict"]["finalists"]) == ([], [])


def test_status_alone_lists_every_study(finished: Path) -> None:
    assert "small: 3/3 finished; 3 COMPLETE; best accuracy" in promptgraft("status", cwd=finished).stdout


def test_a_database_that_fails_is_told_in_one_line(finished: Path, tmp_path: Path) -> None:
    """Here one that has lost a column; those that don't answer are in tests/integration/test_postgres.py."""
    broken = tmp_path / "study.db"
    with (
        closing(sqlite3.connect(finished / "runs" / "small" / "study.db")) as source,
        closing(sqlite3.connect(broken)) as target,
    ):
        source.backup(target)
        target.execute("ALTER TABLE study_user_attributes RENAME COLUMN value_json TO gone")
    result = promptgraft("status", "small", "--storage", f"sqlite:///{broken}", absent="torch,ray")
    assert result.returncode == 2
    assert result.stderr.startswith("error: can't open the storage sqlite:///")
    assert "no such column: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_export_then_predict(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a copy: an export opens the test rows, which `status` tells."""
    finished = Path(shutil.copytree(finished, tmp_path / "copy"))
    exported = promptgraft("export", "small", cwd=finished)
    assert exported.returncode == 0, exported.stderr
    for name in ("winner (trial", "majority class", "TF-IDF", "zero-shot, template a", "zero-shot, template b"):
        assert name in exported.stdout
    bundle = finished / "runs" / "small" / "bundle"
    assert {file.name for file in bundle.iterdir()} == {
        "manifest.json",
        "delta.safetensors",
        "README.md",
        "examples.json",
        "requirements.txt",
    }
    first = json.loads((bundle / "manifest.json").read_text())["metrics"]["test"]
    pd.DataFrame({"text": ["it broke at once", "{{ label }} {% raw %}"]}).to_csv(finished / "new.csv", index=False)
    arguments = ["predict", str(bundle), "--input", "new.csv", "--output", "out.csv"]
    result = promptgraft(*arguments, absent="optuna,ray", cwd=finished)
    assert result.returncode == 0, result.stderr
    assert "2 rows -> out.csv" in result.stdout
    predictions = pd.read_csv(finished / "out.csv")
    assert predictions["label"].isin(["negative", "positive"]).all()
    monkeypatch.chdir(finished)
    assert typed("export", "small").exit_code == 0
    assert json.loads((bundle / "manifest.json").read_text())["metrics"]["test"] == first


def test_best_prints_the_candidate(finished: Path) -> None:
    result = promptgraft("best", "small", "--json", absent="torch,ray,sklearn,pandas", cwd=finished)
    assert printed("best", result.stdout)["candidate"]["template"].split("-")[0] in ("a", "b")
    shown = promptgraft("best", "small", cwd=finished).stdout.splitlines()
    assert {"  template: a", "  template: b"} & set(shown)
    assert not any(line.startswith("  steps") for line in shown)
    assert "settings that were not searched" in "".join(shown)


def test_bad_input_is_one_message_and_exit_code_2(
    write_study: WriteStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write_study(metric="acuracy"))
    validated = promptgraft("validate", path)
    assert (validated.returncode, "Traceback" in validated.stderr) == (2, False)
    run = typed("run", path)
    assert (run.exit_code, isinstance(run.exception, SystemExit)) == (2, True)
    for result in (validated, run):
        assert "metric: unknown metric 'acuracy'; did you mean 'accuracy'?" in result.stderr
    monkeypatch.chdir(tmp_path)
    for arguments in (["status", "nobody"], ["validate", "gone.yaml"], ["export", "nobody"], ["predict", "x"]):
        extra = ["--input", "a.csv", "--output", "b.csv"] if arguments[0] == "predict" else []
        refused = typed(*arguments, *extra)
        assert isinstance(refused.exception, SystemExit), arguments
        assert (refused.exit_code, "error: " in refused.stderr) == (2, True), arguments


def test_validate_prints_a_space_that_it_chose(write_study: WriteStudy) -> None:
    chosen, own = typed("validate", str(write_study(space="auto"))), typed("validate", str(write_study()))
    assert chosen.exit_code == own.exit_code == 0
    assert "the file leaves out a space" in chosen.stdout
    assert "  contrastive_steps: [0, 40, 100]\n" in chosen.stdout
    assert "leaves out" not in own.stdout


def test_a_command_without_its_extra_says_what_to_install(write_study: WriteStudy) -> None:
    """`sys.modules[name] = None` is how Python spells a module that isn't there."""
    code = "import sys; sys.modules['optuna'] = None; from promptgraft.search.cli.studies import app; app()"
    command = [sys.executable, "-c", code, "validate", str(write_study())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "this command needs optuna; pip install 'promptgraft[search]'" in result.stderr


def test_nothing_to_export_is_exit_code_3(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    result = typed("export", "small", "--trial", "99")
    assert result.exit_code == 3
    assert "trial 99 is unknown" in result.stderr


def test_text_with_template_code_in_it_is_rendered_as_text(write_study: WriteStudy, tmp_path: Path) -> None:
    rows = [(f"{{{{ 7 * 7 }}}} {{% raw %}} row {i}", "negative" if i % 2 else "positive") for i in range(40)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "code.csv", index=False)
    target = {"train": "code.csv", "text": "text", "label": "label", "train_rows": 8, "validation_rows": 8}
    result = promptgraft("validate", str(write_study(target=target)))
    assert result.returncode == 0, result.stderr
