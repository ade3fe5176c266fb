"""Backbones with a prompt on them, as a trial builds them, and rows to try them on."""

import torch

from promptgraft.objectives.backbones import FAMILIES, Backbone
from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.spaces import Candidate, SoftPrompt
from tests.support.specs import TEMPLATES, VERBALIZERS

CPU = torch.device("cpu")
LABELS = ("negative", "positive")
TEXTS = ["great camera", "the worst purchase i have ever made, by far, and it broke", "fine"]
ROWS = [Row({"text": text}, index % 2) for index, text in enumerate(TEXTS)]
PLACES = [SoftPrompt(), *(SoftPrompt(4, "vocabulary", place) for place in ("prefix", "suffix", "layer 0", "layer 2"))]


def is_refused(family: str, soft: SoftPrompt) -> bool:
    """Whether a family supports no soft prompt of that form."""
    can = FAMILIES[family]
    return (soft.layer is not None and not can.in_parts) or (soft.deep and can.recurrent)


def build(backbone: Backbone, **changes: object) -> PromptedModel:
    """Restore the backbone and attach what a candidate with these fields asks for."""
    backbone.restore()
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, **changes)  # type: ignore[arg-type]
    return PromptedModel(backbone, candidate, TEMPLATES[0], VERBALIZERS[1], LABELS, seed=0)
