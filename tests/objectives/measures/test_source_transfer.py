"""What sources are ranked by, on planted ones whose order is known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from promptgraft.objectives.data import TASK_KINDS, TaskSpec
from promptgraft.objectives.measures import rank_sources
from promptgraft.objectives.measures.source_transfer import evidence_gain, standard_error
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec, SourceSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Constant, InvalidInputError, SearchSpace, StudyFacts, Template
from tests.support.kinds import COLUMNS, spec_of_kind, write_kinds
from tests.support.models import TINY_LAYERS, real_model

MakeSpec = Callable[..., ObjectiveSpec]


def table(path: Path, frame: pd.DataFrame) -> TaskSpec:
    frame.to_csv(path, index=False)
    return TaskSpec(str(path), {"text": "text"}, "label")


def with_sources(spec: ObjectiveSpec, **sources: TaskSpec) -> ObjectiveSpec:
    named = {name: SourceSpec(task, spec.source_training) for name, task in sources.items()}
    facts = replace(spec.space.facts, sources=tuple(named))
    return replace(spec, source=None, sources=named, space=replace(spec.space, facts=facts))


def test_the_evidence_is_that_of_its_definition() -> None:
    """The density of the labels under the model, maximised by brute force; without features likewise."""
    random = np.random.default_rng(0)
    labels = np.array([0, 1] * 15)
    found = np.column_stack([labels + random.normal(0, 1, 30), random.normal(0, 1, (30, 2))])
    centred, wanted = found - found.mean(0), labels - labels.mean()

    def evidence(precisions: np.ndarray, features: np.ndarray) -> float:
        signal, noise = np.exp(-precisions)
        covariance = signal * features @ features.T + noise * np.eye(len(wanted))
        return float(multivariate_normal.logpdf(wanted, np.zeros(len(wanted)), covariance))

    best = [
        -minimize(lambda p, f=features: -evidence(p, f), np.ones(2), method="Nelder-Mead", tol=1e-8).fun
        for features in (centred, np.zeros_like(centred))
    ]
    assert evidence_gain(found, labels[:, None]) == pytest.approx((best[0] - best[1]) / len(labels), abs=1e-4)


def test_features_that_tell_nothing_gain_nothing() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(2, size=64)[:, None]
    assert evidence_gain(np.ones((64, 1)), labels) == 0.0
    assert evidence_gain(random.normal(size=(64, 20)), labels) < 0.02
    few, many = labels + random.normal(0, 0.5, (64, 1)), random.normal(size=(64, 20))
    alone = evidence_gain(few, labels)
    assert alone > 0.2
    assert evidence_gain(few * 1e3 + 5, labels) == pytest.approx(alone), "whatever their scale"
    assert evidence_gain(np.hstack([few, many]), labels) < alone


def test_the_standard_error_is_that_of_other_rows() -> None:
    """About the spread over independent draws."""
    gains, errors = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        labels = random.integers(2, size=100)[:, None]
        found = labels + random.normal(0, 1, (100, 1))
        gains.append(evidence_gain(found, labels))
        errors.append(standard_error(found, labels))
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.3)


@pytest.mark.slow
def test_planted_sources_are_ranked_in_their_order(make_spec: MakeSpec, whole_data: Path, tmp_path: Path) -> None:
    """Rows of the target's own kind, then another kind of reviews, then these with labels that mean something else."""
    amazon = pd.read_csv(whole_data / "amazon.csv").sample(frac=1, random_state=0)
    movie = pd.read_csv(whole_data / "movie.csv").sample(1000, random_state=0)
    length = movie.text.str.len()
    sources = {
        "by_length": movie.assign(label=np.where(length > length.median(), "positive", "negative")),
        "shuffled": movie.assign(label=movie.label.sample(frac=1, random_state=1).to_numpy()),
        "movie": movie,
        "amazon": amazon[:1000],
    }
    tasks = {name: table(tmp_path / f"{name}.csv", frame) for name, frame in sources.items()}
    spec = make_spec(real_model("encoder"), "encoder", backbone=BackboneSpec(real_model("encoder"), "encoder", 128))
    target = replace(table(tmp_path / "target.csv", amazon[1000:]), train_rows=256, validation_rows=64, test_rows=200)
    found = {
        score.source: score for score in rank_sources(Objective(with_sources(replace(spec, target=target), **tasks)))
    }
    assert list(found)[:2] == ["amazon", "movie"]
    assert found["amazon"].prompt_similarity > max(
        found[name].prompt_similarity for name in sources if name != "amazon"
    )
    assert found["movie"].transfer > 2 * max(found["by_length"].transfer, found["shuffled"].transfer)


