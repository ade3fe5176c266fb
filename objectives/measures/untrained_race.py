"""Cheap first looks: every template with every verbalizer, scored before any training, by racing.

Verbalizers of one template share its forward pass; templates of a causal LM that begin with the same tokens, as those
that begin with the text, share its keys and values. Pairs that are clearly worse than the best drop out early.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from promptgraft.objectives.backbones import FAMILIES
from promptgraft.objectives.data import Row, by_turns
from promptgraft.objectives.layers import Known, PromptedStack
from promptgraft.objectives.measures.records import UntrainedScore
from promptgraft.objectives.prompting import EncodedPrompt, EncodedRow, PromptedModel
from promptgraft.objectives.trial import Objective
from promptgraft.spaces import Candidate

# Rows between two decisions, and the level at which a pair drops out, shared by all comparisons of a race.
ROUND_ROWS = 16
LEVEL = 0.05

# What decides the token ids: a template, and how many masks stand in it.
Form = tuple[str, int]

# Ids of a template and a verbalizer.
Pair = tuple[str, str]
Scores = npt.NDArray[np.float64]


def race_untrained_prompts(objective: Objective, rows: Sequence[Row]) -> list[UntrainedScore]:
    """Score all pairs of a study's templates and verbalizers, the losing ones on fewer rows.

    Args:
        objective: The study's objective.
        rows: Labelled rows of the target; not those that winners are chosen by.

    Returns:
        The pairs, the best first: those that stayed longer before those that dropped out, then by score.
    """
    space = objective.spec.space
    ordered = by_turns(rows)
    labels = np.array([row.label for row in ordered])
    running: list[Pair] = [(t.id, v.id) for t in space.templates for v in space.verbalizers]
    models = untrained_models(objective, running)
    logits: dict[Pair, Scores] = {}
    n_pairs, n_rounds = len(running), -(-len(ordered) // ROUND_ROWS)
    for start in range(0, len(ordered), ROUND_ROWS):
        for pair, found in score_untrained_prompts(
            objective, {pair: models[pair] for pair in running}, ordered[start : start + ROUND_ROWS]
        ):
            logits[pair] = np.concatenate([logits[pair], found]) if pair in logits else found
        running = _survivors(running, logits, labels, LEVEL / max(1, n_pairs * n_rounds))
        if len(running) == 1:
            break
    looks = [_summary(pair, found, labels) for pair, found in logits.items()]
    return sorted(looks, key=lambda entry: (-entry.rows, -entry.score))


def untrained_models(objective: Objective, pairs: Sequence[Pair]) -> dict[Pair, PromptedModel]:
    """Build the models of some pairs, with the pretrained weights."""
    candidates = [Candidate(*pair, steps=0).canonical(objective.spec.space.facts) for pair in pairs]
    return dict(zip(pairs, objective.untrained(candidates), strict=True))


def score_untrained_prompts(
    objective: Objective, models: Mapping[Pair, PromptedModel], rows: Sequence[Row]
) -> Iterator[tuple[Pair, Scores]]:
    """Score rows with each of some pairs, nothing trained.

    Args:
        objective: The study's objective.
        models: From `untrained_models`.
        rows: Rows of the target.

    Yields:
        The pair, and its logits of shape (rows, labels).
    """
    first = {_form(model): model for model in models.values()}
    encoded = {form: model.encode(rows) for form, model in first.items()}
    labels = objective.target.labels
    with torch.inference_mode():
        for stack, form in _stacks(objective, first, encoded):
            for pair, model in models.items():
                if _form(model) == form:
                    scores = model.scorer(stack, model.batch(encoded[form]), labels)
                    yield pair, scores.double().cpu().numpy()


def _form(model: PromptedModel) -> Form:
    alone = FAMILIES[model.backbone.family].texts_of_labels  # What is run is the image, whatever the template.
    return "" if alone else model.template.id, model.scorer.masks


def _stacks(
    objective: Objective, models: Mapping[Form, PromptedModel], encoded: Mapping[Form, list[EncodedRow]]
) -> Iterator[tuple[PromptedStack, Form]]:
    """Hand out a stack for each form of prompt, which shares what can be shared."""
    layers = objective.backbone.layers
    for group in _groups(encoded) if layers.causal else [[form] for form in encoded]:
        known, starts = None, None
        if len(group) > 1:
            ids = [[row.ids for row in encoded[form]] for form in group]
            shared = [_common(prompts) for prompts in zip(*ids, strict=True)]
            batch = models[group[0]].batch([EncodedPrompt(row[:n]) for row, n in zip(ids[0], shared, strict=True)])
            hidden, keys = layers.run_with_keys(0, len(layers), input_ids=batch.input_ids)
            known, starts = Known(len(layers), hidden, keys), batch.lengths
        for form in group:
            yield _SharedStack(objective, known, starts), form


class _SharedStack(PromptedStack):
    """Runs the same batch once for all readers, and only what stands behind a prefix that is known."""

    def __init__(self, objective: Objective, known: Known | None, starts: Tensor | None) -> None:
        super().__init__(objective.backbone.layers)
        self._known, self._starts = known, starts
        self._runs: dict[tuple[bytes, ...], Tensor] = {}

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        insert_at: Tensor,
        known: Known | None = None,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Run the stack; see `PromptedStack`."""
        key = tuple(tensor.cpu().numpy().tobytes() for tensor in (input_ids, read_at) if tensor is not None)
        if key not in self._runs:
            self._runs[key] = self._run(input_ids, lengths, insert_at, known, read_at)
        return self._runs[key]

    def _run(
        self, input_ids: Tensor, lengths: Tensor, insert_at: Tensor, known: Known | None, read_at: Tensor | None
    ) -> Tensor:
        if self._known is None or self._starts is None:
            return super().forward(input_ids, lengths, insert_at, known, read_at)
        behind = int((lengths - self._starts).max())
        width = self._known.hidden.shape[1] + behind
        padded = torch.nn.functional.pad(input_ids, (0, max(0, width - input_ids.shape[1])))
        return self._continue(self._known, padded[:, :width], self._starts, read_at)


