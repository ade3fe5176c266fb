"""What the source is worth: the winner against its controls, on the same seeds and splits."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pytest
import torch
from optuna.trial import create_trial
from scipy.stats import t as student

from promptgraft.objectives.file_store import FileStore
from promptgraft.objectives.kinds.text_classification import classification_metrics
from promptgraft.search.judging import (
    NAMES,
    control_logits_file,
    control_outcomes,
    is_compared_on_folds,
    reach_verdict,
    score_interval,
    transfer,
    transfer_lines,
    transfer_on_test,
)
from promptgraft.search.judging.intervals import gain_on_rows, gain_over_folds, gain_over_repeats
from promptgraft.search.running.finals import Job
from promptgraft.search.storage import REPEAT, SHARED, StudyRecord, control_attr
from promptgraft.search.study import JudgingSection, load_study
from promptgraft.search.study.yaml_lines import StudyFileError


def stored(controls: Mapping[str, list[float | str]], *, source: bool = True, in_search: float = 0.9) -> optuna.Study:
    """A study whose only trial has won, with these outcomes of its controls."""
    study = optuna.create_study(direction="maximize")
    study.set_metric_names(["accuracy"])
    attrs = {"candidate": {"template": "t", "verbalizer": "v"}, "prompt_tokens": 3, "best_step": 0}
    study.add_trial(create_trial(value=in_search, user_attrs=attrs))
    definition: dict[str, Any] = {"judging": {"finalists": 1, "repeats": 3}}
    study.set_user_attr("definition", definition | ({"source": {}} if source else {}))
    for repeat in range(1, 4):
        study.set_user_attr(f"{REPEAT}0_{repeat}", {"value": 0.8})
    for name, own in controls.items():
        for repeat, outcome in enumerate(own, 1):
            content = {"failure": outcome} if isinstance(outcome, str) else {"value": outcome}
            study.set_user_attr(control_attr(0, name, repeat), content)
    return study


def transfer_of(study: optuna.Study) -> dict[str, Any] | None:
    return transfer(study, reach_verdict(study).winner)


WINNER: list[float | str] = [0.80, 0.84, 0.82]


@pytest.mark.parametrize(
    ("controls", "verdict", "against"),
    [
        ({"winner": WINNER, "target_only": [0.70, 0.73, 0.72]}, "helped", "target only, the winner's"),
        ({"winner": WINNER, "target_only": [0.81, 0.82, 0.83]}, "made no difference", "target only, the winner's"),
        ({"winner": WINNER, "target_only": [0.90, 0.93, 0.92]}, "hurt", "target only, the winner's"),
        (
            {"winner": WINNER, "target_only": [0.70, 0.73, 0.72], "target_only_searched": [0.81, 0.82, 0.83]},
            "made no difference",
            "target only, the best of the search",
        ),
        ({"winner": WINNER, "with_source": [0.70, 0.73, 0.72]}, "hurt", "with the source"),
        ({"winner": WINNER, "majority": [0.5, 0.5, 0.5]}, "not tried", ""),
        ({"winner": WINNER, "target_only": [0.7, "out of memory", "out of memory"]}, "not tried", ""),
    ],
)
def test_the_verdict(controls: dict[str, list[float | str]], verdict: str, against: str) -> None:
    found = transfer_of(stored(controls))
    assert found is not None
    assert found.verdict == verdict
    assert against in found.sentence
    assert found.rows == "validation"


def test_the_interval_is_student_s() -> None:
    study = stored({"winner": WINNER, "target_only": [0.70, 0.73, 0.75]})
    found = transfer_of(study)
    assert found is not None
    each = np.array([0.10, 0.11, 0.07])
    half = student.ppf(0.975, 2) * each.std(ddof=1) / np.sqrt(3)
    assert (found.gain, found.low) == (pytest.approx(each.mean()), pytest.approx(each.mean() - half))
    assert "accuracy better by +9.3 points, 95 % interval +4.2 to +14.5 (3 fresh reruns" in found.sentence


def test_a_control_that_is_better_is_named() -> None:
    tuned: list[float | str] = [0.90, 0.94, 0.915]
    study = stored({"winner": WINNER, "target_only": [0.70, 0.73, 0.72], "full_fine_tuning": tuned})
    found = transfer_of(study)
    assert found is not None
    assert found.warning.startswith("Better than the winner on validation rows: full fine-tuning on the target (+9.8")
    assert found.warning in transfer_lines(found, "accuracy")
    behind = {entry.name: entry.behind for entry in found.controls}
    assert behind[NAMES["full_fine_tuning"]].value == pytest.approx(-0.09833, abs=1e-4)
    assert behind[NAMES["winner"]] is None
    less = transfer_of(stored({"winner": WINNER, "full_fine_tuning": [0.81, 0.94, 0.8]}))
    assert less is not None
    assert less.warning is None


def test_a_loss_is_better_where_it_is_lower() -> None:
    study = optuna.create_study(direction="minimize")
    study.set_metric_names(["loss"])
    attrs = {"candidate": {"template": "t", "verbalizer": "v"}, "prompt_tokens": 3, "best_step": 0}
    study.add_trial(create_trial(value=0.4, user_attrs=attrs))
    study.set_user_attr("definition", {"judging": {"finalists": 1, "repeats": 3}, "source": {}})
    for repeat, (ours, theirs) in enumerate(((0.4, 0.51), (0.42, 0.5), (0.41, 0.52)), 1):
        study.set_user_attr(f"{REPEAT}0_{repeat}", {"value": ours})
        study.set_user_attr(control_attr(0, "winner", repeat), {"value": ours})
        study.set_user_attr(control_attr(0, "target_only", repeat), {"value": theirs})
    found = transfer_of(study)
    assert found is not None
    assert found.verdict == "helped"
    assert found.gain == pytest.approx(0.1)
    assert found.low < 0.1 < found.high
    assert "loss better by +0.100 nats" in found.sentence


def test_another_trial_to_compare_with_starts_anew() -> None:
    """Further trials brought a better one without the source: what the old one found is no repeat of it."""
    study = stored({"winner": WINNER, "target_only_searched": [0.70, 0.73, 0.72]})
    for repeat, trial in ((1, 5), (2, 5), (3, 4)):
        outcome = study.user_attrs[control_attr(0, "target_only_searched", repeat)]
        study.set_user_attr(control_attr(0, "target_only_searched", repeat), outcome | {"trial": trial})
    assert sorted(control_outcomes(study, 0)["target_only_searched"]) == [1, 2]
    found = transfer_of(study)
    assert found is not None
    assert found.repeats == 2
    attr = control_attr(0, "target_only_searched", 3)
    jobs = {trial: Job(attr, "", lambda runner: runner, {"trial": trial}) for trial in (4, 5)}
    assert jobs[4].is_done(StudyRecord.of(study))
    assert not jobs[5].is_done(StudyRecord.of(study))
    assert not Job(control_attr(0, "majority", 1), "", lambda runner: runner).is_done(StudyRecord.of(study))


def searched(ours: list[float], theirs: list[float], controls: Mapping[str, list[float | str]]) -> optuna.Study:
    """A study whose winner uses the source, with a rival that doesn't: both by their folds."""
    study = stored(controls, in_search=0.1)
    for folds, source_steps in ((ours, 8), (theirs, 0)):
        candidate = {"template": "t", "verbalizer": "v", "source_steps": source_steps}
        attrs = {"candidate": candidate, "prompt_tokens": 3, "best_step": 0, "fold_values": folds}
        study.add_trial(create_trial(value=float(np.mean(folds)), user_attrs=attrs))
    rest = {name: value for name, value in study.user_attrs.items() if name.startswith("control_trial_0_")}
    for name, value in rest.items():
        study.set_user_attr(name.replace("trial_0", "trial_1"), value)
    return study


