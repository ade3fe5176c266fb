"""Does a prompt's adaptability foretell its score after training?

python -m tests.bench.adaptability [--out F.json]

Each template is measured untrained, on the training rows (`measures.adaptability`), trained with one small fixed
candidate on two seeds, and scored on 1,000 rows that neither saw. Spearman's rank correlation says how far content and
form foretell that score; its p-value is the share of random orders that correlate as strongly.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import permutation_test, spearmanr

from promptgraft.objectives.measures import PromptMeter
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.search.study import load_study
from promptgraft.spaces import Candidate, Template

SEEDS = (0, 1)
PERMUTATIONS = 9999
# Beside those of the demo: short and long, fitting and not, plain and odd.
TEMPLATES = {
    "it_was": "{{ text }} It was {{ label }}.",
    "question": "{{ text }}\nIs this review positive or negative? {{ label }}",
    "recommend": "{{ text }} Would I buy it again? My verdict: {{ label }}",
    "feel": "I feel {{ label }} about this product: {{ text }}",
    "stars": "Stars and summary: {{ label }}. {{ text }}",
    "classify": "Classify the sentiment of the following text as positive or negative.\n"
    "Text: {{ text }}\nLabel: {{ label }}",
    "rambling": "Before anything else is said, it should be kept in mind that somebody once wrote the words that "
    "follow, and that they meant every one of them: {{ text }} Having read all this, one would call it {{ label }}",
    "bombastic": "Perspicacious adjudication of mercantile merchandise: {{ text }} Verdict, forthwith: {{ label }}",
    "weather": "{{ text }} The weather in March is {{ label }}.",
    "cooking": "Stir the soup slowly. {{ text }} Add {{ label }} salt.",
    "gibberish": "xq zvb {{ text }} krrp {{ label }} wqx",
    "contract": "Pursuant to clause 14(b), {{ text }} the lessee shall be {{ label }}.",
}


@dataclass(frozen=True)
class Trained:
    """A template, what was measured before training, and its mean score after it."""

    template: str
    content: float
    form: float
    score: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with the score after training, and its two-sided permutation p-value."""

    rho: float
    p: float


def correlations(table: Sequence[Trained]) -> dict[str, Correlation]:
    """Correlate content and form with the score, over the rows of a table."""
    scores = [row.score for row in table]
    found = {}
    for name in ("content", "form"):
        measured = [getattr(row, name) for row in table]

        def rho(order: Sequence[float], measured: Sequence[float] = measured) -> float:
            return float(spearmanr(measured, order).statistic)

        test = permutation_test(
            (scores,), rho, permutation_type="pairings", n_resamples=PERMUTATIONS, rng=np.random.default_rng(0)
        )
        found[name] = Correlation(float(test.statistic), float(test.pvalue))
    return found


def measure(files: str, words: str) -> list[Trained]:
    """Measure and train every template with one verbalizer."""
    study = load_study(Path(__file__).parent / "demo.yaml")
    space = study.objective.space
    templates = (*space.templates, *(Template(name, text) for name, text in TEMPLATES.items()))
    verbalizer = next(entry.id for entry in space.verbalizers if entry.name == words)
    objective = Objective(replace(study.objective, space=replace(space, templates=templates), files=files))
    meter, held_out = PromptMeter(objective), objective.target.test[:1000]
    table = []
    for template in templates:
        candidate = Candidate(template.id, verbalizer, frozen_layers=4, steps=16, learning_rate=2e-4)
        before = meter.measure(candidate)
        assert before.content is not None, "there are label words"
        assert before.form is not None, "rows are texts"
        scores = []
        for seed in SEEDS:
            result = objective.evaluate(candidate, seed)
            logits = objective.score(candidate, result.delta, held_out)
            scores.append(objective.target.measure(logits, held_out)["accuracy"])
        table.append(Trained(template.name, before.content, before.form, float(np.mean(scores)), tuple(scores)))
        print(_line(table[-1]), flush=True)
    return table


def _line(row: Trained) -> str:
    seeds = "  ".join(f"{score:.3f}" for score in row.by_seed)
    return f"{row.template:12}  {row.content:.3f}  {row.form:.3f}  {row.score:.3f}  ({seeds})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--words", default="opinion", help="Verbalizer of the demo.")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    print("template      content  form  accuracy  (by seed)")
    with tempfile.TemporaryDirectory() as files:
        table = measure(files, arguments.words)
    found = correlations(table)
    for name, correlation in found.items():
        print(f"{name}: Spearman's rho {correlation.rho:+.2f}, p = {correlation.p:.4f} ({len(table)} templates)")
    if arguments.out:
        content = {"table": [vars(row) for row in table], "correlations": {k: vars(v) for k, v in found.items()}}
        arguments.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
