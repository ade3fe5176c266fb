"""The documents: generated parts are up to date, and every command in them runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from promptgraft.bundles import read_manifest
from promptgraft.search.cli.outputs import COMMANDS, output_schema
from promptgraft.search.cli.studies import app
from promptgraft.search.study import manifest_schema, study_reference, study_schema
from promptgraft.search.study.schema.study_file import StudyFile
from tests.support.paths import STUDIES

ROOT = STUDIES.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def test_generated_pages_are_up_to_date() -> None:
    """`make docs` writes them."""
    assert (ROOT / "docs" / "study-reference.md").read_text() == study_reference()
    for name, schema in (("study", study_schema()), ("manifest", manifest_schema())):
        assert json.loads((ROOT / "docs" / f"{name}.schema.json").read_text()) == schema
    written = {path.name: json.loads(path.read_text()) for path in (ROOT / "docs" / "outputs").iterdir()}
    assert written == {f"{name}.schema.json": output_schema(name) for name in COMMANDS}


def test_every_key_is_explained() -> None:
    assert "| None |" not in study_reference()
    for name in StudyFile.model_fields:
        assert f"| `{name}` |" in study_reference()


def test_the_reference_names_short_forms() -> None:
    for row in ("`text` | mapping or string", "`sampler` | section or string", "`timeout` | number or string"):
        assert f"| {row} |" in study_reference()


@pytest.mark.parametrize(
    "path", sorted(STUDIES.glob("*.yaml")) + sorted((ROOT / "tests/bench").glob("*.yaml")), ids=str
)
def test_the_schema_takes_what_is_valid(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(study_schema())
    content = YAML(typ="safe").load(path)
    assert list(validator.iter_errors(content)) == []
    wrong = {**content, "budget": {"trails": 3}}
    assert [list(error.path) for error in validator.iter_errors(wrong)] == [["budget"]]


def test_short_forms_are_in_the_schema() -> None:
    validator = jsonschema.Draft202012Validator(study_schema())
    content = YAML(typ="safe").load(STUDIES / "smollm2.yaml")
    content |= {"sampler": "random", "minimize": "latency_ms", "budget": {"timeout": "8h", "disk": "20GB"}}
    content["space"] |= {"alpha": 0.5, "promptsource": "a.yaml", "steps": [8, 16]}
    assert list(validator.iter_errors(content)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_hold_code_and_no_outputs(path: Path) -> None:
    """`make notebooks` runs them."""
    cells = json.loads(path.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown"
    assert codes
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)
    for cell in codes:
        lines = cell["source"]
        magic = lines[0].startswith("%%writefile")
        if not magic or lines[0].strip().endswith(".py"):
            compile("".join(lines[1:] if magic else lines), path.name, "exec")


def test_the_readme_is_short_and_begins_with_a_picture() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120
    assert lines[2].startswith("![")


@pytest.mark.parametrize("page", [*PAGES, *DECISIONS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:docs|studies|tests|search|bundles|objectives|spaces)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path.startswith("studies/"), path
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [*PAGES, *DECISIONS], ids=lambda page: page.name)
def test_what_pages_say_of_the_code_is_there(page: Path) -> None:
    """Methods as `StudyLedger.ask`, and modules as `trial/cycle.py` or `tests.bench.coverage`."""
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    layers = [ROOT, *(ROOT / layer for layer in ("spaces", "objectives", "bundles", "search"))]
    for path in re.findall(r"`((?:[a-z_]\w*/)+\w+\.py)`", prose):
        assert any((folder / path).exists() for folder in layers), path
    for module in re.findall(
        r"`(?:python -m )?(tests\.[\w.]+|(?:spaces|objectives|bundles|search)\.[\w.]+)\b[^`]*`", prose
    ):
        found = [Path(*module.split(".")[:depth]) for depth in range(1, module.count(".") + 2)]
        assert any((ROOT / name).with_suffix(".py").exists() or (ROOT / name).is_dir() for name in found[1:]), module
    sources = [file.read_text() for layer in layers[1:] for file in layer.rglob("*.py")]
    for name, method in re.findall(r"`([A-Z]\w+)\.([a-z_]\w*)(?:\(\))?`", prose):
        homes = [text for text in sources if re.search(rf"^class {name}\b", text, re.MULTILINE)]
        assert not homes or any(re.search(rf"\bdef {method}\b|^    {method}:", text, re.MULTILINE) for text in homes), (
            f"{name}.{method}"
        )


def commands(page: Path) -> list[list[str]]:
    """The lines of a page's bash blocks that call promptgraft, as words."""
    lines = [line for block in page.read_text().split("```bash\n")[1:] for line in _joined(block).splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("promptgraft ")]


def _joined(block: str) -> str:
    """Return a block of code with its continued lines joined."""
    return block.split("```")[0].replace("\\\n", "")


def test_the_tree_of_the_architecture_page_has_every_room() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("## The tree")[1].split("```")[1]
    rooms = [
        door.parent.name
        for layer in ("spaces", "objectives", "bundles", "search")
        for door in (ROOT / layer).rglob("__init__.py")
    ]
    assert set(rooms) <= {line.split()[0].rstrip("/") for line in tree.splitlines() if line.strip()}


@pytest.mark.slow
def test_every_command_of_the_pages_runs(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    """On a small study of the demo's name, page after page, as a reader would type them."""
    folder = tmp_path / "here"
    (folder / "studies").mkdir(parents=True)
    (folder / "studies" / "data").symlink_to(data)
    (folder / "studies" / "models").symlink_to(STUDIES / "models")
    # Without baselines: one may well beat a random model, and `export` would refuse it.
    file = write_study(study="demo", judging={"finalists": 2, "repeats": 2, "controls": []})
    file.rename(folder / "studies" / "demo.yaml")
    monkeypatch.chdir(folder)
    app(["run", "studies/demo.yaml"], standalone_mode=False)
    app(["export", "studies/demo.yaml"], standalone_mode=False)
    ran = 0
    for page in PAGES:
        for words in commands(page):
            code = "from promptgraft.search.cli.studies import app; app()"
            found = subprocess.run(
                [sys.executable, "-c", code, *words], env=os.environ, capture_output=True, text=True, timeout=300
            )
            assert found.returncode == 0, f"{page.name}: {shlex.join(words)}\n{found.stdout}{found.stderr}"
            ran += 1
    assert ran >= 12
    jsonschema.validate(json.loads(Path("runs/demo/bundle/manifest.json").read_text()), manifest_schema())
    assert read_manifest(Path("runs/registry/champion")) == read_manifest(Path("runs/demo/bundle"))
