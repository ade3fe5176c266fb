"""What trials share: a content-addressed store of finished stages, and activations of frozen layers."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.caching.activations import Activations as Activations
    from promptgraft.objectives.caching.activations import Reuse as Reuse
    from promptgraft.objectives.caching.loaded_backbones import LoadedBackbones as LoadedBackbones
    from promptgraft.objectives.caching.stage_keys import backbone_key as backbone_key
    from promptgraft.objectives.caching.stage_keys import source_key as source_key
    from promptgraft.objectives.caching.stage_keys import source_prompt as source_prompt
    from promptgraft.objectives.caching.stage_store import StageKey as StageKey
    from promptgraft.objectives.caching.stage_store import StageStore as StageStore
    from promptgraft.objectives.caching.stage_store import StageUse as StageUse
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)
