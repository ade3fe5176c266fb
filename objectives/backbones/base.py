"""Pretrained transformers: loading, restoring, freezing, and the contract of a family."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from promptgraft.objectives.backbones.families import FAMILIES, NUMERICS, Architecture, check_numerics
from promptgraft.objectives.backbones.label_scorers import LabelScorer
from promptgraft.objectives.backbones.model_files import check_family, weights_hash
from promptgraft.objectives.backbones.text_tokens import SpecialNames
from promptgraft.objectives.layers import Injected, LayerStack, PretrainedWeights, compute_in
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.spaces import Adapter, Candidate, InvalidInputError, Registry, Template, Verbalizer


class Backbone(ABC):
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
        on_meta = device.type == "meta"
        self.model = self._architecture(device) if on_meta else self._load()
        self.tokenizer = AutoTokenizer.from_pretrained(spec.path, trust_remote_code=spec.trust_remote_code)
        self.stack = self._find_stack()
        if getattr(self.stack, "pooler", None) is not None:
            self.stack.pooler = None  # Nothing reads it, and unused weights must not count as trainable.
        self.device = device if spec.device_map is None else self.model.get_input_embeddings().weight.device
        self.weights = PretrainedWeights(self.model, getattr(torch, spec.dtype), self.device)
        if spec.device_map is None:
            self.model.to(device)
        self.pretrained: dict[str, nn.Parameter] = dict(self.model.named_parameters())
        self.injected: Injected | None = None
        self.layers = LayerStack(self.stack, _layers_prefix(self.stack, self._depth()), self.causal)
        self.blocks = self._find_blocks()
        self._frozen_from = self._find_frozen_from()
        compute_in(getattr(torch, spec.computes_in), self.device, self.model, self.stack)
        if not self.has_head and FAMILIES[self.family].in_parts and not on_meta:
            self.layers.skip_unread()
        if spec.gradient_checkpointing:
            self.stack.config.use_cache = False
            self._checkpoint()
        self._frozen_layers = 0
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and spec.max_tokens > limit:
            raise InvalidInputError(f"max_tokens is {spec.max_tokens}, but {spec.path} reads at most {limit} tokens")
        self.max_positions: int | None = limit

    def _architecture(self, device: torch.device) -> Any:
        """Build the model without its weights."""
        trust = self.spec.trust_remote_code
        config = AutoConfig.from_pretrained(self.spec.path, trust_remote_code=trust)
        with device:
            return self.auto_class.from_config(config, trust_remote_code=trust)

    def _load(self) -> Any:
        """Load the weights, from safetensors only: unpickling a file can run any code that it holds."""
        spec = self.spec
        options: dict[str, Any] = {}
        if spec.attn_implementation is not None:
            options["attn_implementation"] = spec.attn_implementation
        if spec.device_map is not None:
            options["device_map"] = spec.device_map
        try:
            # Where a device map is needed, the model may be too large for more than the asked-for type.
            return self.auto_class.from_pretrained(
                spec.path,
                dtype=torch.float32 if spec.device_map is None else getattr(torch, spec.dtype),
                use_safetensors=True,
                trust_remote_code=spec.trust_remote_code,
                **options,
            )
        except ImportError as error:
            raise InvalidInputError(
                f"backbone.attn_implementation {spec.attn_implementation!r} or backbone.device_map "
                f"{spec.device_map!r} needs a package that is not installed: {error}"
            ) from error
        except OSError as error:
            if "safetensors" not in str(error):
                raise
            raise InvalidInputError(
                f"{self.spec.path} has no weights in safetensors; pickled ones aren't loaded, since they can run code. "
                "Convert them: AutoModel.from_pretrained(...).save_pretrained(...) in a place that you trust"
            ) from error
        except ValueError as error:
            if "attention" in str(error) or "attn" in str(error):
                raise InvalidInputError(f"backbone.attn_implementation: {error}") from error
            if "trust_remote_code" not in str(error):
                raise
            raise InvalidInputError(
                f"{self.spec.path} needs Python code of its own; read it, and if you trust it, set "
                "backbone.trust_remote_code: true"
            ) from error

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
        return Architecture(self.family, self.n_layers, kind, spec.attn_implementation, spec.gradient_checkpointing)

    @property
    def sliding_window(self) -> int | None:
        """How far some of the layers see, in tokens; None if all see everything."""
        window: int | None = getattr(self.model.config, "sliding_window", None)
        return window

    @property
    def embeddings(self) -> Tensor:
        """The input embedding matrix as it was loaded, shape (vocabulary, hidden)."""
        return self.weights.loaded(self.model.get_input_embeddings().weight)

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

    def words_behind(
        self, template: Template, verbalizer: Verbalizer, labels: Sequence[str]
    ) -> dict[str, list[tuple[int, ...]]]:
        """Tokenize the words of each label as they stand in a template, without special tokens."""
        sample = template.render(dict.fromkeys(template.fields, "x"))
        space = " " if sample.before.endswith(" ") else ""
        return {
            label: [
                tuple(self.tokenizer.encode(space + word, add_special_tokens=False)) for word in verbalizer.words[label]
            ]
            for label in labels
        }

    def label_word_ids(self, words: Sequence[str]) -> list[int]:
        """Tokenize words and return their token ids in order, without special tokens."""
        return [token for word in words for token in self.tokenizer.encode(" " + word, add_special_tokens=False)]


# By family; what is known of one without loading any stands in `objectives.backbones.families`.
BACKBONES: Registry[type[Backbone]] = Registry(
    "backbone of family",
    [
        f"promptgraft.objectives.backbones.{module}"
        for module in ("causal_lm", "encoder", "masked_lm", "recurrent", "seq2seq")
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
