"""Soft prompts by PEFT: before the text, through a network, or as keys and values in every layer.

Prompt tuning (Lester et al. 2021, arXiv:2104.08691), P-tuning (Liu et al. 2021, arXiv:2103.10385) and prefix tuning
(Li & Liang 2021, arXiv:2101.00190). What is random in a network, or in keys and values, comes from the trial's seed.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from promptgraft.objectives.layers.soft_prompts import InsertedPrompt, Known, PromptedStack
from promptgraft.objectives.layers.stack import LayerStack
from promptgraft.spaces import InvalidInputError, SoftPrompt

if TYPE_CHECKING:  # Imported where it is used, since most predictions need none of it.
    from peft import PrefixTuningConfig, PromptEncoderConfig

_NAME = "default"


class PeftPrompt(PromptedStack):
    """A stack that PEFT has put a prompt on; every token sees it, so that nothing is known of the text.

    Args:
        layers: The pretrained stack.
        config: What PEFT puts on it.
        seed: Seed of what is initialised at random.
    """

    entry = 0
    before_text = True

    def __init__(self, layers: LayerStack, config: Any, seed: int) -> None:
        super().__init__(layers)
        self._peft = [_put_on(layers.stack, config, seed)]  # In a list: the stack's weights are not this module's.
        self.trained = dict(self._peft[0].prompt_encoder[_NAME].named_parameters())

    @property
    def config(self) -> Any:
        """PEFT's configuration."""
        return self._peft[0].peft_config[_NAME]

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        insert_at: Tensor,  # noqa: ARG002
        known: Known | None = None,  # noqa: ARG002
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Run the stack behind the prompt; see `PromptedStack`."""
        mask = self.layers.mask(lengths, input_ids.shape[1])
        with self.layers.reading(read_at):
            hidden: Tensor = self._peft[0](input_ids=input_ids, attention_mask=mask).last_hidden_state
        return hidden

    def embedded(self, input_ids: Tensor, lengths: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return nothing: the prompt enters in every layer; see `PromptedStack`."""
        return None


