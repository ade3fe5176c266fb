"""Codes of languages go where the tokenizer wants them: first in what is written, or before the text."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

from promptgraft.objectives.backbones.seq2seq import Seq2Seq
from promptgraft.objectives.backbones.writing import language_tokens
from promptgraft.objectives.prompting import EncodedRow, PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError
from tests.support.answers import PLAIN, TEMPLATE
from tests.support.models import MODELS

PIECES = "the cat el gato = translate : a b c d e f g"
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "▁", *(f"▁{piece}" for piece in PIECES.split())]
LANGUAGES = ("eng_Latn", "spa_Latn")


def write_nllb(folder: Path) -> str:
    """Write a small random model of NLLB's architecture, with its kind of tokenizer."""
    tokenizer = NllbTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, merges=[])
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    torch.manual_seed(0)
    config = M2M100Config(vocab_size=len(tokenizer), **sizes, **heads, **ids)
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_nllb(tmp_path_factory.mktemp("nllb"))


def model_of(path: str, languages: tuple[str, str]) -> PromptedModel:
    backbone = Seq2Seq(BackboneSpec(path, "seq2seq", 32, languages=languages), torch.device("cpu"))
    return PromptedModel(backbone, replace(PLAIN, steps=0), TEMPLATE, None, ("answer",), 0)


def test_the_code_is_the_first_token_of_references_and_of_what_is_written(nllb: str) -> None:
    model = model_of(nllb, LANGUAGES)
    tokenizer = model.backbone.tokenizer
    code = tokenizer.convert_tokens_to_ids("spa_Latn")
    (prompt,) = model.encode_fields([{"text": "the cat"}])
    assert tokenizer.convert_ids_to_tokens(prompt.ids[0]) == "eng_Latn"
    answer = model.scorer.encode_answer("el gato")
    assert (answer[0], answer[-1]) == (code, tokenizer.eos_token_id)
    written: list[Any] = []
    generate = model.backbone.model.generate

    def watched(**options: Any) -> Any:
        written.append(generate(**options))
        return written[-1]

    model.backbone.model.generate = watched
    model.score([prompt], ("answer",), 1)
    assert written[0][0, 1] == code
    row = EncodedRow(prompt.ids, answer=answer)
    labels = torch.tensor([answer])
    reference = M2M100ForConditionalGeneration.from_pretrained(nllb)
    with torch.no_grad():
        expected = reference(input_ids=torch.tensor([prompt.ids]), labels=labels).loss
    outputs = model.score([row], ("answer",), 1)
    assert outputs[0, 0] / outputs[0, 1] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        (("eng_Latn", "spa_Latin"), "target.target_language 'spa_Latin' is no code of the tokenizer; did you mean"),
        (("english", "spa_Latn"), "target.source_language 'english' is no code of the tokenizer"),
    ],
)
def test_unknown_codes_are_refused(nllb: str, languages: tuple[str, str], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        model_of(nllb, languages)


def test_a_token_before_the_text_says_what_is_wanted() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "minilm")
    assert language_tokens(tokenizer, LANGUAGES) == ((), None)  # It has no codes.
    tokenizer.add_tokens([">>spa<<", ">>fra<<"])
    assert language_tokens(tokenizer, ("en", "spa")).read == (tokenizer.convert_tokens_to_ids(">>spa<<"),)
    with pytest.raises(InvalidInputError, match="'span' is no code of the tokenizer; did you mean 'spa'"):
        language_tokens(tokenizer, ("en", "span"))
