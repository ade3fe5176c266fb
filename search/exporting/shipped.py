"""What ships, as a bundle describes it: a trial, or the ensemble that it leads."""

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError

from promptgraft.bundles import (
    BackboneReference,
    CoveragePoint,
    Examples,
    Manifest,
    MemberPart,
    TemplatePart,
    VerbalizerPart,
    demonstration_rows,
)
from promptgraft.objectives.backbones import file_hashes
from promptgraft.objectives.data import TASK_KINDS, TaskSpec, all_labels
from promptgraft.objectives.kinds import read_items
from promptgraft.objectives.prompting import DemonstrationPools
from promptgraft.search.exporting.confidence import Confidence
from promptgraft.search.exporting.exported_trial import ExportedTrial, as_shipped
from promptgraft.search.storage import FLOAT32_LOGITS_FILE, LOGITS_FILE, REFIT_LOGITS_FILE, TrialRecord, trial_file
from promptgraft.search.study import row_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

logger = logging.getLogger(__name__)

# Characters of the example rows of a bundle, images included; the first row is there however long it is.
MOST_CHARACTERS = 16 * 2**20


@dataclass(frozen=True)
class Shipped:
    """What ships.

    Attributes:
        trials: The trial, or those of an ensemble, the winner first.
        weights: Share of each.
        thresholds: Smallest probability at which each label is predicted, where the kind of task chooses that.
    """

    trials: tuple[ExportedTrial, ...]
    weights: tuple[float, ...]
    thresholds: tuple[float, ...] = ()

    @property
    def winner(self) -> ExportedTrial:
        """The trial itself, or the first one of an ensemble."""
        return self.trials[0]

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of the trials of an ensemble; none if the trial ships alone."""
        return tuple(entry.trial.number for entry in self.trials) if len(self.trials) > 1 else ()


def _member(entry: ExportedTrial, weight: float, place: int) -> MemberPart:
    """Describe a model of the bundle."""
    study, candidate, space = entry.study, entry.candidate, entry.spec.space
    template = space.template(candidate.template)
    verbalizer = space.verbalizer(candidate.verbalizer) if candidate.verbalizer else None
    pool = DemonstrationPools(as_shipped(study.target), {}, space).get(candidate, "target", study.file.seed)
    return MemberPart(
        trial=entry.trial.number,
        weight=weight,
        file="delta.safetensors" if place == 1 else f"delta-{place}.safetensors",
        candidate=candidate.to_dict(),
        template=TemplatePart(name=template.name, text=template.text),
        verbalizer=VerbalizerPart(name=verbalizer.name, words=dict(verbalizer.words)) if verbalizer else None,
        demonstrations=demonstration_rows(pool, study.target.labels),
    )


def manifest_of(shipped: Shipped, confidence: Confidence | None) -> Manifest:
    """Describe what ships, but for the bundle's own files."""
    winner = shipped.winner
    study, trial, backbone = winner.study, winner.trial, winner.spec.backbone
    first, *others = (
        _member(entry, weight, place)
        for place, (entry, weight) in enumerate(zip(shipped.trials, shipped.weights, strict=True), 1)
    )
    coverage = confidence.coverage if confidence else ()
    return Manifest(
        study=study.name,
        kind=study.file.target.kind,
        trial=trial.number,
        seed=study.file.seed,
        candidate=first.candidate,
        template=first.template,
        verbalizer=first.verbalizer,
        labels=study.target.labels,
        head_labels=all_labels(study.target, study.sources.values()),
        columns=dict(study.objective.target.fields),
        backbone=BackboneReference(
            path=backbone.path,
            family=backbone.family,
            max_tokens=backbone.max_tokens,
            files=file_hashes(backbone.path),
            trust_remote_code=backbone.trust_remote_code,
            attn_implementation=backbone.in_float32().attn_implementation,
            layers=backbone.layers,
            image_size=backbone.image_size,
        ),
        evaluation_batch_size=study.objective.evaluation_batch_size,
        metrics={"validation": dict(winner.score.metrics) if winner.score else TrialRecord.of(trial).metrics},
        data=row_hashes(study),
        demonstrations=first.demonstrations,
        members=tuple(others),
        temperature=confidence.temperature if confidence else 1.0,
        thresholds=shipped.thresholds,
        signatures=dict(study.target.signatures),
        languages=backbone.languages,
        coverage=tuple(CoveragePoint(**asdict(point)) for point in coverage),
        item_columns=_item_columns(study.objective.target),
        item_ids=_item_ids(study.objective.target, study.target.labels),
    )


def _item_columns(spec: TaskSpec) -> tuple[str, ...]:
    """Return the columns of an item's id and its text, where items are recommended."""
    histories = spec.histories
    return (spec.label, *histories.text) if histories and TASK_KINDS[spec.kind].one_label else ()


def _item_ids(spec: TaskSpec, labels: "Sequence[str]") -> tuple[str, ...]:
    """Return the id of each item that is recommended; an empty one where the table of items has changed."""
    if not spec.histories or not TASK_KINDS[spec.kind].one_label:
        return ()
    ids = {name: item for item, name in read_items(spec.histories, spec.label).items()}
    return tuple(ids.get(name, "") for name in labels)


def examples_of(shipped: Shipped, count: int) -> Examples | None:
    """Take the first rows that it was scored by, or refitted on, with the logits that were computed then."""
    task = shipped.winner.study.target
    rows = as_shipped(task).validation
    if not rows:
        return None
    found: list[npt.NDArray[np.float32]] = []
    for entry in shipped.trials:
        name = FLOAT32_LOGITS_FILE if entry.score else LOGITS_FILE
        if entry.study.target.folds > 1:
            name = REFIT_LOGITS_FILE
        number = entry.trial.number
        try:
            found.append(entry.files.read_tensors(trial_file(number, name))["logits"].numpy())
        except (FileNotFoundError, SafetensorError, KeyError):
            logger.warning(
                "the logits of trial %d are gone or damaged, so the bundle holds no examples to verify it by", number
            )
            return None
    kept = np.flatnonzero(task.complete(found[0]))[:count]
    shown = [task.portable(rows[place]) for place in kept]
    sizes = np.cumsum([sum(map(len, own.values())) for own in shown])
    fitting = max(1, int((sizes <= MOST_CHARACTERS).sum()))
    kept, shown = kept[:fitting], shown[:fitting]
    logits = task.without_answers(task.combine([own[kept] for own in found], shipped.weights))
    if not np.isfinite(logits).all():
        logger.warning("the recorded logits are not finite, so the bundle holds no examples to verify it by")
        return None
    return Examples(rows=tuple(shown), logits=tuple(map(tuple, logits.tolist())))
