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
    updates: float


class ExpectedTimes:
    """Estimates the seconds of candidates that were not tried yet.

    A trial takes so long for each fold, and so long for each update, of which one on twice as many rows counts twice,
    and one of half the layers half. Both are medians: the first over the trials that train nothing; the second over
    those with as many frozen layers on the same backbone, or else over those on that backbone, or else over all.

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
        untrained = [own.seconds / own.folds for own in self._trials if not own.updates]
        self._fold_s = median(untrained) if untrained else 0.0

    def of(self, candidate: Candidate) -> float:
        """Return the seconds that a candidate takes if it isn't pruned; 0 while no trial tells."""
        updates = self._target_updates(candidate, self._folds) + self._source_updates(candidate)
        return self._fold_s * self._folds + (self._update_s(candidate) * updates if updates else 0.0)

    def _update_s(self, candidate: Candidate) -> float:
        trained = [own for own in self._trials if own.updates]
        same = [own for own in trained if own.candidate.backbone == candidate.backbone]
        alike = [own for own in same if own.candidate.frozen_layers == candidate.frozen_layers]
        rates = [max(0.0, own.seconds - self._fold_s * own.folds) / own.updates for own in alike or same or trained]
        return median(rates) if rates else 0.0

    def _read(self, trials: Sequence[FrozenTrial], seconds: Callable[[FrozenTrial], float]) -> Iterator[_Trial]:
        for trial in trials:
            record = TrialRecord.of(trial)
            if not record.has_candidate or trial.state not in (*FINISHED, TrialState.RUNNING):
                continue
            candidate = record.candidate
            on_source = self._source_updates(candidate)
            self._source_stages.add(_source_stage(candidate))
            if trial.state in FINISHED and trial.intermediate_values:
                folds = (max(trial.intermediate_values) + 1) / (candidate.steps + 1)
                yield _Trial(candidate, seconds(trial), folds, self._target_updates(candidate, folds) + on_source)

    def _target_updates(self, candidate: Candidate, folds: float) -> float:
        """Return the updates on so many folds."""
        updates = (candidate.steps + candidate.contrastive_steps) * (2 if candidate.self_training else 1)
        tasks = 2 if 0 < candidate.alpha < 1 else 1
        frozen = 0 if candidate.soft_prompt.length else candidate.frozen_layers
        return folds * updates * tasks * candidate.batch_size * self._share(candidate, frozen)

    def _source_updates(self, candidate: Candidate) -> float:
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


def _source_stage(candidate: Candidate) -> tuple[object, ...]:
    """Return what mostly decides a source stage, so that trials which share it are known without the tasks' rows."""
    words = () if candidate.source_objective == "contrastive" else (candidate.head, candidate.verbalizer)
    shown = (candidate.backbone, candidate.template, candidate.source, candidate.pooling)
    return (*shown, candidate.source_objective, candidate.source_steps, *words)
