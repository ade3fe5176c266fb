"""What is counted before a trial is what the trial reports, for every family and kind of candidate."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.measures import Sizes
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, SearchSpace, SoftPrompt, StudyFacts
from tests.support.models import MASKED_LMS, TINY_LAYERS, load_masked_lm
from tests.support.paths import STUDIES
from tests.support.prompted_models import is_refused
from tests.support.specs import TEMPLATES, VERBALIZERS

PROMPTS = [SoftPrompt(), *(SoftPrompt(3, "label_words", place) for place in ("prefix", "suffix", "layer 1"))]
FORMS = [SoftPrompt(3, "label_words", place, network) for place in ("prefix", "suffix") for network in ("mlp", "lstm")]
FORMS += [SoftPrompt(3, place="deep", parametrization=network) for network in ("direct", "mlp")]
ADAPTERS = [Adapter(), Adapter("lora", 2), Adapter("lora", 5), Adapter("ia3")]
LABELS = ("negative", "positive")


def sizes_of(spec: ObjectiveSpec) -> Sizes:
    return Sizes(spec.backbone, spec.space, Objective(spec).labels)


def spread(family: str) -> list[Candidate]:
    """Every place with every adapter at every frozen depth, and every form; pools, heads and source stages in turn."""
    can = FAMILIES[family]
    heads = ("label_words", "linear") if can.has_head else ("label_words",)
    prompts = [soft for soft in PROMPTS if can.in_parts or soft.layer is None]
    forms = [(soft, Adapter(), 2) for soft in FORMS if not is_refused(family, soft)]
    everything = enumerate(
        [*product(prompts, ADAPTERS if can.adapters else ADAPTERS[:1], range(TINY_LAYERS + 1)), *forms]
    )
    return [
        Candidate(
            TEMPLATES[n % 2].id,
            VERBALIZERS[n // 2 % 2].id,
            head=heads[n // 3 % len(heads)],
            soft_prompt=soft,
            frozen_layers=frozen,
            adapter=adapter,
            source_steps=n % 5 == 0,
            alpha=0.5 * (n % 7 == 0),
            steps=n % 9 != 0,
            batch_size=2,
        )
        for n, (soft, adapter, frozen) in everything
    ]


def test_counted_is_reported(spec: ObjectiveSpec, tmp_path: Path) -> None:
    target = replace(spec.target, validation_rows=2)
    objective = Objective(replace(spec, target=target, files=str(tmp_path), memory_bytes=0))
    sizes = Sizes(spec.backbone, spec.space, objective.labels)
    for candidate in spread(spec.backbone.family):
        result = objective.evaluate(candidate, 0)
        assert sizes.trainable_parameters(candidate) == result.trainable_parameters, candidate
        assert sizes.prompt_tokens(candidate) == result.prompt_tokens, candidate


@pytest.mark.slow
def test_the_order_of_questions_changes_no_answer(spec: ObjectiveSpec) -> None:
    candidates = spread(spec.backbone.family)
    first, second = sizes_of(spec), sizes_of(spec)
    forwards = [(first.prompt_tokens(c), first.trainable_parameters(c)) for c in candidates]
    backwards = [(second.prompt_tokens(c), second.trainable_parameters(c)) for c in reversed(candidates)]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) > len(candidates) // 4


@pytest.mark.parametrize("architecture", MASKED_LMS)
def test_architectures_of_masked_lms(architecture: str, tmp_path: Path) -> None:
    backbone = load_masked_lm(architecture, tmp_path)
    space = SearchSpace(TEMPLATES, VERBALIZERS, (), StudyFacts(3, has_head=False, has_source=False))
    sizes = Sizes(backbone.spec, space, LABELS)
    counted = 0
    for soft, adapter, frozen in product([*PROMPTS, *FORMS], ADAPTERS, range(TINY_LAYERS + 1)):
        candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, soft_prompt=soft, frozen_layers=frozen)
        candidate = replace(candidate, adapter=adapter).canonical(space.facts)
        backbone.restore()
        try:
            model = PromptedModel(backbone, candidate, TEMPLATES[0], VERBALIZERS[1], LABELS, seed=0)
        except InvalidInputError as error:
            # PEFT doesn't know them all.
            with pytest.raises(InvalidInputError, match=re.escape(str(error))):
                sizes.trainable_parameters(candidate)
            continue
        assert sizes.trainable_parameters(candidate) == model.trainable_parameters
        assert sizes.prompt_tokens(candidate) == model.prompt_tokens()
        counted += 1
    assert counted >= len(PROMPTS) * (TINY_LAYERS + 1)


@pytest.mark.parametrize(("name", "family"), [("minilm", "encoder"), ("smollm2", "causal_lm")])
def test_real_models(name: str, family: str) -> None:
    """Against the checkpoint's own tensors: a pooler that nothing reads doesn't count."""
    from safetensors import safe_open

    spec = BackboneSpec(str(STUDIES / "models" / name), family)
    n_layers = {"minilm": 6, "smollm2": 30}[name]
    space = SearchSpace(TEMPLATES, VERBALIZERS, (), StudyFacts(n_layers, family == "encoder", False))
    sizes = Sizes(spec, space, LABELS)
    with safe_open(STUDIES / "models" / name / "model.safetensors", "pt") as file:
        numbers = {key: torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys()}  # noqa: SIM118
    in_layers = {
        k: sum(n for key, n in numbers.items() if any(f".{i}." in key for i in range(k, n_layers)))
        for k in (0, n_layers - 1)
    }
    width = {"minilm": 384, "smollm2": 576}[name]
    head = 2 * width if family == "encoder" else 0
    candidate = Candidate(TEMPLATES[0].id, VERBALIZERS[0].id, soft_prompt=SoftPrompt(4, "vocabulary", "prefix"))
    top = sizes.trainable_parameters(replace(candidate, frozen_layers=n_layers - 1))
    whole = sizes.trainable_parameters(candidate)
    own = in_layers[n_layers - 1] + head + 4 * width
    if family == "encoder":
        assert top == own
        stored = sum(n for key, n in numbers.items() if "pooler" not in key and "position_ids" not in key)
        assert whole == stored + head + 4 * width
    else:
        assert own <= top < own + 2 * width**2  # A final norm stands behind the layers.
        assert whole - top >= in_layers[0] - in_layers[n_layers - 1]
    assert sizes.trainable_parameters(replace(candidate, frozen_layers=n_layers)) == head + 4 * width
