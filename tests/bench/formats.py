"""Bundles in every format against the trial's own logits: 200 real rows, MiniLM and SmolLM2, each prompt place.

python -m tests.bench.formats [--models encoder,causal_lm] [--rows 200] [--out F.json]

What is compared is each label's log-probability; the difference is given as a share of the largest logit. `bundle` is
`Predictor` itself.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from promptgraft.bundles import Predictor, read_examples
from promptgraft.bundles.formats import convert
from promptgraft.bundles.formats.conversion import FORMATS
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, SoftPrompt
from tests.support.bundles import export
from tests.support.models import real_model
from tests.support.specs import TEMPLATES, VERBALIZERS, small_spec

LAYERS = {"encoder": 6, "causal_lm": 30}


def candidates(family: str) -> Iterator[tuple[str, Candidate]]:
    """Yield a candidate for each place of a soft prompt, one without, and one with LoRA."""
    layers = LAYERS[family]
    base = Candidate(
        TEMPLATES[0].id, VERBALIZERS[0].id, steps=4, batch_size=8, learning_rate=1e-3, frozen_layers=layers
    )
    yield "no soft prompt", replace(base, frozen_layers=layers - 1)
    for place in ("prefix", "suffix", f"layer {layers - 2}", "deep"):
        yield place, replace(base, soft_prompt=SoftPrompt(4, place=place))
    yield "lora", replace(base, adapter=Adapter("lora", 4), frozen_layers=layers - 2)


def measure(family: str, rows: int, folder: Path) -> list[dict[str, object]]:
    """Train each candidate, export it, write it in every format that can hold it, and compare."""
    spec = small_spec(real_model(family), family, rows=rows)
    objective = Objective(spec)
    found: list[dict[str, object]] = []
    for name, candidate in candidates(family):
        bundle = folder / f"{family}-{name}"
        expected = export(bundle, spec, objective, candidate).astype(np.float64)
        examples = read_examples(bundle)
        assert examples is not None
        logits = Predictor(bundle).logits(examples.rows)
        scale = np.abs(expected).max()
        differences: dict[str, float | str] = {"bundle": float(np.abs(logits - expected).max() / scale)}
        for to, way in FORMATS.items():
            out = folder / f"{family}-{name}-{to}"
            try:
                convert(bundle, out, to, rows=examples.rows[:2])
            except InvalidInputError as error:
                differences[to] = f"refused: {error}"
                continue
            chances = way.read(out, Predictor(bundle), examples.rows)
            differences[to] = float(np.abs(chances - log_softmax(expected, axis=1)).max() / scale)
        found.append({"model": family, "candidate": name, "rows": len(expected), **differences})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="encoder,causal_lm")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    quiet_transformers()
    with tempfile.TemporaryDirectory() as folder:
        found = [row for family in options.models.split(",") for row in measure(family, options.rows, Path(folder))]
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
