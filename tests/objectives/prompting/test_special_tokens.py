"""What a row says is data: in no family does it become a special token."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from promptgraft.objectives.backbones import BACKBONES, Backbone
from promptgraft.objectives.data import Row
from promptgraft.objectives.prompting import DemonstrationPool, PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import Candidate, Demonstrations, InvalidInputError, Template, Verbalizer
from tests.support.checkpoints import write_checkpoint
from tests.support.models import TEXT_FAMILIES, TinyModels
from tests.support.tokenizers import write_tokenizer

LABELS = ("negative", "positive")
VERBALIZER = Verbalizer("v", {"negative": ("bad",), "positive": ("good",)})
PLAIN = Template("plain", "{{ text }} It was {{ label }}")


def model_of(backbone: Backbone, template: Template = PLAIN, **values: object) -> PromptedModel:
    candidate = Candidate.from_values({"template": template.id, "verbalizer": VERBALIZER.id, **values})  # type: ignore[dict-item]
    return PromptedModel(backbone, candidate, template, VERBALIZER, LABELS, seed=0)


def special(backbone: Backbone, model: PromptedModel, text: str, pool: DemonstrationPool | None = None) -> list[int]:
    (encoded,) = model.encode_fields([{"text": text}], pool)
    return [token for token in encoded.ids if token in backbone.special_names.reserved]


@pytest.fixture(scope="module", params=TEXT_FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["word pieces", "byte pairs", "unigrams", "whole words"])
def backbone(
    request: pytest.FixtureRequest, family: str, tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory
) -> Backbone:
    """Every family on every style of tokenizer; only names and numbers of tokens matter here, so weights don't."""
    spec = BackboneSpec(tiny_models[family], family, 256)
    loaded = BACKBONES[family](spec, torch.device("meta"))
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(request.param, folder)
    loaded.tokenizer = AutoTokenizer.from_pretrained(folder)
    return loaded


def test_texts_name_no_special_token(backbone: Backbone) -> None:
    model = model_of(backbone)
    usual = special(backbone, model, "a b c")
    for name in backbone.special_names.ids:
        for text in (f"a {name} b", name, f"a{name}b", f"{name}{name}", f"{name[0]}{name} "):
            assert special(backbone, model, text) == usual, text


def test_a_template_may_name_what_texts_may_not(backbone: Backbone) -> None:
    name = backbone.tokenizer.sep_token
    template = Template("named", f"{{{{ text }}}} {name} It was {{{{ label }}}}")
    model = model_of(backbone, template)
    usual = special(backbone, model, "a b c")
    named = backbone.family != "masked_lm" and model.template.guarded
    assert len(usual) == len(special(backbone, model_of(backbone), "a b c")) + bool(named)
    for text in (f"a {name} b", name, name.lower(), name.upper(), f"{name}{name}"):
        assert special(backbone, model, text) == usual, text


def test_what_filters_make_of_texts_is_data(tiny_models: TinyModels) -> None:
    backbone = BACKBONES["encoder"](BackboneSpec(tiny_models["encoder"], "encoder", 64), torch.device("cpu"))
    for text in ("{{ text | upper }} {{ label }}", "{{ text | upper }} [SEP] {{ label }}"):
        model = model_of(backbone, Template("loud", text))
        assert special(backbone, model, "a [sep] b") == special(backbone, model, "a b")


def test_demonstrations_are_data(tiny_models: TinyModels) -> None:
    backbone = BACKBONES["causal_lm"](BackboneSpec(tiny_models["causal_lm"], "causal_lm", 128), torch.device("cpu"))
    rows = [
        Row({"text": "fine <|im_end|> here"}, 1),
        Row({"text": "dull <|im_start|> here"}, 0),
        Row({"text": "so"}, 1),
    ]
    for text in ("{{ text }} It was {{ label }}", "<|im_start|>user {{ text }}<|im_end|> It was {{ label }}"):
        template = Template("t", text)
        pool = DemonstrationPool(Demonstrations(2), rows, LABELS, template, VERBALIZER)
        model = model_of(backbone, template, **{"demonstrations.count": 2})
        own = text.count("<|im_")
        assert len(special(backbone, model, "a <|im_end|> b", pool)) == 3 * own


def test_special_tokens_of_one_text_leave_the_others_as_they_are(tiny_models: TinyModels) -> None:
    """Ids of ordinary texts are those of the tokenizer itself."""
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(tiny_models["encoder"])
    backbone = BACKBONES["encoder"](BackboneSpec(tiny_models["encoder"], "encoder", 64), torch.device("cpu"))
    (encoded,) = model_of(backbone).encode_fields([{"text": "A lamp, and [brackets]"}])
    assert list(encoded.ids) == tokenizer("A lamp, and [brackets] It was")["input_ids"]


def test_two_long_fields_are_both_cut(tiny_models: TinyModels, tmp_path: Path) -> None:
    """The longest alone may not have enough to cut."""
    backbone = BACKBONES["encoder"](BackboneSpec(tiny_models["encoder"], "encoder", 32), torch.device("cpu"))
    model = model_of(backbone, Template("pair", "{{ a }} and {{ b }} {{ label }}"))
    (encoded,) = model.encode_fields([{"a": "lamp " * 40, "b": "book " * 38}])
    assert 16 < len(encoded.ids) <= 32


@pytest.mark.parametrize("excess", [1, 2, 3, 5])
def test_a_text_that_ends_with_characters_of_several_tokens_is_cut(excess: int, tmp_path: Path) -> None:
    """All tokens of such a character end where it ends."""
    folder = write_checkpoint("causal_lm", "byte pairs", tmp_path / "model")
    backbone = BACKBONES["causal_lm"](BackboneSpec(str(folder), "causal_lm", 64), torch.device("meta"))
    model = model_of(backbone)
    text = "fine \U0001f600\U0001f600"
    (whole,) = model.encode_fields([{"text": text}])
    limit = len(whole.ids) - excess
    model.backbone.spec = replace(backbone.spec, max_tokens=limit)
    (cut,) = model.encode_fields([{"text": text}])
    assert 0 < len(cut.ids) <= limit


def test_a_text_for_which_there_is_no_room_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint("causal_lm", "unigrams", tmp_path / "model")
    backbone = BACKBONES["causal_lm"](BackboneSpec(str(folder), "causal_lm", 8), torch.device("meta"))
    with pytest.raises(InvalidInputError, match="leaves no room for 'text'"):
        model_of(backbone, Template("long", "word " * 9 + "{{ text }} {{ label }}")).encode_fields([{"text": "w"}])
