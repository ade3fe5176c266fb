"""Checks of weights that are read from a file which someone else may have written."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from promptgraft.spaces import InvalidInputError


def check_weights(state: Mapping[str, Tensor], weights: Mapping[str, Tensor], needed: Iterable[str]) -> None:
    """Refuse weights that aren't those of a model.

    Args:
        state: What the file holds.
        weights: Name -> tensor of the shape that it must have.
        needed: Names that must be there.

    Raises:
        InvalidInputError: If one is missing, isn't the model's, or has another shape, or values that aren't finite.
    """
    for name in sorted(set(needed) - state.keys()):
        raise InvalidInputError(f"the tensor {name} is missing")
    for name, value in state.items():
        if name not in weights:
            raise InvalidInputError(f"there is no weight {name} in the model")
        expected = tuple(weights[name].shape)
        if tuple(value.shape) != expected or not value.is_floating_point():
            raise InvalidInputError(
                f"the tensor {name} is {value.dtype} of shape {tuple(value.shape)}, expected numbers of shape "
                f"{expected}"
            )
        if not bool(value.isfinite().all()):
            raise InvalidInputError(f"the tensor {name} holds values that are not finite")
