"""Recommendation: histories in the order of time, ranks over all items, and what a model is compared with."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from promptgraft.objectives.data import Row, Split, TaskSpec, seen
from promptgraft.objectives.kinds.histories.interactions import read_histories
from promptgraft.objectives.kinds.histories.ranking import drawn_items, ranks_of
from promptgraft.objectives.kinds.histories.recommendation import Recommendation
from promptgraft.objectives.measures.controls import FITTED
from promptgraft.objectives.measures.kind_checks import check_task_kind
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.judging import RowMetric
from promptgraft.spaces import Candidate, InvalidInputError, SearchSpace, StudyFacts, Template, Verbalizer
from tests.support.histories import ITEMS, spec_of_histories, write_histories
from tests.support.models import TinyModels


@pytest.fixture
def spec(tmp_path: Path) -> TaskSpec:
    return spec_of_histories(*write_histories(tmp_path))


def write(folder: Path, lines: list[str], items: dict[str, str] | None = None) -> TaskSpec:
    (folder / "own.csv").write_text("\n".join(["user,item,when", *lines]) + "\n")
    with (folder / "own_items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item", "title"), *(items or {"a": "Apple", "b": "Bear", "c": "Car"}).items()])
    return spec_of_histories(folder / "own.csv", folder / "own_items.csv", least=2)


def test_the_last_item_is_the_test_and_the_one_before_is_chosen_by(spec: TaskSpec) -> None:
    task = Recommendation.load_target(spec, 0)
    assert len(task.test) == len(task.validation) == 30
    assert set(task.labels) == set(ITEMS.values())
    by_user = {row.group: row for row in task.test}
    for row in task.validation:
        last = by_user[row.group]
        assert seen(last.fields) == [task.labels[row.label], *seen(row.fields)], "newest first"
        assert row.time < last.time
    for row in task.train:
        assert row.time < next(own.time for own in task.validation if own.group == row.group)
        assert task.labels[row.label] not in seen(row.fields)
    assert max(sum(row.group == own.group for row in task.train) for own in task.test) <= 5


def test_no_row_sees_what_came_later(tmp_path: Path) -> None:
    """Times decide, not the order of the table."""
    lines = [f"u{user},{item},{when}" for item, when in (("c", 3), ("a", 1), ("b", 2)) for user in range(3)]
    found = read_histories(write(tmp_path, lines))
    rows = found.rows("history").values()
    assert [[seen(row.fields) for row in own] for own in rows] == [[["Apple"], ["Bear", "Apple"]]] * 3


def test_it_keeps_to_the_contract(spec: TaskSpec, tiny_models: TinyModels) -> None:
    check_task_kind(spec, BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32))


def test_rows_may_be_held_out_from_certain_times_on(spec: TaskSpec) -> None:
    """Nothing that is trained on is newer than what is chosen by, and that is no newer than the test; of no user."""
    assert spec.histories is not None
    dated = replace(spec, histories=replace(spec.histories, validation_from="1060", test_from="1110"))
    task = Recommendation.load_target(dated, 0)
    assert 0 < len(task.test) < 30
    assert max(row.time for row in task.train) < 1060 <= min(row.time for row in task.validation)
    assert max(row.time for row in task.validation) < 1110 <= min(row.time for row in task.test)
    assert len({row.group for row in task.test}) == len(task.test)
    source = Recommendation.load_source(replace(spec, histories=replace(spec.histories, positions=50)), 0, task)
    assert max(row.time for row in source.train) < 1060, "a source must not tell what came later"
    for bounds, message in (
        (("1090", "1060"), "must be a time before"),
        (("1060", "9999"), "and 0 for the test .* must lie among the times of column 'when'"),
        (("soon", "later"), "'soon' is no number and no date"),
    ):
        odd = replace(spec.histories, validation_from=bounds[0], test_from=bounds[1])
        with pytest.raises(InvalidInputError, match=message):
            Recommendation.load_target(replace(spec, histories=odd), 0)


def test_rows_of_a_source_that_show_what_is_held_out_are_dropped(spec: TaskSpec) -> None:
    target = Recommendation.load_target(spec, 0)
    leak = Recommendation.load_source(spec, 0, target)
    held_out = {(row.group, target.labels[row.label]) for row in (*target.validation, *target.test)}
    assert leak.cleaning.overlap == 60
    for row in leak.train:
        assert not {(row.group, name) for name in (leak.labels[row.label], *seen(row.fields))} & held_out


def test_what_is_dropped_is_counted(tmp_path: Path) -> None:
    usual = [f"u{user},{item},{when}" for user in range(3) for when, item in enumerate("abc")]
    odd = ["u0,a,9", ",a,1", "u1,,1", "u1,x,1", "u1,b,", "alone,a,1"]
    report = read_histories(write(tmp_path, [*usual, *odd])).report
    assert report.read == 15
    assert (report.duplicate, report.missing_group, report.missing_label) == (1, 1, 1)
    assert (report.missing_text, report.missing_time, report.few_interactions) == (1, 1, 1)


def test_interactions_that_are_rated_too_low_do_not_count(tmp_path: Path) -> None:
    usual = [f"u{user},{item},{when}" for user in range(3) for when, item in enumerate("abc")]
    spec = write(tmp_path, usual)
    table = Path(spec.train)
    ratings = ["stars", *("4" if place % 3 else "5" for place in range(9))]
    table.write_text(
        "\n".join(f"{line},{own}" for line, own in zip(table.read_text().splitlines(), ratings, strict=True))
        + "\nu0,c,9,2\nu1,c,9,good\nu2,c,9,\n"
    )
    assert spec.histories is not None
    rated = replace(spec, histories=replace(spec.histories, rating="stars", least_rating=4))
    report = read_histories(rated).report
    assert (report.read, report.low_rating, report.invalid_rating, report.duplicate) == (12, 1, 2, 0)
    other_scale = replace(spec, histories=replace(spec.histories, rating="stars", least_rating=60))
    with pytest.raises(InvalidInputError, match=r"reaches `histories.least_rating` \(60\): they go from 2 to 5"):
        read_histories(other_scale)
    no_numbers = replace(spec, histories=replace(spec.histories, rating="item", least_rating=4))
    with pytest.raises(InvalidInputError, match="none of them is a number"):
        read_histories(no_numbers)


@pytest.mark.parametrize(
    ("lines", "items", "message"),
    [
        (["u,a,soon", "u,b,later"], None, "'soon' is no number and no date"),
        (["u,a,1", "u,b,2", "u,c,3"], None, "at least two users and two items"),
        (["u,a,1"], {"a": "Apple", " a": "Ape"}, "item 'a' stands in 2 rows"),
        (["u,a,1"], {"a": "", "b": " "}, "no item has a text in 'title'; name columns with texts"),
        (["u,a,", "v,b,"], None, "no interaction has a time in column 'when'"),
        (["u,x,1", "v,y,2"], None, "no item of column 'item', such as 'x', is in"),
        (["w,a,", "u,x,1", "v,y,2"], None, "no item of column 'item', such as 'x', is in .* such as 'a'; write their"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, lines: list[str], items: dict[str, str] | None, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Recommendation.load_target(write(tmp_path, lines, items), 0)


def test_other_ways_to_split_are_refused(spec: TaskSpec) -> None:
    with pytest.raises(InvalidInputError, match="folds can't be given for recommendation"):
        Recommendation.load_target(replace(spec, folds=3), 0)


def test_items_with_the_same_text_stay_apart(tmp_path: Path) -> None:
    lines = [f"u{user},{item},{when}" for user in range(3) for when, item in enumerate("abc")]
    found = read_histories(write(tmp_path, lines, {"a": "Apple", "b": "Apple", "c": "Car"}))
    assert found.items == ("Apple (a)", "Apple (b)", "Car")


def test_ndcg_equals_that_of_scikit_learn(spec: TaskSpec) -> None:
    task = Recommendation.load_target(spec, 0)
    outputs = np.random.default_rng(0).normal(size=(len(task.test), len(task.labels))).astype(np.float32)
    found = task.measure(outputs, task.test)
    places = {name: place for place, name in enumerate(task.labels)}
    masked = outputs.copy()
    relevant = np.zeros_like(outputs)
    for own, right, row in zip(masked, relevant, task.test, strict=True):
        own[[places[name] for name in seen(row.fields)]] = -100
        right[row.label] = 1
    for cut in (5, 10, 20):
        assert found[f"ndcg_at_{cut}"] == pytest.approx(ndcg_score(relevant, masked, k=cut))
    ranks = ranks_of(masked, np.array([row.label for row in task.test]))
    assert found["mrr"] == pytest.approx((1 / ranks).mean())
    assert found["recall_at_10"] == pytest.approx((ranks <= 10).mean())


def test_ranks_among_drawn_items_have_metrics_of_their_own(spec: TaskSpec) -> None:
    """Beside those over all items, on request; the same items are drawn for a user whoever else is scored."""
    assert spec.histories is not None
    asked, everything = (replace(spec, histories=replace(spec.histories, negatives=own)) for own in (7, 99))
    task = Recommendation.load_target(asked, 0)
    outputs = np.random.default_rng(0).normal(size=(len(task.test), len(task.labels))).astype(np.float32)
    found = task.measure(outputs, task.test)
    full = Recommendation.load_target(spec, 0).measure(outputs, task.test)
    assert {name: found[name] for name in full} == full
    assert found.keys() - full.keys() == set(task.on_request)
    places = {name: place for place, name in enumerate(task.labels)}
    relevant, masked = np.zeros_like(outputs), np.full_like(outputs, -100)
    for own, right, scores, row in zip(masked, relevant, outputs, task.test, strict=True):
        out = {row.label, *(places[name] for name in seen(row.fields))}
        drawn = drawn_items(f"0 {row.group} {task.labels[row.label]}", len(places), out, 7)
        assert len(set(drawn)) == 7
        assert not out & set(drawn)
        own[[row.label, *drawn]] = scores[[row.label, *drawn]]
        right[row.label] = 1
    ranks = 1 + (masked > masked[relevant == 1][:, None]).sum(axis=1)
    assert found["sampled_mrr"] == pytest.approx((1 / ranks).mean())
    for cut in (5, 10, 20):
        assert found[f"sampled_ndcg_at_{cut}"] == pytest.approx(ndcg_score(relevant, masked, k=cut))
        assert found[f"sampled_recall_at_{cut}"] == pytest.approx((ranks <= cut).mean())
    each = task.by_row("sampled_ndcg_at_5", outputs, task.test)
    few = task.by_row("sampled_ndcg_at_5", outputs[5:9], task.test[5:9])
    assert each is not None
    assert each.mean() == pytest.approx(found["sampled_ndcg_at_5"])
    assert np.array_equal(each[5:9], few)
    assert found["sampled_recall_at_5"] > full["recall_at_5"] + 0.2, "it flatters"
    assert "7 drawn ones" in task.signatures["sampled_mrr"]
    all_drawn = Recommendation.load_target(everything, 0).measure(outputs, task.test)
    assert all_drawn["sampled_mrr"] == full["mrr"], "no more than there are"


def test_any_item_may_be_drawn() -> None:
    counts = np.bincount(
        [place for seed in range(2000) for place in drawn_items(f"{seed}", 10, {0, 4}, 3)], minlength=10
    )
    assert counts[[0, 4]].tolist() == [0, 0]
    assert np.delete(counts, [0, 4]) == pytest.approx(750, abs=80), "each as likely as any other"


def test_what_each_user_has_adds_up_to_the_metrics(spec: TaskSpec) -> None:
    """Intervals resample these figures; where a metric is no mean over users, there are none."""
    task = Recommendation.load_target(spec, 0)
    outputs = np.random.default_rng(1).normal(size=(len(task.test), len(task.labels))).astype(np.float32)
    found = task.measure(outputs, task.test)
    for name in task.metrics:
        values = task.by_row(name, outputs, task.test)
        if name.startswith(("coverage", "popularity")):
            assert values is None
        else:
            assert values is not None
            assert found[name] == pytest.approx(values.mean())
    metric = RowMetric(task, "coverage_at_10", task.test)
    assert metric.measure(metric.of(outputs), np.arange(len(outputs))) == found["coverage_at_10"]


def test_coverage_and_popularity_are_those_of_what_is_recommended(
    spec: TaskSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Recommendation.load_target(spec, 0)
    outputs = np.random.default_rng(2).integers(3, size=(len(task.test), len(task.labels))).astype(np.float32)
    first = [np.argsort(-own, kind="stable")[:5] for own in task._unseen(outputs, [row.fields for row in task.test])]
    users = [set(seen(row.fields)) for row in task.test]
    shares = [sum(name in own for own in users) / len(users) for name in task.labels]
    expected = np.mean([shares[place] for own in first for place in own])
    found = task.measure(outputs, task.test)
    assert found["popularity_at_5"] == pytest.approx(expected)
    assert found["coverage_at_5"] == len(set(np.concatenate(first).tolist())) / len(task.labels)
    monkeypatch.setattr("promptgraft.objectives.kinds.histories.recommendation.MOST_SCORES", 60)
    assert task.measure(outputs, task.test) == pytest.approx(found), "some rows at a time"
    popular = task.measure(task.constant(task.test), task.test)
    assert popular["popularity_at_5"] > found["popularity_at_5"], "the most popular items are popular"


def test_cold_users_and_items_are_apart(spec: TaskSpec) -> None:
    """Whoever has fewer than five items, and items that only held-out rows have."""
    task = Recommendation.load_target(replace(spec, train_rows=4), 0)
    known = {task.labels[row.label] for row in task.train}.union(*(seen(row.fields) for row in task.train))
    rows = [*task.test, replace(task.test[0], fields={"history": next(iter(ITEMS.values()))})]
    found = task.parts(rows)
    assert found["users with fewer than 5 items before"] == [len(rows) - 1]
    new = [place for place, row in enumerate(rows) if task.labels[row.label] not in known]
    assert found["next item in no training row"] == new
    assert new
    assert sorted([*new, *found["next item in some training row"]]) == list(range(len(rows)))


def test_examples_go_from_the_best_to_the_worst(spec: TaskSpec) -> None:
    task = Recommendation.load_target(spec, 0)
    outputs = np.random.default_rng(3).normal(size=(len(task.test), len(task.labels))).astype(np.float32)
    ranks = task.blame(outputs, task.test)
    chosen = task.examples(ranks, 5)
    assert [ranks[place] for place in chosen] == sorted(ranks[place] for place in chosen)
    assert ranks[chosen[0]] == ranks.min()
    assert ranks[chosen[-1]] == ranks.max()
    texts = [row.fields for row in task.test]
    said = task.described(task.expected(outputs), texts)
    recommended = task.columns(task.expected(outputs), texts)["recommended"]
    assert said[0].split("; ") == [name for name, _ in json.loads(recommended[0])][:3]


def test_ties_go_to_the_item_that_stands_first() -> None:
    assert ranks_of(np.zeros((2, 4)), np.array([0, 2])).tolist() == [1, 3]


def test_what_a_user_had_is_never_recommended(spec: TaskSpec) -> None:
    task = Recommendation.load_target(spec, 0)
    texts = [row.fields for row in task.test]
    places = {name: place for place, name in enumerate(task.labels)}
    outputs = np.zeros((len(texts), len(task.labels)), dtype=np.float32)
    for own, fields in zip(outputs, texts, strict=True):
        own[[places[name] for name in seen(fields)]] = 9
    columns = task.columns(task.expected(outputs), texts)
    for fields, item, recommended in zip(texts, columns["item"], columns["recommended"], strict=True):
        names = [name for name, _ in json.loads(recommended)]
        assert names[0] == item
        assert not set(names) & set(seen(fields))


def test_popularity_and_item_neighbours(spec: TaskSpec) -> None:
    """Both see the users to train on alone; neighbours know what follows what here, popularity doesn't."""
    task = Recommendation.load_target(spec, 0)
    counts = np.exp(task.constant(task.test)[0])
    had = [{task.labels[row.label], *seen(row.fields)} for row in task.train]
    users: dict[str, set[str]] = {}
    for row, own in zip(task.train, had, strict=True):
        users.setdefault(row.group, set()).update(own)
    shares = np.array([sum(name in own for own in users.values()) for name in task.labels], dtype=float)
    assert counts == pytest.approx(shares / shares.sum(), abs=1e-6)
    popular = task.measure(task.constant(task.test), task.test)
    neighbours = task.measure(task.fit_by_words(task.train, task.test), task.test)
    assert neighbours["ndcg_at_5"] > popular["ndcg_at_5"] + 0.03


