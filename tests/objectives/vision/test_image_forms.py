"""A trial takes images in every form; what can't be read is dropped before, and named if it breaks later."""

from pathlib import Path

import numpy as np
import pytest

from promptgraft.objectives.backbones import count_layers
from promptgraft.objectives.data import UnreadableImageError
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate, Categorical, SearchSpace, StudyFacts, Template
from tests.support.images import add_other_forms, spec_of_images, write_images
from tests.support.models import TinyModels

TEMPLATE = Template("plain", "{{ image }} {{ label }}")


@pytest.mark.parametrize("family", ["vit", "convolutional", "clip"])
def test_a_trial_takes_images_in_every_form(family: str, tmp_path: Path, tiny_models: TinyModels) -> None:
    table = write_images(tmp_path, 30)
    add_other_forms(table)
    model = BackboneSpec(tiny_models[family], family)
    facts = StudyFacts(count_layers(model.path, family), has_head=True, has_source=False)
    space = SearchSpace((TEMPLATE,), (), (Categorical("head", ("linear",)),), facts)
    target = spec_of_images(table, test_rows=9, folds=2)
    objective = Objective(ObjectiveSpec(model, target, None, space, "accuracy", evaluate_every=2))
    rows = (*objective.target.labelled, *objective.target.test)
    names = {Path(row.fields["image"]).name for row in rows}
    assert objective.target.cleaning.unreadable_image == 3
    assert names >= {"print.jpg", "scan.png", "logo.webp"}
    assert not names & {"cut.png", "empty.jpg", "absent.jpg"}
    candidate = Candidate(TEMPLATE.id, "", head="linear", steps=2)
    broken = Path(objective.target.labelled[0].fields["image"])
    broken.write_bytes(b"")
    with pytest.raises(UnreadableImageError, match=f"{broken.name}: the file is empty"):
        objective.evaluate(candidate, seed=1)
    fresh = Objective(objective.spec)
    assert fresh.target.cleaning.unreadable_image == 4
    assert np.isfinite(fresh.evaluate(candidate, seed=1).logits).all()
