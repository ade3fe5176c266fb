"""One contract, run over every registered backbone family, on small random models with real tokenizers."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from promptgraft.objectives.backbones import (
    BACKBONES,
    FAMILIES,
    Backbone,
)
from promptgraft.objectives.backbones.base import BackboneSpec
from promptgraft.objectives.backbones.causal_lm import CausalLM
from promptgraft.objectives.data import Row
from promptgraft.objectives.layers import DeepPrefix, LayerStack, PromptedStack
from promptgraft.objectives.layers.peft_prompts import PrefixPrompt
from promptgraft.objectives.layers.soft_prompts import InsertedPrompt
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.spaces import InvalidInputError, SoftPrompt
from tests.support.models import TEXT_FAMILIES, TINY_LAYERS, real_model
from tests.support.prompted_models import CPU, LABELS, PLACES, ROWS, build, is_refused
from tests.support.specs import VERBALIZERS

# Through a network, or as keys and values in every layer.
FORMS = [
    *(SoftPrompt(4, "label_words", "prefix", network) for network in ("mlp", "lstm")),
    *(SoftPrompt(4, "template", place, "mlp") for place in ("suffix", "layer 2")),
    SoftPrompt(4, "vocabulary", "suffix", "lstm"),
    *(SoftPrompt(4, place="deep", parametrization=network) for network in ("direct", "mlp")),
]


def name(soft: SoftPrompt) -> str:
    return f"{soft.length} {soft.place} {soft.parametrization}"


@pytest.fixture(scope="module", params=TEXT_FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_models: dict[str, str]) -> Backbone:
    return BACKBONES[request.param](BackboneSpec(tiny_models[request.param], request.param, 64), CPU)


def logits(model: PromptedModel, batch_size: int = 8) -> Tensor:
    return model.score(model.encode(ROWS), LABELS, batch_size)


@pytest.mark.parametrize("soft", [*PLACES, *FORMS], ids=name)
def test_logits_do_not_depend_on_padding_or_order(backbone: Backbone, soft: SoftPrompt) -> None:
    if is_refused(backbone.family, soft):
        reason = "no attention for keys and values" if soft.deep else "runs only as a whole"
        with pytest.raises(InvalidInputError, match=f"{reason}; use prefix"):
            build(backbone, soft_prompt=soft)
        return
    model = build(backbone, soft_prompt=soft)
    together, alone = logits(model), logits(model, batch_size=1)
    assert together.shape == (3, 2)
    assert (together - alone).abs().max() < 1e-4
    assert together.std() > 1e-3


@pytest.mark.parametrize("soft", [SoftPrompt(2, "vocabulary", "suffix"), FORMS[1], FORMS[2], *FORMS[-2:]], ids=name)
@pytest.mark.parametrize("frozen_layers", range(TINY_LAYERS + 1))
def test_frozen_tensors_are_bit_identical_after_training(
    backbone: Backbone, frozen_layers: int, soft: SoftPrompt
) -> None:
    if is_refused(backbone.family, soft):
        pytest.skip("see the test of padding")
    model = build(backbone, frozen_layers=frozen_layers, soft_prompt=soft)
    before = model.snapshot(list(model.weights()))
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.1)
    model.nll(model.encode(ROWS), LABELS).backward()
    optimizer.step()
    changed = {name for name, value in model.weights().items() if not torch.equal(value, before[name])}
    layer_of = {name: backbone.layer_of(name.removeprefix("backbone.")) for name in before}
    found = {layer for name, layer in layer_of.items() if name in changed}
    assert found - {None} == set(range(frozen_layers, TINY_LAYERS))
    trained = {name for name in before if name.startswith("soft_prompt.")}
    embeddings = {name for name in before if "embed" in name or "shared" in name} - trained
    assert embeddings
    if frozen_layers:
        assert not embeddings & changed
    else:
        assert embeddings & changed
    if frozen_layers == TINY_LAYERS:
        assert not {name for name in changed if name.startswith("backbone.")}
    assert trained
    assert trained <= changed
    if soft.deep and soft.parametrization == "direct":
        moved = model.weights()["soft_prompt.embedding.weight"] != before["soft_prompt.embedding.weight"]
        assert moved.all(), "keys and values of every layer, frozen ones included"


@pytest.mark.parametrize("soft", FORMS, ids=name)
def test_every_form_learns_from_the_seed_alone(backbone: Backbone, soft: SoftPrompt) -> None:
    """Frozen backbone, two runs with the global generator in other states: the same falling losses."""
    if is_refused(backbone.family, soft):
        pytest.skip("see the test of padding")
    losses: list[list[float]] = [[], []]
    for number, (found, steps) in enumerate(zip(losses, (8, 1), strict=True)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        model = build(backbone, soft_prompt=soft, frozen_layers=TINY_LAYERS)
        assert torch.equal(torch.get_rng_state(), before)
        optimizer = torch.optim.AdamW(model.trainable().values(), lr=0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model.nll(model.encode(ROWS), LABELS)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    assert losses[0][:1] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.002


def test_a_deep_prefix_equals_peft_s_on_the_whole_model(tiny_models: dict[str, str]) -> None:
    backbone = BACKBONES["causal_lm"](BackboneSpec(tiny_models["causal_lm"], "causal_lm", 64), CPU)
    model = build(backbone, soft_prompt=FORMS[-2], frozen_layers=TINY_LAYERS)
    batch = model.batch(model.encode(ROWS))
    last = batch.lengths - 1
    hidden: Tensor = model.stack(batch.input_ids, batch.lengths, batch.lengths, None, last[:, None])
    plain = AutoModelForCausalLM.from_pretrained(backbone.spec.path).eval()
    peft = get_peft_model(plain, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with torch.no_grad():
        peft.prompt_encoder["default"].embedding.weight.copy_(model.attached()["soft_prompt.embedding.weight"])
        rows = [torch.tensor([row.ids]) for row in model.encode(ROWS)]
        expected = torch.stack([peft(input_ids=ids).logits[0, -1] for ids in rows])
        found = backbone.model.get_output_embeddings()(hidden[torch.arange(len(rows)), last])
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("kind", "layers", "reason"), [("falcon", "h", "Sizes of tensors"), ("mamba", "layers", "no effect")]
)
def test_a_deep_prefix_that_finds_no_way_in_is_refused(kind: str, layers: str, reason: str) -> None:
    """Found by trying, whatever the list of architectures says."""
    size = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 100}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    stack = AutoModel.from_config(AutoConfig.for_model(kind, **size, **ids)).eval()
    with pytest.raises(InvalidInputError, match=f"doesn't go into a '{kind}' model.*{reason}"):
        DeepPrefix(LayerStack(stack, layers, causal=True), FORMS[-2], {"num_layers": 2}, seed=0)


@pytest.mark.parametrize("soft", [SoftPrompt(2, "vocabulary", "prefix"), *FORMS], ids=name)
def test_restore_puts_back_every_bit(backbone: Backbone, soft: SoftPrompt) -> None:
    if is_refused(backbone.family, soft):
        pytest.skip("see the test of padding")
    backbone.restore()  # From what the tests before have trained.
    before = {name: value.detach().clone() for name, value in backbone.model.named_parameters()}
    modules = [(name, type(module), module.forward) for name, module in backbone.model.named_modules()]
    model = build(backbone, soft_prompt=soft)
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.add_(1.0)
    model.nll(model.encode(ROWS), LABELS).backward()
    backbone.restore()
    for name, value in backbone.model.named_parameters():
        assert torch.equal(value, before[name])
        assert value.grad is None
        assert value.requires_grad
    assert [(name, type(module), module.forward) for name, module in backbone.model.named_modules()] == modules


def test_a_prefix_equals_peft_s_where_both_can(backbone: Backbone) -> None:
    """PEFT's prompt tuning beside our own module with the prompt inserted at position 0."""
    backbone.restore()
    batch = build(backbone).batch(build(backbone).encode(ROWS))
    vectors = backbone.embeddings.detach()[5:9].clone()
    peft = PrefixPrompt(backbone.layers, vectors)
    ours = InsertedPrompt(backbone.layers, vectors, None)
    start = torch.zeros_like(batch.lengths)
    outputs, gradients = [], []
    for stack in (peft, ours):
        hidden = stack(batch.input_ids, batch.lengths, start)
        seen = torch.arange(hidden.shape[1]) < (batch.lengths + 4)[:, None]
        outputs.append(hidden[seen])
        hidden[seen].square().sum().backward()
        gradients.append(stack.trained["weight"].grad)
    assert (outputs[0] - outputs[1]).abs().max() < 1e-5
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3, rtol=1e-4)


