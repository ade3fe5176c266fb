"""An objective over drawn images, with a linear head, or texts of their labels where the model reads those."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor

from promptgraft.objectives.backbones import FAMILIES, count_layers
from promptgraft.objectives.data import Split, TaskSpec
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Categorical, Constant, SearchSpace, StudyFacts, Template, Verbalizer
from tests.support.images import LABELS, draw

# Of drawn boxes.
LABELS_OF_BOXES = ("blue", "red")
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


def found_beside(reference: Any, prompted: PromptedModel, folder: Path) -> tuple[Any, torch.Tensor]:
    """Let transformers' model and a prompted one of the same weights find boxes in three images, written to a folder.

    Checks that the backbone run in two parts, whichever, is the backbone run whole.

    Returns:
        What transformers' model says, and the outputs of the prompted one.
    """
    backbone, images = prompted.backbone, [draw(number) for number in range(3)]
    paths = [folder / f"{number}.png" for number in range(3)]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    fields = [{"image": str(path)} for path in paths]
    inputs = AutoImageProcessor.from_pretrained(backbone.spec.path, backend="pil")(images, return_tensors="pt")
    with torch.no_grad():
        backbone.model.eval()
        expected = reference(pixel_values=inputs["pixel_values"])
        outputs = prompted.logits(prompted.batch(prompted.encode_fields(fields)), LABELS_OF_BOXES)
        ids = torch.tensor([backbone.image_ids(fields[0]["image"])])
        hidden = backbone.layers.run(input_ids=ids)
        for depth in range(1, backbone.n_layers):
            below = backbone.layers.run(0, depth, input_ids=ids)
            assert torch.equal(backbone.layers.run(depth, None, below), hidden)
    return expected, outputs
