"""A causal LM's bundle as a PEFT adapter, where all that it trained is what one PEFT adapter can hold."""

from copy import copy
from pathlib import Path
from typing import Any

from peft import PromptTuningConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from promptgraft.bundles import Predictor
from promptgraft.objectives.layers import DeepPrefix
from promptgraft.objectives.prompting import CALIBRATION_BIAS
from promptgraft.spaces import InvalidInputError

# What PEFT's `get_peft_model` names the model that it wraps.
_WRAPPED = "base_model.model."


def write_peft_adapter(predictor: Predictor, folder: Path) -> None:
    """Write what a loaded bundle trained, for PEFT's `PeftModel.from_pretrained` over an `AutoModelForCausalLM`.

    A prompt that a network made (P-tuning, projected prefixes) is written as the vectors that it made. Template and
    label words are not PEFT's: the bundle's manifest has them.

    Args:
        predictor: The loaded bundle.
        folder: Where to.

    Raises:
        InvalidInputError: If the bundle is more than one adapter can hold; says why.
    """
    model = predictor.only_model("an adapter of PEFT").model
    soft, adapter = model.candidate.soft_prompt, model.candidate.adapter
    _check(predictor)
    if soft.length:
        config, weights = _prompt(model.stack)
    else:
        injected = model.backbone.injected
        assert injected is not None, f"adapter.method is {adapter.method!r}"
        inside = next(name for name, module in model.backbone.model.named_modules() if module is injected.root)
        prefix = f"{_WRAPPED}{inside}." if inside else _WRAPPED
        config = copy(injected.config)
        weights = {prefix + name: parameter for name, parameter in injected.weights.items()}
    config.task_type, config.inference_mode = "CAUSAL_LM", True
    config.base_model_name_or_path = predictor.manifest.backbone.path
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def _prompt(stack: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return PEFT's configuration of a prompt without a network, and its vectors."""
    if isinstance(stack, DeepPrefix):
        config = copy(stack.config)
        config.prefix_projection = False
        return config, {"prompt_embeddings": stack.keys_and_values()}
    vectors, old = stack.vectors(), stack.config
    sizes = {name: getattr(old, name) for name in ("num_layers", "num_attention_heads", "token_dim")}
    config = PromptTuningConfig(num_virtual_tokens=len(vectors), num_transformer_submodules=1, **sizes)
    return config, {"prompt_embeddings": vectors}


def _check(predictor: Predictor) -> None:
    """Refuse what PEFT can't express."""
    loaded, family = predictor.members[0], predictor.manifest.backbone.family
    model = loaded.model
    soft, adapter = model.candidate.soft_prompt, model.candidate.adapter
    reason = None
    if family != "causal_lm":
        reason = f"its backbone is of family {family!r}, read in a way that PEFT's models don't know"
    elif soft.length and soft.place not in ("prefix", "deep"):
        reason = f"PEFT has no soft prompt at {soft.place!r}"
    elif soft.length and adapter.method != "none":
        reason = f"it has a soft prompt and {adapter.method}, and an adapter is one of them"
    elif not soft.length and adapter.method == "none":
        reason = "it has neither a soft prompt nor an adapter"
    else:
        changed = [name for name in sorted(loaded.changed) if name.startswith("backbone.")]
        if changed:
            reason = f"it changed {len(changed)} weights of the backbone itself, such as {changed[0]}"
        elif CALIBRATION_BIAS in loaded.changed:
            reason = f"calibration {model.candidate.calibration!r} takes something off its scores"
    if reason:
        raise InvalidInputError(f"PEFT can't express this bundle: {reason}")
