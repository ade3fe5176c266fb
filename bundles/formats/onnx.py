"""An encoder's bundle as one ONNX graph, token ids in, logits out: soft prompt, head and calibration are part of it.

Of models that read images the graph takes pixels; see `onnx_images`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.bundles import Predictor
from promptgraft.bundles.formats.onnx_images import write_graph, write_image_model
from promptgraft.bundles.formats.script_parts import PROMPT_FILE, SCRIPT_FILE, TEXTS
from promptgraft.objectives.backbones import FAMILIES, Batch, EncoderScorer
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.spaces import InvalidInputError

# Two rows of different lengths, so that nothing of them is taken for a constant.
_TRACED = ("a text", "another text, which is longer")

_SCRIPT = (
    '''"""Classify texts with onnxruntime and tokenizers alone: python classify.py "a text" "another text"."""

import json
import re
import sys
import unicodedata
from pathlib import Path

import jinja2.sandbox
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

FOLDER = Path(__file__).resolve().parent
PROMPT = json.loads((FOLDER / "prompt.json").read_text(encoding="utf-8"))


def load():
    """Load model and tokenizer."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = not PROMPT["special"]
    return onnxruntime.InferenceSession(FOLDER / "model.onnx"), tokenizer


'''
    + TEXTS
    + '''

def encode(tokenizer, fields):
    """Render a row's prompt and tokenize it; a text that is too long loses its end."""
    template = jinja2.sandbox.SandboxedEnvironment(keep_trailing_newline=True).from_string(PROMPT["template"])
    fields = {name: as_data(text) for name, text in fields.items()}
    while True:
        ids = tokenizer.encode(template.render(fields, label="").strip()).ids
        excess = len(ids) - PROMPT["max_tokens"]
        if excess <= 0:
            return ids
        ends = {
            name: [end for _, end in tokenizer.encode(text, add_special_tokens=False).offsets]
            for name, text in fields.items()
        }
        fields = shortened(fields, ends, excess)


def score(model, tokenizer, fields):
    """Return each label's score, the largest of which is the answer; a softmax makes them probabilities."""
    ids = np.array([encode(tokenizer, fields)], dtype=np.int64)
    (logits,) = model.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    return logits[0]


if __name__ == "__main__":
    MODEL, TOKENIZER = load()
    for text in sys.argv[1:]:
        found = np.exp(score(MODEL, TOKENIZER, {PROMPT["fields"][0]: text}))
        sys.stdout.write(f"{PROMPT['labels'][int(found.argmax())]} {found.max() / found.sum():.4f} {text}\\n")
'''
)


class _Graph(nn.Module):
    """Token ids, padded on the right, and their mask, both of shape (rows, tokens), to logits."""

    def __init__(self, model: PromptedModel, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.labels = model, labels

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(1)
        logits = self.model.logits(Batch(input_ids, lengths), self.labels)
        return logits if self.model.bias is None else logits - self.model.bias


def write_onnx_model(predictor: Predictor, folder: Path) -> None:
    """Write a loaded bundle as an ONNX model, with what makes its token ids; the predictor can't be used any more.

    Args:
        predictor: The loaded bundle.
        folder: Where to.

    Raises:
        InvalidInputError: If its backbone is no encoder, or its images are prepared as the script can't.
    """
    model, manifest = predictor.only_model("an ONNX model").model, predictor.manifest
    if FAMILIES[manifest.backbone.family].reads == "images":
        write_image_model(model, manifest, folder)
        return
    if manifest.backbone.family != "encoder":
        raise InvalidInputError(
            f"ONNX models are made of encoders only, not of family {manifest.backbone.family!r}; a causal LM can be "
            "written as a plain model"
        )
    assert isinstance(model.scorer, EncoderScorer)
    batch = model.batch(model.encode_fields([dict.fromkeys(manifest.columns, text) for text in _TRACED]))
    mask = (torch.arange(batch.input_ids.shape[1]) < batch.lengths[:, None]).long()
    sizes: dict[str, Any] = {name: {0: "rows", 1: "tokens"} for name in ("input_ids", "attention_mask")}
    write_graph(model, _Graph(model, manifest.labels), (batch.input_ids, mask), sizes, folder)
    model.backbone.tokenizer.save_pretrained(folder)
    content = {
        "template": manifest.template.text,
        "fields": list(manifest.columns),
        "labels": list(manifest.labels),
        "special": list(model.scorer.tokens.broken_up),
        "max_tokens": manifest.backbone.max_tokens,
        "temperature": manifest.temperature,
        "bundle": manifest.digest,
    }
    (folder / PROMPT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / SCRIPT_FILE).write_text(_SCRIPT, encoding="utf-8")
