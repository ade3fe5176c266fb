"""Cross-validation: a candidate's cycle on every fold, so that each row is scored by a model that hasn't seen it.

Stone (1974), Cross-Validatory Choice and Assessment of Statistical Predictions.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from statistics import mean, stdev

import numpy as np
import numpy.typing as npt
import torch

from promptgraft.objectives.data import joined
from promptgraft.objectives.progress import StageProgress
from promptgraft.objectives.trial.checkpoints import Checkpoint
from promptgraft.objectives.trial.cycle import Cycle
from promptgraft.objectives.trial.migration import LoadReport
from promptgraft.objectives.trial.resources import Resources
from promptgraft.objectives.trial.results import Evaluation, Evaluations, Result, max_rss_bytes
from promptgraft.spaces import Candidate

# Where a checkpoint has the outcome of a fold that is over.
_ENDED = "ended"


@dataclass(frozen=True, slots=True)
class FoldOutcome:
    """What one fold's cycle leaves; a checkpoint holds all of it.

    Attributes:
        evaluations: Its evaluations.
        logits: Their validation logits, shape (evaluations, rows, labels).
        load_report: What the migration did with each weight.
        trainable_parameters: Number of weights that were trained.
        prompt_tokens: Tokens that the prompt adds.
        demonstrations: How many a row was shown, on average.
        seconds: Wall time.
        example: A validation row as the model sees it.
    """

    evaluations: tuple[Evaluation, ...]
    logits: npt.NDArray[np.float32]
    load_report: LoadReport
    trainable_parameters: int
    prompt_tokens: int
    demonstrations: float
    seconds: float
    example: str

    @classmethod
    def of(cls, cycle: Cycle, result: Result) -> "FoldOutcome":
        """Take it from a cycle that is over."""
        evaluations, logits = zip(*cycle.curve, strict=True)
        return cls(
            evaluations=evaluations,
            logits=np.stack(logits),
            load_report=result.load_report,
            trainable_parameters=result.trainable_parameters,
            prompt_tokens=result.prompt_tokens,
            demonstrations=result.demonstrations,
            seconds=result.seconds,
            example=cycle.example(),
        )

    @classmethod
    def load(cls, checkpoint: Checkpoint | None, identity: Mapping[str, object]) -> "FoldOutcome | None":
        """Read it from a fold's checkpoint; None if the fold isn't over."""
        saved = checkpoint.load(identity) if checkpoint else None
        if saved is None or _ENDED not in saved.content:
            return None
        content = dict(saved.content[_ENDED])
        content["evaluations"] = tuple(Evaluation(**entry) for entry in content["evaluations"])
        content["load_report"] = LoadReport(**{name: tuple(own) for name, own in content["load_report"].items()})
        return cls(logits=saved.tensors["logits"].numpy(), **content)

    def save(self, checkpoint: Checkpoint, identity: Mapping[str, object]) -> None:
        """Write it in place of the fold's checkpoint."""
        content = asdict(self)
        logits = torch.from_numpy(content.pop("logits"))
        checkpoint.save(identity, {_ENDED: content}, {"logits": logits})


