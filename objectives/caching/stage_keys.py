"""What decides the outcome of a stage, as JSON types: the content of its key."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import torch

from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.spaces import Candidate, SoftPrompt


def backbone_key(backbone: BackboneSpec, weights: str, device: torch.device) -> dict[str, object]:
    """Return everything that decides what a pretrained backbone makes of a prompt.

    Args:
        backbone: The backbone.
        weights: Hash of its weights.
        device: Where it computes.
    """
    return {
        "backbone": weights,
        "family": backbone.family,
        "max_tokens": backbone.max_tokens,
        "numerics": backbone.numerics,
        "device": device.type,
    }


def source_prompt(candidate: Candidate) -> SoftPrompt:
    """Return the soft prompt that is trained in the source stage, which is none but where the candidate asks."""
    soft = candidate.soft_prompt
    return replace(soft, init="vocabulary") if soft.init == "source" else SoftPrompt()


def source_key(
    spec: ObjectiveSpec,
    candidate: Candidate,
    seed: int,
    rows: str,
    labels: Sequence[Sequence[str]],
    demonstrations: Mapping[str, object] | None,
) -> dict[str, object]:
    """Return everything that decides the weights after the source stage, beside the backbone.

    Args:
        spec: The study's fixed part.
        candidate: The candidate.
        seed: Seed of the stage.
        rows: Hash of the source's rows.
        labels: The source's labels, and those of all tasks.
        demonstrations: What decides which ones the rows are shown; None if there are none.
    """
    settings = spec.training_on(candidate.source)
    if candidate.source_objective == "contrastive":  # There is no head yet.
        candidate = replace(candidate, head="probe", verbalizer="")
    verbalizer = spec.space.verbalizer(candidate.verbalizer).words if candidate.verbalizer else {}
    return {
        "stage": "source",
        **({"demonstrations": demonstrations} if demonstrations else {}),
        "rows": rows,
        "labels": [list(names) for names in labels],
        "template": spec.space.template(candidate.template).text,
        "verbalizer": {label: list(words) for label, words in verbalizer.items()},
        "objective": candidate.source_objective,
        "pooling": candidate.pooling,
        "head": candidate.head,
        "soft_prompt": asdict(source_prompt(candidate)),
        "steps": candidate.source_steps,
        "settings": [settings.batch_size, settings.learning_rate, settings.head_learning_rate],
        "frozen_layers": settings.frozen_layers,
        "seed": seed,
    }
