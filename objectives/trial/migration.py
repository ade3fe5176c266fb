"""Carrying source-trained weights over to the target model, key by key."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from promptgraft.objectives.prompting import HEAD, PromptedModel
from promptgraft.spaces import TrialError


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of every weight of the target model.

    Attributes:
        loaded: Taken from the source stage.
        pretrained: Kept as the backbone has them.
        fresh: Attached by the migration and not trained on the source.
        left: Trained on the source and without a place here: rows of a head whose place context vectors take.
    """

    loaded: tuple[str, ...]
    pretrained: tuple[str, ...]
    fresh: tuple[str, ...]
    left: tuple[str, ...] = ()

    def summary(self) -> str:
        """Counts, and the names of the fresh weights."""
        names = f" ({', '.join(self.fresh)})" if self.fresh else ""
        left = f", {len(self.left)} left behind ({', '.join(self.left)})" if self.left else ""
        return (
            f"{len(self.loaded)} weights from the source stage, {len(self.pretrained)} pretrained, "
            f"{len(self.fresh)} fresh{names}{left}"
        )


def migrate(model: PromptedModel, source_state: Mapping[str, Tensor]) -> LoadReport:
    """Load the source stage's weights into the target model.

    Args:
        model: The target model.
        source_state: Weight name -> value; empty if there was no source stage.

    Returns:
        The fate of each weight.

    Raises:
        TrialError: If a weight of the source has no place in the target, or another shape there.
    """
    weights = model.weights()
    left = () if model.heads() else tuple(name for name in source_state if name.startswith(HEAD))
    source_state = {name: value for name, value in source_state.items() if name not in left}
    unexpected = sorted(set(source_state) - set(weights))
    if unexpected:
        raise TrialError(f"the source stage holds weights that the target model lacks: {', '.join(unexpected)}")
    for name, value in source_state.items():
        if value.shape != weights[name].shape:
            raise TrialError(
                f"weight {name} has shape {tuple(value.shape)} in the source stage but "
                f"{tuple(weights[name].shape)} in the target model"
            )
    model.load(source_state)
    return LoadReport(
        loaded=tuple(name for name in weights if name in source_state),
        pretrained=tuple(name for name in model.carried() if name not in source_state),
        fresh=tuple(name for name in model.adapters() | model.attached() if name not in source_state),
        left=left,
    )
