"""Low precision on request: in which type a backbone's weights are held, and in which one it computes.

Frozen matrices are held in the type that is asked for, so that they take less memory and need no conversion in each
forward pass. What is trained is held in float32: an update is often smaller than the distance between two bfloat16
numbers, and would be lost. Norms and biases stay in float32, too, and so does the sum of the residual stream.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from promptgraft.spaces import InvalidInputError

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]


class PretrainedWeights:
    """The weights that a model was loaded with, and the only one who says in which type they are held.

    Args:
        model: The pretrained model; its matrices take on the type at once.
        dtype: Type of frozen matrices.
        device: Where the model will compute.

    Attributes:
        pristine: Name -> value as it was loaded.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.model = model
        self.dtype = dtype
        absent = [name for name, parameter in model.named_parameters() if parameter.is_meta]
        if absent and device.type != "meta":
            raise InvalidInputError(
                f"backbone.device_map leaves {len(absent)} weights ({absent[0]}, ...) on no device, where they can't "
                "be trained; use a smaller model, dtype: bfloat16, or more devices"
            )
        low = dtype != torch.float32
        # Memory of the device is what low precision saves; the copy that is exact stays out of it.
        place = torch.device("cpu") if low else device
        self.pristine = {name: value.detach().to(place, copy=True) for name, value in model.named_parameters()}
        if low:
            self.restore()

    def restore(self) -> None:
        """Put back every weight, matrices in the type of frozen ones, and forget gradients."""
        for name, parameter in self.model.named_parameters():
            self._set(parameter, self.pristine[name], self.dtype if parameter.ndim > 1 else torch.float32)
            parameter.requires_grad_(True)

    def widen_trainable(self) -> None:
        """Hold what requires gradients in float32, from the loaded values; called before anything is trained."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                self._set(parameter, self.pristine[name], torch.float32)

    def loaded(self, parameter: Tensor) -> Tensor:
        """Return the value that a parameter was loaded with."""
        return next(self.pristine[name] for name, own in self.model.named_parameters() if own is parameter)

    @staticmethod
    def _set(parameter: nn.Parameter, value: Tensor, dtype: torch.dtype) -> None:
        parameter.grad = None
        if parameter.dtype == dtype:
            with torch.no_grad():
                parameter.copy_(value)
        else:
            parameter.data = value.to(parameter.device, dtype, copy=True)


def compute_in(dtype: torch.dtype, device: torch.device, model: Any, stack: nn.Module) -> None:
    """Let a pretrained model compute in a type, wherever it is called from; what it hands out is float32.

    What is attached to it (heads, label embeddings) is outside, and computes in float32.

    Args:
        dtype: The type; float32 leaves the model as it is.
        device: Where it computes; last hidden states are put there.
        model: The model, which may have an output matrix.
        stack: The part of it that makes hidden states.
    """
    several = len({parameter.device for parameter in model.parameters()}) > 1
    if dtype != torch.float32:
        # The residual stream starts from here; in bfloat16 each layer would round what all before it have added up.
        shared = model.get_input_embeddings().weight
        for module in model.modules():  # An encoder and a decoder may each look up in the one matrix.
            if isinstance(module, nn.Embedding) and module.weight is shared:
                module.register_forward_hook(lambda module, args, output: output.float())  # noqa: ARG005
        output = model.get_output_embeddings()
        if output is not None:
            output.forward = _autocast(output.forward, dtype, device)
            model.forward = _autocast(model.forward, dtype, device)
        stack.forward = _autocast(stack.forward, dtype, device)
    if dtype != torch.float32 or several:
        stack.register_forward_hook(partial(_hand_out, device))


def _hand_out(device: torch.device, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
    output.last_hidden_state = output.last_hidden_state.to(device, torch.float32)
    return output


def _autocast(forward: Callable[..., Any], dtype: torch.dtype, device: torch.device) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast(device.type, dtype):
            return forward(*args, **kwargs)

    return run


# What layers call the keys and values that they are given: transformers up to 5.23, and from 5.24 on.
_CACHE = ("past_key_values", "cache")


def checkpoint_layer(layer: nn.Module, contexts: Contexts | None = None) -> None:
    """Let a layer run again in the backward pass, instead of keeping what it computes.

    transformers' own gradient checkpointing passes by layers in evaluation mode, as frozen ones are here, though a
    soft prompt's gradient flows through all of them; and it drops the keys and values that a layer is given.

    Args:
        layer: The layer.
        contexts: Makes the contexts in which it is run, and run again.
    """
    forward = layer.forward
    options: dict[str, Any] = {} if contexts is None else {"context_fn": contexts}

    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        trained = args[0].requires_grad or any(parameter.requires_grad for parameter in layer.parameters())
        given_keys = any(kwargs.get(name) is not None for name in _CACHE)
        if not torch.is_grad_enabled() or not trained or given_keys:
            return forward(*args, **kwargs)
        return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, **options)

    layer.forward = run
