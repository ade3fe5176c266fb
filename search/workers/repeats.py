"""Repeats of candidates and controls, as workers run them: on other seeds and splits."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from promptgraft.objectives.file_store import DiskFullError, FileStore
from promptgraft.search.storage import Outcome
from promptgraft.search.trials import cause_of
from promptgraft.spaces import Candidate

if TYPE_CHECKING:
    from promptgraft.objectives.data import Row
    from promptgraft.objectives.measures import Logits
    from promptgraft.objectives.trial import Objective

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
            predictions: Name of a file for the logits of the test rows, whose labels nobody looks at here.
            fewer: `target` or `source` -> how many of its training rows are kept.
        """

        def logits(rows: "Sequence[Row]") -> "Logits":
            chosen, seed = Candidate.from_values(candidate), self._seed + repeat
            result = self._objective.evaluate(chosen, seed, at=step)
            if predictions is None:
                return result.logits
            held_out = self._objective.score(chosen, result.delta, rows[len(result.logits) :], seed)
            return np.concatenate([result.logits, held_out])

        return self._repeat(logits, repeat, predictions, fewer)

    def fit(self, control: str, repeat: int, predictions: str) -> Outcome:
        """Fit a control that is no candidate; see `train` and `objectives.measures.controls`."""
        from promptgraft.objectives.measures import FITTED

        return self._repeat(lambda rows: FITTED[control](self._objective, rows), repeat, predictions)

    def _repeat(
        self,
        logits: "Callable[[Sequence[Row]], Logits]",
        repeat: int,
        predictions: str | None,
        fewer: dict[str, int] | None = None,
    ) -> Outcome:
        """Have the rows of a split scored, the validation rows first."""
        import torch

        started = time.perf_counter()
        try:
            self._objective.use_split(repeat, fewer)
            target = self._objective.target
            count = len(target.validation)
            found = logits((*target.validation, *target.test) if predictions else target.validation)
            if predictions:
                self._files.write_tensors(predictions, {"logits": torch.from_numpy(found[count:])})
            metrics = target.measure(found[:count], target.validation)
        except DiskFullError:
            raise  # Which says nothing of the candidate.
        except Exception as error:  # The repeat's boundary: it fails, and that is recorded.
            logger.exception("repeat %d failed", repeat)
            return Outcome(failure=cause_of(error))
        seconds = round(time.perf_counter() - started, 3)
        return Outcome(metrics[self._objective.spec.metric], metrics, seconds)
