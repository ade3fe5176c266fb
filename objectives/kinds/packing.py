"""Answers that are texts, as rows of numbers: so they are stored, cut and joined as all other outputs are.

A row has the summed negative log-likelihood of its reference, the number of its tokens, and a text as UTF-8, three
bytes a number, which float32 holds exactly. Where no reference is known the first two are 0.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data import Expected, Outputs

# Longest text, in bytes; a longer one is cut at the end of a character.
MOST_BYTES = 1536
_BYTES, _HEAD = 3, 3
# Numbers of a row: loss, tokens, bytes of the text, and the text itself.
WIDTH = _HEAD + MOST_BYTES // _BYTES
# Loss of a token, in nats, where what gave the answer has no probabilities, such as a neighbour's answer.
UNKNOWN_LOSS = 30.0


def pack(
    texts: Sequence[str | None],
    losses: npt.NDArray[np.float64] | None = None,
    tokens: npt.NDArray[np.int64] | None = None,
) -> Outputs:
    """Write texts as outputs.

    Args:
        texts: Of each row; None where none was generated.
        losses: Summed negative log-likelihood of each row's reference, in nats; shape (rows,). 0 if None.
        tokens: Its number of tokens; shape (rows,). 0 if None.

    Returns:
        Shape (rows, WIDTH).
    """
    found = np.zeros((len(texts), WIDTH), dtype=np.float32)
    if losses is not None and tokens is not None:
        found[:, 0], found[:, 1] = losses, tokens
    for row, text in zip(found, texts, strict=True):
        if text is None:
            row[2] = -1
            continue
        content = text.encode("utf-8", "replace")[:MOST_BYTES].decode("utf-8", "ignore").encode()
        row[2] = len(content)
        padded = np.frombuffer(content + bytes(-len(content) % _BYTES), dtype=np.uint8).reshape(-1, _BYTES)
        row[_HEAD : _HEAD + len(padded)] = padded.astype(np.int64) @ [65536, 256, 1]
    return found


def unpack(outputs: Outputs | Expected) -> list[str | None]:
    """Read the texts of outputs; None where none was generated."""
    lengths = outputs[:, 2].astype(np.int64)
    used = -(-int(lengths.max(initial=0)) // _BYTES)
    numbers = outputs[:, _HEAD : _HEAD + used].astype(np.int64)
    content = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=2).astype(np.uint8)
    return [
        None if length < 0 else own.tobytes()[:length].decode("utf-8", "replace")
        for own, length in zip(content, lengths.tolist(), strict=True)
    ]


def without_losses(outputs: Outputs) -> Outputs:
    """Return outputs as they are of rows whose reference isn't known."""
    found = outputs.copy()
    found[:, :2] = 0
    return found
