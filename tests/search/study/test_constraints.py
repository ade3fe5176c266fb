"""Bounds on a candidate's size rule out what is beyond them, whoever asks for it, and nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from promptgraft.objectives.growth import Growth
from promptgraft.objectives.measures import Sizes, UntrainedScore
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.search.reporting.dashboard_notes import study_note
from promptgraft.search.running import SearchSettings, StudyLedger
from promptgraft.search.running.compatibility import record_study
from promptgraft.search.running.retries import Loss
from promptgraft.search.storage import open_storage
from promptgraft.search.study import Constraints, EngineSection, Study, load_study
from promptgraft.search.study.schema.study_file import ConstraintsSection
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.spaces import (
    Candidate,
    Categorical,
    Condition,
    Integer,
    InvalidInputError,
    Parameter,
    SearchSpace,
    StudyFacts,
    Template,
)
from tests.support.models import TINY_LAYERS
from tests.support.specs import TEMPLATES, VERBALIZERS

WriteStudy = Callable[..., Path]
SPACE: dict[str, Any] = {
    "templates": {template.name: template.text for template in TEMPLATES},
    "verbalizers": {v.name: {k: list(w) for k, w in v.words.items()} for v in VERBALIZERS},
    "frozen_layers": {"low": 0, "high": TINY_LAYERS},
    "soft_prompt": {
        "length": {"low": 0, "high": 20},
        "place": ["prefix", "suffix", "deep"],
        "parametrization": ["direct", "mlp"],
    },
    "adapter": {"method": ["none", "lora", "ia3"], "rank": [2, 8]},
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}


def open_ledger(study: Study, folder: Path) -> StudyLedger:
    storage = open_storage(f"sqlite:///{folder / 'study.db'}")
    stored = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)
    sampler = EngineSection.model_validate({"name": "tpe", "n_startup_trials": 4})
    pruner = EngineSection(name="none")
    settings = SearchSettings(sampler, pruner, seed=0, constraints=study.constraints)
    return StudyLedger(stored, storage, study.objective.space, settings)


def sizes_of(study: Study) -> Sizes:
    return Sizes(study.objective.backbone, study.objective.space, study.target.labels)


@pytest.mark.slow
def test_a_drawn_study_never_goes_beyond(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study(space=SPACE, constraints={"prompt_tokens": 18, "trainable_parameters": 12_000}))
    book, sizes = open_ledger(study, tmp_path), sizes_of(study)
    for _ in range(60):
        asked = book.ask()
        assert asked is not None
        assert sizes.prompt_tokens(asked.candidate) <= 18
        assert sizes.trainable_parameters(asked.candidate) <= 12_000
        # More of what is bounded is better, so that the sampler is drawn to the bounds.
        book.complete(asked.number, asked.candidate.soft_prompt.length - asked.candidate.frozen_layers)
    assert book.counts() == {"COMPLETE": 60}
    free = open_ledger(replace(study, constraints=None), tmp_path)
    drawn = [asked.candidate for asked in (free.ask() for _ in range(20)) if asked is not None]
    assert any(sizes.prompt_tokens(c) > 18 for c in drawn)
    assert any(sizes.trainable_parameters(c) > 12_000 for c in drawn)


def test_without_constraints_the_draws_are_the_same_as_with_bounds_that_allow_all(
    write_study: WriteStudy, tmp_path: Path
) -> None:
    found = []
    for name, bounds in (("without", {}), ("wide", {"prompt_tokens": 10**6, "trainable_parameters": 10**9})):
        (tmp_path / name).mkdir()
        book = open_ledger(load_study(write_study(space=SPACE, constraints=bounds)), tmp_path / name)
        found.append([book.ask() for _ in range(20)])
    assert found[0] == found[1]


def test_a_space_in_which_nothing_is_left_ends_the_search(write_study: WriteStudy, tmp_path: Path) -> None:
    space = {name: SPACE[name] for name in ("templates", "verbalizers", "frozen_layers")}
    study = load_study(write_study(space=space, constraints={"trainable_parameters": 64}))  # The label embeddings.
    book = open_ledger(study, tmp_path)
    asked = [book.ask() for _ in range(4)]
    assert all(one is not None and one.candidate.frozen_layers == TINY_LAYERS for one in asked)
    assert book.ask() is None
    assert book.exhausted


def test_what_a_user_queues_beyond_a_bound_ends_with_its_cause(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study(space=SPACE, constraints={"prompt_tokens": 18}))
    book = open_ledger(study, tmp_path)
    template, verbalizer = study.objective.space.templates[0], study.objective.space.verbalizers[0]
    common = {"template": template.id, "verbalizer": verbalizer.id, "frozen_layers": 1}
    book.study.enqueue_trial({**common, "soft_prompt.length": 20})
    book.study.enqueue_trial({**common, "soft_prompt.length": 2})
    asked = book.ask()
    assert asked is not None
    assert asked.candidate.soft_prompt.length == 2
    refused, running = book.study.get_trials()
    assert (refused.state, running.state) == (TrialState.FAIL, TrialState.RUNNING)
    size = sizes_of(study).prompt_tokens(asked.candidate) + 18
    assert refused.user_attrs["cause"] == f"the constraint prompt_tokens is at most 18, but the candidate has {size}"
    assert book.failure_rate == 0.0
    assert refused.user_attrs["interrupted"]


def test_a_retry_is_refused_once_the_bound_is_lowered(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study(space=SPACE, constraints={"prompt_tokens": 40}))
    book = open_ledger(study, tmp_path)
    asked = book.ask()
    assert asked is not None
    size = sizes_of(study).prompt_tokens(asked.candidate)
    assert book.lose(asked.number, Loss.STOPPED, "the run was stopped")
    lower = load_study(write_study(space=SPACE, constraints={"prompt_tokens": size - 1}))
    following = open_ledger(lower, tmp_path).ask()
    assert following is not None
    assert sizes_of(study).prompt_tokens(following.candidate) < size
    trials = book.study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert trials[1].user_attrs["cause"].endswith(f"at most {size - 1}, but the candidate has {size}")


def test_bounds_may_be_edited_between_runs(write_study: WriteStudy, tmp_path: Path) -> None:
    stored = open_ledger(load_study(write_study(space=SPACE)), tmp_path).study
    for constraints in (None, {"prompt_tokens": 30}, {"trainable_parameters": 9_000}, None):
        record_study(stored, load_study(write_study(space=SPACE, constraints=constraints)), 4)
    edits = [edit for entry in stored.user_attrs["edits"] for edit in entry["edits"]]
    assert "constraints.prompt_tokens None -> 30" in edits
    assert "constraints.trainable_parameters 9000 -> None" in edits


def test_a_study_without_constraints_records_what_it_recorded_before(write_study: WriteStudy) -> None:
    definition = load_study(write_study()).file.model_dump(mode="json", exclude_none=True)
    assert definition["constraints"] == {}


def test_the_note_states_the_bounds(write_study: WriteStudy) -> None:
    note = study_note(load_study(write_study(space=SPACE, constraints={"prompt_tokens": 30})))
    assert "| prompt tokens | at most 30 |" in note
    assert "trainable parameters" not in note


@pytest.mark.parametrize(
    ("constraints", "where", "message"),
    [
        (
            {"prompt_tokens": 3, "trainable_parameters": 5},
            "constraints",
            "no candidate has at most 3 prompt_tokens; the smallest has 6; "
            "no candidate has at most 5 trainable_parameters; the smallest has 64. Raise the bound, or widen the space",
        ),
        ({"prompt_tokens": -1}, "constraints.prompt_tokens", "greater than or equal to 0, got -1"),
        ({"prompt_token": 9}, "constraints.prompt_token", "unknown key 'prompt_token'; did you mean 'prompt_tokens'?"),
        ({"trainable_parameters": "2M"}, "constraints.trainable_parameters", "valid integer"),
    ],
)
def test_bounds_that_cannot_be_met_or_read(
    write_study: WriteStudy, constraints: dict[str, Any], where: str, message: str
) -> None:
    with pytest.raises(StudyFileError) as caught:
        load_study(write_study(space=SPACE, constraints=constraints))
    (problem,) = caught.value.problems
    assert problem.where == where
    assert message in problem.message


def test_conditions_are_kept_when_the_smallest_is_looked_for(write_study: WriteStudy) -> None:
    """9 soft tokens of 32 numbers each with label embeddings (64), none with a linear head (66)."""
    length = {"choices": [9], "when": {"parameter": "head", "choices": "label_words"}}
    head = ["label_words", "linear"]
    space = {**SPACE, "frozen_layers": TINY_LAYERS, "head": head, "soft_prompt": {"length": length}}
    load_study(write_study(space=space, constraints={"trainable_parameters": 66}))
    with pytest.raises(StudyFileError, match="no candidate has at most 65 trainable_parameters; the smallest has 66"):
        load_study(write_study(space=space, constraints={"trainable_parameters": 65}))


def test_bounds_that_exclude_each_other_are_refused(write_study: WriteStudy) -> None:
    """All layers train unless there is a soft prompt, which is too long."""
    frozen = {"choices": [TINY_LAYERS], "when": {"parameter": "soft_prompt.length", "above": 0}}
    names = ("templates", "verbalizers")
    space = {name: SPACE[name] for name in names} | {"frozen_layers": frozen, "soft_prompt": {"length": [0, 9]}}
    for bounds in ({"prompt_tokens": 10}, {"trainable_parameters": 1000}):
        load_study(write_study(space=space, constraints=bounds))
    message = "no candidate has at most 10 prompt_tokens and at most 1000 trainable_parameters, though there are some"
    with pytest.raises(StudyFileError, match=message):
        load_study(write_study(space=space, constraints={"prompt_tokens": 10, "trainable_parameters": 1000}))


class Grid:
    """Suggests one point of the grid of all values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self.values[name]

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return int(self.values[name])

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return float(self.values[name])


