"""A backbone with a candidate's soft prompt and label scorer attached: what one trial trains."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from promptgraft.objectives.backbones import FAMILIES, Backbone, Batch, EmbeddingScorer, check_candidate
from promptgraft.objectives.caching import Activations, Reuse
from promptgraft.objectives.data import PRIOR, HasPriors, PriorNames, Row, WordSplitter
from promptgraft.objectives.layers import split_by_length
from promptgraft.objectives.progress import report_progress
from promptgraft.objectives.prompting.demonstrations import DemonstrationPool
from promptgraft.objectives.prompting.encoded_rows import EncodedPrompt, EncodedRow, Loss, answer_length, answer_tokens
from promptgraft.objectives.prompting.loaded_weights import check_weights
from promptgraft.objectives.prompting.priors import Prior
from promptgraft.objectives.prompting.row_prompts import prompts_of
from promptgraft.objectives.prompting.word_places import WordPlaces
from promptgraft.spaces import Candidate, InvalidInputError, RenderedPrompt, Template, Verbalizer

# Prefixes of the names of weights, as bundles and checkpoints store them.
BACKBONE, _ADAPTER, HEAD, SOFT_PROMPT = "backbone.", "adapter.", "reader.", "soft_prompt."
# Weights of a head with a row for each label.
HEAD_WEIGHT = f"{HEAD}weight"
CALIBRATION_BIAS = "calibration.bias"
# Centre and scale of the numbers that outputs are standardised by, shape (2,).
SCALING = "scaling"


class PromptedModel:
    """Scores the labels of rendered prompts; owns the trainable weights of one trial.

    Args:
        backbone: A restored backbone; the model trains its weights in place.
        candidate: Says what is attached.
        template: The candidate's template.
        verbalizer: The candidate's verbalizer, if it uses one.
        labels: Labels of both tasks.
        seed: Seed of what is initialised at random.

    Attributes:
        activations: What is known of rows that were encoded; everything is computed if None.
        bias: What calibration takes off the scores, shape (labels,), on the CPU; see `calibration`.
        scaling: Centre and scale that turn outputs into numbers of the task's scale, shape (2,), in float64 on the CPU;
            None where they are logits.
        prior: What is counted and joins the scores, if the candidate has a prior.

    Raises:
        InvalidInputError: If the backbone can't do what the candidate asks.
    """

    def __init__(
        self,
        backbone: Backbone,
        candidate: Candidate,
        template: Template,
        verbalizer: Verbalizer | None,
        labels: Sequence[str],
        seed: int,
    ) -> None:
        self.backbone = backbone
        self.candidate = candidate
        self.template = template = backbone.guard(template, verbalizer)
        self.seed = seed
        self.activations: Activations | None = None
        self.bias: Tensor | None = None
        self.scaling: Tensor | None = None
        self.prior: Prior | None = None
        check_candidate(candidate.to_dict(), backbone.architecture)
        self.scorer = backbone.label_scorer(candidate, template, verbalizer, labels, seed)
        self._prompts = prompts_of(backbone, candidate, template, self.scorer)
        backbone.freeze(candidate.frozen_layers)
        self.stack = backbone.put_prompt(candidate, template, verbalizer, seed)
        self._adapters = backbone.adapt(candidate.adapter, candidate.frozen_layers, seed)

    def read_words(self, split: WordSplitter) -> None:
        """Score each word of a row's text, as `split` finds them, in place of the row as a whole."""
        self._prompts.read_words(split)

    @property
    def words(self) -> WordPlaces | None:
        """What finds the words of a row's text, each of which is scored; None where rows are scored as a whole."""
        return self._prompts.words

    @property
    def stores_ids(self) -> bool:
        """Whether encoding rows takes so long that what is encoded is kept."""
        return self._prompts.stored

    def read_prior(self, kind: PriorNames, labels: Sequence[str]) -> None:
        """Let the candidate's prior, if it has one, join the scores.

        Args:
            kind: The target task, or one of its kind.
            labels: Labels of all tasks, the target's first.

        Raises:
            InvalidInputError: If the kind doesn't have the prior, as a bundle that someone else wrote may claim.
        """
        if self.candidate.prior != "none":
            if reason := kind.refuses_prior("prior", self.candidate.prior):
                raise InvalidInputError(reason)
            assert isinstance(kind, HasPriors), "it names priors"
            self.prior = Prior(kind, self.candidate, labels)

    def reuse(self) -> Reuse | None:
        """Say what of the forward pass doesn't depend on anything that is trained; None if nothing of use."""
        if self.candidate.ignores_text:
            return None
        frozen, entry = self.candidate.frozen_layers, self.stack.entry
        if self.stack.before_text or not frozen:
            return None
        if self.backbone.layers.causal and not self.backbone.spec.takes_masks:
            return None  # What stands behind the text would have to be told which of its keys are padding.
        below = min(frozen if entry is None else min(entry, frozen), len(self.backbone.layers))
        if not FAMILIES[self.backbone.family].in_parts and below < len(self.backbone.layers):
            return None
        if self.backbone.layers.causal:
            # Nothing behind the text changes it at any layer; what stands there needs its keys and values.
            return Reuse(frozen, 0 if self.scorer.continues else below)
        return Reuse(below, below) if below else None

    def attached(self) -> dict[str, nn.Parameter]:
        """The trainable weights that the migration attaches, by name."""
        weights = {HEAD + name: parameter for name, parameter in self.scorer.named_parameters()}
        return weights | {SOFT_PROMPT + name: parameter for name, parameter in self.stack.trained.items()}

    def heads(self) -> tuple[str, ...]:
        """Names of the weights that make logits of what the backbone says; none where its own vocabulary does."""
        return tuple(HEAD + name for name, _ in self.scorer.named_parameters())

    def load_head(self, weight: Tensor, bias: Tensor) -> None:
        """Set a linear head: weight of shape (labels, hidden), bias of shape (labels,)."""
        self.load({HEAD_WEIGHT: weight, f"{HEAD}bias": bias})

    def adapters(self) -> dict[str, nn.Parameter]:
        """The trainable weights inside the backbone that stand for its own, by name."""
        return {_ADAPTER + name: parameter for name, parameter in self._adapters.items()}

    def carried(self) -> dict[str, nn.Parameter]:
        """The backbone's weights, by name, frozen ones included."""
        return {BACKBONE + name: parameter for name, parameter in self.backbone.pretrained.items()}

    def weights(self) -> dict[str, nn.Parameter]:
        """All weights, by name."""
        return self.carried() | self.adapters() | self.attached()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The weights that training changes, by name."""
        return {name: parameter for name, parameter in self.weights().items() if parameter.requires_grad}

    @property
    def trainable_parameters(self) -> int:
        """Number of weights that training changes."""
        return sum(parameter.numel() for parameter in self.trainable().values())

    def prompt_tokens(self, rows: Sequence[EncodedPrompt] = ()) -> int:
        """Count the tokens of a prompt whose fields are empty, special ones included, and of the soft prompt.

        Args:
            rows: Encoded rows over which the tokens of demonstrations are averaged, if there are any.
        """
        shown = round(sum(row.demonstration_tokens for row in rows) / max(1, len(rows)))
        return self._prompts.own_tokens() + self.candidate.soft_prompt.tokens + shown

    def snapshot(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Copy weights to the CPU, and with them calibration and scaling of their scores."""
        weights = self.weights()
        state = {name: weights[name].detach().to("cpu", copy=True) for name in names}
        state |= self.prior.tensors if self.prior else {}
        scores = {CALIBRATION_BIAS: self.bias, SCALING: self.scaling}
        return state | {name: value.clone() for name, value in scores.items() if value is not None}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set weights, calibration and scaling from a snapshot; names and shapes must be the model's own."""
        weights = self.weights()
        self.bias, self.scaling = state.get(CALIBRATION_BIAS), state.get(SCALING)
        if self.prior is not None:
            self.prior.take(state)
        with torch.no_grad():
            for name, value in _without_prior(state).items():
                if name not in (CALIBRATION_BIAS, SCALING):
                    weights[name].copy_(value)

    def load_all(self, state: Mapping[str, Tensor], labels: int) -> None:
        """Set weights and calibration from a file that someone else may have written.

        Args:
            state: Every weight that is attached or trained, and perhaps others of the model, by name.
            labels: Number of labels that are scored.

        Raises:
            InvalidInputError: If one is missing, isn't the model's, or has another shape, or values that aren't finite.
        """
        weights: dict[str, Tensor] = {**self.weights()}
        needed = self.trainable().keys() | self.attached().keys()
        if CALIBRATION_BIAS in state:
            weights[CALIBRATION_BIAS] = torch.empty(labels)
        if SCALING in state:
            weights[SCALING] = torch.empty(2)
        if self.prior is not None:
            self.prior.check(state)
        check_weights(_without_prior(state) if self.prior else state, weights, needed)
        self.load(state)

    def encode(self, rows: Sequence[Row], pool: DemonstrationPool | None = None) -> list[EncodedRow]:
        """Render and tokenize labelled rows; see `encode_fields`."""
        prompts = self.encode_fields([row.fields for row in rows], pool)
        return [
            EncodedRow.of(prompt, self.scorer.encode_answer(row.answer))
            for prompt, row in zip(prompts, rows, strict=True)
        ]

    def encode_fields(
        self, fields: Sequence[Mapping[str, str]], pool: DemonstrationPool | None = None
    ) -> list[EncodedPrompt]:
        """Render and tokenize rows, whether or not they have labels.

        Where a prompt has too many tokens, it gets those of its demonstrations that fit, tried in the order in which
        they were chosen; where it has too many without any, its longest field is cut.

        Args:
            fields: Template field -> value of each row.
            pool: Their demonstrations, if the candidate has any.
        """
        return [self._encoded(own, pool) for own in fields]

    def view(self, row: EncodedRow, mirrored: Callable[[Any], Any], seed: str) -> EncodedRow:
        """Return a row as one pass over the training rows shows it: changed at random as the candidate says.

        Args:
            row: The row.
            mirrored: Returns the answer of a mirrored image.
            seed: Tells the trial's seed and the pass.
        """
        ids, is_mirrored = self._prompts.view(row.ids, self.candidate.augmentation, seed)
        return replace(row, ids=ids, answer=mirrored(row.answer) if is_mirrored else row.answer, is_view=True)

    def render(self, fields: Mapping[str, str], pool: DemonstrationPool | None = None) -> RenderedPrompt:
        """Render the prompt that the model sees for these fields; see `encode`."""
        return self._prompts.render(fields, pool)

    def _encoded(self, fields: Mapping[str, str], pool: DemonstrationPool | None) -> EncodedPrompt:
        prompt = self._prompts.encode(fields, pool)
        return replace(prompt, features=self.prior.features(fields)) if self.prior else prompt

    def batch(self, rows: Sequence[EncodedPrompt]) -> Batch:
        """Pad encoded prompts to the longest of them."""
        device = self.backbone.device
        lengths = torch.tensor([len(row.ids) for row in rows])
        input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for index, row in enumerate(rows):
            input_ids[index, : len(row.ids)] = torch.tensor(row.ids)
        changed = any(row.is_view for row in rows)
        known = self.activations.known([row.ids for row in rows]) if self.activations and not changed else None
        places = [torch.tensor(row.words) for row in rows if row.words is not None]
        words = pad_sequence(places, batch_first=True, padding_value=-1).to(device) if places else None
        answers = answer_tokens(rows, device) if self.candidate.head == "answer" else None
        return Batch(input_ids.to(device), lengths.to(device), known, words, answers)

    def split(self, rows: Sequence[EncodedPrompt], max_rows: int) -> list[list[int]]:
        """Split rows into batches, so that little is run on padding.

        Args:
            rows: Encoded prompts.
            max_rows: Largest number of rows in a batch.

        Returns:
            Indices of the rows of each batch.
        """
        known = self.activations
        whole = known is not None and known.reuse.depth == len(self.backbone.layers)
        if whole and FAMILIES[self.backbone.family].in_parts:
            lengths = [1] * len(rows)  # What is run, if anything, stands behind the text: the same for all rows.
        else:
            writes = self.candidate.head == "answer"
            lengths = [len(row.ids) + self.stack.length + (answer_length(row) if writes else 0) for row in rows]
        return split_by_length(lengths, max_rows, self.backbone.device.type)

    def logits(self, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score a batch, without calibration; shape (rows, len(labels)), or (rows, words or cells, len(labels)).

        Words that the prompt has no room for score 0.
        """
        scores: Tensor = self.scorer(self.stack, batch, labels)
        return scores if batch.words is None else scores * (batch.words >= 0).to(scores.dtype)[..., None]

    def _joined(self, rows: Sequence[EncodedPrompt], labels: Sequence[str]) -> Tensor:
        """Score rows by their text and the prior, on the CPU; see `logits`."""
        if self.prior is None:
            return self.logits(self.batch(rows), labels).cpu()
        counts = self.prior.logits(rows, labels)
        if self.candidate.ignores_text:
            return counts
        text = (
            self._of_short_list(rows, labels, counts) if self.scorer.listed else self.logits(self.batch(rows), labels)
        )
        return self.candidate.text_weight * text.float().cpu() + counts

    def _of_short_list(self, rows: Sequence[EncodedPrompt], labels: Sequence[str], counts: Tensor) -> Tensor:
        """Score by their text the labels that the prior ranks first; the others have the lowest of these scores.

        So they come behind these in the order of the prior, however much the text counts.
        """
        first = counts.sort(dim=1, descending=True, stable=True).indices[:, : self.scorer.listed]
        listed = replace(self.batch(rows), listed=first.to(self.backbone.device))
        found = self.logits(listed, labels).float().cpu()
        return found.min(dim=1, keepdim=True).values.repeat(1, len(labels)).scatter(1, first, found)

    def title_loss(self, rows: Sequence[EncodedRow], labels: Sequence[str]) -> Tensor:
        """Return the mean over rows of the loss of a token of the right item's title, in nats; shape ()."""
        right = replace(self.batch(rows), listed=self.targets(rows)[:, None])
        return -self.logits(right, labels).mean()

    def nll(self, rows: Sequence[EncodedRow], labels: Sequence[str], loss: Loss = functional.cross_entropy) -> Tensor:
        """Mean negative log-likelihood of the rows' labels, in nats, or another loss in its place; shape ()."""
        return loss(self.logits(self.batch(rows), labels), self.targets(rows))

    def targets(self, rows: Sequence[EncodedRow]) -> Tensor:
        """Return the index of each row's label, shape (rows,), on the backbone's device."""
        return torch.tensor([row.label for row in rows], device=self.backbone.device)

    def embed(self, batch: Batch) -> Tensor:
        """Embed a batch's texts, or their words; encoders only; shape (rows, hidden), or (rows, words, hidden)."""
        assert isinstance(self.scorer, EmbeddingScorer), "the candidate's family has text embeddings"
        return self.scorer.embed(self.stack, batch)

    def embeddings(self, rows: Sequence[EncodedPrompt], batch_size: int) -> Tensor:
        """Embed rows, or the words that are read, without gradients or dropout, in batches of similar length.

        Args:
            rows: Encoded prompts.
            batch_size: Largest number of rows in a batch.

        Returns:
            Shape (len(rows), hidden), or (words of all rows, hidden), on the CPU.
        """
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        self.backbone.model.eval()
        with torch.inference_mode():
            for chosen in self.split(rows, batch_size):
                batch = self.batch([rows[i] for i in chosen])
                for place, own in enumerate(self.embed(batch).float().cpu()):
                    read = None if batch.words is None else batch.words[place].cpu() >= 0
                    found[chosen[place]] = own[None] if read is None else own[read]
        return torch.cat(found)  # Outside inference mode, so that gradients of what is computed from it can be had.

    def score(
        self, rows: Sequence[EncodedPrompt], labels: Sequence[str], batch_size: int, only: Container[int] | None = None
    ) -> Tensor:
        """Score rows without gradients or dropout, in batches of similar length; calibrated and scaled, if so.

        Args:
            rows: Encoded prompts.
            labels: The labels to score.
            batch_size: Largest number of rows in a batch.
            only: Places of the rows whose answers are written, where these are texts; all if None.

        Returns:
            Outputs on the CPU, in the order of `rows`, shape (len(rows), width): logits of the labels, unless answers
            are texts; or (len(rows), words or cells, len(labels)), padded with zeros to the row that has most words.
        """
        shape = [self.scorer.cells] if self.scorer.cells else []
        if self.words:
            shape = [max((len(row.words or ()) for row in rows), default=0)]
        scorer: Any = self.scorer if self.candidate.head == "answer" else None
        result = torch.zeros(len(rows), *shape, scorer.width if scorer else len(labels) + self.scorer.more)
        self.backbone.model.eval()
        with torch.inference_mode():
            scored = 0
            for chosen in self.split(rows, batch_size):
                part, own = [rows[i] for i in chosen], [only is None or i in only for i in chosen]
                if scorer is None:
                    found = self._joined(part, labels)
                else:
                    found = scorer.outputs(self.stack, self.batch(part), own).cpu()
                result[(chosen, slice(found.shape[1])) if shape else chosen] = found
                scored += len(chosen)
                report_progress("scoring rows", scored, len(rows))
        result = result if self.bias is None else result - self.bias
        return result if self.scaling is None else result.to(self.scaling.dtype) * self.scaling[1] + self.scaling[0]


def _without_prior(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(PRIOR)}
