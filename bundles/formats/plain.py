"""A causal LM's bundle as a plain transformers model: what servers load that know no soft prompts, such as vLLM.

The soft prompt becomes rows of the vocabulary, each under a token of its own, and the template becomes text with these
tokens in it. Adapters are merged. `classify.py` beside it scores the labels, in a few lines of stock transformers.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn

from promptgraft.bundles import Predictor
from promptgraft.bundles.formats.script_parts import PROMPT_FILE, SCRIPT_FILE, TEXTS
from promptgraft.objectives.backbones import CausalScorer
from promptgraft.spaces import InvalidInputError

_LABEL = re.compile(r"\{\{-?\s*label\s*-?\}\}")

_SCRIPT = (
    '''"""Classify texts with transformers alone: python classify.py "a text" "another text"."""

import json
import re
import sys
import unicodedata
from pathlib import Path

import jinja2.sandbox
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FOLDER = Path(__file__).resolve().parent
PROMPT = json.loads((FOLDER / "prompt.json").read_text(encoding="utf-8"))
AS_TEXT = {"add_special_tokens": False, "split_special_tokens": True}


def load():
    """Load model and tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(FOLDER)


'''
    + TEXTS
    + '''

def encode(tokenizer, fields):
    """Render a row's prompt, behind which comes the label, and tokenize it; a text that is too long loses its end."""
    template = jinja2.sandbox.SandboxedEnvironment(keep_trailing_newline=True).from_string(PROMPT["text"])
    fields = {name: as_data(text) for name, text in fields.items()}
    options = AS_TEXT | {"split_special_tokens": not PROMPT["special"]}
    while True:
        ids = tokenizer(template.render(fields), **options)["input_ids"]
        ids = PROMPT["begin"] + ids + PROMPT["end"]
        excess = len(ids) - PROMPT["max_tokens"]
        if excess <= 0:
            return ids
        ends = {
            name: [end for _, end in tokenizer(text, return_offsets_mapping=True, **AS_TEXT)["offset_mapping"]]
            for name, text in fields.items()
        }
        fields = shortened(fields, ends, excess)


@torch.inference_mode()
def score(model, tokenizer, fields):
    """Return each label's score, the largest of which is the answer; a softmax makes them probabilities."""
    ids = encode(tokenizer, fields)
    scores = []
    for label in PROMPT["labels"]:
        words = []
        for word in PROMPT["words"][label]:
            logits = model(torch.tensor([ids + word])).logits[0, len(ids) - 1 : -1, : PROMPT["vocabulary"]]
            chances = torch.log_softmax(logits, dim=-1)
            words.append(chances[range(len(word)), word].sum())
        scores.append(torch.logsumexp(torch.stack(words), 0) - torch.tensor(float(len(words))).log())
    return torch.stack(scores) - torch.tensor(PROMPT["calibration"])


if __name__ == "__main__":
    MODEL, TOKENIZER = load()
    for text in sys.argv[1:]:
        found = score(MODEL, TOKENIZER, {PROMPT["fields"][0]: text}).softmax(0)
        sys.stdout.write(f"{PROMPT['labels'][int(found.argmax())]} {float(found.max()):.4f} {text}\\n")
