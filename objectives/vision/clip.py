"""Models that compare images with texts of labels: zero-shot heads, trained embeddings of labels, learnt context."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForZeroShotImageClassification

from promptgraft.objectives.backbones import (
    BACKBONES,
    Backbone,
    Batch,
    Encoder,
    EncoderScorer,
    Keep,
    LabelScorer,
    Pool,
    PromptTokens,
)
from promptgraft.objectives.layers import LayerStack, PromptedStack
from promptgraft.objectives.vision.image_encoder import ImageEncoder
from promptgraft.objectives.vision.image_stack import Parts
from promptgraft.spaces import Candidate, InvalidInputError, SoftPrompt, Template, Verbalizer

# Models that read a text at the end token, by `model_type`, and those that were trained with padding up to the last
# position, which they see.
_READ_AT_END, _PADDED = ("clip", "metaclip_2"), ("siglip",)
# The `eos_token_id` of old configurations of CLIP, which stands for the largest token id of a text.
_LARGEST = 2

# Makes logits of cosines.
Scale = Callable[[Tensor], Tensor]


@BACKBONES.register("clip")
class Clip(ImageEncoder):
    """A model such as CLIP or SigLIP: an image's embedding is compared with that of a text for each label.

    Its blocks are those of the vision tower, read where the model was trained to be: projected into the space of both
    embeddings. The text tower is never trained. What is trained in its place are embeddings of labels, which begin as
    those of their texts, or context vectors among the texts' words, from which the embeddings are made.
    """

    auto_class = AutoModelForZeroShotImageClassification
    many_labels = 1  # Texts take longer than all that is trained on frozen features.

    def keep(self, keep: Keep) -> None:
        """Let resized images and embeddings of labels be kept in a store; see `Backbone`."""
        super().keep(keep)
        Encoder.keep(self, keep)

    def train(self) -> None:
        """Go into training mode; see `Backbone`. The text tower stays as it is."""
        super().train()
        self.model.text_model.eval()

    def label_scorer(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, labels: Sequence[str], seed: int
    ) -> LabelScorer:
        """Build the head; see `Encoder.label_scorer`. With context vectors no rows of it are trained."""
        if candidate.head == "label_words" and candidate.soft_prompt.tokens:
            words = self._label_words(candidate, verbalizer)
            texts = {label: self.texts_of(template, words, label) for label in labels}
            return ContextScorer(self._pool_of(candidate), self._scale, LabelTexts(self, texts, candidate.soft_prompt))
        return super().label_scorer(candidate, template, verbalizer, labels, seed)

    def put_prompt(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, seed: int
    ) -> PromptedStack:
        """Keep a candidate's context vectors beside the vision tower, which never sees them; see `Backbone`."""
        if not candidate.soft_prompt.tokens:
            return super().put_prompt(candidate, template, verbalizer, seed)
        return ContextPrompt(self.layers, self._first_values(candidate, template, verbalizer, seed))

    @property
    def embeddings(self) -> Tensor:
        """The text tower's input embedding matrix as it was loaded, shape (vocabulary, hidden of the text tower)."""
        return self.weights.loaded(self.model.text_model.get_input_embeddings().weight)

    def own_tokens(self, candidate: Candidate, template: Template) -> int:
        """Count the tokens of a template without a label; see `ImageEncoder`."""
        if candidate.head != "label_words":
            return 0
        return len(self.tokenizer(template.render(dict.fromkeys(template.fields, "")).without_label())["input_ids"])

    def encode_text(self, text: str, soft: SoftPrompt | None = None) -> tuple[list[int], int]:
        """Tokenize a label's text, with places for context vectors.

        Args:
            text: The text.
            soft: Says how many vectors there are, and whether before or behind the words; none if None.

        Returns:
            Token ids, and the first place.

        Raises:
            InvalidInputError: If the text tower hasn't as many positions.
        """
        ids: list[int] = self.tokenizer(text)["input_ids"]
        length, begin, end = (soft.length if soft else 0), len(self._tokens.begin), len(self._tokens.end)
        longest: int = self.model.config.text_config.max_position_embeddings
        if len(ids) + length > longest:
            vectors = f" and {length} context vectors (soft_prompt.length)" if length else ""
            raise InvalidInputError(
                f"the text {text[:60]!r} of a label has {len(ids)} tokens, special ones included{vectors}, but the "
                f"text tower of {self.spec.path} has {longest} positions; shorten the template or the label words"
                f"{', or the soft prompt' if length else ''}"
            )
        first = len(ids) - end if soft is not None and soft.place == "suffix" else begin
        return [*ids[:first], *ids[begin : begin + 1] * length, *ids[first:]], first

    def embed_texts(self, encoded: Sequence[tuple[list[int], int]], vectors: Tensor | None) -> Tensor:
        """Return the embeddings of labels' texts, of unit length, shape (texts, hidden).

        Args:
            encoded: The texts, as `encode_text` returns them.
            vectors: Context vectors, shape (length, hidden of the text tower); None for none.
        """
        rows, first = zip(*encoded, strict=True)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        pad = self.tokenizer.pad_token_id or 0
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad).to(self.device)
        mask: Tensor | None = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
        if self.model.config.model_type in _PADDED:
            longest = self.model.config.text_config.max_position_embeddings
            ids, mask = functional.pad(ids, (0, longest - ids.shape[1]), value=pad), None
        with self._entering(torch.tensor(first, device=self.device), vectors):
            found: Tensor = self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return functional.normalize(found, dim=-1)

    @contextmanager
    def _entering(self, first: Tensor, vectors: Tensor | None) -> Iterator[None]:
        """Put context vectors in the place of embedded tokens."""
        if vectors is None:
            yield
            return

        def put(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:  # noqa: ARG001
            offset = torch.arange(embedded.shape[1], device=embedded.device) - first[:, None]
            inside = (offset >= 0) & (offset < len(vectors))
            return torch.where(inside[..., None], vectors[offset.clamp(0, len(vectors) - 1)], embedded)

        handle = self.model.text_model.get_input_embeddings().register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()

    def _embed(self, texts: list[str], pool: Pool) -> Tensor:  # noqa: ARG002
        """Return the embeddings of some texts, of unit length; shape (texts, hidden)."""
        encoded = [self.encode_text(text) for text in texts]
        if self.device.type == "meta":
            return torch.empty(len(texts), self.hidden_size, device=self.device)
        with torch.no_grad():
            return self.embed_texts(encoded, None)

    def _read_tokenizer(self, model: Any) -> Any:
        """Read the image processor, and the tokenizer of the labels' texts."""
        super()._read_tokenizer(model)
        tokenizer = Backbone._read_tokenizer(self, model.text_model)
        if model.config.model_type in _READ_AT_END:
            ids, end = tokenizer("a")["input_ids"], model.config.text_config.eos_token_id
            place = ids.index(max(ids)) if end == _LARGEST else ids.index(end) if end in ids else -1
            if place != len(ids) - 1:
                raise InvalidInputError(
                    f"{self.spec.path}: the text tower reads a text at the end token {end} (text_config.eos_token_id "
                    f"in config.json), but the tokenizer puts {ids[-1]} last; they belong to different models"
                )
        return tokenizer

    @cached_property
    def _tokens(self) -> PromptTokens:
        return PromptTokens(self.special_names, Template("label", "{{ label }}"))

    def _find_stack(self) -> Any:
        return self.model.vision_model

    def _parts(self) -> Parts:
        self.check_size(self.model.config.vision_config.image_size)
        tower, projection = self.stack, getattr(self.model, "visual_projection", None)
        norm = getattr(tower, "pre_layrnorm", nn.Identity())

        def finish(state: Tensor) -> Tensor:
            if projection is None:
                pooled: Tensor = tower.head(tower.post_layernorm(state))
                return pooled[:, None]
            projected: Tensor = projection(tower.post_layernorm(state[:, :1]))
            return projected

        return Parts(lambda pixels: norm(tower.embeddings(pixels)), list(tower.encoder.layers), finish, (None,))

    def _find_frozen_from(self) -> dict[str, int]:
        """Return, for each weight, the smallest `frozen_layers` that freezes it: 0 in the text tower."""
        below, above = ("vision_model.embeddings.", "vision_model.pre_"), ("vision_model.", "visual_projection.")

        def frozen_from(name: str) -> int:
            layer = self.layer_of(name)
            if layer is not None or name.startswith(below):
                return 1 + (layer or 0)
            return self.n_layers if name.startswith(above) else 0

        return {name: frozen_from(name) for name in self.pretrained}

    def _scale(self, cosines: Tensor) -> Tensor:
        """Scale cosines as the model was trained to."""
        scaled: Tensor = cosines * self.model.logit_scale.detach().exp()
        return scaled + self.model.logit_bias.detach() if hasattr(self.model, "logit_bias") else scaled

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        if head != "label_words":
            return super()._scorer(template, labels, weight, head, pool)
        return LabelTextScorer(labels, weight, pool, self._scale)


class LabelTextScorer(EncoderScorer):
    """Compares an image's embedding with one trainable row a label, which begins as the embedding of its text.

    Args:
        labels: Labels of both tasks.
        weight: First values, shape (len(labels), hidden).
        pool: See `Encoder.pool`.
        scale: Makes logits of cosines.
    """

    def __init__(self, labels: Sequence[str], weight: Tensor, pool: Pool, scale: Scale) -> None:
        super().__init__(None, labels, weight, "label_words", pool)
        self._scale = scale

    def forward(self, stack: PromptedStack, batch: Batch, labels: Sequence[str]) -> Tensor:
        """Score the labels; see `LabelScorer`."""
        features = functional.normalize(self.embed(stack, batch), dim=-1)
        return self._scale(features @ functional.normalize(self.of(stack, labels), dim=-1).T)

    def of(self, stack: PromptedStack, labels: Sequence[str]) -> Tensor:  # noqa: ARG002
        """Return the embeddings of some labels, shape (labels, hidden)."""
        return self.weight[self.places(labels)]


class ContextScorer(LabelTextScorer):
    """Compares an image's embedding with those of the labels' texts, among whose words there are context vectors.

    While nothing is trained, the embeddings are computed once for the same vectors.

    Args:
        pool: See `Encoder.pool`.
        scale: Makes logits of cosines.
        texts: Embeds the labels' texts around the vectors.

    Source: CoOp; Zhou et al. 2022, arXiv:2109.01134.
    """

    def __init__(self, pool: Pool, scale: Scale, texts: "LabelTexts") -> None:
        super().__init__((), torch.empty(0), pool, scale)
        self.register_parameter("weight", None)
        self._texts = texts
        self._known: tuple[Tensor, tuple[str, ...], Tensor] | None = None

    def of(self, stack: PromptedStack, labels: Sequence[str]) -> Tensor:
        """Return the embeddings of some labels around the vectors as they are now; see `LabelTextScorer`."""
        vectors, names = stack.vectors(), tuple(labels)
        if torch.is_grad_enabled():
            return self._texts.embed(names, vectors)
        known = self._known
        if known is None or known[1] != names or not torch.equal(known[0], vectors):
            known = self._known = (vectors.clone(), names, self._texts.embed(names, vectors))
        return known[2]


class LabelTexts:
    """The texts of labels, tokenized around context vectors.

    Args:
        backbone: Tokenizes and embeds them.
        texts: Of each label, one for each of its words.
        soft: The soft prompt.

    Raises:
        InvalidInputError: If a text is too long.
    """

    def __init__(self, backbone: Clip, texts: Mapping[str, Sequence[str]], soft: SoftPrompt) -> None:
        self._backbone = backbone
        self._rows = {label: [backbone.encode_text(text, soft) for text in own] for label, own in texts.items()}

    def embed(self, labels: Sequence[str], vectors: Tensor) -> Tensor:
        """Average the embeddings of each label's texts, shape (labels, hidden).

        Args:
            labels: The labels.
            vectors: Context vectors, shape (length, hidden of the text tower).
        """
        encoded = [row for label in labels for row in self._rows[label]]
        found = self._backbone.embed_texts(encoded, vectors)
        parts = torch.split(found, [len(self._rows[label]) for label in labels])
        return torch.stack([part.mean(0) for part in parts])


class ContextPrompt(PromptedStack):
    """Context vectors for the texts of labels, beside a stack that runs without them.

    Args:
        layers: The pretrained vision tower.
        vectors: First values, shape (length, hidden of the text tower).
    """

    def __init__(self, layers: LayerStack, vectors: Tensor) -> None:
        super().__init__(layers)
        self.trained = {"weight": nn.Parameter(vectors.clone())}

    def vectors(self) -> Tensor:
        """Return the vectors as they are now; see `PromptedStack`."""
        return self.trained["weight"]
