"""Models of the order of items, trained from nothing on their ids: what recommendations by text have to beat.

SASRec (Kang and McAuley 2018, arXiv:1808.09781) reads a user's items with a transformer, GRU4Rec (Hidasi et al. 2016,
arXiv:1511.06939) with a GRU. Each position predicts the item behind it, by the softmax over all items; an item's
embedding is read and predicted by the same weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from promptgraft.objectives.caching import StageKey
from promptgraft.objectives.data import Row, seen
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import InvalidInputError

# The softmax is over all items, for each item of each user: so many can be waited for.
MOST_ITEMS = 10_000
# One user in so many says by his last item when training is to end.
HELD_OUT = 5


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """How a model of sequences is built and trained.

    Attributes:
        reader: `attention` (SASRec) or `gru` (GRU4Rec).
        width: Size of the embeddings.
        layers: How many layers.
        heads: Heads of attention.
        dropout: Share of what is dropped in training.
        length: Items that are read at most, the newest.
        batch_size: Sequences an update.
        learning_rate: Adam's.
        epochs: Passes over all sequences at most.
        patience: Passes without a better held-out loss after which training ends.
        seed: Seed of first values, batches and dropout.
    """

    reader: str = "attention"
    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.2
    length: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    epochs: int = 100
    patience: int = 5
    seed: int = 0


class SequenceModel(nn.Module):
    """Reads items and scores all that may come next.

    Args:
        items: How many items there are; the number behind the last one fills up short sequences.
        settings: Sizes.
    """

    def __init__(self, items: int, settings: SequenceSettings) -> None:
        super().__init__()
        width = settings.width
        self.items = nn.Embedding(items + 1, width, padding_idx=items)
        self.places = nn.Embedding(settings.length, width)
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(settings.dropout)
        self.reader: nn.Module
        if settings.reader == "gru":
            dropout = settings.dropout if settings.layers > 1 else 0.0  # It is between layers.
            self.reader = nn.GRU(width, width, settings.layers, batch_first=True, dropout=dropout)
        else:
            layer = nn.TransformerEncoderLayer(
                width, settings.heads, 4 * width, settings.dropout, "gelu", batch_first=True, norm_first=True
            )
            self.reader = nn.TransformerEncoder(layer, settings.layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, items: Tensor) -> Tensor:
        """Read items, padded behind the last one; shape (users, length) to (users, length, width)."""
        read = self.items(items)
        if isinstance(self.reader, nn.GRU):
            states: Tensor = self.reader(self.dropout(read))[0]
            return states
        length = items.shape[1]
        # What pads a sequence stands behind its items, which see nothing of it.
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        found: Tensor = self.reader(self.dropout(read + self.places.weight[:length]), mask=mask, is_causal=True)
        return found

    def scores(self, states: Tensor) -> Tensor:
        """Score all items; shape (..., width) to (..., items)."""
        return states @ self.items.weight[:-1].T


def sequence_control(settings: SequenceSettings) -> Callable[[Objective, Sequence[Row]], npt.NDArray[np.float32]]:
    """Return a control that trains such a model on the training rows of a task, once for all repeats."""

    def logits(objective: Objective, rows: Sequence[Row]) -> npt.NDArray[np.float32]:
        task = objective.target
        places = {name: place for place, name in enumerate(task.labels)}
        sequences = sequences_of(task.train, places)
        content = {"stage": "sequences", "settings": asdict(settings), "items": len(task.labels), "rows": sequences}
        state = objective.stages.get(StageKey.of(content), lambda: train(sequences, len(task.labels), settings))
        return score(state, [_history(row, places) for row in rows], len(task.labels), settings)

    return logits


def sequences_of(rows: Sequence[Row], places: Mapping[str, int]) -> list[list[int]]:
    """Return the items of each user, oldest first, by the newest of the user's rows.

    Args:
        rows: The rows.
        places: Item -> its number.
    """
    newest: dict[str, Row] = {}
    for row in rows:
        if row.group not in newest or row.time >= newest[row.group].time:
            newest[row.group] = row
    return [[*_history(row, places), row.label] for row in newest.values()]


def _history(row: Row, places: Mapping[str, int]) -> list[int]:
    return [places[name] for name in reversed(seen(row.fields)) if name in places]


def train(sequences: Sequence[Sequence[int]], items: int, settings: SequenceSettings) -> dict[str, Tensor]:
    """Train a model until the loss of held-out users' last items has been no better for some passes.

    Args:
        sequences: Items of each user, oldest first.
        items: How many items there are.
        settings: How.

    Returns:
        The weights of the best pass.

    Raises:
        InvalidInputError: If there are too many items.
    """
    if items > MOST_ITEMS:
        raise InvalidInputError(f"this control takes at most {MOST_ITEMS:,} items, got {items:,}; leave it out")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        model = SequenceModel(items, settings)
        shown = [list(own[:-1]) if n % HELD_OUT == 0 else list(own) for n, own in enumerate(sequences)]
        held_out = _padded([own[-settings.length - 1 :] for own in sequences[::HELD_OUT]], settings.length + 1, items)
        pieces = _padded(
            [piece for own in shown for piece in _pieces(own, settings.length)], settings.length + 1, items
        )
        optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate)
        best, state, waited = float("inf"), dict[str, Tensor](), 0
        for _ in range(settings.epochs):
            model.train()
            for chosen in torch.split(torch.randperm(len(pieces)), settings.batch_size):
                optimizer.zero_grad()
                _loss(model, pieces[chosen], items).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                loss = float(_loss(model, held_out, items, last=True))
            waited = 0 if loss < best else waited + 1
            if waited > settings.patience:
                break
            if not waited:
                best, state = loss, {name: own.detach().clone() for name, own in model.state_dict().items()}
    return state


def score(
    state: dict[str, Tensor], histories: Sequence[Sequence[int]], items: int, settings: SequenceSettings
) -> npt.NDArray[np.float32]:
    """Score all items behind some histories, shape (histories, items)."""
    model = SequenceModel(items, settings)
    model.load_state_dict(state)
    model.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(histories), settings.batch_size):
            own = [history[-settings.length :] for history in histories[first : first + settings.batch_size]]
            last = torch.tensor([max(0, len(history) - 1) for history in own])
            states = model(_padded(own, settings.length, items))
            found.append(model.scores(states[torch.arange(len(own)), last]))
    return torch.cat(found).numpy()


def _pieces(items: list[int], length: int) -> list[list[int]]:
    """Divide a sequence, from its end on, so that each item but the first is predicted once."""
    ends = range(len(items), 1, -length)
    return [items[max(0, end - length - 1) : end] for end in ends]


def _padded(sequences: Sequence[Sequence[int]], length: int, items: int) -> Tensor:
    found = torch.full((len(sequences), length), items)
    for place, own in enumerate(sequences):
        found[place, : len(own)] = torch.tensor(own, dtype=torch.long)
    return found


def _loss(model: SequenceModel, pieces: Tensor, items: int, *, last: bool = False) -> Tensor:
    """Return the mean negative log-likelihood of each item behind the first, or of the last one alone; shape ()."""
    states, following = model(pieces[:, :-1]), pieces[:, 1:]
    is_item = following < items
    if last:
        ends = is_item.sum(dim=1) - 1
        is_item = torch.arange(following.shape[1]) == ends[:, None]
    return functional.cross_entropy(model.scores(states[is_item]), following[is_item])
