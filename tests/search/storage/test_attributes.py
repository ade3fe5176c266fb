"""Attributes of the stored study: one module has their names, and what older versions stored reads as records."""

import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from promptgraft.objectives.measures import PromptAsTokens, UntrainedScore
from promptgraft.search.storage import (
    DEFINITION,
    EDITS,
    FLOAT32,
    IDENTITY,
    PROMPT_AS_TOKENS,
    RUN,
    TEMPLATE_POOL,
    TEST_SET,
    UNTRAINED_SCORES,
    Edit,
    Float32Score,
    Opening,
    Outcome,
    Owner,
    Pool,
    RunRecord,
    StudyRecord,
    TrialRecord,
    candidate_attrs,
    control_attr,
    curve_attr,
    failure_attrs,
    repeat_attr,
    rerun_attrs,
    write_study,
)
from promptgraft.spaces import Candidate, Template, Verbalizer

SEARCH = Path(__file__).parents[3] / "search"
HOME = "storage/attributes.py"
# What the commit before these records wrote, byte for byte.
STORED: dict[str, Any] = {
    repeat_attr(3, 1): {"value": 0.875, "metrics": {"accuracy": 0.875, "loss": 0.33}, "seconds": 6.378},
    repeat_attr(3, 2): {"failure": "out of memory"},
    control_attr(3, "target_only_searched", 1001): {"value": 0.7, "metrics": {}, "seconds": 0.0, "trial": 1},
    curve_attr(3, "target", 16, 1001): {"value": 0.6, "metrics": {"loss": 0.5}, "seconds": 2.5},
    f"{FLOAT32}3": {"value": 0.8, "metrics": {"loss": 0.4}, "max_probability_difference": 0.01},
    f"{TEST_SET}3": {
        "rows": "a2d669ef53471af2",
        "opened": "2026-11-28T22:28:48+00:00",
        "who": "root@vm",
        "table": [["winner (trial 3)", {"accuracy": 0.798}], ["majority class", {"accuracy": 0.586}]],
        "interval": [0.77, 0.82],
        "transfer": {"verdict": "helped", "controls": []},
    },
    f"{TEST_SET}4": {"rows": "a2d6", "opened": "2026-11-29T00:00:00+00:00", "who": None, "table": None},
    f"{PROMPT_AS_TOKENS}3": {
        "tokens": [" good", "ly"],
        "similarities": [0.5, 0.25],
        "value": 0.8,
        "as_tokens": 0.7,
        "as_random": 0.6,
        "rows": 64,
    },
    EDITS: [{"date": "2026-11-28T22:00:00+00:00", "edits": ["seed 0 -> 1"], "fingerprint": "abc"}],
    RUN: {"limits": {"trials": 24}, "concurrent": 2, "files": "runs/demo", "versions": {"optuna": "5.0.0"}},
    TEMPLATE_POOL: {
        "rounds": 2,
        "templates": [{"name": "t", "text": "{{ text }} {{ label }}", "source": "mutation", "parents": ["a-1"]}],
        "verbalizers": [{"name": "v", "words": {"no": ["bad", "poor"], "yes": ["good"]}}],
    },
    UNTRAINED_SCORES: [{"template": "a-1", "verbalizer": "", "score": -0.5, "accuracy": 0.7, "rows": 32}],
}


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study()
    for name, content in STORED.items():
        study.set_user_attr(name, content)
    return study