CLOSE = [0.80, 0.78, 0.82, 0.81]


def test_the_best_target_only_trial_is_compared_over_the_folds_of_the_search() -> None:
    """It isn't run again; where it comes closer to the winner than the control does, it decides."""
    controls: dict[str, list[float | str]] = {"winner": WINNER, "target_only": [0.70, 0.73, 0.72]}
    study = searched([0.81, 0.79, 0.82, 0.82], CLOSE, controls)
    found = transfer(study, study.get_trials()[1])
    assert found is not None
    assert found.verdict == "made no difference"
    assert "against target only, the best of the search, accuracy better by +0.7 points" in found.sentence
    assert found.sentence.endswith("(4 folds of the search, which chose both).")
    row = next(entry for entry in found.controls if entry.name.startswith("target only, the best of the search"))
    assert row.behind is not None
    assert (row.mean, row.repeats) == (pytest.approx(np.mean(CLOSE)), 4)
    assert row.behind.value == pytest.approx(0.0075)
    assert found.warning is None
    study = searched([0.81, 0.79, 0.82, 0.82], [0.6, 0.61, 0.6, 0.6], controls)
    far = transfer(study, study.get_trials()[1])
    assert far is not None
    assert far.verdict == "helped"
    assert "the winner's settings and updates" in far.sentence
    unsure: dict[str, list[float | str]] = {"winner": WINNER, "target_only": [0.5, 0.84, 0.7]}
    study = searched([0.82, 0.801, 0.84, 0.83], CLOSE, unsure)
    alone = transfer(study, study.get_trials()[1])
    assert alone is not None
    assert (alone.verdict, "3 fresh reruns" in alone.sentence) == ("made no difference", True)
    study = searched(CLOSE, [0.6, 0.6, 0.6, 0.6], {"winner": WINNER, "majority": [0.5] * 3})
    without = transfer(study, study.get_trials()[1])
    assert without is not None
    assert without.verdict == "not tried", "folds that chose the winner show nothing by themselves"


