"""Every soft prompt and every kind of PEFT: train, save, load, predict; are the logits equal, and the frozen weights?

python -m tests.bench.variants [--families encoder,causal_lm] [--out F.json]

On real rows, with MiniLM, with SmolLM2 where it is there, and with a small random model of each family. A fresh process
loads all bundles of a model and predicts. Its logits are compared with those of the trial, which may have run what
stands above its frozen layers alone, and with the whole model's, given the trained weights in this process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from promptgraft.bundles import Predictor
from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.runtime import quiet_transformers
from promptgraft.objectives.spec import ObjectiveSpec, SourceTraining
from promptgraft.objectives.trial import Evaluation, Objective
from promptgraft.spaces import Adapter, Candidate, SoftPrompt
from tests.support.bundles import write_result
from tests.support.models import TEXT_FAMILIES, TinyModels
from tests.support.paths import STUDIES
from tests.support.specs import TEMPLATES, VERBALIZERS, small_spec

INITS = ("vocabulary", "label_words", "template", "source")
NETWORKS = ("direct", "mlp", "lstm")
LENGTH, STEPS, ROWS = 4, 3, 16
ROWS_FILE, LOGITS_FILE = "rows.json", "logits.npy"


@dataclass(frozen=True)
class Outcome:
    """What became of a variant.

    Attributes:
        model: Which model.
        variant: What was tried on it.
        trainable: Weights that were trained.
        from_trial: Largest |difference| between the logits of the bundle and those of the trial.
        relative: The same, as a share of the largest logit.
        from_model: Largest |difference| from those of the whole model, given the same weights.
        frozen: Tensors that were frozen.
        identical: Whether all of them are what they were, to the bit.
    """

    model: str
    variant: str
    trainable: int
    from_trial: float
    relative: float
    from_model: float
    frozen: int
    identical: bool


class _KeepsTheLast(Objective):
    """Keeps the state behind the last update, be it the best or not: the one before the first is no test."""

    def _is_better(self, new: Evaluation, old: Evaluation) -> bool:
        return True


def variants(family: str, n_layers: int, every_init: bool) -> Iterator[tuple[str, dict[str, object]]]:
    """List what a family can do, as a name and fields of a candidate; first values take turns unless all are tried."""
    can = FAMILIES[family]
    half = n_layers // 2
    places = ["prefix", "suffix", *([f"layer {half}"] if can.in_parts else [])]
    for number, (place, network) in enumerate(product(places, NETWORKS)):
        for init in INITS if every_init else [INITS[number % len(INITS)]]:
            soft = SoftPrompt(LENGTH, init, place, network)
            yield f"{place}, {network}, {init}", {"soft_prompt": soft, "frozen_layers": n_layers}
    if family != "recurrent":
        for network, init in product(NETWORKS[:2], ("vocabulary", "source")):
            soft = SoftPrompt(LENGTH, init, "deep", network)
            start = "random" if init == "vocabulary" else init
            yield f"deep, {network}, {start}", {"soft_prompt": soft, "frozen_layers": n_layers}
    for frozen in (0, half, n_layers - 1):
        yield f"layers from {frozen} on", {"frozen_layers": frozen}
        soft = SoftPrompt(LENGTH, "vocabulary", "suffix", "mlp")
        yield f"layers from {frozen} on; suffix, mlp", {"frozen_layers": frozen, "soft_prompt": soft}
    if can.adapters:
        for method, place in product(("lora", "ia3"), ("none", "prefix", "deep")):
            soft = SoftPrompt() if place == "none" else SoftPrompt(LENGTH, place=place)
            name = method if place == "none" else f"{method}; {place}, direct"
            yield name, {"adapter": Adapter(method, 4), "soft_prompt": soft, "frozen_layers": half}


def outcomes(model: str, spec: ObjectiveSpec, every_init: bool, folder: Path) -> Iterator[Outcome]:
    """Train and save all variants, let another process load them and predict, and compare."""
    n_layers = spec.space.facts.n_layers
    trained = []
    objective = _KeepsTheLast(spec)
    rows = objective.target.validation
    for number, (name, fields) in enumerate(variants(spec.backbone.family, n_layers, every_init)):
        candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, steps=STEPS, batch_size=4, learning_rate=1e-4)
        candidate = replace(candidate, **fields)  # type: ignore[arg-type]
        candidate = replace(candidate, source_steps=2 * (candidate.soft_prompt.init == "source"))
        result = objective.evaluate(candidate, 0)
        pristine, live = objective.backbone.weights.pristine, objective.backbone.pretrained
        frozen = [weight for weight in live if f"backbone.{weight}" not in result.delta]
        identical = all(torch.equal(live[weight], pristine[weight]) for weight in frozen)
        write_result(folder / str(number), spec, objective, candidate, result)
        whole = objective.score(candidate, result.delta, rows)
        trained.append((name, result, whole, len(frozen), identical))
        print(f"{model}: {name}", file=sys.stderr, flush=True)
    (folder / ROWS_FILE).write_text(json.dumps([dict(row.fields) for row in rows]))
    subprocess.run([sys.executable, "-m", "tests.bench.variants", "--predict", str(folder)], check=True)
    for number, (name, result, whole, n_frozen, identical) in enumerate(trained):
        found = np.load(folder / str(number) / LOGITS_FILE)
        apart = float(np.abs(found - result.logits).max())
        yield Outcome(
            model,
            name,
            result.trainable_parameters,
            apart,
            apart / float(np.abs(result.logits).max()),
            float(np.abs(found - whole).max()),
            n_frozen,
            identical,
        )


def predict(folder: Path) -> None:
    """Load every bundle of a folder, and write down its logits."""
    rows = json.loads((folder / ROWS_FILE).read_text())
    for bundle in folder.iterdir():
        if bundle.is_dir():
            np.save(bundle / LOGITS_FILE, Predictor(bundle).logits(rows))


def show(found: Sequence[Outcome]) -> None:
    """Print the table."""
    print(f"{'model':<18} {'variant':<34} {'trainable':>10} {'trial':>8} {'model':>8}  frozen: identical")
    for each in found:
        apart, same = f"{each.from_trial:8.1e} {each.from_model:8.1e}", "yes" if each.identical else "NO"
        print(f"{each.model:<18} {each.variant:<34} {each.trainable:>10} {apart}  {each.frozen}: {same}")
    relative, whole = (max(getattr(each, name) for each in found) for name in ("relative", "from_model"))
    print(f"largest: {relative:.1e} of the largest logit from the trial's, {whole:.1e} from the whole model's")
    print(f"frozen tensors identical in {sum(each.identical for each in found)} of {len(found)} variants")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--families", default=",".join(TEXT_FAMILIES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--predict", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    quiet_transformers()
    if arguments.predict:
        predict(arguments.predict)
        return
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)

        def make_folder(part: str) -> Path:
            (work / part).mkdir()
            return work / part

        tiny = TinyModels(make_folder)
        models = {f"{family}, small": (tiny[family], family) for family in TEXT_FAMILIES}
        for real, family in (("minilm", "encoder"), ("smollm2", "causal_lm")):
            if (STUDIES / "models" / real).exists():
                models[real] = (str(STUDIES / "models" / real), family)
        for model, (path, family) in models.items():
            if family in arguments.families.split(","):
                spec = small_spec(path, family, rows=ROWS, evaluate_every=STEPS)
                source = SourceTraining(4, 1e-4, frozen_layers=spec.space.facts.n_layers)
                folder = make_folder(f"bundles {model}")
                found += outcomes(model, replace(spec, source_training=source), model != "smollm2", folder)
    show(found)
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(each) for each in found], indent=1))


if __name__ == "__main__":
    main()