def test_a_prompt_at_layer_k_leaves_everything_below_untouched(backbone: Backbone) -> None:
    """What enters layer k for the text is the same with and without the prompt; above, it isn't."""
    if not FAMILIES[backbone.family].in_parts:
        pytest.skip("refused; see the test of padding")
    batch = build(backbone).batch(build(backbone).encode(ROWS))
    vectors = backbone.embeddings.detach()[5:9].clone() * 3
    causal = backbone.causal
    seen: dict[str, list[Tensor]] = {}

    def run(name: str, stack: PromptedStack) -> None:
        seen[name] = []
        handles = [
            layer.register_forward_pre_hook(lambda _, args: seen[name].append(args[0].detach().clone()))
            for layer in backbone.layers.layers
        ]
        stack(batch.input_ids, batch.lengths, batch.lengths)
        for handle in handles:
            handle.remove()

    run("without", PromptedStack(backbone.layers))
    run("with", InsertedPrompt(backbone.layers, vectors, 1))
    text = torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]
    for layer in (0, 1):
        with_prompt = seen["with"][layer][:, : text.shape[1]]
        assert (with_prompt[text] - seen["without"][layer][text]).abs().max() < 1e-5
    above = (seen["with"][2][:, : text.shape[1]][text] - seen["without"][2][text]).abs().max()
    # In a causal LM the text stands before the prompt and never sees it, at any layer.
    assert above < 1e-5 if causal else above > 1e-3


