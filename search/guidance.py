"""What a sampler may be told beside results: first looks at untrained prompts, and what a candidate will cost.

Neither is a filter. Several candidates are drawn from the sampler and one of them is chosen at random, by weight: the
likelihood that a prior gives it, which fades as results come in (after piBO; Hvarfner et al. 2022, arXiv:2204.11051),
and its expected time to a power (after EI per second; Snoek et al. 2012, arXiv:1206.2944).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from promptgraft.search.study_file import GuidanceSection
from promptgraft.spaces import Candidate

# Candidates that are drawn for one that is chosen.
CHOICES = 8
# Finished trials after which first looks weigh half of what they did.
HALF_LIFE = 10
# Finished trials from which costs are learnt at least, and what keeps coefficients small where there are few.
MIN_TRIALS, RIDGE = 8, 0.5

# User attributes of the study.
FIRST_LOOKS = "first_looks"
POOL = "template_pool"


def merge_looks(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add first looks to those of a study; of a pair that is in both, the new one counts.

    Returns:
        All of them, the best first.
    """
    by_pair = {(look["template"], look["verbalizer"]): look for look in (*known, *new)}
    return sorted(by_pair.values(), key=lambda look: (-look["rows"], -look["score"]))


class Guidance:
    """Weighs candidates.

    Args:
        section: How much each consideration counts; 0 switches it off.
    """

    def __init__(self, section: GuidanceSection) -> None:
        self.section = section
        self._looks: dict[tuple[str, str], float] = {}
        self._costs = CostModel()

    @property
    def choices(self) -> int:
        """How many candidates to draw for one."""
        by_looks = self.section.first_looks > 0 and len(self._looks) > 1
        by_cost = self.section.cost > 0 and self._costs.is_ready
        return CHOICES if by_looks or by_cost else 1

    def use_looks(self, looks: Sequence[dict[str, Any]]) -> None:
        """Take over what was seen of untrained prompts: `template`, `verbalizer` and `score` of each pair."""
        if not looks:
            return
        scores = np.array([look["score"] for look in looks])
        spread = float(scores.std()) or 1.0
        self._looks = {
            (look["template"], look["verbalizer"]): (look["score"] - float(scores.max())) / spread for look in looks
        }

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Take over what finished trials took."""
        self._costs.learn(trials)

    def expected_seconds(self, candidate: Candidate) -> float | None:
        """Return how long a candidate will take, by the trials so far; None while there are few."""
        return self._costs.predict(candidate) if self._costs.is_ready else None

    def weights(self, candidates: Sequence[Candidate], finished: int) -> list[float]:
        """Weigh candidates against each other.

        Args:
            candidates: What the sampler drew.
            finished: Trials that were finished before.

        Returns:
            A positive number for each.
        """
        fade = self.section.first_looks * HALF_LIFE / (HALF_LIFE + finished)
        powers = [fade * self._look(candidate) for candidate in candidates]
        if self.section.cost > 0 and self._costs.is_ready:
            costs = [math.log(self._costs.predict(candidate)) for candidate in candidates]
            powers = [power - self.section.cost * cost for power, cost in zip(powers, costs, strict=True)]
        return [math.exp(power - max(powers)) for power in powers]

    def _look(self, candidate: Candidate) -> float:
        """Return how far a candidate's prompt is behind the best, in standard deviations of all."""
        if (candidate.template, candidate.verbalizer) in self._looks:
            return self._looks[candidate.template, candidate.verbalizer]
        of_template = [score for (template, _), score in self._looks.items() if template == candidate.template]
        # Without label words any will do; a template that was not looked at counts as a usual one.
        known = of_template or [float(np.mean([*self._looks.values(), 0.0]))]
        return max(known)


class CostModel:
    """Foretells seconds of a trial from finished ones: ridge regression of their logarithm on what makes them long."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._sources: set[tuple[object, ...]] = set()
        self._rows: list[dict[str, float]] = []
        self._log_seconds: list[float] = []
        self._weights: npt.NDArray[np.float64] | None = None
        self._names: list[str] = []

    @property
    def is_ready(self) -> bool:
        """Whether enough trials are finished."""
        return len(self._rows) >= MIN_TRIALS

    def learn(self, trials: Sequence[FrozenTrial]) -> None:
        """Take over COMPLETE trials in the order of their numbers."""
        for trial in trials:
            if trial.number in self._seen or trial.state != TrialState.COMPLETE or "seconds" not in trial.user_attrs:
                continue
            self._seen.add(trial.number)
            candidate = Candidate.from_values(trial.user_attrs["candidate"])
            self._rows.append(self._features(candidate))
            self._log_seconds.append(math.log(max(1e-3, float(trial.user_attrs["seconds"]))))
            self._sources.add(_source(candidate))
            self._weights = None

    def predict(self, candidate: Candidate) -> float:
        """Return the expected seconds; a source stage that no finished trial had counts as not computed yet."""
        if self._weights is None:
            self._fit()
        features = self._features(candidate)
        assert self._weights is not None
        known = np.array([1.0, *(features.get(name, 0.0) for name in self._names)])
        return float(math.exp(np.clip(known @ self._weights, -7, 14)))

    def _features(self, candidate: Candidate) -> dict[str, float]:
        soft = candidate.soft_prompt
        found = {
            f"frozen {candidate.frozen_layers}": 1.0,
            f"place {soft.place if soft.length else 'none'}": 1.0,
            f"adapter {candidate.adapter.method}": 1.0,
            f"template {candidate.template}": 1.0,
            f"verbalizer {candidate.verbalizer}": 1.0,
            "steps": math.log1p(candidate.steps),
            "batch": math.log(candidate.batch_size),
        }
        if soft.length and soft.parametrization != "direct":  # Left out, so that forecasts of older studies stay.
            found[f"parametrization {soft.parametrization}"] = 1.0
        if candidate.demonstrations.count:
            found["demonstrations"] = math.log1p(candidate.demonstrations.count)
        if candidate.alpha > 0:
            found["source rows"] = 1.0
        if candidate.calibration != "none":  # Left out at the default: forecasts of older studies stay as they were.
            found[f"calibration {candidate.calibration}"] = 1.0
        if candidate.source_steps and _source(candidate) not in self._sources:
            found["source stage"] = 1.0
        return found

    def _fit(self) -> None:
        self._names = sorted({name for row in self._rows for name in row})
        known = np.array([[1.0, *(row.get(name, 0.0) for name in self._names)] for row in self._rows])
        penalty = RIDGE * np.eye(known.shape[1])
        penalty[0, 0] = 1e-9
        self._weights = np.linalg.solve(known.T @ known + penalty, known.T @ np.array(self._log_seconds))


def _source(candidate: Candidate) -> tuple[object, ...]:
    """Return what decides which source stage a candidate needs."""
    prompt = candidate.soft_prompt if candidate.soft_prompt.init == "source" else None
    shown = candidate.demonstrations
    steps = (candidate.source, candidate.source_steps)
    return (candidate.template, candidate.verbalizer, candidate.head, steps, prompt, shown)