def test_a_trial_learns_what_comes_next_and_does_not_depend_on_others(spec: TaskSpec, tiny_models: TinyModels) -> None:
    template = Template("last", "{{ history.split('\n')[:2] | join('; ') }} {{ label }}")
    names = Recommendation.load_target(spec, 0).labels
    words = Verbalizer("names", {name: (name,) for name in names})
    facts = StudyFacts(2, has_head=True, has_source=False)
    space = SearchSpace((template,), (words,), (), facts)
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32)
    objective = Objective(ObjectiveSpec(backbone, spec, None, space, "ndcg_at_5", evaluate_every=40))
    trained = Candidate(template.id, words.id, steps=80, learning_rate=3e-3)
    untrained = replace(trained, steps=0)
    first, zero = (objective.evaluate(candidate, seed=1) for candidate in (trained, untrained))
    again, other = (objective.evaluate(candidate, seed=1) for candidate in (untrained, trained))
    assert np.array_equal(first.logits, other.logits)
    assert np.array_equal(zero.logits, again.logits)
    popular = objective.target.measure(
        objective.target.constant(objective.target.validation), objective.target.validation
    )
    assert first.value > max(zero.value, popular["ndcg_at_5"]) + 0.1
    whole = objective.target.on(Split(whole=True))
    assert len(whole.train) == len(objective.target.train) + len(objective.target.validation)


