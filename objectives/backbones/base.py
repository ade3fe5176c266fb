"""Pretrained transformers: loading, restoring, freezing, and the contract of a family."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from promptgraft.objectives.backbones.families import FAMILIES, NUMERICS, Architecture, check_numerics, used_layers
from promptgraft.objectives.backbones.files.checkpoint_files import check_checkpoint
from promptgraft.objectives.backbones.files.loading import (
    check_direction,
    check_tokenizer,
    count_positions,
    explained_errors,
    read_model,
)
from promptgraft.objectives.backbones.files.model_files import check_family, count_layers, model_folder, weights_hash
from promptgraft.objectives.backbones.label_scorers import LabelScorer
from promptgraft.objectives.backbones.text_tokens import SpecialNames, WordTokens
from promptgraft.objectives.layers import (
    Injected,
    LayerStack,
    PretrainedWeights,
    PromptedStack,
    attach,
    compute_in,
    initial_vectors,
)
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, Registry, Template, Verbalizer

# Takes what decides some tensors, as JSON types, and what computes them; returns them, perhaps from a store.
Keep: TypeAlias = Callable[[Mapping[str, object], Callable[[], dict[str, Tensor]]], dict[str, Tensor]]


class Backbone(WordTokens, ABC):
    """A pretrained transformer that can score label words.

    Args:
        spec: Which one, and how it computes.
        device: Where. On `meta` no weights are loaded, and all can be built and counted, but nothing computed.

    Attributes:
        family: Registered name of the family, as in `spec`.
        causal: Whether a token sees only those before it.
        auto_class: The class of transformers that loads the model.
        model: The whole pretrained model.
        stack: The part that turns token embeddings into last hidden states.
        layers: That part, layer by layer.
        blocks: Name in the model -> layer, from the lowest up; what `frozen_layers` counts.
        pretrained: The model's own weights by name, whatever is injected into it.
        injected: The adapters in it, if there are any.
    """

    causal: ClassVar[bool]
    auto_class: ClassVar[Any]

    def __init__(self, spec: BackboneSpec, device: torch.device) -> None:
        self.spec = spec
        self.family = spec.family
        for option in NUMERICS:
            check_numerics(self.family, option, getattr(spec, option))
        check_family(spec.path, self.family)
        check_checkpoint(model_folder(spec.path), FAMILIES[self.family], custom_code=spec.trust_remote_code)
        on_meta = device.type == "meta"
        self.model, self.tokenizer = self._read(shapes_only=on_meta)
        self.stack = self._find_stack()
        if getattr(self.stack, "pooler", None) is not None:
            self.stack.pooler = None  # Nothing reads it, and unused weights must not count as trainable.
        if spec.layers is not None:
            whole = count_layers(spec.path, self.family)
            if used_layers(self.family, spec.layers, whole) < whole:
                self._shorten(spec.layers)
        self.device = device if spec.device_map is None else self.model.get_input_embeddings().weight.device
        self.weights = PretrainedWeights(self.model, getattr(torch, spec.dtype), self.device)
        if spec.device_map is None:
            self.model.to(device)
        self.pretrained: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self.injected: Injected | None = None
        self.layers = self._make_layers()
        self.blocks = self._find_blocks()
        self._frozen_from = self._find_frozen_from()
        compute_in(getattr(torch, spec.computes_in), self.device, self.model, self.stack)
        if not self.has_head and FAMILIES[self.family].in_parts and not on_meta:
            self.layers.skip_unread()
        if spec.gradient_checkpointing:
            self.stack.config.use_cache = False
            self._checkpoint()
        self._frozen_layers = 0
        self.max_positions = count_positions(self.model)
        if self.max_positions is not None and spec.max_tokens > self.max_positions:
            raise InvalidInputError(
                f"backbone.max_tokens is {spec.max_tokens}, but {spec.path} reads at most {self.max_positions} tokens"
            )

    def _read(self, *, shapes_only: bool) -> tuple[Any, Any]:
        """Load model and tokenizer; see `read_model`."""
        model = read_model(self.spec, self.auto_class, shapes_only=shapes_only)
        tokenizer = self._read_tokenizer(model)
        if self.causal:
            check_direction(self.spec, model)
        return model, tokenizer

    def _read_tokenizer(self, model: Any) -> Any:
        """Load the tokenizer; None where rows aren't texts."""
        with explained_errors(self.spec):
            folder = model_folder(self.spec.path)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=self.spec.trust_remote_code)
        check_tokenizer(self.spec, model, tokenizer)
        return tokenizer

    def _make_layers(self) -> LayerStack:
        return LayerStack(self.stack, _layers_prefix(self.stack, self._depth()), self.causal)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of the pretrained weights as they are on disk."""
        return weights_hash(self.spec.path)

    @property
    def has_head(self) -> bool:
        """Whether reading it out takes trainable weights of ours, over all its tokens."""
        return FAMILIES[self.family].has_head

    @abstractmethod
    def label_scorer(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, labels: Sequence[str], seed: int
    ) -> LabelScorer:
        """Build what reads the labels off this backbone, in its state before any training.

        Args:
            candidate: Says how; its `head` and `pooling`.
            template: Template of the prompts.
            verbalizer: Label words; None if the head uses none.
            labels: All labels of the source and target tasks.
            seed: Seed of randomly initialised weights.

        Raises:
            InvalidInputError: If the family can't read this head or template.
        """

    @cached_property
    def special_names(self) -> SpecialNames:
        """Names of the tokenizer's special tokens."""
        return SpecialNames(self.tokenizer)

    def guard(self, template: Template, verbalizer: Verbalizer | None) -> Template:
        """Let a template in which names such as `[SEP]` stand for special tokens keep them out of what rows say."""
        return self.special_names.guard(template, verbalizer)

    def reader(
        self, head: str, template: Template, verbalizer: Verbalizer | None, labels: Sequence[str], seed: int
    ) -> LabelScorer:
        """Build a label scorer with all but its head at the defaults; see `label_scorer`."""
        words = verbalizer.id if verbalizer else ""
        candidate = Candidate.from_values({"template": template.id, "verbalizer": words, "head": head})
        return self.label_scorer(candidate, template, verbalizer, labels, seed)

    def _label_words(self, candidate: Candidate, verbalizer: Verbalizer | None) -> Verbalizer:
        """Return the label words, which there must be."""
        if verbalizer is None:
            raise InvalidInputError(
                f"backbone family {self.family!r} needs a verbalizer for head {candidate.head!r}, got none"
            )
        return verbalizer

    def _find_stack(self) -> Any:
        return self.model.base_model

    def _depth(self) -> int:
        """Number of the stack's layers."""
        return int(self.model.config.num_hidden_layers)

    def _shorten(self, layers: int) -> None:
        """Leave out all but the lowest layers; what stands behind the last one stays."""
        del self.stack.get_submodule(_layers_prefix(self.stack, self._depth()))[layers:]
        self.model.config.num_hidden_layers = layers

    def _find_blocks(self) -> dict[str, nn.Module]:
        return named_blocks(self.model, self.layers.layers)

    def _find_frozen_from(self) -> dict[str, int]:
        """Return, for each weight, the smallest `frozen_layers` that freezes it."""
        found: dict[str, int] = {}
        seen_layers = False
        for name in self.pretrained:
            layer = self.layer_of(name)
            seen_layers = seen_layers or layer is not None
            # Embeddings stand before the layers; a final norm or an untied output matrix behind them.
            found[name] = layer + 1 if layer is not None else self.n_layers if seen_layers else 1
        return found

    def _checkpoint(self) -> None:
        self.layers.checkpoint()

    @property
    def n_layers(self) -> int:
        """Number of layers that can be frozen."""
        return len(self.blocks)

    def layer_of(self, name: str) -> int | None:
        """Return the layer that a weight belongs to, by its name in the model; None if to none."""
        return next((index for index, block in enumerate(self.blocks) if name.startswith(f"{block}.")), None)

    def layers_above(self, name: str) -> int:
        """Return how many layers are above that of a weight; all are above the embeddings, none above a final norm."""
        return max(0, self.n_layers - self._frozen_from[name])

    @property
    def architecture(self) -> Architecture:
        """What decides which candidates it can train."""
        kind, spec = self.model.config.model_type, self.spec
        return Architecture(
            self.family,
            self.n_layers,
            kind,
            spec.attn_implementation,
            spec.gradient_checkpointing,
            max_tokens=spec.max_tokens,
            positions=self.max_positions,
            window=self.sliding_window,
        )

    @property
    def sliding_window(self) -> int | None:
        """How far some of the layers see, in tokens; None if all see everything."""
        window: int | None = getattr(self.model.config, "sliding_window", None)
        return window

    @property
    def embeddings(self) -> Tensor:
        """The input embedding matrix as it was loaded, shape (vocabulary, hidden)."""
        return self.weights.loaded(self.model.get_input_embeddings().weight)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that a head reads."""
        return int(self.embeddings.shape[1])

    def put_prompt(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, seed: int
    ) -> PromptedStack:
        """Put a candidate's soft prompt on the stack, if it has one; after `freeze`.

        Args:
            candidate: The candidate.
            template: Its template, whose words may be the first values.
            verbalizer: Its label words, likewise.
            seed: Seed of what is initialised at random.
        """
        soft = candidate.soft_prompt
        vectors = self._first_values(candidate, template, verbalizer, seed) if soft.length else torch.empty(0)
        return attach(soft, vectors, self.layers, self.prefixed(), seed)

    def _first_values(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, seed: int
    ) -> Tensor:
        """Return first values of a soft prompt among embedded tokens, shape (length, hidden)."""
        soft, word_ids = candidate.soft_prompt, list[int]()
        if soft.init == "label_words" and verbalizer is not None:
            word_ids = self.label_word_ids([word for entry in verbalizer.words.values() for word in entry])
        elif soft.init == "template":
            word_ids = self.tokenizer.encode(template.words, add_special_tokens=False)
        return initial_vectors(soft.length, self.embeddings, word_ids, seed).to(self.device, torch.float32)

    def keep(self, keep: Keep) -> None:
        """Let what is read of rows or labels, and is the same for many candidates, be kept in a store."""

    def forget(self) -> None:
        """Forget what is remembered of rows; nothing is of texts."""

    def expect(self, labels: Collection[str]) -> None:
        """Leave out of the heads of the next models what they compute of labels whose weights will be loaded.

        Args:
            labels: These labels.
        """

    def restore(self) -> None:
        """Put back every pretrained weight, exactly, and forget adapters, gradients and modes.

        Every trial starts here, so that no trial sees what another one trained.
        """
        if self.injected is not None:
            self.injected.remove()
            self.injected = None
        self.weights.restore()
        self._frozen_layers = 0
        self.model.eval()

    def merge_adapters(self) -> None:
        """Work adapters into the weights for good; no other candidate can follow."""
        if self.injected is not None:
            self.injected.merge()
            self.injected = None

    def train(self) -> None:
        """Go into training mode; what is frozen stays as it is when evaluated, without dropout."""
        self.model.train(self._frozen_layers == 0)
        for layer in list(self.blocks.values())[self._frozen_layers :]:
            layer.train()

    def freeze(self, frozen_layers: int) -> None:
        """Freeze the embeddings and the lowest layers; all weights if `frozen_layers` is N.

        Args:
            frozen_layers: k in [0, N]; 0 leaves everything trainable.

        Raises:
            InvalidInputError: If it lies outside [0, N].
        """
        if not 0 <= frozen_layers <= self.n_layers:
            raise InvalidInputError(f"frozen_layers must be in [0, {self.n_layers}], got {frozen_layers}")
        assert self.injected is None, "restore() comes before another candidate"
        self._frozen_layers = frozen_layers
        for name, parameter in self.pretrained.items():
            parameter.requires_grad_(frozen_layers < self._frozen_from[name])
        self.weights.widen_trainable()

    def names_below(self, depth: int) -> list[str]:
        """Name the pretrained weights that decide what comes out of the lowest layers, embeddings included.

        Args:
            depth: Number of layers, in [1, N].
        """
        return [name for name, layer in self._frozen_from.items() if layer <= depth]

    def adapt(self, adapter: Adapter, frozen_layers: int, seed: int) -> dict[str, nn.Parameter]:
        """Freeze all weights, and put adapters into the layers above the lowest; until `restore`.

        Args:
            adapter: What is put there; nothing if its method is `none`.
            frozen_layers: k: layers 0..k-1 get none.
            seed: Seed of what is initialised at random.

        Returns:
            Name -> trainable weight.

        Raises:
            InvalidInputError: If the model takes none of this kind.
        """
        if adapter.method == "none":
            return {}
        self.freeze(self.n_layers)
        self._frozen_layers = frozen_layers
        root = self._adapted()
        inside = {id(module): name for name, module in root.named_modules()}
        frozen = [inside[id(layer)] for layer in list(self.blocks.values())[:frozen_layers]]
        self.injected = Injected(root, adapter, frozen, seed)
        return self.injected.weights

    def _adapted(self) -> Any:
        """Return the part of the model that takes adapters."""
        return self.stack

    def prefixed(self) -> tuple[Any, dict[str, int]]:
        """Return the stack whose layers a deep prefix goes into, and their sizes as PEFT calls them."""
        return self.stack, {"num_layers": len(self.layers)}


# By family; what is known of one without loading any stands in `objectives.backbones.families`.
BACKBONES: Registry[type[Backbone]] = Registry(
    "backbone of family",
    [
        *(
            f"promptgraft.objectives.backbones.{module}"
            for module in ("causal_lm", "encoder", "masked_lm", "recurrent", "seq2seq")
        ),
        "promptgraft.objectives.vision.vit",
        "promptgraft.objectives.vision.convolutional",
        "promptgraft.objectives.vision.segmentation",
        "promptgraft.objectives.vision.detection",
        "promptgraft.objectives.vision.clip",
    ],
)


def _layers_prefix(stack: nn.Module, n_layers: int) -> str:
    for name, module in stack.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return str(name)
    raise InvalidInputError(
        f"{type(stack).__name__} has no list of {n_layers} layers, so layers can't be frozen; "
        "expected a transformers model with a stack of layers"
    )


def named_blocks(model: nn.Module, layers: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Name layers as a model calls them."""
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(layer)]: layer for layer in layers}
