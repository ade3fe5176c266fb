"""How long a candidate will take, by how much it trains and by how long the trials before it took."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from optuna.trial import FrozenTrial, TrialState

from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.search.storage import TrialRecord
from promptgraft.search.trials.ranking import FINISHED
from promptgraft.spaces import Candidate

# An update of all weights costs about twice one of all layers: the embeddings are much of a small backbone, and what
# frozen layers make of a row is computed once.
ALL_WEIGHTS = 2.0
# The least that an update costs, beside one of all layers: that of a head alone.
HEAD = 0.05


@dataclass(frozen=True, slots=True)
class _Trial:
    """What a trial did, and how long it took."""

    candidate: Candidate
    seconds: float
    folds: float
    on_target: float
    on_source: float


class ExpectedTimes:
    """Estimates the seconds of candidates that were not tried yet.

    A trial takes so long for each fold, and so long for each update, of which one on twice as many rows counts twice,
    and one of half the layers half. All are medians: of folds, over the trials that train nothing; of updates on target
    rows, over those with as many frozen layers on the same backbone, or else over those on that backbone, or else over
    all; of updates on source rows, likewise. The two differ: what frozen layers make of a few target rows is kept.

    Args:
        trials: The study's trials.
        spec: The study's fixed part.
        seconds: Returns the seconds that a trial took.
    """

    def __init__(
        self, trials: Sequence[FrozenTrial], spec: ObjectiveSpec, seconds: Callable[[FrozenTrial], float]
    ) -> None:
        self._spec = spec
        self._source_stages: set[tuple[object, ...]] = set()
        self._trials = list(self._read(trials, seconds))
        self._folds = max((own.folds for own in self._trials), default=1.0)
        untrained = [own.seconds / own.folds for own in self._trials if not (own.on_target or own.on_source)]
        self._fold_s = median(untrained) if untrained else 0.0

    def of(self, candidate: Candidate) -> float:
        """Return the seconds that a candidate takes if it isn't pruned; 0 while no trial tells."""
        on_target, on_source = self._updates(candidate, self._folds, self._folds * candidate.steps)
        on_source += self._stage_updates(candidate)
        seconds = self._fold_s * self._folds
        if not (on_target or on_source):
            return seconds
        target_s = self._target_s(candidate)
        source_s = self._source_s(candidate, target_s)
        return seconds + on_target * (target_s or source_s or 0.0) + on_source * (source_s or target_s or 0.0)

    def _target_s(self, candidate: Candidate) -> float | None:
        """Return the seconds of an update on target rows; None if no trial has trained on these alone."""
        alike = _alike(candidate, [own for own in self._trials if own.on_target and not own.on_source])
        return median(self._spent(own) / own.on_target for own in alike) if alike else None

    def _source_s(self, candidate: Candidate, target_s: float | None) -> float | None:
        """Return the seconds of an update on source rows, given that of one on target rows; None if none was made."""
        alike = _alike(candidate, [own for own in self._trials if own.on_source])
        if target_s is None:
            found = [self._spent(own) / (own.on_source + own.on_target) for own in alike]
        else:
            found = [max(0.0, self._spent(own) - target_s * own.on_target) / own.on_source for own in alike]
        return median(found) if found else None

    def _spent(self, trial: _Trial) -> float:
        return max(0.0, trial.seconds - self._fold_s * trial.folds)

    def _read(self, trials: Sequence[FrozenTrial], seconds: Callable[[FrozenTrial], float]) -> Iterator[_Trial]:
        for trial in trials:
            record = TrialRecord.of(trial)
            if not record.has_candidate or trial.state not in (*FINISHED, TrialState.RUNNING):
                continue
            candidate = record.candidate
            in_stage = self._stage_updates(candidate)
            self._source_stages.add(_source_stage(candidate))
            if trial.state in FINISHED and trial.intermediate_values:
                last = dict(divmod(step, candidate.steps + 1) for step in sorted(trial.intermediate_values))
                folds = len(last)
                on_target, on_source = self._updates(candidate, folds, sum(last.values()))
                yield _Trial(candidate, seconds(trial), folds, on_target, on_source + in_stage)

    def _updates(self, candidate: Candidate, folds: float, steps: float) -> tuple[float, float]:
        """Return those on target rows, and on source rows beside them: so many steps, and contrastive ones per fold."""
        updates = (steps + folds * candidate.contrastive_steps) * (2 if candidate.self_training else 1)
        frozen = 0 if candidate.soft_prompt.length else candidate.frozen_layers
        each = updates * candidate.batch_size * self._share(candidate, frozen)
        return each * (candidate.alpha < 1), each * (candidate.alpha > 0)

    def _stage_updates(self, candidate: Candidate) -> float:
        """Return those of the source stage; 0 if a trial before has computed it."""
        if not candidate.source_steps or _source_stage(candidate) in self._source_stages:
            return 0.0
        training = self._spec.training_on(candidate.source)
        return candidate.source_steps * training.batch_size * self._share(candidate, training.frozen_layers)

    def _share(self, candidate: Candidate, frozen: int) -> float:
        if not frozen:
            return ALL_WEIGHTS
        facts = self._spec.space.facts
        layers = facts.backbones.get(candidate.backbone, facts).n_layers
        return max(HEAD, 1 - frozen / max(1, layers))


def _alike(candidate: Candidate, trials: Sequence[_Trial]) -> Sequence[_Trial]:
    same = [own for own in trials if own.candidate.backbone == candidate.backbone]
    return [own for own in same if own.candidate.frozen_layers == candidate.frozen_layers] or same or trials


def _source_stage(candidate: Candidate) -> tuple[object, ...]:
    """Return what mostly decides a source stage, so that trials which share it are known without the tasks' rows."""
    words = () if candidate.source_objective == "contrastive" else (candidate.head, candidate.verbalizer)
    shown = (candidate.backbone, candidate.template, candidate.source, candidate.pooling)
    return (*shown, candidate.source_objective, candidate.source_steps, *words)
