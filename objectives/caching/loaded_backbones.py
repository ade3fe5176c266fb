"""The backbones that a worker has loaded, kept as far as memory allows."""

import gc

import torch

from promptgraft.objectives.backbones import BACKBONES, Backbone
from promptgraft.objectives.caching.stage_store import StageKey, StageStore
from promptgraft.objectives.spec import BackboneSpec


class LoadedBackbones:
    """Loads each backbone when it is first used.

    The one that is in use is always kept. The others share the memory of the stages and come first in it, since a
    stage can be read from its file; those not used for longest are dropped.

    Args:
        device: Where they compute.
        stages: The worker's stages, whose memory they share.
    """

    def __init__(self, device: torch.device, stages: StageStore) -> None:
        self._device = device
        self._stages = stages
        self._memory_bytes = stages.memory_bytes
        self._loaded: list[Backbone] = []  # The one in use is the last.

    def get(self, spec: BackboneSpec) -> Backbone:
        """Return a backbone, which is the one in use from then on; what is attached to the one before is gone.

        Raises:
            InvalidInputError: If it can't be loaded.
        """
        if self._loaded and self._loaded[-1].spec == spec:
            return self._loaded[-1]
        if self._loaded:
            self._loaded[-1].restore()  # Which frees its gradients, and what is attached to it.
        found = next((own for own in self._loaded if own.spec == spec), None)
        others = [own for own in self._loaded if own is not found]
        count = len(others)
        while sum(map(_size_bytes, others)) > self._memory_bytes:
            others.pop(0)
        self._loaded = others
        self._stages.keep(self._memory_bytes - sum(map(_size_bytes, others)))
        if len(others) < count:
            gc.collect()  # Hooks and modules refer to each other, so what was dropped may still be there.
        if found is None:
            found = BACKBONES[spec.family](spec, self._device)
            found.keep(lambda content, compute: self._stages.get(StageKey.of(content), compute))
        self._loaded.append(found)
        return found


def _size_bytes(backbone: Backbone) -> int:
    """Return the size of a backbone's weights, and of the copy that they are restored from."""
    return sum(own.nbytes for own in (*backbone.pretrained.values(), *backbone.weights.pristine.values()))
