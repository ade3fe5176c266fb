"""What a forge reads of the repository: it parses, and says what the package says."""

import tomllib

import pytest
from ruamel.yaml import YAML

from tests.support.paths import ROOT

YAMLS = sorted((*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"))


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_it_is_yaml(path: object) -> None:
    assert isinstance(YAML(typ="safe").load(path), dict)


def test_the_workflow_runs_the_gate_on_every_python_of_the_classifiers() -> None:
    job = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "gate.yml")["jobs"]["gate"]
    assert {"run": ".ci/run"} in job["steps"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [own.rpartition(" ")[2] for own in project["classifiers"] if "Python :: 3." in own]
    assert job["strategy"]["matrix"]["python"] == named


def test_the_citation_is_of_this_version() -> None:
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["title"], citation["version"], citation["license"]) == (
        project["name"],
        project["version"],
        project["license"],
    )
    for key in ("cff-version", "message", "authors"):
        assert citation[key]


def test_forms_of_issues_ask_for_something() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir():
        form = YAML(typ="safe").load(path)
        assert {"name", "description", "body"} <= form.keys()
        assert all(entry["attributes"]["label"] for entry in form["body"])


def test_the_site_has_every_page_once() -> None:
    def pages(entries: list[object]) -> list[str]:
        found = []
        for entry in entries:
            ((_, value),) = entry.items()  # type: ignore[attr-defined]
            found += pages(value) if isinstance(value, list) else [value]
        return found

    named = pages(YAML(typ="safe").load(ROOT / "mkdocs.yml")["nav"])
    docs = ROOT / "docs"
    there = {file.relative_to(docs).as_posix() for file in docs.rglob("*.md")} - {"README.md"}
    assert sorted(named) == sorted(there)
