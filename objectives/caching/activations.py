"""What frozen layers make of a task's prompts, computed once for all candidates that share those layers.

The rows are put into windows, and a window is always computed as a whole: which rows stand beside a row, and how
far it is padded, changes the last bits of what is computed, and mustn't depend on who came first.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from promptgraft.objectives.caching.stage_store import StageKey, StageStore
from promptgraft.objectives.layers import KeysValues, Known, LayerStack, split_by_length

# Rows that are computed and stored together.
WINDOW_ROWS = 64

TokenIds = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reuse:
    """What of a candidate's forward pass doesn't depend on anything that it trains.

    Attributes:
        depth: The layers below are frozen, and no soft prompt changes the text there.
        keys_from: Keys and values of the layers from here up to `depth` are needed as well; `depth` if none are.
    """

    depth: int
    keys_from: int


@dataclass(frozen=True, slots=True)
class _Window:
    rows: tuple[TokenIds, ...]
    starts: tuple[int, ...]
    hash: str


class Activations:
    """The frozen layers' part of one candidate's forward pass.

    Args:
        stages: Where they are kept.
        layers: The stack, with the candidate's weights; only layers that it freezes are run.
        reuse: The part.
        base: A depth on the way: what lies below is shared with candidates that freeze more layers or fewer.
        weights: Depth -> everything that decides the weights below, as JSON types.
    """

    def __init__(
        self,
        stages: StageStore,
        layers: LayerStack,
        reuse: Reuse,
        base: int,
        weights: Callable[[int], Mapping[str, object]],
    ) -> None:
        self.stages = stages
        self.layers = layers
        self.reuse = reuse
        self.weights = weights
        self._depths = [0, *([base] if 0 < base < reuse.depth else []), reuse.depth]
        self._places: dict[TokenIds, tuple[_Window, int]] = {}
        self._keys: dict[tuple[str, int, int], StageKey] = {}

    def add(self, rows: Sequence[TokenIds], order: Sequence[int]) -> None:
        """Lay out windows over rows; nothing is computed yet.

        Args:
            rows: Token ids.
            order: In which order they will be asked for.
        """
        for start in range(0, len(order), WINDOW_ROWS):
            chosen = sorted(
                {rows[index] for index in order[start : start + WINDOW_ROWS]}, key=lambda ids: (len(ids), ids)
            )
            starts = [0]
            for ids in chosen:
                starts.append(starts[-1] + len(ids))
            digest = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]
            window = _Window(tuple(chosen), tuple(starts), digest)
            for index, ids in enumerate(chosen):
                self._places.setdefault(ids, (window, index))

    def known(self, rows: Sequence[TokenIds]) -> Known:
        """Return what is known of some rows, as one batch.

        Args:
            rows: Rows that were added.
        """
        width = max(len(ids) for ids in rows)
        device = self.layers.device
        hidden: Tensor | None = None
        past: dict[int, KeysValues] = {}
        for number, ids in enumerate(rows):
            window, index = self._places[ids]
            piece = slice(window.starts[index], window.starts[index + 1])
            found = self._pieces(window)
            if hidden is None:
                hidden = found["hidden"].new_zeros(len(rows), width, found["hidden"].shape[1])
                for layer in range(self.reuse.keys_from, self.reuse.depth):
                    heads, _, size = found[f"keys.{layer}"].shape
                    shape = (len(rows), heads, width, size)
                    past[layer] = (hidden.new_zeros(shape), hidden.new_zeros(shape))
            hidden[number, : len(ids)] = found["hidden"][piece]
            for layer, (keys, values) in past.items():
                keys[number, :, : len(ids)] = found[f"keys.{layer}"][:, piece]
                values[number, :, : len(ids)] = found[f"values.{layer}"][:, piece]
        assert hidden is not None
        on_device = {layer: (keys.to(device), values.to(device)) for layer, (keys, values) in past.items()}
        return Known(self.reuse.depth, hidden.to(device), on_device)

    def _pieces(self, window: _Window) -> dict[str, Tensor]:
        """Return a window's tensors: hidden states at the depth, and keys and values below."""
        found: dict[str, Tensor] = {}
        for first, last in pairwise(self._depths):
            if last == self.reuse.depth or last > self.reuse.keys_from:
                found |= self._segment(window, first, last)
        return found

    def _segment(self, window: _Window, first: int, last: int) -> dict[str, Tensor]:
        with_keys = last > self.reuse.keys_from
        place = (window.hash, first, last)
        if place not in self._keys:
            content: dict[str, object] = {
                "stage": "activations",
                "weights": dict(self.weights(last)),
                "layers": [first, last],
                "keys": with_keys,
                "rows": window.hash,
            }
            self._keys[place] = StageKey.of(content)
        return self.stages.get(self._keys[place], lambda: self._compute(window, first, last, with_keys))

    def _compute(self, window: _Window, first: int, last: int, with_keys: bool) -> dict[str, Tensor]:
        below = self._segment(window, 0, first)["hidden"] if first else None
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            lengths = [len(ids) for ids in window.rows]  # In rising order: batches are runs of rows.
            for batch in split_by_length(lengths, WINDOW_ROWS, self.layers.device.type):
                rows = [window.rows[index] for index in batch]
                states = None
                if below is not None:
                    states = [below[window.starts[index] : window.starts[index + 1]] for index in batch]
                for name, tensor in self._run(rows, states, first, last, with_keys):
                    parts.setdefault(name, []).append(tensor)
        # Hidden states lie along the tokens of all rows; keys and values have their heads in front.
        return {name: torch.cat(tensors, dim=0 if name == "hidden" else 1) for name, tensors in parts.items()}

    def _run(
        self, rows: Sequence[TokenIds], below: Sequence[Tensor] | None, first: int, last: int, with_keys: bool
    ) -> Iterator[tuple[str, Tensor]]:
        """Run one batch, and hand out its tensors with the padding left out."""
        device = self.layers.device
        lengths = torch.tensor([len(ids) for ids in rows], device=device)
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long, device=device)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        inputs = {"attention_mask": self.layers.mask(lengths, ids.shape[1])}
        if below is None:
            inputs["input_ids"] = ids
        else:
            inputs["hidden"] = torch.nn.utils.rnn.pad_sequence(list(below), batch_first=True).to(device)
        keys: Mapping[int, KeysValues] = {}
        if with_keys:
            hidden, keys = self.layers.run_with_keys(first, last, **inputs)
        else:
            hidden = self.layers.run(first, last, **inputs)
        yield "hidden", torch.cat([state[: len(row)] for state, row in zip(hidden, rows, strict=True)])
        for layer, pair in keys.items():
            for name, states in zip(("keys", "values"), pair, strict=True):
                trimmed = [state[:, : len(row)] for state, row in zip(states, rows, strict=True)]
                yield f"{name}.{layer}", torch.cat(trimmed, dim=1)