def everything(space: SearchSpace) -> Iterator[Candidate]:
    values: dict[str, list[Any]] = {}
    for p in space.all_parameters():
        assert isinstance(p, Categorical | Integer)
        values[p.name] = list(p.choices if isinstance(p, Categorical) else range(p.low, p.high + 1, p.step))
    for chosen in product(*values.values()):
        yield space.suggest(Grid(dict(zip(values, chosen, strict=True))))


@st.composite
def parameters(draw: st.DrawFn) -> tuple[Parameter, ...]:
    """A space of ranges and choices, some of them under conditions on others."""

    def condition(*names: str) -> Condition | None:
        name = draw(st.sampled_from(["", *names]))
        if not name:
            return None
        if draw(st.booleans()):
            return Condition(name, above=draw(st.integers(0, 4)))
        return Condition(name, choices=tuple(draw(st.sets(st.integers(0, 5), min_size=1, max_size=3))))

    low, high = sorted(draw(st.tuples(st.integers(0, 5), st.integers(0, 5))))
    frozen = sorted(draw(st.tuples(st.integers(0, TINY_LAYERS), st.integers(0, TINY_LAYERS))))
    found: list[Parameter] = [Integer("soft_prompt.length", low, high, draw(st.integers(1, 2)))]
    places = draw(st.permutations(["prefix", "suffix", "deep"]))[: draw(st.integers(1, 3))]
    found.append(Categorical("soft_prompt.place", tuple(places), condition("soft_prompt.length")))
    networks = draw(st.permutations(["direct", "mlp"]))[: draw(st.integers(1, 2))]
    found.append(Categorical("soft_prompt.parametrization", tuple(networks), condition("soft_prompt.length")))
    found.append(Integer("frozen_layers", *frozen, when=condition("soft_prompt.length")))
    methods = draw(st.permutations(["none", "lora", "ia3"]))[: draw(st.integers(1, 3))]
    found.append(Categorical("adapter.method", tuple(methods), condition("soft_prompt.length", "frozen_layers")))
    rank = draw(st.integers(1, 3))
    found.append(Integer("adapter.rank", rank, rank + draw(st.integers(0, 3)), when=condition("frozen_layers")))
    found.append(Integer("steps", draw(st.integers(0, 2)), 2))
    return tuple(found)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(searched=parameters(), data=st.data())
