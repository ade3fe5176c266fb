"""Whether a model's folder holds what is read from it, by names, configurations and headers: no weights are loaded."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from promptgraft.objectives.backbones.families import FAMILIES, Family
from promptgraft.spaces import InvalidInputError

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_POINTER = b"version https://git-lfs"
# Beginnings and ends of the names of files that hold a vocabulary.
_VOCABULARY = ("tokenizer.json", "vocab", "spiece", "sentencepiece", "bpe", "tekken", "merges")
_VOCABULARY_ENDS = (".model", ".spm", ".tiktoken", ".bpe")
# Tokenizers whose vocabulary is bytes, for which there is no file.
_WITHOUT_FILE = ("ByT5Tokenizer", "PerceiverTokenizer")
ADAPTER_FILE = "adapter_config.json"
# Kinds of model that PEFT names -> its class that loads both, the model and its adapter.
_ADAPTED = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
# The image processor alone, and together with a tokenizer as transformers 5 writes both.
PROCESSOR_FILE, PROCESSORS_FILE = "preprocessor_config.json", "processor_config.json"
_READ_JSON = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *(PROCESSOR_FILE, PROCESSORS_FILE, INDEX_FILE),
)


def check_checkpoint(folder: Path, family: Family, *, custom_code: bool) -> None:
    """Refuse a folder in which a file is missing, is cut off, is no more than a pointer, or would change the weights.

    Args:
        folder: The model's folder.
        family: Its family: models that read images need an image processor, and those that read texts a tokenizer.
        custom_code: Whether Python code beside the weights may read them, and other files than transformers does.

    Raises:
        InvalidInputError: With the file.
    """
    for name in _READ_JSON:
        if (folder / name).is_file():
            read_object(folder / name)
    refuse_adapter(folder)
    if not (folder / "config.json").is_file():
        raise InvalidInputError(f"{folder} holds no config.json; expected a folder that transformers can load")
    _check_readers(folder, family, custom_code=custom_code)
    for file in folder.iterdir():
        if _has_vocabulary(file.name):
            _check_bytes(file)
    for file, expected in _weight_files(folder).items():
        found = _tensor_names(file)
        absent = sorted(set(expected) - found)
        if absent:
            raise InvalidInputError(
                f"{file} lacks {len(absent)} of the tensors that {INDEX_FILE} names, such as {absent[0]}; copy the "
                "model again"
            )


def _check_readers(folder: Path, family: Family, *, custom_code: bool) -> None:
    """Refuse a folder without the image processor or the tokenizer that its family needs."""
    if family.reads == "images" and not any((folder / name).is_file() for name in (PROCESSOR_FILE, PROCESSORS_FILE)):
        raise InvalidInputError(
            f"{folder} holds no {PROCESSOR_FILE}, which says how images are resized and scaled for the model; copy it, "
            "too, or write it with save_pretrained of the model's image processor"
        )
    if family.reads == "text" and (folder / PROCESSOR_FILE).is_file() and not _has_tokenizer(folder):
        served = {name: FAMILIES[name].model_types for name in FAMILIES if FAMILIES[name].reads == "images"}
        kinds = "; ".join(f"family {name}: {', '.join(own)}" for name, own in served.items())
        raise InvalidInputError(
            f"{folder} is a {read_object(folder / 'config.json').get('model_type')!r} model, which reads images "
            f"({PROCESSOR_FILE}), and none of those that are served ({kinds}); use one of these"
        )
    if family.has_words and not (custom_code or _has_tokenizer(folder)):
        raise InvalidInputError(
            f"{folder} holds no tokenizer: expected tokenizer.json, or the vocabulary that comes with the model; copy "
            "the model's other files, too"
        )


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with an adapter of PEFT's: what a search starts from, and hashes, are whole weights.

    Raises:
        InvalidInputError: If it holds one; the message is a command that merges it into its model.
    """
    if not (folder / ADAPTER_FILE).is_file():
        return
    content = read_object(folder / ADAPTER_FILE)
    kind = _ADAPTED.get(str(content.get("task_type")), _ADAPTED["FEATURE_EXTRACTION"])
    base = content.get("base_model_name_or_path") or "BASE"
    raise InvalidInputError(
        f"{folder} holds {ADAPTER_FILE}, an adapter of another model's weights; merge both, and name the new folder: "
        f'python -c "import peft, transformers; '
        f"peft.{kind}.from_pretrained({str(folder)!r}).merge_and_unload().save_pretrained({f'{folder}-merged'!r}); "
        f'transformers.AutoTokenizer.from_pretrained({base!r}).save_pretrained({f"{folder}-merged"!r})"'
    )


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InvalidInputError: If it is none; says so of a pointer.
    """
    content = _check_bytes(file)
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{file} is no JSON: {error}; copy it again") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{file} holds a {type(found).__name__}, expected a JSON object; copy it again")
    return found


def _check_bytes(file: Path) -> bytes:
    if not file.is_file():
        return b""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{file} can't be read: {error.strerror or error}") from error
    if not content.strip():
        raise InvalidInputError(f"{file} is empty; copy it again")
    _refuse_pointer(file, content[: len(_POINTER)])
    return content


def _refuse_pointer(file: Path, begin: bytes) -> None:
    if begin == _POINTER:
        raise InvalidInputError(
            f"{file} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull (in the model's repository)"
        )


def _has_tokenizer(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    if config.is_file() and read_object(config).get("tokenizer_class") in _WITHOUT_FILE:
        return True
    return any(_has_vocabulary(file.name) for file in folder.iterdir())


def _has_vocabulary(name: str) -> bool:
    return name.startswith(_VOCABULARY) or name.endswith(_VOCABULARY_ENDS)


def _weight_files(folder: Path) -> Mapping[Path, Iterable[str]]:
    """Return the files that transformers reads weights from, and the tensors that an index expects in each."""
    if (folder / WEIGHTS_FILE).exists():
        return {folder / WEIGHTS_FILE: ()}
    if not (folder / INDEX_FILE).is_file():
        raise InvalidInputError(
            f"{folder} has no weights in safetensors ({WEIGHTS_FILE} or {INDEX_FILE}); pickled ones aren't loaded, "
            "since they can run code. Convert them: AutoModel.from_pretrained(...).save_pretrained(...) in a place "
            "that you trust"
        )
    weight_map = read_object(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InvalidInputError(f"{folder / INDEX_FILE} has no weight_map from tensors to files; copy it again")
    files: dict[Path, list[str]] = {}
    for tensor, name in weight_map.items():
        if Path(name).name != name:
            raise InvalidInputError(f"{folder / INDEX_FILE} names {name!r}, which is no file beside it")
        files.setdefault(folder / name, []).append(tensor)
    for file in files:
        if not file.is_file():
            raise InvalidInputError(f"{file} is missing, though {INDEX_FILE} names it; copy the model again")
    return files


def _tensor_names(file: Path) -> set[str]:
    """Read the names in a safetensors file's header, which the library checks against the file's size."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            _refuse_pointer(file, stream.read(len(_POINTER)))
        with safe_open(file, "numpy") as opened:
            return set(opened.keys())
    except OSError as error:
        raise InvalidInputError(f"{file} can't be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InvalidInputError(f"{file} is no whole safetensors file ({error}); copy it again") from error