class CrossValidation(Evaluations):
    """Runs one candidate's cycle on every fold: hands out each fold's evaluations, and with the last one the result.

    All folds have one seed, and so share what doesn't depend on the target's rows, such as the source stage. The first
    decides how long the others train. The result is that of one step for all folds; see `_choose`. A caller that stops
    asking has stopped the trial.

    Args:
        folds: What the cycles use, fold by fold.
        candidate: What to run, canonical.
        seed: Seed of every fold.
        checkpoint: Where to save the state every now and then: a fold that is over isn't run again.
        at: Step whose state is the result; chosen by the folds if None.

    Raises:
        TrialError: While iterating; see `Cycle`.
    """

    def __init__(
        self,
        folds: Sequence[Resources],
        candidate: Candidate,
        seed: int,
        checkpoint: Checkpoint | None = None,
        at: int | None = None,
    ) -> None:
        self.candidate = candidate
        self.seed = seed
        self._folds = folds
        self._checkpoint = checkpoint
        self._at = at
        self._cycle: Cycle | None = None
        self._example = ""
        self._resumed_at = 0
        super().__init__(self._run())

    def example(self) -> str:
        """Render the present fold's first validation row; see `Cycle.example`."""
        return self._cycle.example() if self._cycle else self._example

    def _run(self) -> Generator[Evaluation | StageProgress, None, None]:
        outcomes: list[FoldOutcome] = []
        for fold, resources in enumerate(self._folds):
            until = outcomes[0].evaluations[-1].step if outcomes else None
            for report, outcome in self._run_fold(fold, resources, until):
                if isinstance(report, StageProgress):
                    yield report
                    continue
                shown = replace(report, step=fold * (self.candidate.steps + 1) + report.step, fold=fold)
                if outcome is None:
                    yield replace(shown, result=None)
                    continue
                outcomes.append(outcome)
                found = self._result(outcomes)
                yield replace(shown, so_far=found, result=found if len(outcomes) == len(self._folds) else None)

    def _run_fold(
        self, fold: int, resources: Resources, until: int | None
    ) -> Generator[tuple[Evaluation | StageProgress, FoldOutcome | None], None, None]:
        """Hand out a fold's evaluations, with the last one what it leaves; once more, if it was over before."""
        checkpoint = self._checkpoint.of_fold(fold) if self._checkpoint else None
        cycle = Cycle(resources, self.candidate, self.seed, checkpoint, self._at, until)
        ended = FoldOutcome.load(checkpoint, cycle.identity())
        if ended is not None:
            self._cycle, self._example = None, ended.example
            *before, last = ended.evaluations
            self._resumed_at += last.step
            yield from ((evaluation, None) for evaluation in before)
            yield last, ended
            return
        self._cycle = cycle
        with closing(cycle):
            while True:
                report = cycle.advance()
                if isinstance(report, StageProgress) or report.result is None:
                    yield report, None
                    continue
                outcome = FoldOutcome.of(cycle, report.result)
                self._resumed_at += report.result.resumed_at
                if checkpoint is not None:
                    outcome.save(checkpoint, cycle.identity())
                yield report, outcome
                return

    def _result(self, outcomes: Sequence[FoldOutcome]) -> Result:
        """Choose the step by the mean over the folds, and put their outcomes together."""
        means = [_mean_of(evaluations) for evaluations in zip(*(own.evaluations for own in outcomes), strict=True)]
        best = self._choose(means, outcomes)
        chosen, last = means[best], outcomes[-1]
        return Result(
            value=chosen.value,
            step=chosen.step,
            metrics=chosen.metrics,
            confusion=chosen.confusion,
            logits=joined([outcome.logits[best] for outcome in outcomes]),
            delta={},
            load_report=last.load_report,
            trainable_parameters=last.trainable_parameters,
            prompt_tokens=round(mean(outcome.prompt_tokens for outcome in outcomes)),
            demonstrations=mean(outcome.demonstrations for outcome in outcomes),
            seconds=sum(outcome.seconds for outcome in outcomes),
            max_rss_bytes=max_rss_bytes(),
            stages=self._folds[0].stages.use_of_trial,
            resumed_at=self._resumed_at,
            fold_values=tuple(outcome.evaluations[best].value for outcome in outcomes),
        )

    def _choose(self, means: Sequence[Evaluation], outcomes: Sequence[FoldOutcome]) -> int:
        """Return the place of the step at which training stops for the model that ships.

        Few rows tell the steps of a curve apart by luck, and the first lucky one may lie in the warm-up. Out of the
        steps that are no more than a standard error behind the best (Breiman et al. 1984), it is therefore that whose
        rows are scored best, which for labels is the mean probability of the right one.
        """
        spec = self._folds[0].spec
        best = 0
        for number, found in enumerate(means):
            if found.is_better(means[best], spec.direction):
                best = number
        if spec.metric == "loss":
            return best
        values = [outcome.evaluations[best].value for outcome in outcomes]
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        near = [number for number, found in enumerate(means) if abs(found.value - means[best].value) <= error]
        return max(near, key=lambda number: self._row_score(number, outcomes))

    def _row_score(self, place: int, outcomes: Sequence[FoldOutcome]) -> float:
        """Return the mean score of the rows at a step; those of a fold are scored by its own task."""
        scores = []
        for resources, outcome in zip(self._folds, outcomes, strict=False):
            target = resources.tasks.target
            scores.append(target.row_scores(outcome.logits[place], target.validation))
        return float(np.concatenate(scores).mean())


def _mean_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the mean over the folds at one step."""
    metrics: Mapping[str, float] = {
        name: mean(evaluation.metrics[name] for evaluation in evaluations) for name in evaluations[0].metrics
    }
    return Evaluation(
        step=evaluations[0].step,
        value=mean(evaluation.value for evaluation in evaluations),
        metrics=metrics,
        confusion=np.sum([evaluation.confusion for evaluation in evaluations], axis=0).tolist(),
        source_loss=None,
        target_loss=None,
    )
