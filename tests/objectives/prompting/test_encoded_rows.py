"""Prompts as token ids: labelled rows are stored with their labels, and rows to predict have none."""

from collections.abc import Callable

import pytest

from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import EncodedPrompt, EncodedRow
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate
from tests.support.specs import TEMPLATES, VERBALIZERS

PLAIN = [EncodedRow((5, 6, 7), answer=1), EncodedRow((), answer=0), EncodedRow((8,), answer=2)]


@pytest.mark.parametrize("rows", [PLAIN, [*PLAIN, EncodedRow((1, 2, 3, 4), 2, 3, answer=1)]])
def test_rows_come_back_as_they_were_stored(rows: list[EncodedRow]) -> None:
    assert EncodedRow.unpack(EncodedRow.pack(rows)) == rows


def test_rows_without_labels_are_scored_as_labelled_ones(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> None:
    objective = Objective(make_spec(tiny_models["encoder"], "encoder", rows=8))
    (model,) = objective.untrained([Candidate(TEMPLATES[0].id, VERBALIZERS[0].id)])
    labels, rows = objective.target.labels, objective.target.validation
    fields, encoded = [row.fields for row in rows], model.encode(rows)
    unlabelled = model.encode_fields(fields)
    assert unlabelled == [EncodedPrompt(row.ids) for row in encoded]
    assert not any(hasattr(prompt, "label") for prompt in unlabelled)
    assert model.score(unlabelled, labels, 4).equal(model.score(encoded, labels, 4))
    others = model.encode([Row(row.fields, 1 - row.label) for row in rows])
    assert model.nll(encoded, labels) != model.nll(others, labels)
    with pytest.raises(AttributeError, match="label"):
        model.nll(unlabelled, labels)  # type: ignore[arg-type]
