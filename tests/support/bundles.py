"""Bundles of small specifications."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from promptgraft.bundles import (
    BackboneReference,
    Examples,
    Manifest,
    TemplatePart,
    VerbalizerPart,
    demonstration_rows,
    staged_bundle,
)
from promptgraft.objectives.backbones import file_hashes
from promptgraft.objectives.prompting import DemonstrationPools
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective, Result
from promptgraft.spaces import Candidate
from tests.support.specs import TEMPLATES, VERBALIZERS


def export(folder: Path, spec: ObjectiveSpec, objective: Objective, candidate: Candidate) -> npt.NDArray[np.float32]:
    """Run a candidate to its last step, write its bundle, and return its validation logits."""
    result = objective.evaluate(candidate, 0, at=candidate.steps)  # Trained, whether or not that helped.
    write_result(folder, spec, objective, candidate, result)
    return result.logits


def export_small(folder: Path, spec: ObjectiveSpec, **changes: Any) -> Path:
    """Write the bundle of a candidate with the first template and label words; return its folder."""
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, **{"batch_size": 4, **changes})
    export(folder, spec, Objective(spec), candidate)
    return folder


def write_bundle(folder: Path, manifest: Manifest, *parts: Any, **more: Any) -> Manifest:
    """Write a bundle and put it in place, as an export does; arguments are those of `Staging.write`."""
    with staged_bundle(folder, manifest.study) as staging:
        written = staging.write(manifest, *parts, **more)
        staging.put_in_place()
    return written


def write_result(folder: Path, spec: ObjectiveSpec, objective: Objective, candidate: Candidate, result: Result) -> None:
    """Write the bundle of a result, with the validation rows as examples."""
    template = spec.space.template(candidate.template)
    verbalizer = spec.space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
    manifest = Manifest(
        study="test",
        kind=spec.target.kind,
        trial=0,
        seed=0,
        candidate=candidate.to_dict(),
        template=TemplatePart(name=template.name, text=template.text),
        verbalizer=VerbalizerPart(name=verbalizer.name, words=dict(verbalizer.words)) if verbalizer else None,
        labels=objective.target.labels,
        head_labels=objective.labels,
        columns=dict(spec.target.fields),
        backbone=BackboneReference(
            path=spec.backbone.path,
            family=spec.backbone.family,
            max_tokens=spec.backbone.max_tokens,
            files=file_hashes(spec.backbone.path),
            layers=spec.backbone.layers,
            image_size=spec.backbone.image_size,
        ),
        evaluation_batch_size=spec.evaluation_batch_size,
        metrics={"validation": dict(result.metrics)},
        demonstrations=demonstration_rows(
            DemonstrationPools(objective.target, {}, spec.space).get(candidate, "target", 0), objective.target.labels
        ),
    )
    rows = objective.target.validation
    logits = tuple(map(tuple, result.logits.astype(float).tolist()))
    examples = Examples(rows=tuple(map(objective.target.portable, rows)), logits=logits)
    write_bundle(folder, manifest, [result.delta], "# card\n", examples)
