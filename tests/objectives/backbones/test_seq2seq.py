"""Sequence-to-sequence models: T5 and BART in small, with a sentinel and without, against their plain forward pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from promptgraft.objectives.backbones import count_layers
from promptgraft.objectives.backbones.seq2seq import Seq2Seq
from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec, ObjectiveSpec
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, SoftPrompt, Template, Verbalizer
from tests.support.models import TINY_LAYERS, write_tiny_seq2seq
from tests.support.prompted_models import CPU, LABELS
from tests.support.specs import TEMPLATES, VERBALIZERS

ARCHITECTURES = [("t5", True), ("bart", False), ("bart", True)]
PROMPTS = [Template("last", "{{ text }} It was {{ label }}"), Template("middle", "A {{ label }} customer: {{ text }}.")]
ROWS = [Row({"text": text}, i % 2) for i, text in enumerate(("great", "the worst i have made", "<extra_id_0> fine"))]


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda kind: f"{kind[0]}{' with a sentinel' * kind[1]}")
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seq2Seq:
    architecture, sentinel = request.param
    path = write_tiny_seq2seq(tmp_path_factory.mktemp("seq2seq"), architecture, sentinel=sentinel)
    return Seq2Seq(BackboneSpec(path, "seq2seq", 64), CPU)


def build(
    backbone: Seq2Seq, template: Template = PROMPTS[1], verbalizer: Verbalizer = VERBALIZERS[1], **changes: Any
) -> PromptedModel:
    backbone.restore()
    candidate = Candidate(template.id, verbalizer.id, **changes)
    return PromptedModel(backbone, candidate, template, verbalizer, LABELS, seed=0)


@pytest.mark.parametrize("template", PROMPTS, ids=lambda template: template.name)
@pytest.mark.parametrize("verbalizer", VERBALIZERS, ids=lambda verbalizer: verbalizer.name)
def test_label_words_are_scored_as_the_whole_model_scores_them(
    backbone: Seq2Seq, template: Template, verbalizer: Verbalizer
) -> None:
    """Against the plain model's log-probabilities of each word's tokens, one row and one word at a time."""
    model = build(backbone, template, verbalizer)
    found = model.score(model.encode(ROWS), LABELS, 8)
    assert found.std() > 1e-3
    tokenizer = backbone.tokenizer
    sentinel = tokenizer.get_vocab().get("<extra_id_0>")
    plain = AutoModelForSeq2SeqLM.from_pretrained(backbone.spec.path).eval()
    for index, row in enumerate(ROWS):
        text = row.fields["text"]
        if sentinel is not None:
            text = text.replace("<extra_id_0>", "< extra _ id _ 0 >")
        mark = "" if sentinel is None else "<extra_id_0>"
        prompt = template.render({"text": text}).with_label(mark).strip()
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        assert ids[0].tolist().count(sentinel) == (sentinel is not None)
        for column, label in enumerate(LABELS):
            scores = []
            for word in verbalizer.words[label]:
                whole = tokenizer(f"{mark} {word}")["input_ids"][:-1]
                behind = len(tokenizer(mark)["input_ids"]) - 1
                with torch.no_grad():
                    start = [plain.config.decoder_start_token_id]
                    output = plain(input_ids=ids, decoder_input_ids=torch.tensor([start + whole])).logits[0]
                scores.append(sum(output.log_softmax(-1)[i, whole[i]] for i in range(behind, len(whole))))
            expected = torch.logsumexp(torch.stack([torch.as_tensor(score) for score in scores]), 0)
            expected -= torch.log(torch.tensor(float(len(scores))))
            assert found[index, column].item() == pytest.approx(expected.item(), abs=1e-4)


def test_layers_are_counted_up_from_the_encoder_s(backbone: Seq2Seq) -> None:
    assert count_layers(backbone.spec.path, "seq2seq") == backbone.n_layers == TINY_LAYERS
    sides = [name.removeprefix("model.").split(".")[0] for name in backbone.blocks]
    assert sides == ["encoder", "encoder", "decoder"]
    for frozen in range(TINY_LAYERS + 1):
        build(backbone, frozen_layers=frozen)
        trained = {name for name, weight in backbone.pretrained.items() if weight.requires_grad}
        encoder = {name for name in trained if name.removeprefix("model.").startswith("encoder.")}
        assert bool(encoder) == (frozen < 2), "with all of its layers, the encoder is frozen as a whole"
        assert any("embed" in name or "shared" in name for name in trained) == (frozen == 0)
        assert bool(trained) == (frozen < TINY_LAYERS)


@pytest.mark.parametrize("place", ["prefix", "suffix", "deep"])
def test_a_soft_prompt_changes_the_answer_and_learns(backbone: Seq2Seq, place: str) -> None:
    without = build(backbone)
    plain = without.score(without.encode(ROWS), LABELS, 8)
    model = build(backbone, soft_prompt=SoftPrompt(3, "vocabulary", place), frozen_layers=TINY_LAYERS)
    rows = model.encode(ROWS)
    alone, together = (model.score(rows, LABELS, rows_at_once) for rows_at_once in (1, 8))
    assert (alone - together).abs().max() < 1e-4
    assert (together - plain).abs().max() > 1e-4
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.1)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = model.nll(rows, LABELS)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.005


@pytest.mark.parametrize("adapter", [Adapter("lora", 2), Adapter("ia3")], ids=lambda adapter: adapter.method)
@pytest.mark.parametrize("frozen", range(TINY_LAYERS))
def test_only_adapters_in_the_upper_layers_change(backbone: Seq2Seq, adapter: Adapter, frozen: int) -> None:
    plain = build(backbone, frozen_layers=frozen)
    expected = plain.score(plain.encode(ROWS), LABELS, 8)
    model = build(backbone, frozen_layers=frozen, adapter=adapter)
    assert torch.equal(model.score(model.encode(ROWS), LABELS, 8), expected)
    layers = {backbone.layer_of(name.removeprefix("adapter.")) for name in model.adapters()}
    assert layers == set(range(frozen, TINY_LAYERS))
    assert set(model.trainable()) == set(model.adapters())


@pytest.mark.slow
def test_a_result_depends_on_candidate_and_seed_alone(
    backbone: Seq2Seq, make_spec: Callable[..., ObjectiveSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored encoder states are used where nothing is trained below them, whatever the source stage trained."""
    spec = make_spec(backbone.spec.path, "seq2seq")
    spec = replace(spec, source_training=replace(spec.source_training, frozen_layers=1))
    base = Candidate(TEMPLATES[0].id, VERBALIZERS[1].id, source_steps=2, steps=3, batch_size=4, learning_rate=1e-2)
    chosen = [replace(base, frozen_layers=k, source_steps=s) for k in range(TINY_LAYERS) for s in (0, 2)]
    chosen += [replace(base, frozen_layers=2, soft_prompt=SoftPrompt(2, "vocabulary", "suffix"), alpha=0.4)]
    worker = Objective(replace(spec, files=str(tmp_path)))
    stored = [worker.evaluate(candidate, 0) for candidate in chosen]
    again = [worker.evaluate(candidate, 0) for candidate in chosen[::-1]][::-1]
    alone = [Objective(spec).evaluate(candidate, 0) for candidate in chosen]
    assert build(backbone, frozen_layers=2).reuse() is not None
    assert build(backbone, frozen_layers=1).reuse() is None
    monkeypatch.setattr(PromptedModel, "reuse", lambda self: None)
    afresh = [Objective(spec).evaluate(candidate, 0) for candidate in chosen]
    for one, second, third, plain in zip(stored, again, alone, afresh, strict=True):
        assert np.abs(one.logits - second.logits).max() == np.abs(one.logits - third.logits).max() == 0.0
        assert np.abs(one.logits - plain.logits).max() <= 1e-4


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"autocast": "bfloat16"}])
def test_low_precision_is_close_to_float32(backbone: Seq2Seq, options: dict[str, str]) -> None:
    low = Seq2Seq(replace(backbone.spec, **options), CPU)  # type: ignore[arg-type]
    for frozen in (0, 2, TINY_LAYERS):
        full, other = (build(one, frozen_layers=frozen) for one in (backbone, low))
        first, second = (model.score(model.encode(ROWS), LABELS, 8) for model in (full, other))
        assert 0 < (first - second).abs().max() < 0.03 * first.abs().max()


def test_what_it_cannot_do_is_refused(backbone: Seq2Seq) -> None:
    with pytest.raises(InvalidInputError, match="'layer 1' is not supported by the backbone family 'seq2seq'"):
        build(backbone, soft_prompt=SoftPrompt(2, "vocabulary", "layer 1"))
    with pytest.raises(InvalidInputError, match="supported only by encoders"):
        build(backbone, head="linear")