def test_gradient_checkpointing_changes_no_gradient(backbone: Backbone) -> None:
    again = type(backbone)(replace(backbone.spec, gradient_checkpointing=True), CPU)
    found = []
    for one in (backbone, again):
        model = build(one, soft_prompt=SoftPrompt(3, "vocabulary", "suffix"), frozen_layers=1)
        model.backbone.train()
        torch.manual_seed(0)
        model.nll(model.encode(ROWS), LABELS).backward()  # type: ignore[no-untyped-call]
        found.append({name: p.grad for name, p in model.trainable().items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-5, atol=1e-6), name


def test_hooks_are_gone_after_a_forward_pass(backbone: Backbone) -> None:
    if not FAMILIES[backbone.family].in_parts:
        pytest.skip("refused; see the test of padding")
    logits(build(backbone, soft_prompt=SoftPrompt(2, "vocabulary", "layer 1")))
    assert all(not layer._forward_pre_hooks for layer in backbone.layers.layers)


def test_long_fields_are_cut_and_the_template_is_kept(backbone: Backbone) -> None:
    model = build(backbone)
    (row,) = model.encode([Row({"text": "very " * 300 + "good"}, 1)])
    assert len(row.ids) == 64
    decoded = backbone.tokenizer.decode(row.ids).lower().replace(" ", "")
    assert "review:" in decoded
    assert "sentiment:" in decoded


def test_a_soft_prompt_that_does_not_fit_is_refused(tiny_models: dict[str, str]) -> None:
    small = BACKBONES["encoder"](BackboneSpec(tiny_models["encoder"], "encoder", 500), CPU)
    with pytest.raises(InvalidInputError, match="make 520 positions"):
        build(small, soft_prompt=SoftPrompt(20))


def test_what_is_known_of_families_is_of_those_that_there_are() -> None:
    assert set(FAMILIES) == set(BACKBONES)


def test_a_linear_head_needs_an_encoder(tiny_models: dict[str, str]) -> None:
    causal = BACKBONES["causal_lm"](BackboneSpec(tiny_models["causal_lm"], "causal_lm", 64), CPU)
    with pytest.raises(InvalidInputError, match="supported only by encoders"):
        build(causal, head="linear")


@pytest.mark.parametrize("make", ["tiny", "real"])
def test_label_words_of_several_tokens_are_scored_as_the_whole_model_scores_them(
    tiny_models: dict[str, str], make: str
) -> None:
    """Against the plain model's log-probabilities of each word's tokens, one row and one word at a time."""
    path = tiny_models["causal_lm"] if make == "tiny" else real_model("causal_lm")
    backbone = CausalLM(BackboneSpec(path, "causal_lm", 64), CPU)
    found = logits(build(backbone))
    for index, row in enumerate(ROWS):
        context = backbone.tokenizer(f"Review: {row.fields['text']}\nSentiment:")["input_ids"]
        for column, label in enumerate(LABELS):
            scores = []
            for word in VERBALIZERS[1].words[label]:
                ids = backbone.tokenizer.encode(" " + word, add_special_tokens=False)
                with torch.no_grad():
                    output = backbone.model(torch.tensor([context + ids])).logits[0].log_softmax(-1)
                scores.append(sum(output[len(context) + i - 1, token] for i, token in enumerate(ids)))
            expected = torch.logsumexp(torch.stack(scores), 0) - torch.log(torch.tensor(float(len(scores))))
            assert found[index, column].item() == pytest.approx(expected.item(), abs=1e-3)


def test_label_embeddings_start_from_the_label_words(make_spec: Callable[..., object]) -> None:
    """Zero-shot, the sentence encoder is better than chance on obvious rows."""
    backbone = BACKBONES["encoder"](BackboneSpec(real_model("encoder"), "encoder", 64), CPU)
    model = build(backbone)
    rows = [Row({"text": "awful, broken, a terrible waste of money"}, 0), Row({"text": "excellent, i love it"}, 1)]
    assert model.score(model.encode(rows), LABELS, 2).argmax(1).tolist() == [0, 1]