def test_what_is_stored_reads_as_records(study: optuna.Study) -> None:
    record = StudyRecord.of(study)
    assert record.repeats == {
        3: {1: Outcome(0.875, {"accuracy": 0.875, "loss": 0.33}, 6.378), 2: Outcome(failure="out of memory")}
    }
    assert record.controls(3) == {"target_only_searched": {1001: Outcome(0.7, {}, 0.0, trial=1)}}
    assert record.controls(30) == record.curve(30) == {}
    assert record.curve(3) == {"target": {16: {1001: Outcome(0.6, {"loss": 0.5}, 2.5)}}}
    assert record.float32 == {3: Float32Score(0.8, {"loss": 0.4}, 0.01)}
    assert [opening.trial for opening in record.openings] == [3, 4]
    opening = record.opening(3)
    assert opening is not None
    assert opening.table == (("winner (trial 3)", {"accuracy": 0.798}), ("majority class", {"accuracy": 0.586}))
    assert opening.interval == (0.77, 0.82)
    assert record.opening(5) is None
    assert record.reading(3) == PromptAsTokens((" good", "ly"), (0.5, 0.25), 0.8, 0.7, 0.6, 64)
    assert record.edits == [Edit("2026-11-28T22:00:00+00:00", ("seed 0 -> 1",), "abc")]
    assert record.run == RunRecord({"trials": 24}, 2, "runs/demo", {"optuna": "5.0.0"})
    words = {"no": ("bad", "poor"), "yes": ("good",)}
    assert record.pool == Pool(
        2, (Template("t", "{{ text }} {{ label }}", "mutation", ("a-1",)),), (Verbalizer("v", words),)
    )
    assert (record.rounds, record.repeat_numbers) == (2, [1, 2, 1001])
    assert record.untrained == [UntrainedScore("a-1", "", -0.5, 0.7, 32)]


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (repeat_attr(3, 1), lambda record: record.repeats[3][1]),
        (repeat_attr(3, 2), lambda record: record.repeats[3][2]),
        (
            control_attr(3, "target_only_searched", 1001),
            lambda record: record.controls(3)["target_only_searched"][1001],
        ),
        (curve_attr(3, "target", 16, 1001), lambda record: record.curve(3)["target"][16][1001]),
        (f"{FLOAT32}3", lambda record: record.float32[3]),
        (f"{TEST_SET}3", lambda record: record.opening(3)),
        (f"{TEST_SET}4", lambda record: record.opening(4)),
        (f"{PROMPT_AS_TOKENS}3", lambda record: record.reading(3)),
        (RUN, lambda record: record.run),
        (TEMPLATE_POOL, lambda record: record.pool),
    ],
)
def test_a_record_is_stored_as_it_was_read(study: optuna.Study, name: str, read: Any) -> None:
    expected = {key: value for key, value in STORED[name].items() if value != {}}
    write_study(study, name, read(StudyRecord.of(study)))
    assert json.dumps(json.loads(json.dumps(study.user_attrs[name]))) == json.dumps(expected)


def test_a_study_without_records_has_none_of_them() -> None:
    record = StudyRecord.of(optuna.create_study())
    assert (record.repeats, record.controls(0), record.openings, record.float32) == ({}, {}, [], {})
    assert (record.run, record.reading(0), record.edits, record.untrained) == (None, None, [], [])
    assert (record.pool, record.rounds, record.wanted, record.study_file) == (Pool(), 0, None, None)
    assert (record.judging.finalists, record.has_source, record.identity) == (0, False, {})


def test_what_later_versions_add_is_left_alone() -> None:
    content = {"value": 0.5, "unheard_of": 1}
    record = StudyRecord({repeat_attr(0, 1): content, f"{TEST_SET}1": {"opened": "2026", "rows": "a", "of": "later"}})
    assert record.repeats == {0: {1: Outcome(0.5)}}
    assert record.openings == [Opening(1, "2026", "a")]


def test_a_trial_has_its_candidate_and_its_end() -> None:
    candidate, owner = Candidate("a-1", "", frozen_layers=1), Owner("d", "host", 12, 1.5)
    attrs = candidate_attrs(candidate, owner) | failure_attrs("lost", interrupted=True)
    machine = {"machine": "", "ticks": 0}  # As of drivers of earlier versions.
    assert attrs["owner"] == {"driver": "d", "host": "host", "pid": 12, "started": 1.5} | machine
    trial = create_trial(state=TrialState.FAIL, user_attrs=attrs | {"validation_loss": 0.5, "seconds": 3.0})
    record = TrialRecord.of(trial)
    assert (record.candidate, record.owner, record.cause) == (candidate, owner, "lost")
    assert (record.is_interrupted, record.times_lost, record.metrics) == (True, 0, {"loss": 0.5})
    assert (record.figure("seconds"), record.figure("latency_ms"), record.best_step) == (3.0, None, None)
    again = TrialRecord(rerun_attrs(trial, 1))
    assert (again.candidate, again.retry_of, again.times_lost, again.owner) == (candidate, trial.number, 1, None)
    by_a_user = TrialRecord.of(create_trial(value=1.0))
    assert (by_a_user.has_candidate, by_a_user.values, by_a_user.is_interrupted) == (False, {}, False)


def test_a_source_is_one_or_several() -> None:
    found = [{"source": None}, {"source": {"train": "a.csv"}}, {"sources": {}}, {"sources": {"a": {}}}]
    assert [StudyRecord({DEFINITION: own}).has_source for own in found] == [False, True, False, True]


def test_nothing_else_knows_the_attributes() -> None:
    raw = re.compile(r"\.user_attrs\b|set_(?:trial_)?user_attr\(")
    values = "|".join(re.escape(name) for name in (IDENTITY, *STORED) if name not in (EDITS, RUN))
    prefixes = re.compile(rf'f?"(?:{values}|(?:repeat|control|curve|float32|held_out|reading)_trial_)')
    found = {
        str(path.relative_to(SEARCH)): hits
        for path in sorted(SEARCH.rglob("*.py"))
        if (hits := [m.group() for pattern in (raw, prefixes) for m in pattern.finditer(path.read_text())])
    }
    assert set(found) == {HOME}, "attributes of a study are read and written there alone"
    assert len(found[HOME]) > 10, "or the patterns find nothing"