def test_two_folds_compare_nothing() -> None:
    """An interval with one degree of freedom says nothing: the rival is run again."""
    controls: dict[str, list[float | str]] = {"winner": WINNER, "target_only": [0.70, 0.73, 0.72]}
    for count, compared in ((1, False), (2, False), (3, True)):
        study = searched([0.81, 0.79, 0.82][:count], CLOSE[:count], controls)
        assert is_compared_on_folds(*study.get_trials()[1:]) == compared
        found = transfer(study, study.get_trials()[1])
        assert found is not None
        assert ("folds of the search" in found.sentence) == compared


def test_repeats_of_the_best_target_only_trial_of_an_older_version_count() -> None:
    controls: dict[str, list[float | str]] = {"winner": WINNER, "target_only": [0.7] * 3}
    controls["target_only_searched"] = [0.81, 0.82, 0.83]
    study = searched([0.9, 0.91, 0.9, 0.92], [0.6] * 4, controls)
    found = transfer(study, study.get_trials()[1])
    assert found is not None
    assert found.verdict == "made no difference"
    assert "3 fresh reruns" in found.sentence
    partly = searched([0.9, 0.91, 0.9, 0.92], [0.6] * 4, {**controls, "target_only_searched": [0.8]})
    found = transfer(partly, partly.get_trials()[1])
    assert found is not None
    assert found.verdict == "helped"


def test_the_interval_over_folds_is_corrected() -> None:
    """Candidates that are equal, scored by folds: the naive interval misses too often, since folds share rows."""
    ours, theirs = [0.8, 0.82, 0.79, 0.85], [0.78, 0.77, 0.8, 0.79]
    each = np.subtract(ours, theirs)
    half = student.ppf(0.975, 3) * each.std(ddof=1) * (1 / 4 + 1 / 3) ** 0.5
    found = gain_over_folds(ours, theirs, 0.05)
    assert (found.value, found.high - found.value) == (pytest.approx(each.mean()), pytest.approx(half))


def test_a_single_finalist_s_repeats_and_shared_controls(tmp_path: Path) -> None:
    """Its first repeat chose it, so it doesn't count."""
    study = stored({})
    study.set_user_attr(f"{REPEAT}0_1", {"value": 0.99})
    for repeat, alone in ((2, 0.70), (3, 0.71)):
        study.set_user_attr(control_attr(0, "target_only", repeat), {"value": alone})
        study.set_user_attr(control_attr(SHARED, "tfidf", repeat), {"value": 0.6})
    outcomes = control_outcomes(study, 0)
    assert list(outcomes) == ["winner", "target_only", "tfidf"]
    assert all(sorted(own) == [2, 3] for own in outcomes.values())
    found = transfer_of(study)
    assert found is not None
    assert (found.verdict, found.gain) == ("helped", pytest.approx(0.8 - 0.705))
    files, labels = FileStore(str(tmp_path)), np.zeros(40, dtype=np.int64)
    for repeat in (2, 3):
        for owner, name, right in ((0, "winner", 40), (0, "target_only", 20), (SHARED, "tfidf", 10)):
            if (name, repeat) != ("tfidf", 3):  # As where it was run before anyone asked for test rows.
                logits = torch.from_numpy(logits_of(np.arange(40) < right, labels))
                files.write_tensors(control_logits_file(owner, name, repeat), {"logits": logits})
    on_test = transfer_on_test(study, 0, files, lambda own, kept: float((own.argmax(1) == 0).mean()))
    assert on_test is not None
    assert {entry.name: (entry.mean, entry.repeats) for entry in on_test.controls} == {
        NAMES["winner"]: (1.0, 2),
        NAMES["target_only"]: (0.5, 2),
        NAMES["tfidf"]: (0.25, 1),
    }
    study.add_trial(create_trial(value=0.95, user_attrs={**study.get_trials()[0].user_attrs}))
    study.set_user_attr(f"{REPEAT}1_1", {"value": 0.9})
    assert control_outcomes(study, 1) == {}, "it has qualified, and nothing more"
    study.set_user_attr("definition", {"judging": {"finalists": 2, "repeats": 3}, "source": {}})
    assert control_outcomes(study, 0) == {}, "now all repeats choose the winner, so that it needs fresh ones"


