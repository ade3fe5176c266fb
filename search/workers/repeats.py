"""Repeats of candidates and controls, as workers run them: on other seeds and splits."""

import logging
import time
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from promptgraft.objectives.data import WHOLE, Split
from promptgraft.objectives.file_store import DiskFullError, FileStore
from promptgraft.search.storage import Outcome
from promptgraft.search.trials import cause_of
from promptgraft.spaces import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from promptgraft.objectives.measures import Logits
    from promptgraft.objectives.trial import Objective

    # The metrics on validation rows, and the logits of the test rows if there are any and they are asked for.
    Scored = tuple[Mapping[str, float], Logits | None]

logger = logging.getLogger(__name__)


class Repeats:
    """Runs candidates and controls on other seeds and splits; leaves the objective on the split of the last one.

    Args:
        objective: A worker's objective.
        files: Where predictions go.
        seed: The study's seed.
    """

    def __init__(self, objective: "Objective", files: FileStore, seed: int) -> None:
        self._objective = objective
        self._files = files
        self._seed = seed

    def train(
        self,
        candidate: dict[str, Any],
        step: int,
        repeat: int,
        predictions: str | None = None,
        fewer: dict[str, int] | None = None,
    ) -> Outcome:
        """Run a cycle up to a step; return what it found there, or why it failed.

        Args:
            candidate: The candidate.
            step: Where it is evaluated. A repeat that chose its best step would be as lucky as a search that did.
            repeat: Number of the repeat, which decides its split and its seed.
            predictions: Name of a file for the logits of the test rows, whose labels nobody looks at here. Where
                folds are scored, they are those of one more cycle on all labelled rows, as what ships is trained.
            fewer: `target` or `source` -> how many of its training rows are kept.
        """
        chosen, seed = Candidate.from_values(candidate), self._seed + repeat

        def scored() -> "Scored":
            result = self._objective.evaluate(chosen, seed, at=step)
            if predictions is None or not self._objective.target.test:
                return result.metrics, None
            if self._objective.target.folds > 1:
                self._objective.use_split(replace(WHOLE, repeat=repeat), fewer)
                result = replace(result, delta=self._objective.evaluate(chosen, seed, at=step).delta)
            return result.metrics, self._objective.score(chosen, result.delta, self._objective.target.test, seed)

        return self._repeat(scored, repeat, predictions, fewer)

    def fit(self, control: str, repeat: int, predictions: str, backbone: str = "") -> Outcome:
        """Fit a control that is no candidate; see `train` and `objectives.measures.controls`."""
        from promptgraft.objectives.kinds import scores
        from promptgraft.objectives.measures import FITTED

        def scored() -> "Scored":
            self._objective.use_backbone(backbone)
            found: list[Mapping[str, float]] = []
            for fold in range(self._objective.target.folds):
                self._objective.use_split(Split(repeat, fold))
                target = self._objective.target
                found.append(scores(target, FITTED[control](self._objective, target.validation), target.validation))
            means = {name: mean(own[name] for own in found) for name in found[0]}
            if not self._objective.target.test:
                return means, None
            if len(found) > 1:
                self._objective.use_split(replace(WHOLE, repeat=repeat))
            return means, FITTED[control](self._objective, self._objective.target.test)

        return self._repeat(scored, repeat, predictions)

    def _repeat(
        self,
        scored: "Callable[[], Scored]",
        repeat: int,
        predictions: str | None,
        fewer: dict[str, int] | None = None,
    ) -> Outcome:
        """Run what gives the metrics on validation rows, and the logits of the test rows if they are asked for."""
        import torch

        started = time.perf_counter()
        try:
            self._objective.use_split(Split(repeat), fewer)
            metrics, logits = scored()
            if predictions and logits is not None:
                self._files.write_tensors(predictions, {"logits": torch.from_numpy(logits)})
        except DiskFullError:
            raise  # Which says nothing of the candidate.
        except Exception as error:  # The repeat's boundary: it fails, and that is recorded.
            logger.exception("rerun %d failed", repeat)
            return Outcome(failure=cause_of(error))
        seconds = round(time.perf_counter() - started, 3)
        return Outcome(metrics[self._objective.spec.metric], dict(metrics), seconds)
