"""Every kind of task keeps to the contract, and the checks that plugin authors import find one that doesn't."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptgraft.objectives.data import TASK_KINDS
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.plugins import TextClassification, check_task_kind
from tests.support.kinds import COLUMNS, spec_of_kind, write_kinds
from tests.support.models import TinyModels
from tests.support.paths import ROOT


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "rows.csv")


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_a_kind_keeps_to_the_contract(kind: str, table: Path, tiny_models: TinyModels) -> None:
    check_task_kind(spec_of_kind(table, kind), BackboneSpec(tiny_models["encoder"], "encoder", 32))


def test_the_documented_kind_keeps_to_the_contract(table: Path, tiny_models: TinyModels) -> None:
    """The code of `docs/task-kinds.md` is what is run, with its own test."""
    page = (ROOT / "docs" / "task-kinds.md").read_text()
    kind, test, _ = (block.split("```")[0] for block in page.split("```python\n")[1:])
    assert max(len(kind.splitlines()), len(test.splitlines())) < 60
    stars = table.with_name("stars.csv")
    stars.write_text("text,stars\n" + "".join(f"text {n} of so many,{n % 5 + 1}\n" for n in range(80)))
    names: dict[str, Any] = {"__name__": "documented"}
    with TASK_KINDS.temporarily():
        exec(compile(kind + test, "task-kinds.md", "exec"), names)
        names["test_it_keeps_to_the_contract"](str(stars), tiny_models["encoder"])


def test_every_built_in_kind_is_checked() -> None:
    writing = {"text_generation", "translation"}  # These need a model that writes: see test_answers_trained.
    assert set(TASK_KINDS) == {*COLUMNS, *writing}


def test_a_kind_that_breaks_a_rule_is_found_out(table: Path, tiny_models: TinyModels) -> None:
    with TASK_KINDS.temporarily():

        @TASK_KINDS.register("forgetful")
        class Forgetful(TextClassification):
            """Scores some rows only."""

            def row_losses(self, expected, rows):  # type: ignore[no-untyped-def]
                return np.zeros(len(rows))

        spec = replace(spec_of_kind(table, "text_classification"), kind="forgetful")
        with pytest.raises(AssertionError, match="`loss` must be the mean of row_losses"):
            check_task_kind(spec, BackboneSpec(tiny_models["encoder"], "encoder", 32))
