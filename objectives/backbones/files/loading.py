"""Reading a model by transformers, and what can be wrong with it: random weights, a tokenizer of another model."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from promptgraft.objectives.backbones.files.model_files import model_folder
from promptgraft.objectives.runtime import without_progress_bars
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import InvalidInputError

# Outputs that are not read: weights for them may be missing.
_UNREAD = ("pooler.", "position_ids")
# The number of a layer in the name of a weight.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@contextmanager
def explained_errors(spec: BackboneSpec) -> Iterator[None]:
    """Turn what transformers raises over a model's files into an error that names the model.

    Args:
        spec: The model.

    Raises:
        InvalidInputError: If it can't be loaded.
    """
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # Of weights that are missing or left over we speak ourselves.
    try:
        yield
    except (InvalidInputError, MemoryError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise InvalidInputError(
            f"backbone.attn_implementation {spec.attn_implementation!r} or backbone.device_map {spec.device_map!r} "
            f"needs a package that is not installed, or {spec.path} does: {error}"
        ) from error
    except Exception as error:  # Over files and settings that it can't use, transformers raises errors of any kind.
        raise _explained(spec, error) from error
    finally:
        logging.set_verbosity(before)


def _explained(spec: BackboneSpec, error: Exception) -> InvalidInputError:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and ("attention" in text or "attn" in text):
        return InvalidInputError(f"backbone.attn_implementation: {error}")
    if "trust_remote_code" in text:
        return InvalidInputError(
            f"{spec.path} needs Python code of its own; read it, and if you trust it, set "
            "backbone.trust_remote_code: true"
        )
    if "Unrecognized configuration class" in text:
        return InvalidInputError(
            f"{spec.path}: the model in its config.json can't be a {spec.family}; choose another backbone.family"
        )
    if "size mismatch" in text or "ignore_mismatched_sizes" in text:
        return InvalidInputError(
            f"{spec.path}: tensors in its weights have other shapes than its config.json says; copy the model again"
        )
    return InvalidInputError(f"{spec.path} can't be loaded as {spec.family}: {type(error).__name__}: {text[:300]}")


def read_model(spec: BackboneSpec, auto_class: Any, *, shapes_only: bool) -> Any:
    """Load a model from safetensors only: unpickling a file can run any code in it.

    Args:
        spec: Which one, and how it computes.
        auto_class: The class of transformers that loads it.
        shapes_only: Whether headers are enough.

    Raises:
        InvalidInputError: If a file is missing or damaged, or some weights aren't in the checkpoint.
    """
    options = dict[str, Any]()
    if spec.attn_implementation is not None:
        options["attn_implementation"] = spec.attn_implementation
    if shapes_only or spec.device_map is not None:
        options["device_map"] = "meta" if shapes_only else spec.device_map
    # Where a device map is needed, the model may be too large for more than the asked-for type.
    dtype = torch.float32 if shapes_only or spec.device_map is None else getattr(torch, spec.dtype)
    with explained_errors(spec), without_progress_bars():
        model, found = auto_class.from_pretrained(
            model_folder(spec.path),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
            **options,
        )
    _check_weights(spec, model, found["missing_keys"], found["unexpected_keys"])
    return model


def _check_weights(spec: BackboneSpec, model: Any, missing: Collection[str], unexpected: Collection[str] = ()) -> None:
    """Refuse a checkpoint that isn't the configured model's.

    Without some of the weights that are read, these would be random, and others each time; with layers that
    config.json doesn't know of, the model would end too early.

    Args:
        spec: The model.
        model: As it was loaded.
        missing: Names of weights that the checkpoint doesn't have.
        unexpected: Names of weights that only the checkpoint has, such as those of another head.

    Raises:
        InvalidInputError: With the first ones, or with one that isn't finite.
    """
    prefix = f"{model.base_model_prefix}."
    known = {_NUMBER.sub("0", name).removeprefix(prefix) for name in model.state_dict()}
    numbered = filter(_NUMBER.search, sorted(unexpected))
    deeper = [name for name in numbered if _NUMBER.sub("0", name).removeprefix(prefix) in known]
    if deeper:
        raise InvalidInputError(
            f"{spec.path}: the checkpoint has layers that its config.json doesn't know of, with {len(deeper)} weights "
            f"({deeper[0]}, ...); put the number of layers in config.json right"
        )
    absent = sorted(name for name in missing if not any(part in name for part in _UNREAD))
    if absent:
        is_head = not any(name.startswith(prefix) for name in absent)
        remedy = "use the checkpoint with its head" if is_head else "copy the whole model"
        named = ", ".join([*absent[:2], *(["..."] if len(absent) > 2 else [])])
        raise InvalidInputError(
            f"{spec.path}: of the weights of a {spec.family}, {len(absent)} are not in the checkpoint and would be "
            f"random ({named}); {remedy}, or choose another backbone.family"
        )
    for name, parameter in model.named_parameters():
        if parameter.device.type != "meta" and not _is_finite(parameter):
            raise InvalidInputError(f"{spec.path}: the weight {name} holds values that are not finite")


def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite. Their sum is found sooner, and is finite only if they are; it may overflow."""
    return bool(tensor.detach().sum().isfinite()) or bool(tensor.isfinite().all())


def check_direction(spec: BackboneSpec, model: Any) -> None:
    """Refuse a model that reads in both directions as a causal LM: it would see the answer's place from behind.

    Args:
        spec: The model.
        model: As it was loaded.

    Raises:
        InvalidInputError: If it is one.
    """
    config = model.config
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise InvalidInputError(
            f"{spec.path} is a {config.model_type!r} model, which reads in both directions (its config.json doesn't "
            "say is_decoder: true), so it is no causal_lm; write family: masked_lm or encoder"
        )


def check_tokenizer(spec: BackboneSpec, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer that isn't the model's.

    Args:
        spec: The model.
        model: As it was loaded.
        tokenizer: The tokenizer in its folder.

    Raises:
        InvalidInputError: If it knows no words, or writes token ids for which the model has no embedding.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    added = tokenizer.added_tokens_decoder
    words = [number for number in tokenizer.get_vocab().values() if number not in added]
    if not words:
        raise InvalidInputError(
            f"{spec.path}: its tokenizer knows no words; copy tokenizer.json or the vocabulary again"
        )
    written = [*tokenizer("a")["input_ids"], *([] if tokenizer.mask_token_id is None else [tokenizer.mask_token_id])]
    # Added tokens that aren't special may be written for any text.
    largest = max(*words, *written, *(number for number, token in added.items() if not token.special))
    if largest >= rows:
        raise InvalidInputError(
            f"{spec.path}: its tokenizer has token ids up to {largest}, but the model has embeddings for {rows} "
            "tokens; they belong to different models, or the model wasn't enlarged for added tokens: "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def count_positions(model: Any) -> int | None:
    """Count the tokens that a model can read; None if there is no limit.

    Models after RoBERTa's pattern number positions from behind that of the padding token, whose own stays empty.
    """
    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    for name, module in model.named_modules():
        reserved = getattr(module, "padding_idx", None)
        if limit and name.endswith("position_embeddings") and reserved is not None:
            usable: int = module.num_embeddings - reserved - 1
            return min(limit, usable)
    return limit
