"""The winner is the cheapest of those that tie with the best over repeats on other seeds and splits."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import create_trial
from scipy.stats import ttest_rel

from promptgraft.objectives.data import Split
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.cli.studies import app
from promptgraft.search.judging import reach_verdict, verdict_lines, winning_trial
from promptgraft.search.judging.race import Race, compare_finalists, plan_race
from promptgraft.search.running.finals import Confirmation
from promptgraft.search.storage import REPEAT, Outcome, RunFolder, StudyRecord, load_existing
from promptgraft.search.study import load_study
from promptgraft.search.study.yaml_lines import StudyFileError
from promptgraft.search.trials import Limits
from promptgraft.spaces import Candidate
from tests.support.specs import TEMPLATES, VERBALIZERS

WriteStudy = Callable[..., Path]


def test_the_cheapest_of_those_that_tie_wins() -> None:
    values = {1: [0.80, 0.82, 0.81, 0.83], 2: [0.79, 0.83, 0.80, 0.82], 3: [0.70, 0.71, 0.70, 0.72]}
    costs = {1: 40.0, 2: 10.0, 3: 1.0}
    first, second, third = compare_finalists(values, costs, maximize=True, level=0.05)
    assert (first.number, first.tied) == (2, True)
    assert (second.number, second.p_value) == (1, 1.0)
    assert (third.number, third.tied) == (3, False)
    assert first.mean == pytest.approx(0.81)
    assert first.standard_error == pytest.approx(np.std(values[2], ddof=1) / 2)
    assert compare_finalists({1: [0.5], 2: [0.6]}, costs, maximize=True, level=0.05) == []
    assert compare_finalists({}, {}, maximize=True, level=0.05) == []


def test_differences_that_do_not_vary_are_judged_too() -> None:
    same = compare_finalists({1: [0.5, 0.6, 0.7], 2: [0.5, 0.6, 0.7]}, {1: 2.0, 2: 1.0}, maximize=True, level=0.05)
    assert [(entry.number, entry.tied) for entry in same] == [(2, True), (1, True)]
    ahead = compare_finalists({1: [0.5, 0.6, 0.7], 2: [0.4, 0.5, 0.6]}, {1: 2.0, 2: 1.0}, maximize=True, level=0.05)
    assert [(entry.number, entry.tied) for entry in ahead] == [(1, True), (2, False)]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0.1, 0.9), min_size=n, max_size=n), min_size=1, max_size=5)
    ),
    st.booleans(),
)
def test_p_values_are_those_of_scipy_corrected_by_holm(values: list[list[float]], maximize: bool) -> None:
    by_trial = dict(enumerate(values))
    found = {
        e.number: e for e in compare_finalists(by_trial, dict.fromkeys(by_trial, 1.0), maximize=maximize, level=0.05)
    }
    sign = 1 if maximize else -1
    best = max(by_trial, key=lambda trial: (sign * found[trial].mean, -trial))
    others = [trial for trial in by_trial if trial != best]
    raw = {}
    for trial in others:
        if np.std(np.subtract(by_trial[best], by_trial[trial]), ddof=1) < 1e-9:
            return
        side = "greater" if maximize else "less"
        raw[trial] = ttest_rel(by_trial[best], by_trial[trial], alternative=side).pvalue
    for trial in others:
        smaller = [other for other in others if raw[other] <= raw[trial]]
        holm = max(min(1.0, raw[o] * sum(raw[p] >= raw[o] for p in others)) for o in smaller)
        assert found[trial].p_value == pytest.approx(holm, abs=1e-9)


def test_with_two_repeats_the_best_mean_wins() -> None:
    """A test could show nothing, and whatever is cheap would win."""
    first, second = compare_finalists({1: [0.86, 0.92], 2: [0.5, 0.9]}, {1: 9.0, 2: 1.0}, maximize=True, level=0.05)
    assert (first.number, second.number, second.tied) == (1, 2, True)


def test_those_shown_to_be_worse_fall_out_of_the_race_from_the_third_repeat_on() -> None:
    ahead, close, behind = [0.80, 0.82, 0.81, 0.83], [0.79, 0.83, 0.80, 0.82], [0.70, 0.71, 0.70, 0.72]

    def after(*counts: int) -> Race:
        repeats = {n: own[:count] for n, own, count in zip((1, 2, 3), (ahead, close, behind), counts, strict=True)}
        return plan_race({1: 0.80, 2: 0.79, 3: 0.78}, repeats, 3, maximize=True, level=0.05)

    assert after(0, 0, 0) == Race((1, 2, 3), (), {})
    assert after(1, 1, 0) == Race((3,), (1, 2), {})
    assert after(2, 2, 2) == Race((), (1, 2, 3), {})
    third = after(3, 3, 3)
    assert (third.waiting, third.finalists, list(third.dropped)) == ((), (1, 2), [3])
    assert after(4, 4, 3) == third, "on the repeats that both have had"


def test_a_trial_that_was_lucky_is_found_out_by_its_first_repeat() -> None:
    in_search = {1: 0.95, 2: 0.85, 3: 0.80, 4: 0.75, 5: 0.7}

    def after(repeats: dict[int, list[float]], *, maximize: bool = True) -> Race:
        values = in_search if maximize else {number: 1 - value for number, value in in_search.items()}
        return plan_race(values, repeats, 2, maximize=maximize, level=0.05)

    assert after({}).waiting == (1, 2, 3, 4)
    first = {1: [0.60], 2: [0.84], 3: [0.83], 4: [0.5]}
    assert after(first) == Race((), (2, 3), {})
    assert after({number: [1 - own[0]] for number, own in first.items()}, maximize=False).finalists == (2, 3)
    assert after(first | {2: [0.84, 0.1, 0.2]}).finalists == (2, 3), "luck is not chased"
    assert after(first | {5: [0.99]}).finalists == (2, 5), "one that qualified when less was known stays in the race"


def test_a_single_finalist_has_two_repeats_that_did_not_choose_it() -> None:
    study = stored({0: [0.7], 1: [0.8]}, finalists=1)
    assert missing(study) == [(1, 2), (1, 3)]
    assert missing(stored({0: [0.7, 0.1, 0.1], 1: [0.6]}, finalists=1)) == [], "which change nothing"
    study.set_user_attr("definition", {"judging": {"finalists": 1, "repeats": 4}})
    assert missing(study) == [(1, 2), (1, 3), (1, 4)]


def test_one_that_has_had_two_repeats_does_not_win_by_what_it_costs() -> None:
    values = {1: [0.80, 0.82, 0.81, 0.83], 2: [0.79, 0.82]}
    first, second = compare_finalists(values, {1: 40.0, 2: 1.0}, maximize=True, level=0.05)
    assert (first.number, second.number, second.tied) == (1, 2, True)


def test_what_the_race_misses_is_told_fewest_repeats_first() -> None:
    study = stored({0: [0.8], 1: [0.79]})
    study.set_user_attr("definition", {"judging": {"finalists": 3, "repeats": 5}})
    assert missing(study) == [(2, 1)]
    study = stored({0: [0.8, 0.82, 0.81], 1: [0.79, 0.83, 0.8], 2: [0.7, 0.71, 0.7]})
    study.set_user_attr("definition", {"judging": {"finalists": 3, "repeats": 5}})
    assert missing(study) == [(0, 4), (1, 4), (0, 5), (1, 5)]
    table = reach_verdict(study).table().finalists
    assert [(entry.number, entry.tied) for entry in table] == [(1, True), (0, True), (2, False)]
    study.set_user_attr(f"{REPEAT}0_5", {"value": 0.8})
    assert missing(study) == [(0, 4), (1, 4), (1, 5)]
    assert len(reach_verdict(study).finalists[1].values) == 3, "one after another"
    study.set_user_attr(f"{REPEAT}1_4", {"failure": "out of memory"})
    assert missing(study) == [(0, 4)]
    study.set_user_attr(f"{REPEAT}0_4", {"value": 0.8})
    assert missing(study) == []
    assert reach_verdict(study).racing == {0, 2}


def missing(study: optuna.Study) -> list[tuple[int, int]]:
    return [(trial.number, repeat) for trial, repeat in reach_verdict(study).missing]


def stored(outcomes: Mapping[int, list[float | str]], finalists: int = 3) -> optuna.Study:
    """A study of three trials, trial 0 the best of the search, with these outcomes of repeats."""
    study = optuna.create_study(direction="maximize")
    for number, (value, tokens) in enumerate(((0.9, 30), (0.85, 5), (0.8, 20))):
        attrs = {
            "candidate": {"template": "t", "verbalizer": "v", "steps": number},
            "prompt_tokens": tokens,
            "best_step": 0,
        }
        study.add_trial(create_trial(value=value, user_attrs=attrs))
    study.set_user_attr("definition", {"judging": {"finalists": finalists, "repeats": 2}})
    for number, own in outcomes.items():
        for repeat, outcome in enumerate(own, 1):
            content = {"failure": outcome} if isinstance(outcome, str) else {"value": outcome, "seconds": 1.0}
            study.set_user_attr(f"{REPEAT}{number}_{repeat}", content)
    return study


def test_the_winner_is_the_verdict_s() -> None:
    study = stored({0: [0.8, 0.7, 0.75], 1: [0.78, 0.74, 0.76], 2: [0.4, 0.3, 0.35]})
    found = winning_trial(study)
    assert found is not None
    assert found.number == 1
    lines = verdict_lines(reach_verdict(study).table(), "accuracy")
    assert lines[0].startswith("winner: trial 1, accuracy 0.7600 (standard error 0.0115) over 3 reruns")
    assert lines[0].endswith("0.8500 in the search")


@pytest.mark.parametrize("outcomes", [{}, {0: [0.8]}, {0: [0.8], 1: [0.7], 2: [0.9]}])
def test_without_two_repeats_the_best_of_the_search_wins(outcomes: dict[int, list[float | str]]) -> None:
    study = stored(outcomes)
    assert reach_verdict(study).finalists == []
    found = winning_trial(study)
    assert found is not None
    assert found.number == 0


def test_meanwhile_those_are_compared_that_have_had_two() -> None:
    assert [entry.number for entry in reach_verdict(stored({0: [0.8, 0.7], 1: [0.8, 0.6], 2: [0.9]})).finalists] == [
        0,
        1,
    ]


@pytest.mark.parametrize("outcomes", [{1: [0.8, 0.81]}, {0: [0.85], 1: [0.8, 0.81]}])
def test_one_that_was_repeated_early_does_not_win_for_want_of_others(outcomes: dict[int, list[float | str]]) -> None:
    """As where the time is up before the best of the search, which ended late, has had its repeats."""
    found = winning_trial(stored(outcomes))
    assert found is not None
    assert found.number == 0
    again = winning_trial(stored({0: [0.7], 1: [0.8, 0.81]}))
    assert again is not None
    assert again.number == 1, "it has met the best, and leads with what the search found"


def test_a_verdict_by_tests_holds_until_better_trials_have_repeats() -> None:
    study = stored({1: [0.8, 0.81, 0.79], 2: [0.7, 0.71, 0.7]})
    found = winning_trial(study)
    assert found is not None
    assert found.number == 1


def test_a_failed_repeat_is_told_and_its_trial_can_t_win() -> None:
    study = stored({0: [0.8, 0.7], 1: [0.9, "the loss is nan"], 2: [0.79, 0.71]})
    assert [entry.number for entry in reach_verdict(study).finalists] == [2, 0]
    assert "trial 1  is out: rerun 2 failed: the loss is nan" in "\n".join(
        verdict_lines(reach_verdict(study).table(), "accuracy")
    )


def test_a_trial_that_a_user_added_is_no_finalist() -> None:
    """No worker has run it, so there is nothing to run again."""
    study = stored({0: [0.8, 0.7], 1: [0.78, 0.74], 2: [0.4, 0.3]})
    study.add_trial(create_trial(value=0.99))
    assert [trial.number for trial in reach_verdict(study).trials] == [0, 1, 2]
    assert [entry.number for entry in reach_verdict(study).finalists] == [1, 0, 2]


@pytest.mark.parametrize("ends_at", [None, 1e12])
def test_controls_come_early_where_time_may_end(write_study: WriteStudy, ends_at: float | None) -> None:
    study = load_study(write_study(judging={"finalists": 3, "repeats": 3}))
    record = stored({0: [0.8, 0.7], 1: [0.78, 0.74], 2: [0.7, 0.7]})
    record.set_user_attr("definition", {"judging": {"finalists": 3, "repeats": 3}})
    jobs = Confirmation(study, record, "", Limits(3, ends_at), None, print).jobs()
    assert {job.name.split()[0] for job in jobs} == ({"fresh"} if ends_at else {"rerun"})
    for number, value in ((0, 0.8), (1, 0.75), (2, 0.7)):
        record.set_user_attr(f"{REPEAT}{number}_3", {"value": value})
    jobs = Confirmation(study, record, "", Limits(3, ends_at), None, print).jobs()
    assert {job.name.split(" of ")[0] for job in jobs} == {"fresh rerun 1", "fresh rerun 2"}


def test_a_study_from_before_is_not_judged() -> None:
    study = stored({})
    study.set_user_attr("definition", {})
    assert reach_verdict(study).finalists == []
    assert winning_trial(study) is not None


def test_repeated_splits_share_the_test_rows_alone(
    make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str]
) -> None:
    """What a repeat finds doesn't depend on the repeats before it."""
    spec = make_spec(tiny_models["encoder"], "encoder")
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=2, batch_size=4)
    objective = Objective(spec)
    first = objective.target
    objective.evaluate(candidate, 0)
    objective.use_split(Split(2))
    logits = objective.evaluate(candidate, 2).logits
    assert objective.target.test == first.test
    assert objective.target.train != first.train
    assert objective.target.validation != first.validation
    assert {*map(str, objective.target.labelled)} == {*map(str, first.labelled)}
    fresh = Objective(spec)
    fresh.use_split(Split(2))
    assert (logits == fresh.evaluate(candidate, 2).logits).all()
    objective.use_split(Split())
    assert objective.target == first