def _groups(encoded: Mapping[Form, list[EncodedRow]]) -> list[list[Form]]:
    """Put templates together of which at least half of the tokens are the same, from the start on."""
    groups: list[list[Form]] = []
    for form, rows in encoded.items():
        for group in groups:
            others = encoded[group[0]]
            shared = sum(_common((a.ids, b.ids)) for a, b in zip(rows, others, strict=True))
            if 2 * shared >= sum(len(row.ids) for row in rows):
                group.append(form)
                break
        else:
            groups.append([form])
    return groups


def _common(prompts: Sequence[tuple[int, ...]]) -> int:
    """Count the tokens that all prompts begin with; the last one of each is left to be run."""
    limit = min(len(ids) for ids in prompts) - 1
    for place in range(limit):
        if len({ids[place] for ids in prompts}) > 1:
            return place
    return limit


def calibrated_likelihoods(logits: Scores, labels: npt.NDArray[np.int64]) -> tuple[Scores, npt.NDArray[np.bool_]]:
    """Take off each label's mean logit over all rows, then look at each row's own label.

    Args:
        logits: Shape (rows, labels).
        labels: Indices of the rows' labels; further ones are left out.

    Returns:
        Each row's log-likelihood of its label in nats, and whether that label is the likeliest; both of shape (rows,).
    """
    centred = logits - logits.mean(0)
    log_probabilities = centred - np.logaddexp.reduce(centred, axis=1, keepdims=True)
    labels = labels[: len(logits)]
    return log_probabilities[np.arange(len(labels)), labels], centred.argmax(1) == labels


def _survivors(
    running: list[Pair], logits: Mapping[Pair, Scores], labels: npt.NDArray[np.int64], level: float
) -> list[Pair]:
    """Drop the pairs that are worse than the best, by a paired t test."""
    scores = {pair: calibrated_likelihoods(logits[pair], labels)[0] for pair in running}
    best = max(running, key=lambda pair: float(scores[pair].mean()))

    def is_worse(pair: Pair) -> bool:
        from scipy.stats import ttest_rel  # Takes long to load, and few trials race.

        return bool(ttest_rel(scores[best], scores[pair], alternative="greater").pvalue < level)

    return [pair for pair in running if pair == best or not is_worse(pair)]


def _summary(pair: Pair, logits: Scores, labels: npt.NDArray[np.int64]) -> UntrainedScore:
    likelihoods, right = calibrated_likelihoods(logits, labels)
    return UntrainedScore(*pair, float(likelihoods.mean()), float(right.mean()), len(logits))