def test_without_a_source_or_controls() -> None:
    found = transfer_of(stored({"winner": WINNER, "majority": [0.5] * 3}, source=False))
    assert found is not None
    assert found.verdict == "no source"
    assert transfer_of(stored({})) is None
    assert transfer_of(optuna.create_study()) is None
    assert transfer_lines(None, "accuracy") == []


def test_failed_repeats_are_told() -> None:
    study = stored({"winner": WINNER, "full_fine_tuning": [0.7, "out of memory", 0.8], "target_only": ["lost"] * 3})
    lines = transfer_lines(transfer_of(study), "accuracy")
    tuned, alone = (next(line for line in lines if NAMES[name] in line) for name in ("full_fine_tuning", "target_only"))
    assert "accuracy 0.7500 (standard error 0.0500); 1 reruns failed" in tuned
    assert "accuracy -; 3 reruns failed" in alone
    assert list(control_outcomes(study, 0)) == ["winner", "target_only", "full_fine_tuning"]


def logits_of(correct: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    predicted = np.where(correct, labels, 1 - labels)
    return np.eye(2, dtype=np.float32)[predicted]


def test_on_the_test_rows(tmp_path: Path) -> None:
    """The winner is right in 90 % of rows, target only in 80 %: four repeats of 600 rows show it."""
    random, files = np.random.default_rng(0), FileStore(str(tmp_path))
    labels = random.integers(0, 2, 600)
    study = stored({"winner": [0.8] * 4, "target_only": [0.8] * 4, "majority": [0.5] * 4})

    def measure(logits: npt.NDArray[np.float32], kept: npt.NDArray[np.int64]) -> float:
        return classification_metrics(logits, labels[kept])["accuracy"]

    rights = {"winner": 0.9, "target_only": 0.8, "majority": 0.5}
    for name, right in rights.items():
        for repeat in range(1, 5):
            logits = logits_of(random.random(600) < right, labels)
            files.write_tensors(control_logits_file(0, name, repeat), {"logits": torch.from_numpy(logits)})
    found = transfer_on_test(study, 0, files, measure)
    assert found is not None
    assert (found.verdict, found.rows, found.repeats) == ("helped", "test", 4)
    assert found.low < 0.1 < found.high
    assert {entry.name: round(entry.mean, 1) for entry in found.controls} == {
        NAMES[name]: right for name, right in rights.items()
    }
    assert transfer_on_test(stored({}), 0, files, measure) is None


def test_intervals_cover_what_they_estimate() -> None:
    """Accuracies vary between repeats, rows differ in how hard they are: 95 % intervals, 300 times."""
    random = np.random.default_rng(1)
    repeats, rows, inside = 4, 200, 0
    for _ in range(300):
        hard = random.normal(0, 0.5, rows)
        arms = []
        for ability in (1.0, 0.6):
            own = ability + random.normal(0, 0.2, repeats)
            arms.append(random.random((repeats, rows)) < 1 / (1 + np.exp(-(own[:, None] - hard))))
        grid = np.random.default_rng(2).normal(0, 1, (4000, 2)) * [0.5, 0.2]
        ours, theirs = ((1 / (1 + np.exp(-(a + grid[:, 1] - grid[:, 0])))).mean() for a in (1.0, 0.6))
        labels = np.zeros(rows, dtype=np.int64)
        logits = [[logits_of(correct, labels) for correct in arm] for arm in arms]
        found = gain_on_rows(*logits, lambda own, _: float((own.argmax(1) == 0).mean()), 0.05)
        inside += found.low <= ours - theirs <= found.high
    assert inside >= 0.93 * 300


def test_intervals_without_spread_are_points() -> None:
    assert gain_over_repeats([0.8, 0.8], [0.7, 0.7], 0.05).low == pytest.approx(0.1)
    logits = [np.eye(2, dtype=np.float32)[[0, 1]]] * 2
    found = gain_on_rows(logits, logits, lambda own, kept: 1.0, 0.05)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "loss"])
def test_the_interval_of_a_score(metric: str) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    logits = (random.normal(0, 1, (400, 2)) + 1.5 * np.eye(2)[labels]).astype(np.float32)
    found = score_interval(logits, lambda own, kept: classification_metrics(own, labels[kept])[metric], metric, 0.05)
    drawn = [random.integers(0, 400, 400) for _ in range(300)]
    spread = np.std([classification_metrics(logits[rows], labels[rows])[metric] for rows in drawn])
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.25)
    assert found.low < found.value < found.high


def test_controls_are_named_as_the_study_file_knows_them(write_study: Callable[..., Path]) -> None:
    assert set(JudgingSection().controls) <= NAMES.keys()
    with pytest.raises(StudyFileError, match=r"judging\.controls"):
        load_study(write_study(judging={"controls": ["target_onyl"]}))
    assert load_study(write_study(judging={"controls": []})).file.judging.controls == ()
