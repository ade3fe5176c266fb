"""Recurrent baselines: stacks of LSTM or GRU layers that know nothing before the source stage.

They go through the same contract as the pretrained encoders beside them: a folder with configuration, weights and
tokenizer, written by `write_recurrent` from a seed. What is random in it is fixed by the folder, as a pretrained
model's weights are, so that its hash identifies them.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from promptgraft.objectives.backbones.base import BACKBONES
from promptgraft.objectives.backbones.encoder import Encoder, EncoderScorer, Pool
from promptgraft.objectives.backbones.families import RECURRENT
from promptgraft.objectives.backbones.label_scorers import Batch
from promptgraft.objectives.layers import PromptedStack
from promptgraft.spaces import InvalidInputError, did_you_mean

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}


class RecurrentConfig(PreTrainedConfig):  # type: ignore[misc]
    """The sizes of a recurrent model, in transformers' form.

    Args:
        cell: `lstm` (Hochreiter & Schmidhuber 1997) or `gru` (Cho et al. 2014, arXiv:1406.1078).
        vocab_size: Tokens that the tokenizer knows.
        hidden_size: Width of the embeddings, and of what each layer hands on.
        num_hidden_layers: Recurrent layers, one above the other.
        bidirectional: Whether each layer reads both ways, each with half of its width.
        dropout: Share of what enters a layer that is dropped in training.
        **kwargs: What transformers keeps in every configuration.

    Raises:
        InvalidInputError: If there is no such cell, or an odd width can't be halved.
    """

    model_type = RECURRENT

    def __init__(
        self,
        cell: str = "lstm",
        vocab_size: int = 30522,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        if cell not in CELLS:
            raise InvalidInputError(f"unknown recurrent cell {cell!r}; {did_you_mean(cell, CELLS)}")
        if bidirectional and hidden_size % 2:
            raise InvalidInputError(
                f"hidden_size is halved between two directions, so it must be even, got {hidden_size}"
            )
        self.cell = cell
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        super().__init__(**kwargs)


class RecurrentLayer(nn.Module):
    """One recurrent layer, with the interface of a transformer's.

    Padding stands on the right, and a row reads the same whatever is padded to it: forwards, padding comes after
    everything; backwards, each row is reversed within its own length.

    Args:
        config: The sizes.
    """

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        sizes = (config.hidden_size, config.hidden_size // directions)
        self.forwards = CELLS[config.cell](*sizes, batch_first=True)
        self.backwards = CELLS[config.cell](*sizes, batch_first=True) if config.bidirectional else None
        self.dropout = nn.Dropout(config.dropout)

    def train(self, mode: bool = True) -> "RecurrentLayer":
        """Switch the dropout alone: cuDNN has no backward pass through a cell in evaluation mode, frozen or not."""
        self.training = mode
        self.dropout.train(mode)
        return self

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            hidden: Shape (rows, tokens, hidden), padded on the right.
            attention_mask: Which tokens are there: shape (rows, tokens), 0 where one isn't, or (rows, 1, queries,
                tokens), added to attention scores. All are if None.

        Returns:
            Shape (rows, tokens, hidden); what stands in the padding's place is of no meaning.
        """
        hidden = self.dropout(hidden)
        output: Tensor = self.forwards(hidden)[0]
        if self.backwards is None:
            return output
        order = _reversed(attention_mask, hidden)
        backwards = self.backwards(_reorder(hidden, order))[0]
        return torch.cat([output, _reorder(backwards, order)], dim=2)


def _reversed(attention_mask: Tensor | None, hidden: Tensor) -> Tensor:
    """Return the place that each token has once its row is reversed; shape (rows, tokens)."""
    position = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])
    if attention_mask is None:
        return position.flip(1)
    present = attention_mask != 0 if attention_mask.ndim == 2 else attention_mask[:, 0, -1] == 0
    return torch.where(present, present.sum(1, keepdim=True) - 1 - position, position)


def _reorder(hidden: Tensor, order: Tensor) -> Tensor:
    return hidden.gather(1, order[..., None].expand(-1, -1, hidden.shape[2]))


class RecurrentModel(PreTrainedModel):  # type: ignore[misc]
    """Token embeddings under recurrent layers.

    Args:
        config: The sizes.
    """

    config_class = RecurrentConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _no_split_modules = ("RecurrentLayer",)

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(RecurrentLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Turn tokens, or embeddings in their place, into last hidden states of shape (rows, tokens, hidden)."""
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return BaseModelOutput(last_hidden_state=hidden)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the first weights as torch does; embeddings of the size that a layer's own weights have."""
        bound = 1 / math.sqrt(self.config.hidden_size)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=bound)
        elif isinstance(module, nn.RNNBase):
            for weight in module.parameters():
                init.uniform_(weight, -bound, bound)


AutoConfig.register(RECURRENT, RecurrentConfig)
AutoModel.register(RecurrentConfig, RecurrentModel)


class RecurrentScorer(EncoderScorer):
    """Reads a recurrent model as an encoder is read, a soft prompt behind the text included.

    A layer that reads forwards only has left the text behind when it comes to such a prompt; were it not pooled, it
    would have no effect.
    """

    def _pooled(self, stack: PromptedStack, batch: Batch) -> Tensor:
        return batch.lengths + stack.length - stack.shift


@BACKBONES.register("recurrent")
class Recurrent(Encoder):
    """An LSTM or a GRU, trained from scratch."""

    scorer_class = RecurrentScorer

    def _embed(self, texts: list[str], pool: Pool) -> Tensor:
        """Return the normalised embeddings of some texts; shape (texts, hidden)."""
        rows = [torch.tensor(self.tokenizer(text)["input_ids"], device=self.device)[None] for text in texts]
        with torch.no_grad():
            hidden = [self.stack(input_ids=row).last_hidden_state for row in rows]
        pooled = [pool(states, torch.tensor([states.shape[1]], device=self.device), 0) for states in hidden]
        return functional.normalize(torch.cat(pooled), dim=-1)


def write_recurrent(folder: Path, tokenizer: str, seed: int, **sizes: Any) -> RecurrentConfig:
    """Write a recurrent model with random weights, as a study's `backbone.path` takes it.

    Args:
        folder: Where to; it must not be there yet.
        tokenizer: Folder or hub id of the model whose tokenizer it uses.
        seed: Seed of the weights.
        **sizes: See `RecurrentConfig`; the vocabulary is the tokenizer's.

    Returns:
        Its configuration.

    Raises:
        InvalidInputError: If the folder is there, the tokenizer isn't, or the sizes don't fit together.
    """
    if folder.exists():
        raise InvalidInputError(f"{folder} is there already; choose another folder, or remove it")
    try:
        read = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidInputError(f"no tokenizer can be read from {tokenizer!r}: {reason}") from error
    config = RecurrentConfig(vocab_size=len(read), **sizes)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = RecurrentModel(config)
    partial = folder.with_name(f"{folder.name}.partial")
    model.save_pretrained(partial)
    read.save_pretrained(partial)
    partial.rename(folder)
    return config
