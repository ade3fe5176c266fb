"""Guidance weighs candidates, fades, learns costs, and filters nothing."""

from collections import Counter
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from promptgraft.search.guidance import MIN_TRIALS, Guidance
from promptgraft.search.proposals import Proposals
from promptgraft.search.study_file import EngineSection, GuidanceSection
from promptgraft.spaces import Candidate, Categorical, SearchSpace, StudyFacts
from tests.conftest import TEMPLATES, VERBALIZERS

SPACE = SearchSpace(
    TEMPLATES,
    VERBALIZERS,
    (Categorical("frozen_layers", (0, 1, 2)), Categorical("steps", (8, 64)), Categorical("batch_size", (4, 8, 16))),
    StudyFacts(3, has_head=True, has_source=True),
)
LOOKS = [
    {"template": t.id, "verbalizer": v.id, "score": score}
    for (t, v), score in zip([(t, v) for t in TEMPLATES for v in VERBALIZERS], (-0.5, -0.9, -0.9, -1.0), strict=True)
]


def drawn(guidance: Guidance, n_trials: int, sampler: str = "random") -> list[Candidate]:
    """Draw first candidates of 60 studies, which differ in their seed only."""
    found = []
    for seed in range(60):
        proposals = Proposals(SPACE, EngineSection(name=sampler), seed, [StudyDirection.MAXIMIZE], guidance)
        proposal = proposals.draw((), n_trials)
        assert proposal is not None
        found.append(proposal.candidate)
    return found


def finished(number: int, candidate: Candidate, seconds: float) -> FrozenTrial:
    attrs: dict[str, Any] = {"candidate": candidate.to_dict(), "seconds": seconds}
    trial = create_trial(state=TrialState.COMPLETE, value=0.5, user_attrs=attrs)
    trial.number = number
    return trial


def taught(cost: float) -> Guidance:
    """Say that a trial takes a tenth of a second an update, and a source stage 20 s."""
    guidance = Guidance(GuidanceSection(cost=cost))
    trials = []
    for number in range(2 * MIN_TRIALS):
        steps, source = (8, 64)[number % 2], (0, 16)[number // 2 % 2]
        template = TEMPLATES[number // 4 % 2].id
        candidate = Candidate(template, VERBALIZERS[0].id, steps=steps, batch_size=8, source_steps=source)
        is_first = source and all(
            (t.user_attrs["candidate"]["template"], t.user_attrs["candidate"]["source_steps"]) != (template, source)
            for t in trials
        )
        trials.append(finished(number, candidate, steps / 10 + 20 * bool(is_first)))
    guidance.learn(trials)
    return guidance


def expected(guidance: Guidance, candidate: Candidate) -> float:
    seconds = guidance.expected_seconds(candidate)
    assert seconds is not None
    return seconds


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_first_looks_make_good_prompts_likelier_at_first_and_exclude_none(sampler: str) -> None:
    guidance = Guidance(GuidanceSection(first_looks=1.0))
    assert guidance.choices == 1  # Nothing is known yet.
    guidance.use_looks(LOOKS)
    counts = Counter((c.template, c.verbalizer) for c in drawn(guidance, 0, sampler))
    best = (LOOKS[0]["template"], LOOKS[0]["verbalizer"])
    assert counts[best] > 24  # 15 of 60 without.
    assert len(counts) == 4
    late = Counter((c.template, c.verbalizer) for c in drawn(guidance, 10_000, sampler))
    assert late[best] < counts[best]


def test_a_prompt_that_was_not_looked_at_is_drawn_too() -> None:
    guidance = Guidance(GuidanceSection(first_looks=1.0))
    guidance.use_looks(LOOKS[:2])
    best, other, unknown = guidance.weights(
        [Candidate(LOOKS[n]["template"], LOOKS[n]["verbalizer"]) for n in (0, 1, 3)], 0
    )
    assert best == 1.0
    assert other < unknown < best


def test_costs_are_learnt_and_cheaper_candidates_are_drawn_more_often() -> None:
    guidance = taught(cost=1.0)
    short = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=8, batch_size=8)
    long = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=64, batch_size=8)
    assert 2 < expected(guidance, long) / expected(guidance, short) < 12  # 8 in truth.
    counts = Counter(candidate.steps for candidate in drawn(guidance, 20))
    assert counts[8] > 40
    assert counts[64] > 0


def test_a_source_stage_that_is_there_makes_a_candidate_cheaper() -> None:
    guidance = taught(cost=0.0)
    known = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=64, batch_size=8, source_steps=16)
    new = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=64, batch_size=8, source_steps=48)
    assert expected(guidance, new) > 1.5 * expected(guidance, known)


def test_without_guidance_nothing_changes() -> None:
    """One draw a candidate, the very one that the sampler makes by itself."""
    plain = Guidance(GuidanceSection())
    plain.use_looks(LOOKS)
    assert plain.choices == 1
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    proposals = Proposals(SPACE, EngineSection(name="random"), 0, study.directions, plain)
    draws = []
    for n in range(40):
        proposal = proposals.draw({c.key for c in draws}, n)
        assert proposal is not None
        draws.append(proposal.candidate)
        proposals.told(proposal, TrialState.COMPLETE, [0.5])
    assert len({candidate.key for candidate in draws}) == 40
