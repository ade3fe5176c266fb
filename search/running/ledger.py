"""The study's own record of its trials: the one place that writes to it.

Every state is written when it happens: RUNNING with its parameters and owner in one step, then each
intermediate value, then COMPLETE, PRUNED or FAIL. See docs/decisions/0003-study-is-the-truth.md.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.objectives.growth import Growth
from promptgraft.objectives.measures import UntrainedScore
from promptgraft.search.running.retries import Loss, fail_and_queue, is_retry
from promptgraft.search.running.run_state import SearchSettings
from promptgraft.search.sampling import Proposal, Proposals, Pruning, record_growth
from promptgraft.search.storage import (
    Pool,
    Pulses,
    StorageLostError,
    StudyRecord,
    TrialRecord,
    candidate_attrs,
    failure_attrs,
    is_alive,
    last_beats,
    new_owner,
    start_heartbeat,
    stored_names,
    study_lock,
    trial_id_of,
    wait_for_storage,
    write_trial,
)
from promptgraft.search.study import build_pruner
from promptgraft.search.trials import FINISHED, candidate_key, cost_names, costs_of
from promptgraft.spaces import Candidate, SearchSpace

logger = logging.getLogger(__name__)

# A failure rate is judged from this many ended trials on.
MIN_TRIALS_FOR_FAILURE_RATE = 6


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

    Several drivers may work on one study, each with a ledger of its own. What decides between them, drawing a
    candidate and adopting an orphan, happens under the study's lock.

    Args:
        study: The study.
        storage: The storage that holds it.
        space: Its search space.
        settings: Its sampler, pruner and what else decides which candidates are tried.

    Attributes:
        trials: The study's trials when last looked at.
        live: The trials of this driver, by number.
        states: Number of trials by state, those of other drivers as of the last look.
        exhausted: Whether the space holds no allowed candidate that was not tried.
        nothing_fits: Whether all that was left when last asked would have ended too late.
        pool: Templates that have joined the space while the study ran.
        space: The search space, those templates included.
        lost: Set once the storage was given up; every later call raises it.
    """

    def __init__(self, study: optuna.Study, storage: RDBStorage, space: SearchSpace, settings: SearchSettings) -> None:
        self.study = study
        self.storage = storage
        self.study.pruner = build_pruner(settings.pruner.name, settings.pruner.options)
        self._pruning = Pruning(study)
        self.max_retries = settings.max_retries
        self.live: dict[int, _Live] = {}
        self.trials: list[FrozenTrial] = []
        self.states: Counter[TrialState] = Counter()
        self.exhausted = self.nothing_fits = False
        self.lost: StorageLostError | None = None
        self.owner, self._pulses = new_owner(), Pulses()
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self.pool = Pool()
        self.space = self._file_space = space
        self._draws_from = partial(
            Proposals,
            sampler=settings.sampler,
            seed=settings.seed,
            directions=study.directions,
            constraints=settings.constraints,
        )
        self._proposals = self._draws_from(space)
        self._names: dict[str, str] | None = None
        self._known: set[str] = set()
        self._learnt: set[int] = set()
        self._errors = 0
        self.refresh()

    def counts(self) -> dict[str, int]:
        """Number of trials by name of their state."""
        return {state.name: count for state, count in self.states.items() if count}

    @property
    def finished(self) -> int:
        """Trials that are COMPLETE or PRUNED."""
        return sum(self.states[state] for state in FINISHED)

    @property
    def cut_off(self) -> int:
        """Trials that are FAIL through no fault of theirs."""
        return self.states[TrialState.FAIL] - self._errors

    @property
    def failure_rate(self) -> float:
        """Share of FAIL among the ended trials, interrupted ones aside; 0 while there are few."""
        ended = self._errors + self.finished
        return self._errors / ended if ended >= MIN_TRIALS_FOR_FAILURE_RATE else 0.0

    @wait_for_storage
    def refresh(self) -> None:
        """Look at the study again: other drivers, and users, may have written to it."""
        self.trials = self.study.get_trials(deepcopy=False)
        self.states = Counter(trial.state for trial in self.trials)
        self._errors = sum(t.state == TrialState.FAIL and not TrialRecord.of(t).is_interrupted for t in self.trials)
        for trial in self.trials:
            if trial.number in self._learnt:
                continue
            key = candidate_key(trial)
            if key is not None:
                self._known.add(key)
            if trial.state.is_finished():
                self._learnt.add(trial.number)
                if trial.state in FINISHED:
                    self._proposals.learn(trial)
        self._widen()

    def _widen(self) -> None:
        """Draw from the larger space from now on, if templates have joined; all that was learnt stays."""
        record = StudyRecord.of(self.study)
        if record.rounds == self.pool.rounds:
            return
        self.pool = record.pool
        self.space = self.pool.added_to(self._file_space)
        self._proposals, self._names, self.exhausted = self._draws_from(self.space), None, False
        for trial in (trial for trial in self.trials if trial.state in FINISHED):
            self._proposals.learn(trial)
        for number, live in self.live.items():
            reports = self.storage.get_trial(live.trial_id).intermediate_values
            self.live[number] = _Live(live.trial_id, self._proposals.taken_over(live.proposal, reports))

    @wait_for_storage
    def untrained_scores(self) -> list[UntrainedScore]:
        """Return the scores of untrained prompts, the best first."""
        return StudyRecord.of(self.study).untrained

    @wait_for_storage
    def record_growth(self, round_: int, growth: Growth | None) -> Pool:
        """Write what a round of growth found to the study, and draw from the larger space; see `pool`."""
        with study_lock(self.storage, self.study.study_name):
            record_growth(self.study, round_, growth)
            self.refresh()
        return self.pool

    @wait_for_storage
    def ask(
        self,
        wanted: int | None = None,
        allows: Callable[[Sequence[FrozenTrial]], Callable[[Candidate], bool]] | None = None,
    ) -> Asked | None:
        """Start a trial: a waiting one if there is any, otherwise a candidate never tried.

        Args:
            wanted: Finished trials to reach; None for no limit. Trials that other drivers run count.
            allows: Takes the trials, and returns what tells whether a candidate would end in time. Those that would not
                stay queued, or aren't drawn; one that was cut off goes on in any case.

        Returns:
            The trial; None if the space is exhausted, nothing is allowed, or enough trials are finished or running.
        """
        with study_lock(self.storage, self.study.study_name):
            self.refresh()
            if wanted is not None and self.finished + self.states[TrialState.RUNNING] >= wanted:
                return None
            self.nothing_fits = False
            in_time = allows(self.trials) if allows else None
            return self._claim_waiting(in_time) or self._start_new(in_time)

    @wait_for_storage
    def report(self, number: int, step: int, value: float, *, compared: bool) -> bool:
        """Record an intermediate value.

        Args:
            number: The trial.
            step: Updates done.
            value: The study's metric.
            compared: Whether the pruner compares it with other trials.

        Returns:
            Whether the pruner wants the trial to stop.
        """
        with self._holding(number) as live:
            self.storage.set_trial_intermediate_value(live.trial_id, step, value)
            self._proposals.reported(live.proposal, step, value)
            return compared and self._pruning.stops(live.trial_id)
        return True

    @wait_for_storage
    def set_attrs(self, number: int, attrs: Mapping[str, Any]) -> None:
        """Record user attributes of a live trial."""
        with self._holding(number) as live:
            write_trial(self.storage, live.trial_id, attrs)

    def frozen(self, number: int) -> FrozenTrial:
        """Return a live trial as the study has it."""
        return self.storage.get_trial(self.live[number].trial_id)

    def complete(self, number: int, value: float) -> None:
        """Record the trial as COMPLETE."""
        self._end(number, TrialState.COMPLETE, value)

    def prune(self, number: int, value: float) -> None:
        """Record the trial as PRUNED, with its last value; its curve is there already."""
        self._end(number, TrialState.PRUNED, value)

    def fail(self, number: int, cause: str) -> None:
        """Record the trial as FAIL with its cause; it isn't run again."""
        self.set_attrs(number, failure_attrs(cause))
        if number in self.live:
            self._errors += 1
            self._end(number, TrialState.FAIL, None)

    @wait_for_storage
    def lose(self, number: int, loss: Loss, cause: str) -> bool:
        """Record a trial that was cut off as FAIL, and queue it again if it has retries left.

        Returns:
            Whether it is queued again.
        """
        with self._holding(number):
            trial = self.frozen(number)
            queued = self._fail_and_queue(trial, loss, cause)
            live = self.live.pop(number)
            self._learnt.add(number)
            self._proposals.told(live.proposal, TrialState.FAIL, None)
            self.states[TrialState.RUNNING] -= 1
            self.states[TrialState.FAIL] += 1
            self.states[TrialState.WAITING] += queued
            self._errors += not loss.interrupted
            return queued
        return False

    def interrupt(self, loss: Loss, cause: str) -> int:
        """Record every live trial as FAIL and queue it again; return how many there were."""
        return len([self.lose(number, loss, cause) for number in list(self.live)])

    @wait_for_storage
    def adopt_orphans(self) -> int:
        """Record the trials of dead drivers as FAIL and queue them again.

        A driver on this machine is dead if its process is; one elsewhere if its heart has stopped; see `Pulses`.

        Returns:
            The number of orphans found.
        """
        with study_lock(self.storage, self.study.study_name):
            self.refresh()
            running = [t for t in self.trials if t.state == TrialState.RUNNING and t.number not in self.live]
            silent = self._pulses.stopped(last_beats(self.storage, self._study_id)) if running else set()
            orphans = [trial for trial in running if self._is_orphan(trial, silent)]
            for trial in orphans:
                self._fail_and_queue(trial, Loss.ORPHANED, "the driver that ran this trial ended without a word")
            if orphans:
                self.refresh()
        return len(orphans)

    def _is_orphan(self, trial: FrozenTrial, silent: set[int]) -> bool:
        owner = TrialRecord.of(trial).owner
        alive = False if owner == self.owner else is_alive(owner)
        if alive is None:
            start_heartbeat(self.storage, trial_id_of(trial))
            return trial_id_of(trial) in silent
        return not alive

    def _fail_and_queue(self, trial: FrozenTrial, loss: Loss, cause: str) -> bool:
        again = not is_retry(self.trials, trial.number)
        return fail_and_queue(self.storage, self._study_id, trial, loss, cause, self.max_retries if again else None)

    def _claim_waiting(self, allows: Callable[[Candidate], bool] | None) -> Asked | None:
        """Take a queued trial, whether queued by us or by the user's `study.enqueue_trial`."""
        for waiting in self.trials:
            if waiting.state == TrialState.WAITING:
                asked = self._claim(waiting, None if TrialRecord.of(waiting).retry_of is not None else allows)
                if asked is not None:
                    return asked
        return None

    def _claim(self, waiting: FrozenTrial, allows: Callable[[Candidate], bool] | None) -> Asked | None:
        trial_id = trial_id_of(waiting)
        proposal, unlike = self._proposals.waiting(waiting)
        refusal = unlike or self._proposals.ruled_out(proposal.candidate)
        if allows is not None and not refusal and not allows(proposal.candidate):
            self._proposals.told(proposal, TrialState.FAIL, None)
            return None
        self.states[TrialState.WAITING] -= 1
        if refusal:
            self._proposals.told(proposal, TrialState.FAIL, None)
            write_trial(self.storage, trial_id, failure_attrs(refusal, interrupted=True))
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
            self.states[TrialState.FAIL] += 1
            return None
        # Everything else first: from the moment it is RUNNING, a trial must have an owner.
        if not waiting.params:
            params, distributions = self._stored(proposal)
            for name, distribution in distributions.items():
                self.storage.set_trial_param(trial_id, name, distribution.to_internal_repr(params[name]), distribution)
        write_trial(self.storage, trial_id, candidate_attrs(proposal.candidate, self.owner))
        self.storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        return self._started(trial_id, waiting.number, proposal)

    def _start_new(self, allows: Callable[[Candidate], bool] | None) -> Asked | None:
        originals = sum(TrialRecord.of(trial).retry_of is None for trial in self.trials)
        proposal = self._proposals.draw(self._known, originals, allows)
        if proposal is None:
            self.nothing_fits = self._proposals.nothing_fits or self.states[TrialState.WAITING] > 0
            self.exhausted = not self.nothing_fits
            return None
        params, distributions = self._stored(proposal)
        template = create_trial(
            state=TrialState.RUNNING,
            params=params,
            distributions=distributions,
            user_attrs=candidate_attrs(proposal.candidate, self.owner),
        )
        trial_id = self.storage.create_new_trial(self._study_id, template)
        return self._started(trial_id, self.storage.get_trial_number_from_id(trial_id), proposal)

    def _stored(self, proposal: Proposal) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Return a proposal's parameters and distributions by the names that the study has for them."""
        if self._names is None:
            self._names = stored_names(self.study, self._proposals.distributions)
        params = {self._names[name]: value for name, value in proposal.params.items()}
        return params, {self._names[name]: distribution for name, distribution in proposal.distributions.items()}

    def _started(self, trial_id: int, number: int, proposal: Proposal) -> Asked:
        self.live[number] = _Live(trial_id, proposal)
        self.storage.record_heartbeat(trial_id)
        self.states[TrialState.RUNNING] += 1
        self._known.add(proposal.candidate.key)
        return Asked(number, proposal.candidate)

    @wait_for_storage
    def _end(self, number: int, state: TrialState, value: float | None) -> None:
        with self._holding(number) as live:
            values = None if value is None else [value, *(costs_of(self.frozen(number), cost_names(self.study)) or ())]
            self.storage.set_trial_state_values(live.trial_id, state, values)
            self._proposals.told(live.proposal, state, values)
            del self.live[number]
            self._learnt.add(number)
            self.states[TrialState.RUNNING] -= 1
            self.states[state] += 1

    @contextmanager
    def _holding(self, number: int) -> Iterator[_Live]:
        """Let go of a trial that another driver took for an orphan, after this host slept for instance."""
        live = self.live[number]
        try:
            yield live
        except UpdateFinishedTrialError:
            logger.warning("trial %d was taken for an orphan by another driver, which runs it again", number)
            del self.live[number]
            self.refresh()