class PrefixPrompt(PeftPrompt):
    """A soft prompt before the text, by PEFT's prompt tuning or P-tuning.

    Args:
        layers: The pretrained stack.
        vectors: First values, or what enters the network at first; shape (length, hidden).
        parametrization: `direct`, `mlp` or `lstm`.
        seed: Seed of a network.
    """

    def __init__(self, layers: LayerStack, vectors: Tensor, parametrization: str = "direct", seed: int = 0) -> None:
        options: dict[str, Any] = {
            "task_type": "FEATURE_EXTRACTION",
            "num_layers": layers.stack.config.num_hidden_layers,
            # PEFT asks, and uses it elsewhere.
            "num_attention_heads": getattr(layers.stack.config, "num_attention_heads", 1),
        }
        if parametrization == "direct":
            length, width = vectors.shape
            from peft import PromptTuningConfig

            super().__init__(layers, PromptTuningConfig(num_virtual_tokens=length, token_dim=width, **options), seed)
        else:
            super().__init__(layers, _network_config(vectors, parametrization, **options), seed)
        self.length = self.shift = len(vectors)
        weight = self.trained["embedding.weight"]
        with torch.no_grad():
            weight.copy_(vectors)
        if parametrization == "direct":
            self.trained = {"weight": weight}

    def embedded(self, input_ids: Tensor, lengths: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return token embeddings behind the prompt; see `PromptedStack`."""
        below = self.layers.embed(input_ids)
        return torch.cat([self.vectors().to(below.dtype).expand(len(below), -1, -1), below], dim=1)

    def vectors(self) -> Tensor:
        """Return the prompt as it is now; see `PromptedStack`."""
        encoder: Any = self._peft[0].prompt_encoder[_NAME]
        vectors: Tensor = encoder(torch.arange(self.length, device=encoder.embedding.weight.device)[None])[0]
        return vectors


class DeepPrefix(PeftPrompt):
    """Keys and values in front of the text's in every layer, by PEFT's prefix tuning.

    All layers have them, frozen ones too: what is frozen is the layers' own weights.

    Args:
        layers: The pretrained stack.
        soft_prompt: Length, and whether a network makes the keys and values.
        sizes: Of the layers, where PEFT can't find them in the configuration.
        seed: Seed of the first values.

    Raises:
        InvalidInputError: If the keys and values don't fit the layers, or don't reach them.
    """

    def __init__(self, layers: LayerStack, soft_prompt: SoftPrompt, sizes: Mapping[str, int], seed: int) -> None:
        super().__init__(layers, _prefix_config(soft_prompt, sizes), seed)
        if layers.device.type != "meta":
            self._try()

    @torch.no_grad()
    def keys_and_values(self) -> Tensor:
        """Return them as PEFT saves them, shape (length, 2 * layers * size of a layer's)."""
        found: Tensor = self._peft[0].get_prompt_embedding_to_save(_NAME)
        return found

    @torch.no_grad()
    def _try(self) -> None:
        """Run one token with and without the prefix: some architectures fail with it, some pass over it in silence."""
        stack, token = self.layers.stack, torch.zeros(1, 1, dtype=torch.long, device=self.layers.device)
        reason = "it has no effect there"
        try:
            found, plain = (run(input_ids=token).last_hidden_state for run in (self._peft[0], stack))
            fits = found.shape == plain.shape and not torch.equal(found, plain)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            fits, reason = False, str(error).splitlines()[0]
        if not fits:
            raise InvalidInputError(
                f"soft_prompt.place 'deep': PEFT's prefix tuning doesn't go into a {stack.config.model_type!r} model "
                f"({reason}); use prefix, suffix or layer K"
            )


class DecoderPrefix(PromptedStack):
    """A deep prefix in the layers of a decoder behind the stack, which itself runs as without one.

    PEFT's own wiring for such models (SEQ_2_SEQ_LM) deals the layers' keys and values out in pairs and drops every
    other pair: with an even number of layers half of the prefix is never trained, and layers share the other half
    (seen with PEFT 0.21). So PEFT is given the decoder as a stack of its own.

    Args:
        layers: The encoder's stack.
        decoder: The decoder.
        soft_prompt: Length, and whether a network makes the keys and values.
        sizes: Of the decoder's layers.
        seed: Seed of the first values.
    """

    def __init__(
        self, layers: LayerStack, decoder: Any, soft_prompt: SoftPrompt, sizes: Mapping[str, int], seed: int
    ) -> None:
        super().__init__(layers)
        self._peft = [_put_on(decoder, _prefix_config(soft_prompt, sizes), seed)]
        self.trained = dict(self._peft[0].prompt_encoder[_NAME].named_parameters())

    def past(self, rows: int) -> EncoderDecoderCache:
        """Return the prefix as what the decoder has read already; see `PromptedStack`."""
        return EncoderDecoderCache(self._peft[0].get_prompt(rows), DynamicCache())


def attach(
    soft_prompt: SoftPrompt,
    vectors: Tensor,
    layers: LayerStack,
    prefixed: tuple[Any, Mapping[str, int]],
    seed: int,
) -> PromptedStack:
    """Put a soft prompt on a stack.

    Args:
        soft_prompt: Length, place and parametrization.
        vectors: First values, shape (length, hidden); a deep prefix has none.
        layers: The pretrained stack.
        prefixed: What a deep prefix is put on; see `Backbone.prefixed`.
        seed: Seed of what is initialised at random.

    Raises:
        InvalidInputError: If the stack can't take it.
    """
    if not soft_prompt.length:
        return PromptedStack(layers)
    soft_prompt.check()
    if soft_prompt.deep:
        stack, sizes = prefixed
        if stack is layers.stack:
            return DeepPrefix(layers, soft_prompt, sizes, seed)
        return DecoderPrefix(layers, stack, soft_prompt, sizes, seed)
    if soft_prompt.place == "prefix":
        return PrefixPrompt(layers, vectors, soft_prompt.parametrization, seed)
    network = None
    if soft_prompt.parametrization != "direct":
        network = _network(vectors, soft_prompt.parametrization, seed)
    return InsertedPrompt(layers, vectors, soft_prompt.layer, network)


def _put_on(stack: Any, config: Any, seed: int) -> Any:
    """Let PEFT wrap a stack. It freezes it; how much of it trains is the candidate's to say, and stays as it was."""
    from peft import get_peft_model

    required = [parameter.requires_grad for parameter in stack.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_peft_model(stack, config)
    for parameter, value in zip(stack.parameters(), required, strict=True):
        parameter.requires_grad_(value)
    return model


def _prefix_config(soft_prompt: SoftPrompt, sizes: Mapping[str, int]) -> "PrefixTuningConfig":
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=soft_prompt.length,
        prefix_projection=soft_prompt.parametrization == "mlp",
        **sizes,
    )


def _network_config(vectors: Tensor, parametrization: str, **options: Any) -> "PromptEncoderConfig":
    """Describe PEFT's P-tuning, with layers as wide as the backbone's, as is PEFT's default."""
    from peft import PromptEncoderConfig

    length, width = vectors.shape
    return PromptEncoderConfig(
        num_virtual_tokens=length,
        token_dim=width,
        encoder_reparameterization_type=parametrization.upper(),
        encoder_hidden_size=width,
        num_transformer_submodules=1,
        **options,
    )


def _network(vectors: Tensor, parametrization: str, seed: int) -> nn.Module:
    """Build PEFT's P-tuning network alone, for places that PEFT doesn't have."""
    from peft import PromptEncoder

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = PromptEncoder(_network_config(vectors, parametrization)).to(vectors.device)
    with torch.no_grad():
        network.embedding.weight.copy_(vectors)
    return network  # type: ignore[no-any-return]
