"""The study's own record of its trials: the one place that writes to it.

Every state is written when it happens: RUNNING with its parameters and owner in one step, then each
intermediate value, then COMPLETE, PRUNED or FAIL. See docs/decisions/0003-study-is-the-truth.md.
"""

import logging
import os
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.search.engines import build_pruner
from promptgraft.search.proposals import Proposal, Proposals
from promptgraft.search.study_file import EngineSection
from promptgraft.spaces import Candidate, SearchSpace

logger = logging.getLogger(__name__)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# A failure rate is judged from this many ended trials on.
MIN_TRIALS_FOR_FAILURE_RATE = 6
# Times that a trial lost with its driver is run again.
MAX_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial that the study has recorded as RUNNING.

    Attributes:
        number: The trial's number in the study.
        candidate: What it evaluates.
    """

    number: int
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class _Live:
    trial_id: int
    proposal: Proposal


class StudyLedger:
    """Asks the study for candidates and tells it what became of them.

    Args:
        study: The study.
        storage: The storage that holds it.
        space: Its search space.
        sampler: Name and options of the sampler.
        pruner: Name and options of the pruner.
        seed: The study's seed.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: RDBStorage,
        space: SearchSpace,
        sampler: EngineSection,
        pruner: EngineSection,
        seed: int,
    ) -> None:
        self.study = study
        self.storage = storage
        self.study.pruner = build_pruner(pruner.name, pruner.options)
        self.live: dict[int, _Live] = {}
        self.exhausted = False
        self._study_id = storage.get_study_id_from_name(study.study_name)
        trials = study.get_trials(deepcopy=False)
        self.states: Counter[TrialState] = Counter(trial.state for trial in trials)
        failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        self._errors = sum("interrupted" not in trial.user_attrs for trial in failed)
        self._proposals = Proposals(space, sampler, seed, study.direction, trials)
        self._known = {
            str(trial.user_attrs["candidate_key"]) for trial in trials if "candidate_key" in trial.user_attrs
        }

    def counts(self) -> dict[str, int]:
        """Number of trials by name of their state."""
        return {state.name: count for state, count in self.states.items() if count}

    @property
    def finished(self) -> int:
        """Trials that are COMPLETE or PRUNED."""
        return sum(self.states[state] for state in FINISHED)

    @property
    def failure_rate(self) -> float:
        """Share of FAIL among the ended trials, interrupted ones aside; 0 while there are few."""
        ended = self._errors + self.finished
        return self._errors / ended if ended >= MIN_TRIALS_FOR_FAILURE_RATE else 0.0

    def ask(self) -> Asked | None:
        """Start a trial: a waiting one if there is any, otherwise a candidate never tried.

        Returns:
            The trial; None if the space is exhausted.
        """
        waiting = self._claim_waiting()
        if waiting is not None:
            return waiting
        proposal = self._proposals.draw(self._known, self.states.total())
        if proposal is None:
            self.exhausted = True
            return None
        template = create_trial(
            state=TrialState.RUNNING,
            params=proposal.params,
            distributions=proposal.distributions,
            user_attrs=self._identity(proposal.candidate),
        )
        return self._started(self.storage.create_new_trial(self._study_id, template), proposal)

    def report(self, number: int, step: int, value: float, *, final: bool) -> bool:
        """Record an intermediate value.

        Args:
            number: The trial.
            step: Updates done.
            value: The study's metric.
            final: Whether the trial is over; it is never pruned then.

        Returns:
            Whether the pruner wants the trial to stop.
        """
        trial_id = self.live[number].trial_id
        self.storage.set_trial_intermediate_value(trial_id, step, value)
        self.live[number].proposal.trial.report(value, step)
        return not final and self.study.pruner.prune(self.study, self.storage.get_trial(trial_id))

    def set_attrs(self, number: int, attrs: Mapping[str, Any]) -> None:
        """Record user attributes of a live trial."""
        for name, value in attrs.items():
            self.storage.set_trial_user_attr(self.live[number].trial_id, name, value)

    def frozen(self, number: int) -> FrozenTrial:
        """Return a live trial as the study has it."""
        return self.storage.get_trial(self.live[number].trial_id)

    def complete(self, number: int, value: float) -> None:
        """Record the trial as COMPLETE."""
        self.study.tell(number, value)
        self._ended(number, TrialState.COMPLETE, value)

    def prune(self, number: int) -> None:
        """Record the trial as PRUNED; its curve is there already."""
        self.study.tell(number, state=TrialState.PRUNED)
        self._ended(number, TrialState.PRUNED)

    def fail(self, number: int, cause: str) -> None:
        """Record the trial as FAIL with its cause."""
        self.set_attrs(number, {"cause": cause})
        self.study.tell(number, state=TrialState.FAIL)
        self._errors += 1
        self._ended(number, TrialState.FAIL)

    def interrupt(self, cause: str) -> int:
        """Record every live trial as FAIL and queue it again; return how many there were."""
        numbers = list(self.live)
        for number in numbers:
            trial = self.frozen(number)
            del self.live[number]
            self._fail_and_queue(trial, cause)
        return len(numbers)

    def adopt_orphans(self) -> int:
        """Record the trials of dead drivers on this host as FAIL and queue them again.

        Returns:
            The number of orphans found.
        """
        orphans = [
            trial
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.number not in self.live and not _is_alive(trial.user_attrs.get("owner"))
        ]
        for trial in orphans:
            self._fail_and_queue(trial, "the driver that ran this trial ended without a word")
        return len(orphans)

    def _fail_and_queue(self, trial: FrozenTrial, cause: str) -> None:
        retries = int(trial.user_attrs.get("retries", 0))
        trial_id = self._trial_id(trial.number)
        self.storage.set_trial_user_attr(trial_id, "cause", cause)
        self.storage.set_trial_user_attr(trial_id, "interrupted", True)
        self.study.tell(trial.number, state=TrialState.FAIL)
        self.states[TrialState.RUNNING] -= 1
        self.states[TrialState.FAIL] += 1
        if retries < MAX_RETRIES:
            self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number, "retries": retries + 1})
            self.states[TrialState.WAITING] += 1

    def _claim_waiting(self) -> Asked | None:
        """Take a queued trial, whether queued by us or by the user's `study.enqueue_trial`."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            trial_id = self._trial_id(trial.number)
            if not self.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                continue  # Another driver was faster.
            self.states[TrialState.WAITING] -= 1
            proposal = self._proposals.fixed(trial.system_attrs.get("fixed_params", {}))
            for name, distribution in proposal.distributions.items():
                internal = distribution.to_internal_repr(proposal.params[name])
                self.storage.set_trial_param(trial_id, name, internal, distribution)
            for name, value in self._identity(proposal.candidate).items():
                self.storage.set_trial_user_attr(trial_id, name, value)
            return self._started(trial_id, proposal)
        return None

    def _trial_id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _identity(self, candidate: Candidate) -> dict[str, Any]:
        return {"candidate": candidate.to_dict(), "candidate_key": candidate.key, "owner": _owner()}

    def _started(self, trial_id: int, proposal: Proposal) -> Asked:
        number = self.storage.get_trial_number_from_id(trial_id)
        self.live[number] = _Live(trial_id, proposal)
        self.states[TrialState.RUNNING] += 1
        self._known.add(proposal.candidate.key)
        return Asked(number, proposal.candidate)

    def _ended(self, number: int, state: TrialState, value: float | None = None) -> None:
        self._proposals.told(self.live.pop(number).proposal, state, value)
        self.states[TrialState.RUNNING] -= 1
        self.states[state] += 1


def ranked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the COMPLETE trials, best first; at equal values, the one with the lower loss.

    Accuracy on few validation rows ties often, and then the loss says more than the trial's number.
    """
    sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1

    def rank(trial: FrozenTrial) -> tuple[float, float, int]:
        return (
            -sign * float(trial.value or 0.0),
            float(trial.user_attrs.get("validation_loss", 0.0)),
            trial.number,
        )

    return sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=rank)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """Return the first of `ranked_trials`, if there is one."""
    return next(iter(ranked_trials(study)), None)


def _owner() -> dict[str, Any]:
    process = psutil.Process()
    return {"host": platform.node(), "pid": os.getpid(), "started": process.create_time()}


def _is_alive(owner: Mapping[str, Any] | None) -> bool:
    """Tell whether a trial's driver still runs; on another host it is taken to."""
    if owner is None:
        return False
    if owner["host"] != platform.node():
        return True
    try:
        return abs(float(psutil.Process(owner["pid"]).create_time()) - float(owner["started"])) < 1
    except psutil.NoSuchProcess:
        return False