'''
)


def write_plain_model(predictor: Predictor, folder: Path) -> None:
    """Write a loaded bundle as a model that stock transformers loads; the predictor can't be used any more.

    Args:
        predictor: The loaded bundle.
        folder: Where to; an empty or new folder.

    Raises:
        InvalidInputError: If the bundle is more than a plain model can hold; says why.
    """
    model, manifest = predictor.only_model("a plain model").model, predictor.manifest
    soft, backbone = model.candidate.soft_prompt, model.backbone
    if backbone.family != "causal_lm":
        raise InvalidInputError(
            f"a plain model can be made of a causal LM only; this one is of family {backbone.family!r}"
        )
    if soft.length and soft.place not in ("prefix", "suffix"):
        raise InvalidInputError(
            f"a plain model can't hold a soft prompt at {soft.place!r}: tokens enter with the embeddings, so it must "
            "be a prefix or a suffix"
        )
    if model.candidate.demonstrations.choice == "nearest" and model.candidate.demonstrations.count:
        raise InvalidInputError("a plain model can't choose demonstrations for each row, as 'nearest' does")
    assert isinstance(model.scorer, CausalScorer)
    vectors = model.stack.vectors().detach().cpu()
    backbone.merge_adapters()
    whole, tokenizer = backbone.model, backbone.tokenizer
    vocabulary = whole.get_output_embeddings().weight.shape[0]
    tokens = [f"<soft_{number}>" for number in range(len(vectors))]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    _add_rows(whole, tokenizer.convert_tokens_to_ids(tokens), vectors)
    text, broken_up = _text(predictor), model.scorer.tokens.broken_up
    begin, end = model.scorer.tokens.begin, model.scorer.tokens.end
    end = end[:-1] if end and end[-1] == tokenizer.eos_token_id else end
    soft_ids = list(tokenizer.convert_tokens_to_ids(tokens))
    last = soft.place == "suffix"
    soft_text, start = "".join(tokens), str(tokenizer.decode(begin))
    template = start + text + soft_text if last else soft_text + start + text
    content = {
        "template": template,
        "text": text,
        "begin": begin if last else [*soft_ids, *begin],
        "end": [*end, *soft_ids] if last else end,
        "special": [*broken_up, *tokens] if broken_up else [],
        "fields": list(manifest.columns),
        "labels": list(manifest.labels),
        "words": {label: [list(word) for word in model.scorer.words[label]] for label in manifest.labels},
        "calibration": [0.0] * len(manifest.labels) if model.bias is None else model.bias.tolist(),
        "vocabulary": vocabulary,
        "max_tokens": manifest.backbone.max_tokens + soft.length,
        "temperature": manifest.temperature,
        "bundle": manifest.digest,
    }
    if len(manifest.columns) == 1:
        # A chat of one message, the text: what a server's chat endpoint makes the same prompt of.
        (field,) = manifest.columns
        tokenizer.chat_template = _chat_template(template, field, [*backbone.special_names.ids, *tokens])
    whole.config.use_cache = True
    whole.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / PROMPT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / SCRIPT_FILE).write_text(_SCRIPT, encoding="utf-8")


def _text(predictor: Predictor) -> str:
    """Return the template up to the label, demonstrations included, in jinja2's syntax."""
    loaded, manifest = predictor.members[0], predictor.manifest
    model = loaded.model
    found = _LABEL.split(manifest.template.text)
    if len(found) != 2:
        raise InvalidInputError(
            "a plain model can't hold a template that does more with its label than print it: "
            f"{manifest.template.text!r}"
        )
    shown = ""
    if model.candidate.demonstrations.count:
        fields = dict.fromkeys(model.template.fields, "x")
        plain = model.template.render(fields).before
        shown = "{% raw %}" + model.render(fields, loaded.pool).before.removesuffix(plain) + "{% endraw %}"
    return shown + found[0].rstrip(" ")


def _chat_template(template: str, field: str, names: Sequence[str]) -> str:
    """Return the template for a chat of one message, the text, in which no name stands for a special token."""
    said = re.sub(rf"\{{\{{(-?)\s*{re.escape(field)}\b", r"{{\1 said.text", template)
    return (
        "{%- set said = namespace(text=messages[0]['content']) -%}"
        f"{{%- for name in {json.dumps(list(names))} -%}}"
        "{%- set said.text = said.text | replace(name, name[0] ~ ' ' ~ name[1:]) -%}"
        "{%- endfor %}{{ '' }}" + said
    )


def _add_rows(model: Any, ids: list[int], vectors: Tensor) -> None:
    """Give the vocabulary rows for a soft prompt, which are read but never likely to be written."""
    if not ids:
        return
    rows, known = max(ids) + 1, model.get_input_embeddings().weight.shape[0]
    output: nn.Linear = model.get_output_embeddings()
    weight = output.weight.detach().clone()
    if rows > known:
        model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[ids] = vectors.to(model.get_input_embeddings().weight)
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        output = nn.Linear(weight.shape[1], max(rows, known), bias=False, dtype=weight.dtype, device=weight.device)
        model.set_output_embeddings(output)
    with torch.no_grad():
        written = model.get_output_embeddings().weight
        written[: len(weight)] = weight
        written[ids] = 0.0
    model.generation_config.suppress_tokens = list(ids)
