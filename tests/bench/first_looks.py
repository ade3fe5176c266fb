"""Does the rank before training predict the rank after it?

python -m tests.bench.first_looks [--study demo|smollm2] [--out F.json]

Every pair of a wide pool of templates and label words is looked at untrained (`objectives.first_looks`), on the
training rows, and trained with fixed settings, then scored on rows that neither saw. Spearman's rank correlation says
how far the one foretells the other.
"""

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from promptgraft.objectives import first_looks
from promptgraft.objectives.first_looks import Pair, race
from promptgraft.objectives.objective import Objective
from promptgraft.objectives.quiet import quiet_transformers
from promptgraft.search.studies import load_study
from promptgraft.spaces import Candidate, SoftPrompt, Template, Verbalizer

STUDIES = Path(__file__).resolve().parents[2] / "studies"
# The label stands last, as causal LMs need it.
TEMPLATES = {
    "plain": "{{ text }} {{ label }}",
    "it_was": "{{ text }} It was {{ label }}",
    "all_in_all": "{{ text }} All in all, it was {{ label }}",
    "question": "{{ text }}\nIs this review positive or negative? Answer: {{ label }}",
    "sentiment": "{{ text }}\nSentiment: {{ label }}",
    "recommend": "{{ text }} Would I buy it again? My verdict: {{ label }}",
    "star": "{{ text }}\nStars and summary: {{ label }}",
    "noise": "{{ text }} The weather in March is {{ label }}",
    "review": "Review: {{ text }}\nSentiment: {{ label }}",
    "customer": "A customer wrote: {{ text }}\nThe customer is {{ label }}",
    "classify": "Classify the sentiment of the text.\nText: {{ text }}\nLabel: {{ label }}",
    "product": "Opinion on a product: {{ text }}\nIn one word: {{ label }}",
}
VERBALIZERS = {
    "polarity": {"negative": ("negative",), "positive": ("positive",)},
    "quality": {"negative": ("terrible",), "positive": ("great",)},
    "swapped": {"negative": ("good",), "positive": ("bad",)},
}


def settings(family: str) -> dict[str, Candidate]:
    """What is trained for each pair: cheap candidates without a source stage."""
    common: dict[str, Any] = {"steps": 32, "batch_size": 8, "learning_rate": 2e-4}
    if family == "encoder":
        return {
            "one layer": Candidate("", "", frozen_layers=5, **common),
            "all frozen": Candidate("", "", frozen_layers=6, **common),
        }
    return {
        "soft prompt": Candidate("", "", soft_prompt=SoftPrompt(8, "vocabulary", "suffix"), frozen_layers=30, **common)
    }


def measure(name: str, files: str) -> dict[str, Any]:
    """Look at every pair, train it, and compare."""
    study = load_study(STUDIES / f"{name}.yaml")
    templates = tuple(Template(key, text) for key, text in TEMPLATES.items())
    verbalizers = tuple(Verbalizer(key, words) for key, words in VERBALIZERS.items())
    space = replace(study.objective.space, templates=templates, verbalizers=verbalizers)
    target = replace(study.objective.target, validation_rows=128)
    objective = Objective(replace(study.objective, space=space, target=target, files=files))
    started = time.process_time()
    raced = race(objective, objective.target.train)
    race_s = time.process_time() - started
    level, first_looks.LEVEL = first_looks.LEVEL, 0.0
    started = time.process_time()
    looks = race(objective, objective.target.train)
    whole_s = time.process_time() - started
    first_looks.LEVEL = level
    kinds = settings(study.objective.backbone.family)
    trained: dict[str, dict[Pair, float]] = {kind: {} for kind in kinds}
    trained_s = 0.0
    for look in looks:
        for kind, candidate in kinds.items():
            started = time.process_time()
            *_, last = objective.run(replace(candidate, template=look.template, verbalizer=look.verbalizer), 0)
            trained_s += time.process_time() - started
            # The last evaluation, not the best: nothing was chosen on these rows.
            trained[kind][look.template, look.verbalizer] = last.metrics["accuracy"]
    names = {template.id: template.name for template in templates} | {v.id: v.name for v in verbalizers}
    found: dict[str, Any] = {"race_cpu_s": race_s, "no_race_cpu_s": whole_s, "trained_cpu_s": trained_s}
    found["rows_raced"], found["rows"] = sum(e.rows for e in raced), sum(e.rows for e in looks)
    found["winner_the_same"] = raced[0].template == looks[0].template and raced[0].verbalizer == looks[0].verbalizer
    for kind, scores in trained.items():
        found[kind] = _correlations(looks, scores)
    found["pairs"] = [
        asdict(e)
        | {"template": names[e.template], "verbalizer": names[e.verbalizer]}
        | {kind: scores[e.template, e.verbalizer] for kind, scores in trained.items()}
        for e in looks
    ]
    return found


def _correlations(looks: list[first_looks.FirstLook], scores: dict[Pair, float]) -> dict[str, float]:
    after = [scores[e.template, e.verbalizer] for e in looks]
    best = max(after)
    found = {}
    for measure_name in ("score", "accuracy"):
        before = [getattr(e, measure_name) for e in looks]
        found[measure_name] = float(spearmanr(before, after).statistic)
    found["accuracy behind the best of the first 3"] = best - max(after[:3])
    found["accuracy behind the best of the median"] = best - sorted(after)[len(after) // 2]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--study", choices=("demo", "smollm2"), action="append")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    content = {}
    for name in arguments.study or ("demo", "smollm2"):
        with tempfile.TemporaryDirectory() as files:
            content[name] = measure(name, files)
        for entry in content[name]["pairs"]:
            print("  ".join(f"{v:.3f}" if isinstance(v, float) else f"{v!s:10}" for v in entry.values()))
        print(json.dumps({k: v for k, v in content[name].items() if k != "pairs"}, indent=1), flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