def test_sources_are_scored_on_every_family(spec: ObjectiveSpec, whole_data: Path, tmp_path: Path) -> None:
    """One with the target's labels, and one with three others; twice the same, and nothing is left behind."""
    movie = pd.read_csv(whole_data / "movie.csv")[:60]
    topics = table(tmp_path / "topics.csv", movie.assign(label=[f"topic {row % 3}" for row in range(60)]))
    words = spec.space.verbalizers[0].words | {f"topic {number}": (f"topic {number}",) for number in range(3)}
    verbalizers = (replace(spec.space.verbalizers[0], words=words),)
    named = with_sources(spec, movie=table(tmp_path / "movie.csv", movie), topics=topics)
    objective = Objective(replace(named, space=replace(named.space, verbalizers=verbalizers)))
    before = {name: weight.clone() for name, weight in objective.backbone.pretrained.items()}
    first = rank_sources(objective)
    assert first == rank_sources(objective)
    assert {score.source: (score.rows, len(score.labels)) for score in first} == {"movie": (60, 2), "topics": (60, 3)}
    assert first[0].transfer >= first[1].transfer >= 0
    assert all(abs(score.prompt_similarity) <= 1 and score.standard_error >= 0 for score in first)
    assert all(weight.equal(before[name]) for name, weight in objective.backbone.pretrained.items())


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_sources_of_other_kinds_are_ranked(kind: str, tmp_path: Path, tiny_models: dict[str, str]) -> None:
    """Rows of the target's own kind are ahead of the same with answers that mean nothing."""
    target = spec_of_kind(write_kinds(tmp_path / "target.csv"), kind)
    rows = pd.read_csv(write_kinds(tmp_path / "good.csv", seed=1))
    shuffled = rows.assign(**{COLUMNS[kind]: rows[COLUMNS[kind]].sample(frac=1, random_state=0).to_numpy()})
    shuffled.to_csv(tmp_path / "shuffled.csv", index=False)
    sources = {name: spec_of_kind(tmp_path / f"{name}.csv", kind, train_rows=100) for name in ("shuffled", "good")}
    found = rank_sources(Objective(with_sources(spec_of_head(target, tiny_models["encoder"]), **sources)))
    assert [score.source for score in found] == ["good", "shuffled"]
    assert found[0].transfer > found[1].transfer >= 0


def test_sources_whose_answers_are_spans_are_not_ranked(tmp_path: Path, tiny_models: dict[str, str]) -> None:
    target = spec_of_kind(write_kinds(tmp_path / "target.csv"), "token_classification")
    source = spec_of_kind(write_kinds(tmp_path / "source.csv", seed=1), "token_classification", train_rows=80)
    objective = Objective(with_sources(spec_of_head(target, tiny_models["encoder"]), one=source))
    with pytest.raises(InvalidInputError, match=r"compare them in a search, by `space\.source`"):
        rank_sources(objective)


def spec_of_head(target: TaskSpec, encoder: str) -> ObjectiveSpec:
    template = Template("plain", "{{ text }} {{ label }}")
    facts = StudyFacts(TINY_LAYERS, has_head=True, has_source=True)
    space = SearchSpace((template,), (), (Constant("head", "linear"),), facts)
    metric = TASK_KINDS[target.kind].default_metric
    return ObjectiveSpec(BackboneSpec(encoder, "encoder", 32), target, None, space, metric=metric)


def test_the_target_s_own_rows_do_not_speak_for_a_source(
    make_spec: MakeSpec, tiny_models: dict[str, str], tmp_path: Path
) -> None:
    spec = make_spec(tiny_models["encoder"], "encoder")
    task = Objective(spec).target
    rows = pd.DataFrame([{**row.fields, "label": task.labels[row.label]} for row in task.train])
    with pytest.raises(InvalidInputError, match="source 'same' has fewer than two labels beside the target's own"):
        rank_sources(Objective(with_sources(spec, same=table(tmp_path / "same.csv", rows))))
