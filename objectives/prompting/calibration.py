"""Calibration: what a prompt says for every text alike is taken off the labels' scores.

It acts on evaluation and prediction only; the training loss never knows it. What is taken off is computed anew with the
present weights at each evaluation, once for all rows, so that a row's prediction never depends on the rows beside it.
That of the best state goes with its weights: production has no training rows to compute it from.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from promptgraft.objectives.prompting.demonstrations import DemonstrationPool
from promptgraft.objectives.prompting.encoded_rows import EncodedPrompt
from promptgraft.objectives.prompting.prompted_model import PromptedModel

# Values of all fields of a prompt without content: those of Zhao et al. 2021.
CONTENT_FREE = ("N/A", "", "[MASK]")
# Training rows that a mean is taken over, at most: it moves little beyond a few hundred, and is computed at each
# evaluation.
MAX_ROWS = 512


def calibrate(
    model: PromptedModel,
    train: Sequence[EncodedPrompt],
    labels: Sequence[str],
    batch_size: int,
    pool: DemonstrationPool | None = None,
) -> None:
    """Set what a model takes off its scores from now on; nothing without calibration.

    The scores' log-softmax over the labels is averaged over inputs. With `contextual` calibration these are prompts
    whose fields are all "N/A", empty or "[MASK]" (Zhao et al. 2021, arXiv:2102.09690, who average probabilities where
    this averages their logarithms); with `batch` calibration, the first `MAX_ROWS` training rows (Zhou et al. 2023,
    arXiv:2309.17249, for whom it is the batch that is predicted). Against the mean of the scores themselves this is a
    constant for all labels, which changes no probability.

    Args:
        model: With the weights to evaluate; its `bias` is set, shape (len(labels),), in nats.
        train: The target's training rows, encoded; labels are not needed.
        labels: The labels that will be scored.
        batch_size: Largest number of rows in a batch.
        pool: What rows are shown, if the candidate has demonstrations; inputs without content are shown them too.
    """
    kind = model.candidate.calibration
    if kind == "none":
        return
    rows: Sequence[EncodedPrompt] = content_free(model, pool) if kind == "contextual" else train[:MAX_ROWS]
    model.bias = None
    scores = model.score(rows, labels, batch_size)
    model.bias = label_means(scores)


def label_means(scores: Tensor) -> Tensor:
    """Average the labels' log-probabilities.

    Args:
        scores: Logits, shape (rows, labels).

    Returns:
        Mean log-probabilities in nats, shape (labels,).
    """
    return torch.log_softmax(scores.double(), dim=1).mean(0).float()


def content_free(model: PromptedModel, pool: DemonstrationPool | None = None) -> list[EncodedPrompt]:
    """Encode the prompts without content, those left out that have no token at all.

    A causal LM's template that begins with its only field leaves nothing to read where the field is empty.
    """
    fields = [dict.fromkeys(model.template.fields, value) for value in CONTENT_FREE]
    encoded = [prompt for prompt in model.encode_fields(fields, pool) if prompt.ids]
    if model.activations is not None:
        model.activations.add([row.ids for row in encoded], range(len(encoded)))
    return encoded
