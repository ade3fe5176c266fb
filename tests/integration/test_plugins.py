"""The documented plugins in a whole search: found by their entry points in driver, workers, export and prediction."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from optuna_dashboard._note import get_note_from_system_attrs as get_note

from promptgraft.bundles import Predictor, read_manifest
from promptgraft.search.storage import DELTA_FILE, RunFolder, StudyRecord, load_existing, trial_file
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import InvalidInputError
from tests.support.commands import PROMPTGRAFT
from tests.support.plugins import documented_plugins, install, loaded
from tests.support.specs import TEMPLATES, VERBALIZERS

GROW = {"sources": ["questions"], "every": 2, "size": 1, "limit": 3}
SPACE: dict[str, Any] = {
    "templates": {TEMPLATES[0].name: TEMPLATES[0].text},
    "verbalizers": {v.name: {label: list(ws) for label, ws in v.words.items()} for v in VERBALIZERS},
    "grow": GROW | {"verbalizers": 1, "verbalizer_sources": ["thesaurus", "likelihood"]},
    "steps": [2, 4, 6],
    "batch_size": 4,
    "custom": {"label_smoothing": {"low": 0.0, "high": 0.2, "when": {"parameter": "steps", "above": 2}}},
}


@pytest.mark.slow
def test_a_search_with_a_plugin_of_each_kind(
    write_study: Callable[..., Path], tiny_models: dict[str, str], data: Path, tmp_path: Path
) -> None:
    assert len(documented_plugins()) == 4
    assert all(len(code.splitlines()) < 30 for code in documented_plugins().values())
    backbone = {"path": tiny_models["encoder"], "family": "first_token", "max_tokens": 48}
    path = write_study(backbone=backbone, space=SPACE, budget={"trials": 4}, pruner="none")
    environment, folder = install(tmp_path / "site"), RunFolder(tmp_path / "runs")

    def promptgraft(*arguments: str) -> str:
        command = [*PROMPTGRAFT, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    promptgraft("run", str(path), "--workdir", str(folder.path), "--concurrent", "1")
    study = load_existing("tiny", folder.storage_url())
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        value = trial.params.get("custom.label_smoothing")
        assert (value is not None) == (trial.params["steps"] > 2)
        assert trial.user_attrs["candidate"].get("custom.label_smoothing") == value
        note = get_note(study._storage.get_study_system_attrs(study._study_id), trial._trial_id)["body"]
        assert value is None or f", label_smoothing {value:.3g}. A validation row" in note
    pool = StudyRecord.of(study).pool
    assert {template.source for template in pool.templates} == {"questions"}
    assert any(entry.name.startswith("thesaurus-") for entry in pool.verbalizers)
    smoothed = [trial.number for trial in trials if "custom.label_smoothing" in trial.params]
    number = next(n for n in smoothed if (folder.path / trial_file(n, DELTA_FILE)).is_file())
    export = promptgraft("export", str(path), "--trial", str(number), "--workdir", str(folder.path))
    assert f"bundle of trial {number}" in export
    assert read_manifest(folder.bundle).versions["my-backbone"] == "1.0"
    for name in set(documented_plugins()) - {"my_backbone"}:
        (tmp_path / "site" / f"{name}.py").unlink()
        shutil.rmtree(tmp_path / "site" / f"{name}-1.0.dist-info")  # A bundle can do without these.
    out = tmp_path / "out.csv"
    assert f"-> {out}" in promptgraft(
        "predict", str(folder.bundle), "--input", str(data / "amazon.csv"), "--output", str(out)
    )
    with pytest.raises(InvalidInputError, match="needs the backbone family 'first_token', which no package brings"):
        Predictor(folder.bundle)


def test_what_no_installed_package_brings_is_refused_with_its_line(write_study: Callable[..., Path]) -> None:
    def problems(path: Path) -> dict[str, str]:
        with pytest.raises(StudyFileError) as caught:
            load_study(path)
        lines = path.read_text().splitlines()
        for problem in caught.value.problems:
            assert lines[problem.line - 1].strip().startswith(problem.where.split(".")[-1])
        return {problem.where: problem.message for problem in caught.value.problems}

    assert problems(write_study(space=SPACE)) == {
        "space.grow.sources": "unknown template source 'questions'; expected one of: mutation, crossover, paraphrase, "
        "continuation, fill",
        "space.grow.verbalizer_sources": "unknown verbalizer source 'thesaurus'; expected one of: likelihood",
        "space.custom.label_smoothing": "unknown custom parameter 'label_smoothing'; no installed package provides any",
    }
    found = problems(write_study(backbone={"path": "x", "family": "encodre"}))
    assert found == {"backbone.family": "unknown backbone family 'encodre'; did you mean 'encoder'?"}
    with loaded("my_parameter"):
        space = {name: part for name, part in SPACE.items() if name != "grow"}
        custom = {"label_smoothing": {"low": 0.0, "high": 0.6}, "label_smothing": 0.1}
        assert problems(write_study(space=space | {"custom": custom})) == {
            "space.custom.label_smoothing": "custom.label_smoothing must be in [0, 0.5], got 0.6",
            "space.custom.label_smothing": "unknown custom parameter 'label_smothing'; did you mean 'label_smoothing'?",
        }
        found = problems(
            write_study(space=space | {"custom": {"label_smoothing": {"hihg": 0.2, "low": 0.0, "high": 0.2}}})
        )
        assert found == {"space.custom.label_smoothing.hihg": "unknown key 'hihg'; did you mean 'high'?"}
        loose = load_study(write_study(space=space)).objective.space
        assert [parameter.name for parameter in loose.parameters] == ["steps", "batch_size", "custom.label_smoothing"]


def test_a_plugin_that_fails_is_named(tmp_path: Path) -> None:
    environment = install(tmp_path)
    (tmp_path / "my_templates.py").write_text("import no_such_module")
    code = "from promptgraft.objectives.growth.template_sources import TEMPLATE_SOURCES; 'mutation' in TEMPLATE_SOURCES"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert "the plugin 'my_templates' (my_templates) cannot be imported: ModuleNotFoundError" in done.stderr


def test_a_study_file_is_checked_without_torch_if_plugins_do_without(tmp_path: Path) -> None:
    environment = install(tmp_path)
    (tmp_path / "my_backbone.py").write_text("")
    code = (
        "import sys, promptgraft.search.study.loading; from promptgraft.spaces import CUSTOM_PARAMETERS; "
        "assert 'label_smoothing' in CUSTOM_PARAMETERS; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
