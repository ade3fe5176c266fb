"""Inside a transformer: its stack of layers, soft prompts and adapters in it, and the type it computes in."""

from typing import TYPE_CHECKING

from promptgraft.spaces.facade import lazy_exports

if TYPE_CHECKING:
    from promptgraft.objectives.layers.adapters import Injected as Injected
    from promptgraft.objectives.layers.batching import split_by_length as split_by_length
    from promptgraft.objectives.layers.peft_prompts import DeepPrefix as DeepPrefix
    from promptgraft.objectives.layers.peft_prompts import attach as attach
    from promptgraft.objectives.layers.precision import PretrainedWeights as PretrainedWeights
    from promptgraft.objectives.layers.precision import checkpoint_layer as checkpoint_layer
    from promptgraft.objectives.layers.precision import compute_in as compute_in
    from promptgraft.objectives.layers.soft_prompts import Known as Known
    from promptgraft.objectives.layers.soft_prompts import PromptedStack as PromptedStack
    from promptgraft.objectives.layers.soft_prompts import initial_vectors as initial_vectors
    from promptgraft.objectives.layers.stack import KeysValues as KeysValues
    from promptgraft.objectives.layers.stack import LayerStack as LayerStack
else:
    __getattr__, __all__ = lazy_exports(__name__, __file__)