def test_latency_is_a_cost_only_where_it_is_measured(write_study: WriteStudy) -> None:
    with pytest.raises(StudyFileError, match="latency_ms is measured only if `minimize` names it"):
        load_study(write_study(judging={"cost": "latency_ms"}))
    assert load_study(write_study(judging={"cost": "latency_ms"}, minimize="latency_ms"))


@pytest.mark.slow
def test_a_whole_search_is_judged(write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over real workers; more repeats later run only what is missing, and what they find is what a fresh one finds."""
    where = ["--workdir", str(tmp_path / "run")]

    def run(repeated: int) -> dict[int, dict[int, Outcome]]:
        file = write_study(judging={"finalists": 2, "repeats": repeated}, budget={"trials": 4}, pruner="none")
        app(["run", str(file), *where], standalone_mode=False)
        return StudyRecord.of(load_existing("tiny", RunFolder(tmp_path / "run").storage_url())).repeats

    def finalists() -> set[int]:
        return {
            entry.number
            for entry in reach_verdict(load_existing("tiny", RunFolder(tmp_path / "run").storage_url())).finalists
        }

    few = run(2)
    assert len(few) == 4, "all have qualified; while the search went on, any of them may have had another"
    assert len(finalists()) == 2
    assert all({1, 2} <= few[number].keys() for number in finalists())
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2].startswith("Ship "), "the verdict, then where its details are"
    more = run(3)
    assert all(more[number].keys() == {1, 2, 3} for number in finalists())
    assert all(more[trial][repeat] == outcome for trial, own in few.items() for repeat, outcome in own.items())
    study = load_study(tmp_path / "study.yaml")
    record = load_existing("tiny", RunFolder(tmp_path / "run").storage_url())
    for number, own in more.items():
        attrs = record.get_trials()[number].user_attrs
        fresh = Objective(study.objective)
        fresh.use_split(Split(3))
        candidate, seed = Candidate.from_values(attrs["candidate"]), study.file.seed + 3
        # At the step that the search chose, not at the repeat's best.
        assert 3 not in own or own[3].value == fresh.evaluate(candidate, seed, at=attrs["best_step"]).value
    capsys.readouterr()
    app(["status", "tiny", "--json", *where], standalone_mode=False)
    verdict_shown = json.loads(capsys.readouterr().out)["verdict"]["finalists"]
    assert {entry["number"] for entry in verdict_shown} == finalists()
    app(["export", str(tmp_path / "study.yaml"), "--anyway", *where], standalone_mode=False)
    exported = capsys.readouterr().out
    assert f"bundle of trial {verdict_shown[0]['number']}" in exported
    assert "its 3 reruns on other seeds and splits: accuracy" in exported
