"""Proof that a bundle is the one that was exported, and that it still predicts what its trial did."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from promptgraft.bundles.folder import changed_files, parse_manifest, read_examples, unlisted_files
from promptgraft.bundles.manifest import BACKBONE_FOLDER, EXAMPLES_FILE, MANIFEST_FILE, Examples
from promptgraft.bundles.predictor import Predictor
from promptgraft.objectives.backbones import file_hashes
from promptgraft.objectives.data import joined
from promptgraft.spaces import InvalidInputError

# Largest difference of a logit, as a share of the largest logit. The same machine gives 0.0, or 5e-6 where the trial
# took the outputs of frozen layers from the store; other processors add up in other orders.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    Attributes:
        problems: File, and what is wrong with it; none if the bundle is the exported one.
        unlisted: Files in the bundle's folder that its manifest doesn't list.
        rows: Number of example rows that were predicted.
        agreeing: How many of them got the label, or labels, that the trial gave them, or nearly the same number.
        difference: Largest difference to the trial's logits, as a share of the largest of these, or of numbers in
            standard deviations of those trained on; None if none was computed.
    """

    problems: tuple[tuple[str, str], ...]
    unlisted: tuple[str, ...] = ()
    rows: int = 0
    agreeing: int = 0
    difference: float | None = None

    @property
    def intact(self) -> bool:
        """Whether all that the manifest lists is as it was exported, whatever lies beside it."""
        same = self.difference is None or self.difference <= TOLERANCE
        return not self.problems and self.agreeing == self.rows and same

    @property
    def passed(self) -> bool:
        """Whether everything in the folder is as it was exported, and nothing else is in it."""
        return self.intact and not self.unlisted


def verify(
    folder: Path, backbone: str | None = None, examples: Examples | None = None, *, trust_remote_code: bool = False
) -> Verification:
    """Check every hash of a bundle and of its backbone, then its logits of the example rows.

    Args:
        folder: The bundle.
        backbone: See `Predictor`.
        examples: Rows to predict, with their logits; those in the bundle if None.
        trust_remote_code: See `Predictor`.

    Returns:
        What was found; nothing is computed with files that aren't the exported ones.
    """
    try:
        manifest = parse_manifest(folder)
    except InvalidInputError as error:
        return Verification(((MANIFEST_FILE, str(error)),))
    problems = [(name, "is missing or was changed after the export") for name in changed_files(folder, manifest)]
    unlisted = tuple(unlisted_files(folder, manifest))
    bundled = manifest.backbone.bundled and backbone is None
    path = str(folder / BACKBONE_FOLDER) if bundled else backbone or manifest.backbone.path
    try:
        found = file_hashes(path)
    except InvalidInputError as error:
        return Verification((*problems, (path, str(error))), unlisted)
    for name, expected in manifest.backbone.files.items():
        if found.get(name) != expected:
            where = f"{BACKBONE_FOLDER}/{name}" if bundled else f"{path}/{name}"
            problems.append((where, "is not the file that the trial was trained with"))
    if problems:
        return Verification(tuple(problems), unlisted)
    try:
        examples = examples or read_examples(folder)
    except InvalidInputError as error:
        return Verification(((EXAMPLES_FILE, str(error)),), unlisted)
    if examples is None:
        return Verification((), unlisted)
    predictor = Predictor(folder, backbone, trust_remote_code=trust_remote_code)
    count = len(examples.rows)
    computed = predictor.logits(examples.rows)
    both = joined([computed, np.array(examples.logits, dtype=computed.dtype)])
    logits, expected_logits = both[:count], both[count:]
    task = predictor.task
    scaling = predictor.members[0].model.scaling
    apart = task.distances(logits, expected_logits, None if scaling is None else float(scaling[1]))
    difference = float(apart.max())
    if task.has_labels:
        ours, theirs = (task.predict(task.expected(own), examples.rows) for own in (logits, expected_logits))
        agreeing = sum(own == other for own, other in zip(ours, theirs, strict=True))
    else:
        agreeing = int((apart <= TOLERANCE).sum())
    return Verification((), unlisted, count, agreeing, difference)
