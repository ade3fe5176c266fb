"""Drawing candidates that no trial of the study has had yet."""

import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from promptgraft.search.storage import (
    TrialRecord,
    base_name,
    distributions_of,
    enqueued_parameters,
    holds,
    present_parameters,
    share_search_space,
)
from promptgraft.search.study import Constraints, EngineSection, build_sampler
from promptgraft.spaces import Candidate, SearchSpace, SuggestingTrial

# Draws of the study's own sampler before a random one takes over, and of that one before the space counts
# as exhausted.
SAMPLER_ATTEMPTS = 20
RANDOM_ATTEMPTS = 500
# After so many draws that would end too late, the search assumes that none fits.
TOO_LONG = 40


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate that the sampler suggested.

    Attributes:
        candidate: The candidate, canonical.
        trial: The trial in memory that suggested it; None for a baseline that the space doesn't hold.
    """

    candidate: Candidate
    trial: Trial | None

    @property
    def params(self) -> dict[str, Any]:
        """Parameter name -> suggested value."""
        return self.trial.params if self.trial else {}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameter name -> distribution."""
        return self.trial.distributions if self.trial else {}


class Proposals:
    """Lets a sampler draw on a copy of the study in memory, and refuses candidates that are known or ruled out.

    A draw that is refused must leave nothing behind in the study itself, and Optuna can't take an `ask`
    back. The copy gets every report and result, so that the sampler sees what it would see there.

    Args:
        space: The search space.
        sampler: Name and options of the sampler.
        seed: The study's seed.
        directions: Which way the values are better.
        constraints: What candidates must keep to, if anything.

    Attributes:
        nothing_fits: Whether the last draw found only candidates that would have ended too late.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: EngineSection,
        seed: int,
        directions: Sequence[StudyDirection],
        constraints: Constraints | None = None,
    ) -> None:
        self.space = space
        self.sampler = sampler
        self.seed = seed
        self.constraints = constraints
        if constraints is not None:
            constraints.know(space)
        self.distributions = distributions_of(space)
        self._copy = optuna.create_study(directions=directions)
        self.nothing_fits = False
        self._common = IntersectionSearchSpace(include_pruned=True)

    def learn(self, trial: FrozenTrial) -> None:
        """Take over a finished trial of an earlier run or of another driver, in terms of the present space."""
        if TrialRecord.of(trial).baseline and not trial.params:
            return  # A point outside of the space says nothing of its parameters.
        params = present_parameters(trial.params, TrialRecord.of(trial).values, self.distributions)
        self._copy.add_trial(
            create_trial(
                state=self._state(trial.state),
                values=trial.values,
                params=params,
                distributions={name: self.distributions[name] for name in params},
                intermediate_values=trial.intermediate_values,
            )
        )

    def draw(
        self, known: Container[str], n_trials: int, allows: Callable[[Candidate], bool] | None = None
    ) -> Proposal | None:
        """Draw a candidate that is not known and breaks no constraint.

        The sampler is built anew for every attempt, with a seed made from the study's seed, the number of its
        trials and the attempt: a resumed study goes on where it stood instead of repeating itself.

        Args:
            known: Keys of the candidates that were tried.
            n_trials: Number of candidates tried; a trial that is run again is none.
            allows: Tells whether a candidate would end in time.

        Returns:
            The proposal; None if the space seems exhausted, or if `nothing_fits`.
        """
        too_long = 0
        for attempt in range(SAMPLER_ATTEMPTS + RANDOM_ATTEMPTS):
            seed = random.Random(f"{self.seed}/{n_trials}/{attempt}").getrandbits(32)
            self._copy.sampler = self._sampler(seed) if attempt < SAMPLER_ATTEMPTS else RandomSampler(seed=seed)
            proposal = self._ask()
            if proposal.candidate.key not in known and not self.ruled_out(proposal.candidate):
                if allows is None or allows(proposal.candidate):
                    return proposal
                too_long += 1
            self.told(proposal, TrialState.FAIL, None)
            if too_long == TOO_LONG:
                break
        self.nothing_fits = too_long > 0
        return None

    def ruled_out(self, candidate: Candidate) -> str | None:
        """Say which constraint a candidate breaks, if any."""
        return self.constraints.broken_by(candidate) if self.constraints else None

    def _sampler(self, seed: int) -> BaseSampler:
        sampler = build_sampler(self.sampler.name, self.sampler.options, seed)
        share_search_space(sampler, self._common)
        return sampler

    def fixed(self, params: Mapping[str, Any]) -> Proposal:
        """Propose given parameter values; those that are missing, or not in the space, are drawn at random."""
        self._copy.sampler = RandomSampler(seed=self.seed)
        self._copy.enqueue_trial({name: value for name, value in params.items() if self._holds(name, value)})
        return self._ask()

    def waiting(self, trial: FrozenTrial) -> tuple[Proposal, str | None]:
        """Propose what a queued trial is to run, whether a user queued it or it was cut off.

        Args:
            trial: The trial, WAITING.

        Returns:
            The proposal, and why it isn't what was queued, if so.
        """
        record, queued = TrialRecord.of(trial), enqueued_parameters(trial)
        if record.baseline:
            proposal = self.baseline(record.candidate)
        else:
            proposal = self.fixed(queued | present_parameters(trial.params, record.values, self.distributions))
        given = queued | {base_name(name): value for name, value in trial.params.items()}
        unheld = ", ".join(f"{name} {value!r}" for name, value in given.items() if not self._holds(name, value))
        if record.has_candidate and record.candidate.key != proposal.candidate.key:
            return proposal, "the edited space no longer holds this candidate" + (f": {unheld}" if unheld else "")
        if unheld and not record.has_candidate:
            return proposal, f"the space doesn't hold {unheld}; queue a value of its range or choices"
        return proposal, None

    def _holds(self, name: str, value: Any) -> bool:
        """Whether the space holds a parameter's value; of what it doesn't search that is not asked."""
        return name not in self.distributions or holds(self.distributions[name], value)

    def baseline(self, candidate: Candidate) -> Proposal:
        """Propose a baseline, with its parameters if it is a point of the space."""
        values = present_parameters(candidate.to_dict(), {}, self.distributions)
        proposal = self.fixed(values)
        if proposal.candidate.key == candidate.key:
            return proposal
        self.told(proposal, TrialState.FAIL, None)
        return Proposal(candidate, None)

    def taken_over(self, proposal: Proposal, reports: Mapping[int, float]) -> Proposal:
        """Take over a running trial of an older, smaller space.

        Args:
            proposal: What was proposed then.
            reports: Step -> value, so far.
        """
        if proposal.trial is None:
            return proposal
        values = present_parameters(proposal.params, proposal.candidate.to_dict(), self.distributions)
        taken = self.fixed(values)
        for step, value in reports.items():
            self.reported(taken, step, value)
        return Proposal(proposal.candidate, taken.trial)

    def reported(self, proposal: Proposal, step: int, value: float) -> None:
        """Pass an intermediate value on to the sampler; with several objectives it sees none."""
        if proposal.trial is not None and len(self._copy.directions) == 1:
            proposal.trial.report(value, step)

    def told(self, proposal: Proposal, state: TrialState, values: Sequence[float] | None) -> None:
        """Pass a result on to the sampler."""
        if proposal.trial is None:
            return
        state = self._state(state)
        self._copy.tell(proposal.trial, values if state == TrialState.COMPLETE else None, state)

    def _state(self, state: TrialState) -> TrialState:
        """With several objectives, TPE can't place a pruned trial: it counts with the values at which it ended."""
        several = len(self._copy.directions) > 1
        return TrialState.COMPLETE if several and state == TrialState.PRUNED else state

    def _ask(self) -> Proposal:
        trial = self._copy.ask()
        return Proposal(self.space.suggest(cast("SuggestingTrial", trial)), trial)
