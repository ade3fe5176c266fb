"""An objective over drawn images, with a linear head."""

from typing import Any

import torch

from promptgraft.objectives.backbones import count_layers
from promptgraft.objectives.data import Split, TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Constant, SearchSpace, StudyFacts, Template

TEMPLATE = Template("plain", "{{ image }} {{ label }}")


def objective_over_images(
    model: str, family: str, target: TaskSpec, source: TaskSpec | None = None, **settings: Any
) -> Objective:
    """Load an objective, on the first of the target's folds.

    Args:
        model: Folder of the model.
        family: Its family.
        target: The target task.
        source: The source task, if there is one.
        settings: Other fields of its `ObjectiveSpec`.
    """
    facts = StudyFacts(count_layers(model, family), has_head=True, has_source=source is not None)
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "linear"),), facts)
    spec = ObjectiveSpec(
        *(BackboneSpec(model, family), target, source, space),
        source_training=SourceTraining(frozen_layers=1),
        **settings,
    )
    objective = Objective(spec, torch.device("cpu"))
    objective.use_split(Split(0, 0))
    return objective
