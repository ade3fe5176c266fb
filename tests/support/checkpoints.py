"""Checkpoint folders of every family with every style of tokenizer, whole or damaged as people's folders are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.tokenizers import write_tokenizer

LAYERS = 2
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 90868376\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def write_checkpoint(family: str, style: str, folder: Path, *, headless: bool = False, **sizes: Any) -> Path:
    """Write a small random model; one that is saved without its head, if there is one, if `headless`."""
    import torch
    import transformers

    vocabulary = write_tokenizer(style, folder)
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 64}
    small |= {"vocab_size": vocabulary, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    small |= {"max_position_embeddings": 130, "tie_word_embeddings": False, **sizes}
    if family == "recurrent":
        from promptgraft.objectives.backbones.recurrent import RecurrentConfig, RecurrentModel

        config = RecurrentConfig(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=LAYERS)
        RecurrentModel(config).save_pretrained(folder)
        return folder
    if family == "seq2seq":
        small = {"d_model": 32, "num_layers": LAYERS, "num_decoder_layers": 1, "num_heads": 2, "d_kv": 16, "d_ff": 64}
        small |= {"vocab_size": vocabulary, "pad_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, **sizes}
        small["decoder_start_token_id"] = 1
    config_class, whole, bare = {
        "encoder": ("BertConfig", "BertModel", "BertModel"),
        "masked_lm": ("RobertaConfig", "RobertaForMaskedLM", "RobertaModel"),
        "causal_lm": ("LlamaConfig", "LlamaForCausalLM", "LlamaModel"),
        "seq2seq": ("T5Config", "T5ForConditionalGeneration", "T5Model"),
    }[family]
    config = getattr(transformers, config_class)(**small)
    getattr(transformers, bare if headless else whole)(config).save_pretrained(folder)
    return folder


def shard(folder: Path) -> None:
    """Split the weights into two files, as large models are: no damage at all."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    names = sorted(weights)
    files = {
        name: f"model-0000{1 + (place >= len(names) // 2)}-of-00002.safetensors" for place, name in enumerate(names)
    }
    for file in set(files.values()):
        own = {name: weights[name] for name in names if files[name] == file}
        save_file(own, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / WEIGHTS).unlink()


def _sharded(folder: Path, index: str | None) -> None:
    """Split the weights, and write another index; half of it if None."""
    shard(folder)
    whole = (folder / INDEX).read_text()
    (folder / INDEX).write_text(whole[: len(whole) // 2] if index is None else index)


def _lose_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def _lose_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return cut


def _pointer(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(POINTER) and None


def _leave_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": ""})
    )
    shutil.copy(folder / WEIGHTS, folder / "adapter_model.safetensors")


def _lose_layer(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / WEIGHTS)
    kept = {name: value for name, value in weights.items() if f".{LAYERS - 1}." not in name and "block.1" not in name}
    assert 0 < len(kept) < len(weights)
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


def _add_word(folder: Path) -> None:
    """Teach the tokenizer a word that the model has no embedding for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<brandname>"])
    tokenizer.save_pretrained(folder)


def _of_another(folder: Path) -> None:
    """Put the tokenizer of a model with more tokens in the folder."""
    content = json.loads((folder / "tokenizer.json").read_text())
    more = [f"word{number}" for number in range(500)]
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] |= {word: len(model["vocab"]) + place for place, word in enumerate(more)}
    else:
        model["vocab"] += [[word, -9.0] for word in more]
    (folder / "tokenizer.json").write_text(json.dumps(content))


# Name -> what happens to a folder, and what the message names.
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pointer for weights": (_pointer(WEIGHTS), rf"{WEIGHTS} is a Git LFS pointer"),
    "a missing shard": (_lose_shard, r"model-00002-of-00002.safetensors is missing"),
    "weights cut off": (_cut(WEIGHTS), rf"{WEIGHTS} is no whole safetensors file"),
    "no tokenizer": (_lose_tokenizer, "holds no tokenizer: expected tokenizer.json"),
    "a broken config": (_cut("config.json"), "config.json is no JSON"),
    "a leftover adapter": (_leave_adapter, "holds adapter_config.json"),
    "a missing layer": (_lose_layer, "not in the checkpoint and would be random"),
    "another's tokenizer": (_of_another, "belong to different models"),
}
# These are tried in fewer places.
MORE_DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "words added to the tokenizer alone": (_add_word, r"the model wasn't enlarged for added tokens"),
    "a pointer for the tokenizer": (_pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer"),
    "a pointer for the config": (_pointer("config.json"), "config.json is a Git LFS pointer"),
    "a tokenizer cut off": (_cut("tokenizer.json"), "tokenizer.json is no JSON"),
    "an empty tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("") and None,
        "tokenizer.json is empty",
    ),
    "an empty config": (lambda folder: (folder / "config.json").write_text("") and None, "config.json is empty"),
    "a list for the config": (
        lambda folder: (folder / "config.json").write_text("[]") and None,
        "config.json holds a list",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no weights in safetensors"),
    "pickled weights": (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin") and None,
        "pickled ones aren't loaded",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    "an index cut off": (
        lambda folder: _sharded(folder, None),
        f"{INDEX} is no JSON",
    ),
    "an index of nothing": (
        lambda folder: _sharded(folder, "{}"),
        f"{INDEX} has no weight_map",
    ),
}
