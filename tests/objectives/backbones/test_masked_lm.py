"""Masked language models of several architectures, against their plain forward pass."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from promptgraft.objectives.backbones import Backbone
from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt, Template, Verbalizer
from tests.support.models import MASKED_LMS, load_masked_lm
from tests.support.specs import VERBALIZERS

TEMPLATES = [
    Template("last", "{{ text }} It was {{ label }}"),
    Template("first", "{{ label }} is what I say: {{ text }}"),
    Template("middle", "A {{ label }} customer wrote: {{ text }}"),
]
LABELS = ("negative", "positive")
ROWS = [Row({"text": text}, 0) for text in ("great camera", "the worst purchase i have ever made", "[MASK] [MASK]")]


@pytest.fixture(scope="module", params=MASKED_LMS)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_masked_lm(request.param, tmp_path_factory.mktemp(request.param))


def build(backbone: Backbone, template: Template, verbalizer: Verbalizer, **changes: Any) -> PromptedModel:
    backbone.restore()
    candidate = Candidate(template.id, verbalizer.id, **changes)
    return PromptedModel(backbone, candidate, template, verbalizer, LABELS, seed=0)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
@pytest.mark.parametrize("verbalizer", VERBALIZERS, ids=lambda verbalizer: verbalizer.name)
def test_label_words_are_scored_as_the_whole_model_scores_them(
    backbone: Backbone, template: Template, verbalizer: Verbalizer
) -> None:
    """Against the plain model's log-probabilities at the masks, one row at a time."""
    model = build(backbone, template, verbalizer)
    found = model.score(model.encode(ROWS), LABELS, 8)
    words = backbone.words_behind(template, verbalizer, LABELS)
    masks = max(len(word) for entry in words.values() for word in entry)
    tokenizer = backbone.tokenizer
    plain = AutoModelForMaskedLM.from_pretrained(backbone.spec.path).eval()
    for index, row in enumerate(ROWS):
        prompt = template.render({"text": row.fields["text"].replace("[MASK]", "[ MASK ]")})
        ids = tokenizer(prompt.before + " ".join(["[MASK]"] * masks) + prompt.after, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = plain(input_ids=ids).logits[0].log_softmax(-1)
        places = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        assert len(places) == masks
        for column, label in enumerate(LABELS):
            each = [sum(logits[places[i], token] for i, token in enumerate(word)) for word in words[label]]
            expected = torch.logsumexp(torch.stack([torch.as_tensor(one) for one in each]), 0)
            expected -= torch.log(torch.tensor(float(len(each))))
            assert found[index, column].item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("place", ["prefix", "suffix", "layer 1", "deep"])
def test_a_soft_prompt_changes_the_answer_and_learns(backbone: Backbone, place: str) -> None:
    kind = backbone.model.config.model_type
    if place == "deep" and kind in ("distilbert", "modernbert"):
        with pytest.raises(InvalidInputError, match=f"is not supported by '{kind}' models"):
            build(backbone, TEMPLATES[2], VERBALIZERS[0], soft_prompt=SoftPrompt(3, place=place))
        return
    without = build(backbone, TEMPLATES[2], VERBALIZERS[0])
    plain = without.score(without.encode(ROWS), LABELS, 8)
    model = build(
        backbone, TEMPLATES[2], VERBALIZERS[0], soft_prompt=SoftPrompt(3, "vocabulary", place), frozen_layers=3
    )
    rows = model.encode(ROWS)
    assert (model.score(rows, LABELS, 8) - plain).abs().max() > 1e-4
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.1)
    losses: list[Tensor] = []
    for _ in range(8):
        optimizer.zero_grad()
        losses.append(model.nll(rows, LABELS))
        losses[-1].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0] - 0.005


def test_a_linear_head_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InvalidInputError, match="supported only by encoders"):
        build(backbone, TEMPLATES[0], VERBALIZERS[0], head="linear")


def test_layers_that_do_not_see_everything_refuse_late_prompts(tmp_path: Path) -> None:
    backbone = load_masked_lm("modernbert", tmp_path, window=128)
    build(backbone, TEMPLATES[0], VERBALIZERS[0], soft_prompt=SoftPrompt(3, "vocabulary", "suffix"))
    with pytest.raises(InvalidInputError, match="all 67 positions"):
        build(backbone, TEMPLATES[0], VERBALIZERS[0], soft_prompt=SoftPrompt(3, "vocabulary", "layer 1"))
