"""A metric of a plugin is measured beside those of its kind of task, and can be optimised."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptgraft.objectives.data import TASK_KINDS, Row
from promptgraft.objectives.kinds import directions, scores
from promptgraft.objectives.kinds.metrics import METRICS, metric
from promptgraft.objectives.kinds.regression import Regression
from promptgraft.objectives.trial import Objective
from promptgraft.plugins import TextClassification
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import Candidate, InvalidInputError, TrialError
from tests.support.kinds import COLUMNS, write_kinds
from tests.support.models import TinyModels
from tests.support.paths import ROOT
from tests.support.studies import write_study_file


@pytest.fixture
def documented() -> Iterator[dict[str, Any]]:
    """Register the metric of `docs/task-kinds.md`: what stands there is what is run."""
    (code,) = [
        block.split("```")[0]
        for block in (ROOT / "docs" / "task-kinds.md").read_text().split("```python\n")
        if block.startswith("# my_metric.py")
    ]
    names: dict[str, Any] = {"__name__": "documented"}
    with METRICS.temporarily():
        exec(compile(code, "task-kinds.md", "exec"), names)
        yield names


def write(folder: Path, encoder: str, kind: str) -> Path:
    table = write_kinds(folder / "rows.csv")
    target = {"kind": kind, "train": str(table), "text": "text", "label": COLUMNS[kind], "train_rows": 40}
    backbone = {"path": encoder, "family": "encoder", "max_tokens": 48}
    space = {"templates": {"plain": "{{ text }} {{ label }}"}, "head": ["probe"], "steps": [0]}
    target |= {"test_rows": 40, "folds": 2}
    sections = {"source": None, "target": target, "space": space, "metric": "top_two", "judging": None}
    return write_study_file(folder / "study.yaml", backbone, **sections)


@pytest.mark.usefixtures("documented")
def test_a_study_optimises_it(tmp_path: Path, tiny_models: TinyModels) -> None:
    study = load_study(write(tmp_path, tiny_models["encoder"], "text_classification"), rehearsed=True)
    assert study.objective.direction == "maximize"
    objective = Objective(study.objective)
    (template,) = study.objective.space.templates
    *_, last = objective.run(Candidate(template.id, "", head="probe", steps=0), 0)
    assert last.result is not None
    rows = objective.target.scored()
    places = np.argsort(-last.result.logits, axis=1)[:, :2]
    folds = np.array(objective.target.scored_folds())
    right = np.array([row.label in own for own, row in zip(places, rows, strict=True)])
    assert last.result.metrics["top_two"] == pytest.approx(np.mean([right[folds == fold].mean() for fold in range(2)]))
    assert last.result.value == last.result.metrics["top_two"] >= last.result.metrics["accuracy"]


@pytest.mark.usefixtures("documented")
def test_it_belongs_to_its_kind(tmp_path: Path, tiny_models: TinyModels) -> None:
    assert "top_two" in directions(TextClassification)
    assert "top_two" not in directions(TASK_KINDS["regression"])
    with pytest.raises(StudyFileError) as caught:
        load_study(write(tmp_path, tiny_models["encoder"], "regression"))
    assert "unknown metric 'top_two'" in str(caught.value)


def test_names_and_values_that_make_no_sense_are_refused() -> None:
    def rmse(*_: object) -> float:
        return 0.0

    def odd(*_: object) -> float:
        return float("nan")

    with METRICS.temporarily():
        with pytest.raises(InvalidInputError, match="'rmse' is one of Regression already"):
            metric(Regression, "minimize")(rmse)
        metric(Regression, "minimize")(odd)
        with pytest.raises(InvalidInputError, match="metric 'odd' is registered twice"):
            metric(Regression, "minimize")(odd)
        rows = [Row({"text": str(n)}, float(n)) for n in range(4)]
        with pytest.raises(TrialError, match="the metric 'odd', which a plugin brings, is nan"):
            scores(Regression(("score",), tuple(rows)), np.zeros((4, 1), dtype=np.float32), rows)
