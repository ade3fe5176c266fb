"""Nothing of the held-out rows gets into a result, and a label that stands in the text is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from promptgraft.objectives.data import find_label_leaks
from promptgraft.objectives.data.label_leaks import MIN_ROWS
from promptgraft.objectives.growth.label_word_search import search_label_words
from promptgraft.objectives.measures import FITTED, race_untrained_prompts, rank_sources
from promptgraft.objectives.spec import ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, Demonstrations, SoftPrompt
from tests.support.commands import promptgraft
from tests.support.specs import TEMPLATES, VERBALIZERS


def table(path: Path, frame: pd.DataFrame) -> str:
    frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("family", ["encoder", "causal_lm"])
def test_no_statistic_is_fitted_on_test_rows(
    family: str, make_spec: Callable[..., ObjectiveSpec], tiny_models: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """With other test rows, other words and all labels the other way round, everything found is the same."""
    rows = pd.read_csv(data / "amazon.csv")[:300]
    words = [f"{word} {word}{number} {number}" for word in ("fine", "poor") for number in range(40)]
    tests = [
        pd.DataFrame({"text": words, "label": ["positive"] * 40 + ["negative"] * 40}),
        pd.DataFrame({"text": [f"x{text}x" for text in words], "label": ["negative"] * 40 + ["positive"] * 40}),
    ]

    def found(number: int) -> list[np.ndarray | object]:
        spec = make_spec(tiny_models[family], family)
        target = replace(
            spec.target,
            train=table(tmp_path / "rows.csv", rows),
            test=table(tmp_path / f"test-{number}.csv", tests[number]),
            test_rows=None,
        )
        objective = Objective(replace(spec, target=target))
        assert len(objective.target.test) == 80
        shown = replace(Candidate(TEMPLATES[0].id, VERBALIZERS[0].id), steps=2, source_steps=2, alpha=0.3, batch_size=4)
        shown = replace(shown, soft_prompt=SoftPrompt(2, "label_words"))
        candidates = [shown]
        if family == "causal_lm":
            others = Demonstrations(2, "nearest", "nearest_last")
            candidates += [replace(shown, calibration="batch"), replace(shown, demonstrations=others)]
        facts = objective.spec.space.facts
        results = [objective.evaluate(candidate.canonical(facts), 0).logits for candidate in candidates]
        validation = objective.target.validation
        applying = [fit for name, fit in FITTED.items() if not objective.target.refuses_baseline(name)]
        controls = [fit(objective, validation) for fit in applying]
        looks = race_untrained_prompts(objective, objective.target.train)
        sources = rank_sources(objective)
        texts = search_label_words(objective, TEMPLATES[0], objective.target.train, 1)[:3]
        return [*results, *controls, looks, sources, texts]

    for one, other in zip(found(0), found(1), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_a_label_that_stands_in_the_text_is_told(write_study: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data / "amazon.csv")
    given_away = frame.assign(text=[f"[{row.label}] {row.text}" for row in frame.itertuples()])
    target = {"train": table(tmp_path / "a.csv", given_away), "text": "text", "label": "label", "train_rows": 40}
    target |= {"validation_rows": 40, "test_rows": 40}
    path = write_study(target=target)
    found = load_study(path).cautions
    assert [caution.partition(" gives")[0] for caution in found] == [
        "target: the word 'negative'",
        "target: the word 'positive'",
    ]
    checked = promptgraft("validate", str(path))
    assert checked.returncode == 0
    assert all(f"caution: {caution}" in checked.stderr for caution in found)


def test_ratings_in_some_rows_are_enough_and_chance_is_not(
    write_study: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    """Stars in two of three good reviews; a word in as many of both kinds; a rare one; rows as they are."""
    assert load_study(write_study()).cautions == ()
    frame = pd.read_csv(data / "amazon.csv")
    rated = frame.assign(
        text=[
            row.text
            + (" 5/5" if row.label == "positive" and row.Index % 3 else "")
            + (" bought" if row.Index % 3 else "")
            + (" splendid" if row.label == "positive" and row.Index % 12 == 0 else "")
            for row in frame.itertuples()
        ]
    )
    target = {"train": table(tmp_path / "a.csv", rated), "text": "text", "label": "label"}
    task = load_study(write_study(target=target | {"train_rows": 80, "validation_rows": 80, "test_rows": 40})).target
    (found,) = find_label_leaks(task)
    assert (found.word, found.label) == ("5", "positive")
    assert found.right <= found.rows <= found.of
    few = replace(task, train=task.train[: MIN_ROWS // 2], validation=())
    assert find_label_leaks(few) == []
