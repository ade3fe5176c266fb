"""Adapters in place of unfreezing: what PEFT injects into the layers that a candidate trains.

LoRA (Hu et al. 2021, arXiv:2106.09685) adds a product of two low-rank matrices to some of a layer's matrices; (IA)3
(Liu et al. 2022, arXiv:2205.05638) scales keys, values and the inner feed-forward activations. Which matrices these are
is PEFT's to say, by architecture.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from promptgraft.spaces import Adapter, InvalidInputError

_NAME = "default"
# Architectures that PEFT doesn't list, whose layers are called as those of one that it does.
_ALIKE = {"marian": "bart", "m2m_100": "bart"}
# Vision transformers, of which PEFT lists none. Their layers are called alike: queries and values get LoRA, as PEFT has
# it for BERT; keys, values and the second matrix of the feed-forward network get (IA)3.
_TOWERS = ("chinese_clip_vision_model", "clip_vision_model", "metaclip_2_vision_model", "siglip_vision_model")
_VISION = ("deit", "dinov2", "dinov2_with_registers", "vit", "vit_msn", *_TOWERS)
_VISION_LORA, _VISION_IA3, _VISION_FEEDFORWARD = ["q_proj", "v_proj"], ["k_proj", "v_proj", "fc2"], ["fc2"]


class Injected:
    """Adapters in a stack, until they are taken out again; the stack's own weights stay as they are.

    Args:
        stack: The pretrained stack; its modules are wrapped in place.
        adapter: What is injected.
        frozen: Names of its layers that get none.
        seed: Seed of what is initialised at random. LoRA starts without any effect, and so does (IA)3.

    Attributes:
        root: The stack.
        weights: Name -> trainable weight.

    Raises:
        InvalidInputError: If PEFT doesn't know where the architecture takes such adapters.
    """

    def __init__(self, stack: Any, adapter: Adapter, frozen: Sequence[str], seed: int) -> None:
        self.root = stack
        own = {id(parameter) for parameter in stack.parameters()}
        options: dict[str, Any] = {}
        if frozen:
            options["exclude_modules"] = rf"(.*\.)?({'|'.join(map(re.escape, frozen))})\..*"
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self._peft = _inject(stack, adapter, options)
        except ValueError as error:
            raise InvalidInputError(
                f"PEFT can't put adapter.method {adapter.method!r} into a {stack.config.model_type!r} model ({error}); "
                "use another method, or none"
            ) from error
        self.weights: dict[str, nn.Parameter] = {
            name.replace(f".{_NAME}", ""): parameter
            for name, parameter in stack.named_parameters()
            if id(parameter) not in own
        }

    @property
    def config(self) -> Any:
        """PEFT's configuration."""
        return self._peft.peft_config[_NAME]

    def merge(self) -> None:
        """Work the adapters into the stack's own weights, which then do the same without them."""
        self._peft.merge_and_unload()

    def remove(self) -> None:
        """Put the stack's own modules back."""
        self._peft.unload()


def _inject(stack: Any, adapter: Adapter, options: dict[str, Any]) -> Any:
    # Here, since most predictions need none of it.
    from peft import IA3Config, IA3Model, LoraConfig, LoraModel
    from peft.utils.constants import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    )

    alike = _ALIKE.get(stack.config.model_type)
    vision = stack.config.model_type in _VISION
    if adapter.method == "lora":
        if vision:
            options["target_modules"] = _VISION_LORA
        if alike:
            options["target_modules"] = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[alike]
        # Scaled by lora_alpha / r = 1, whatever the rank.
        return LoraModel(stack, LoraConfig(r=adapter.rank, lora_alpha=adapter.rank, **options), _NAME)
    if vision:
        options |= {"target_modules": _VISION_IA3, "feedforward_modules": _VISION_FEEDFORWARD}
    if alike:
        options["target_modules"] = TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[alike]
        options["feedforward_modules"] = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[alike]
    return IA3Model(stack, IA3Config(**options), _NAME)
