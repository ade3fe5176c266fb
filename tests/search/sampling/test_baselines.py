"""Baselines: a study's first trials."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from promptgraft.search.running.retries import Loss
from promptgraft.search.sampling import baseline_candidates, queue_baselines
from promptgraft.search.storage import TrialRecord
from promptgraft.search.study import load_study
from tests.support.models import TinyModels
from tests.support.studies import WIDE, WriteStudy, open_ledger, prompts

if TYPE_CHECKING:
    import optuna

ALL = ["linear_probe", "zero_shot", "linear_probe_with_source", "contrastive_source", "contrastive", "full_fine_tuning"]


def names(path: Path) -> list[str]:
    return list(baseline_candidates(load_study(path)))


def test_an_encoder_has_all_of_them_the_strong_and_cheap_ones_first(write_study: WriteStudy) -> None:
    found = baseline_candidates(load_study(write_study(baselines=ALL)))
    assert list(found) == ALL
    assert found["full_fine_tuning"].frozen_layers == found["contrastive"].frozen_layers == 0
    assert found["full_fine_tuning"].steps == 32  # Eight epochs of 32 rows are fewer.
    alone = ["linear_probe", "zero_shot", "contrastive", "full_fine_tuning"]
    assert {name for name, own in found.items() if not own.uses_source} == set(alone)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"source": None}, ["linear_probe", "zero_shot", "contrastive", "full_fine_tuning"]),
        ({"baselines": "linear_probe"}, ["linear_probe"]),
        ({"baselines": []}, []),
        ({"constraints": {"trainable_parameters": 5000}}, [*ALL[:4]]),
    ],
    ids=["without a source", "one", "none", "within the constraints"],
)
def test_only_what_is_wanted_and_possible(
    write_study: WriteStudy, sections: dict[str, Any], expected: list[str]
) -> None:
    assert names(write_study(**({"baselines": ALL} | sections))) == expected


def test_a_language_model_has_no_probe(write_study: WriteStudy, tiny_models: TinyModels) -> None:
    backbone = {"path": tiny_models["causal_lm"], "family": "causal_lm", "max_tokens": 48}
    assert names(write_study(backbone=backbone, baselines=ALL)) == ["zero_shot", "full_fine_tuning"]


def test_they_are_asked_for_first_and_once(write_study: WriteStudy, tmp_path: Path) -> None:
    study = load_study(write_study(baselines=ALL[2:4], space={**prompts(), "steps": [4, 6]}))
    book = open_ledger(tmp_path / "own", study.objective.space)
    for _ in range(2):
        queue_baselines(book.study, book.storage, baseline_candidates(study))
    asked = [book.ask() for _ in range(3)]
    recorded = [TrialRecord.of(trial).baseline for trial in book.study.get_trials()]
    assert recorded == [*ALL[2:4], None]
    assert [own.candidate for own in asked[:2] if own] == list(baseline_candidates(study).values())


def test_one_outside_of_the_space_teaches_the_sampler_nothing(tmp_path: Path, write_study: WriteStudy) -> None:
    """It has no parameters, and one such trial must not keep Optuna from seeing those of the others."""
    probe = baseline_candidates(load_study(write_study(baselines=["linear_probe"])))["linear_probe"]
    book = open_ledger(tmp_path / "own", WIDE)
    queue_baselines(book.study, book.storage, {"linear_probe": probe})
    first = book.ask()
    assert first is not None
    assert first.candidate == probe
    book.complete(first.number, 0.9)
    for value in (0.5, 0.6):
        asked = book.ask()
        assert asked is not None
        book.complete(asked.number, value)
    again = open_ledger(tmp_path / "own", WIDE)
    for ledger in (book, again):
        copy: optuna.Study = ledger._proposals._copy
        known = [trial for trial in copy.get_trials() if trial.state.is_finished() and trial.values]
        assert [trial.value for trial in known] == [0.5, 0.6]
        assert all(trial.params for trial in known)


def test_one_that_is_lost_is_queued_again_as_what_it_is(tmp_path: Path, write_study: WriteStudy) -> None:
    probe = baseline_candidates(load_study(write_study(baselines=["linear_probe"])))["linear_probe"]
    book = open_ledger(tmp_path / "own", WIDE)
    queue_baselines(book.study, book.storage, {"linear_probe": probe})
    first = book.ask()
    assert first is not None
    book.lose(first.number, Loss.WORKER_DIED, "killed")
    second = book.ask()
    assert second is not None
    assert second.candidate == probe
    assert TrialRecord.of(book.study.get_trials()[second.number]).baseline == "linear_probe"