def test_texts_untrained_are_a_control(spec: TaskSpec, tiny_models: TinyModels) -> None:
    template = Template("plain", "{{ history }} {{ label }}")
    names = Recommendation.load_target(spec, 0).labels
    words = (
        Verbalizer("names", {name: (name,) for name in names}),
        Verbalizer("loud", {name: (name.upper(),) for name in names}),
    )
    space = SearchSpace((template,), words, (), StudyFacts(2, has_head=True, has_source=False))
    backbone = BackboneSpec(tiny_models["encoder"], "encoder", max_tokens=32)
    objective = Objective(ObjectiveSpec(backbone, spec, None, space, "ndcg_at_5"))
    rows = objective.target.test
    assert FITTED["zero_shot"](objective, rows).shape == (len(rows), len(names))


@pytest.mark.parametrize("family", ["encoder", "recurrent"])
def test_items_that_are_embedded_together_are_as_embedded_one_by_one(
    spec: TaskSpec, tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    template = Template("plain", "{{ history }} {{ label }}")
    words = Verbalizer("names", {name: (name, name.upper()) for name in Recommendation.load_target(spec, 0).labels})
    space = SearchSpace((template,), (words,), (), StudyFacts(2, has_head=True, has_source=False))
    backbone = BackboneSpec(tiny_models[family], family, max_tokens=32)
    objective = Objective(ObjectiveSpec(backbone, spec, None, space, "ndcg_at_5"))
    candidate = Candidate(template.id, words.id, steps=0)
    alone = objective.score(candidate, {}, objective.target.test)
    monkeypatch.setattr("promptgraft.objectives.backbones.encoder.MANY_LABELS", 2)
    monkeypatch.setattr("promptgraft.objectives.backbones.encoder.TOGETHER", 5)
    assert objective.score(candidate, {}, objective.target.test) == pytest.approx(alone, abs=1e-4)


def test_what_takes_labels_for_frequent_is_refused() -> None:
    for name, value in {"head": "probe", "contrastive_steps": 20, "demonstrations.count": 2}.items():
        assert Recommendation.refuses(name, value) is not None
    for name, value in {"head": "linear", "contrastive_steps": 0, "frozen_layers": 3}.items():
        assert Recommendation.refuses(name, value) is None
    row = Row({"history": "Apple"}, 0)
    assert Recommendation.strata([row, row]) == [0, 0]
