"""An objective over drawn images, with a linear head, or texts of their labels where the model reads those."""

from typing import Any

import torch

from promptgraft.objectives.backbones import FAMILIES, count_layers
from promptgraft.objectives.data import Split, TaskSpec
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Categorical, Constant, SearchSpace, StudyFacts, Template, Verbalizer
from tests.support.images import LABELS

TEMPLATE = Template("plain", "{{ image }} {{ label }}")
PHOTO, BARE = Template("photo", "a photo of a {{ label }} stripe"), Template("bare", "{{ label }}")
COLOURS = Verbalizer("colours", {label: (label, f"the colour {label}") for label in LABELS})


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
    texts = FAMILIES[family].texts_of_labels
    n_layers, has_source = count_layers(model, family), source is not None
    facts = StudyFacts(n_layers, has_head=True, has_source=has_source, texts_of_labels=texts)
    space = SearchSpace((TEMPLATE,), (), (Constant("head", "linear"),), facts)
    if texts:
        heads = Categorical("head", ("label_words", "linear", "probe"))
        space = SearchSpace((PHOTO, BARE), (COLOURS,), (heads,), facts)
    settings = {"source_training": SourceTraining(frozen_layers=1), **settings}
    spec = ObjectiveSpec(BackboneSpec(model, family), target, source, space, **settings)
    objective = Objective(spec, torch.device("cpu"))
    objective.use_split(Split(0, 0))
    return objective
