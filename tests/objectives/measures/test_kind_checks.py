"""Every kind of task keeps to the contract, and the checks that plugin authors import find one that doesn't."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptgraft.objectives.data import TASK_KINDS
from promptgraft.objectives.kinds.text_generation import TextGeneration
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.plugins import TextClassification, check_task_kind
from tests.support.answers import spec_of_pairs, write_pairs
from tests.support.kinds import COLUMNS, spec_of_kind, write_kinds
from tests.support.models import TinyModels
from tests.support.paths import ROOT

WRITING = ["text_generation", "translation"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "rows.csv")


@pytest.mark.parametrize("kind", sorted(COLUMNS))
def test_a_kind_keeps_to_the_contract(kind: str, table: Path, tiny_models: TinyModels) -> None:
    check_task_kind(spec_of_kind(table, kind), BackboneSpec(tiny_models["encoder"], "encoder", 32))


@pytest.mark.parametrize("family", ["seq2seq", "causal_lm"])
@pytest.mark.parametrize("kind", WRITING)
def test_a_kind_that_writes_keeps_to_the_contract(
    kind: str, family: str, tmp_path: Path, tiny_models: TinyModels
) -> None:
    check_task_kind(
        spec_of_pairs(write_pairs(tmp_path / "pairs.csv"), kind=kind), BackboneSpec(tiny_models[family], family, 32)
    )


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
    elsewhere = {"recommendation", "user_profile"}  # Each has a test file of its own, as those of images have.
    elsewhere |= {"image_classification", "object_detection", "semantic_segmentation"}
    assert set(TASK_KINDS) == {*COLUMNS, *WRITING, *elsewhere}


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


def test_a_kind_whose_predictions_need_the_answers_is_found_out(tmp_path: Path, tiny_models: TinyModels) -> None:
    with TASK_KINDS.temporarily():

        @TASK_KINDS.register("cheat")
        class Cheat(TextGeneration):
            """Says nothing where no reference is known."""

            def predict(self, expected, texts):  # type: ignore[no-untyped-def]
                said = super().predict(expected, texts)
                return [own if tokens else "" for own, tokens in zip(said, expected[:, 1], strict=True)]

        spec = spec_of_pairs(write_pairs(tmp_path / "pairs.csv"), kind="cheat")
        with pytest.raises(AssertionError, match="predictions must not depend on the answers"):
            check_task_kind(spec, BackboneSpec(tiny_models["seq2seq"], "seq2seq", 32))