def test_bounds_are_refused_only_if_no_candidate_keeps_to_them(
    tiny_models: dict[str, str], searched: tuple[Parameter, ...], data: st.DataObject
) -> None:
    """Against every candidate of the space."""
    family = data.draw(st.sampled_from(["encoder", "masked_lm"]))
    facts = StudyFacts(TINY_LAYERS, family == "encoder", has_source=False)
    space = SearchSpace(TEMPLATES, VERBALIZERS, searched, facts)
    sizes = Sizes(BackboneSpec(tiny_models[family], family, 64), space, ("negative", "positive"))
    pairs = {(sizes.prompt_tokens(c), sizes.trainable_parameters(c)) for c in everything(space)}
    tokens, weights = data.draw(st.sampled_from(sorted(pairs)))
    slack = data.draw(st.sampled_from([(0, 0), (-1, 0), (0, -1), (-1, -1), (-2, 1)]))
    bounds = {"prompt_tokens": max(0, tokens + slack[0]), "trainable_parameters": max(0, weights + slack[1])}
    possible = any(t <= bounds["prompt_tokens"] and w <= bounds["trainable_parameters"] for t, w in pairs)
    constraints = Constraints(ConstraintsSection(**bounds), {"": sizes})
    if possible:
        constraints.check()
    else:
        with pytest.raises(InvalidInputError, match="no candidate has at most") as caught:
            constraints.check()
        smallest = {"prompt_tokens": min(t for t, _ in pairs), "trainable_parameters": min(w for _, w in pairs)}
        for name, size in smallest.items():
            assert (f"{name}; the smallest has {size}" in str(caught.value)) == (size > bounds[name])


def test_templates_that_join_a_study_are_held_to_its_bounds(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study(space=SPACE, constraints={"prompt_tokens": 18}))
    book = open_ledger(study, tmp_path)
    long = Template(
        "long", "a review of a product that I bought for my own use in a shop near my home: {{ text }} {{ label }}"
    )
    fits = Template("fits", "Opinion: {{ text }} {{ label }}")
    scores = tuple(UntrainedScore(t.id, v.id, -0.6, 0.6, 16) for t in (long, fits) for v in VERBALIZERS)
    book.record_growth(0, Growth((long, fits), (), scores, {}))
    drawn = {asked.candidate.template for asked in (book.ask() for _ in range(40)) if asked is not None}
    assert fits.id in drawn
    assert long.id not in drawn
    book.study.enqueue_trial({"template": long.id, "frozen_layers": 1})
    assert book.ask() is not None
    (refused,) = [trial for trial in book.study.get_trials() if trial.state == TrialState.FAIL]
    assert "prompt_tokens is at most 18, but the candidate has" in refused.user_attrs["cause"]
