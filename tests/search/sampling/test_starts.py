"""Start points: the first points of a default space."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from promptgraft.search.running.retries import Loss
from promptgraft.search.sampling import (
    baseline_candidates,
    first_trials,
    queue_baselines,
    queue_start_points,
    start_points,
)
from promptgraft.search.storage import TrialRecord
from promptgraft.search.study import Study, load_study
from promptgraft.spaces import Candidate
from tests.support.models import TEXT_FAMILIES, TinyModels
from tests.support.studies import WriteStudy, open_ledger
from tests.support.tables import small_tables

WIDE_BUDGET = {"trials": 64}


def loaded(write_study: WriteStudy, **sections: Any) -> Study:
    return load_study(write_study(**{"space": "auto", "budget": WIDE_BUDGET} | sections))


def candidates(study: Study) -> dict[str, Candidate]:
    return {
        name: study.objective.space.suggest(FixedTrial(point))  # type: ignore[arg-type]
        for name, point in start_points(study).items()
    }


def test_an_encoder_with_a_source_starts_from_the_measured_recipes(write_study: WriteStudy) -> None:
    rows = {"text": "text", "label": "label", "train_rows": 48, "validation_rows": 16, "test_rows": 40}
    found = candidates(loaded(write_study, target={"train": str(small_tables() / "amazon.csv"), **rows}))
    assert list(found) == [
        "source stage, contrastive",
        "source stage, upper layers",
        "contrastive",
        "source stage, fine-tuning",
        "source stage and characters",
        "source stage only",
        "contrastive, fine-tuning",
        "probe and characters",
        "contrastive and characters",
        "upper layers",
    ]
    told = [
        (c.source_steps, c.contrastive_steps, c.steps, c.frozen_layers) for c in found.values() if c.prior == "none"
    ]
    assert told[:5] == [(80, 40, 0, 0), (80, 0, 64, 1), (0, 40, 0, 0), (80, 0, 64, 0), (80, 0, 0, 3)]
    assert [(c.prior, c.text_weight) for c in found.values()][3:5] == [("none", 1.0), ("characters", 1.0)]
    rates = {name: own.learning_rate for name, own in found.items() if own.is_trained}
    assert {name for name, rate in rates.items() if rate == 1e-4} == {name for name in found if "contrastive" in name}
    assert set(rates.values()) == {1e-4, 5e-5}
    assert {own.head for own in found.values()} == {"probe"}


def test_points_share_their_contrastive_stages(write_study: WriteStudy) -> None:
    """So that one that differs in the head alone costs next to nothing."""
    found = [own for name, own in candidates(loaded(write_study)).items() if "contrastive" in name]
    assert len(found) == 4
    assert {(own.contrastive_steps, own.frozen_layers, own.learning_rate) for own in found} == {(40, 0, 1e-4)}


def test_few_rows_are_not_contrasted_first(write_study: WriteStudy) -> None:
    first, *_, before, last = start_points(loaded(write_study))
    assert first == "source stage, upper layers"
    assert {before, last} == {"source stage, contrastive", "contrastive"}


@pytest.mark.parametrize("effort", ["quick", "best"])
@pytest.mark.parametrize("with_source", [True, False], ids=["source", "no source"])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_each_family_has_some_all_different(
    write_study: WriteStudy, tiny_models: TinyModels, family: str, with_source: bool, effort: str
) -> None:
    backbone = {"path": tiny_models[family], "family": family, "max_tokens": 48}
    sections: dict[str, Any] = {} if with_source else {"source": None}
    study = loaded(write_study, backbone=backbone, effort=effort, **sections)
    found = candidates(study)
    assert found
    assert len({own.key for own in found.values()}) == len(found)
    searched = {p.name for p in study.objective.space.all_parameters()}
    assert all(set(point) <= searched for point in start_points(study).values())
    if not with_source:
        assert not any(own.uses_source for own in found.values())


@pytest.mark.parametrize(
    ("sections", "count"),
    [
        ({"budget": {"trials": 12}}, 3),
        ({"budget": {"trials": 3}}, 0),
        ({"space": {"head": "probe"}}, 0),
        ({"constraints": {"trainable_parameters": 5000}}, 3),
    ],
    ids=["a quarter", "a short study", "a space of one's own", "within the constraints"],
)
def test_no_more_than_the_study_allows(write_study: WriteStudy, sections: dict[str, Any], count: int) -> None:
    assert len(start_points(loaded(write_study, **sections))) == count


def test_the_strongest_comes_before_the_baselines_that_take_long(write_study: WriteStudy) -> None:
    short = ["linear_probe", "zero_shot", "linear_probe_with_source", "contrastive_source"]
    long = ["contrastive", "full_fine_tuning"]
    study = loaded(write_study, baselines=[*long, *short])
    (cheap, untrained), (none, strongest), *others = first_trials(study)
    assert list(cheap) == short
    assert list(untrained) == ["probe and characters"]
    assert list(strongest) == ["source stage, upper layers"]
    assert not none
    assert {name for baselines, _ in others for name in baselines} == set(long)
    points = {name for _, points in others for name in points}
    assert points == start_points(study).keys() - untrained.keys() - strongest.keys()
    drawn = candidates(study)
    tried = [*(own for baselines, _ in others for own in baselines.values())]
    assert [own.steps + own.contrastive_steps for own in tried] == [32, 60]
    updates = [drawn[name].steps + drawn[name].contrastive_steps for _, points in others for name in points]
    assert updates == sorted(updates)


def test_they_follow_the_baselines_once_and_teach_the_sampler(write_study: WriteStudy, tmp_path: Path) -> None:
    study = loaded(write_study, baselines=["linear_probe"], budget={"trials": 12})
    wanted = candidates(study)
    book = open_ledger(tmp_path / "own", study.objective.space)
    for _ in range(2):
        queue_baselines(book.study, book.storage, baseline_candidates(study))
        queue_start_points(book.study, book.storage, start_points(study))
    for number in range(5):
        asked = book.ask()
        assert asked is not None
        assert asked.number == number
        book.complete(asked.number, 0.5 + number / 100)
    trials = book.study.get_trials()
    assert [TrialRecord.of(trial).start_point for trial in trials] == [None, *wanted, None]
    assert [TrialRecord.of(trial).candidate for trial in trials[1:4]] == list(wanted.values())
    assert all("steps" in trial.params for trial in trials[1:4])
    for ledger in (book, open_ledger(tmp_path / "own", study.objective.space)):
        learnt = {trial.value for trial in ledger._proposals._copy.get_trials() if trial.values}
        assert {0.51, 0.52, 0.53} <= learnt


def test_one_that_is_lost_is_queued_again_as_what_it_is(write_study: WriteStudy, tmp_path: Path) -> None:
    study = loaded(write_study, budget={"trials": 4})
    book = open_ledger(tmp_path / "own", study.objective.space)
    queue_start_points(book.study, book.storage, start_points(study))
    first = book.ask()
    assert first is not None
    book.lose(first.number, Loss.WORKER_DIED, "killed")
    queue_start_points(book.study, book.storage, start_points(study))
    second = book.ask()
    assert second is not None
    assert second.candidate == first.candidate
    assert TrialRecord.of(book.study.get_trials()[second.number]).start_point == "source stage, upper layers"
    assert len(book.study.get_trials()) == 2
