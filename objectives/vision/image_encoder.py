"""Models that read images: what they share with encoders of texts, and what takes the place of a tokenizer."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from promptgraft.objectives.backbones import Encoder, EncoderScorer, Keep, LabelScorer, Pool
from promptgraft.objectives.layers import PromptedStack
from promptgraft.objectives.vision.augmentation import View
from promptgraft.objectives.vision.image_stack import ImageStack, Parts
from promptgraft.objectives.vision.pixels import Pixels
from promptgraft.objectives.vision.visual_prompts import Frame, VisualPrompt
from promptgraft.spaces import Candidate, InvalidInputError, Template, Verbalizer


class ImageEncoder(Encoder):
    """A pretrained model of images, read by a linear head or a probe.

    Its parts are frozen as an encoder's are: the embeddings of pixels with the lowest layers or stages. Running means
    and variances of batch normalisation stay as they were pretrained, in training, too: a batch has few rows, and what
    is frozen must not change by being run.
    """

    layers: ImageStack

    @abstractmethod
    def _parts(self) -> Parts:
        """Return the parts of the model, in the order in which they are run."""

    def image_ids(self, reference: str) -> tuple[int, ...]:
        """Return an image as ids: its number, then one for each further token that the model makes of it.

        Args:
            reference: Path or data URI of the image.

        Raises:
            UnreadableImageError: If the file can't be read.
        """
        return (self.pixels.number(reference), *range(1, self.layers.tokens))

    def view(self, ids: tuple[int, ...], augmentation: str, seed: str) -> tuple[tuple[int, ...], bool]:
        """Return the ids of an image as one pass over the rows shows it, and whether it is mirrored.

        Args:
            ids: The image's.
            augmentation: How it changes; see `Candidate`.
            seed: Tells the trial's seed and the pass.
        """
        view = View(ids[0], augmentation, seed)
        return (self.pixels.view(view), *ids[1:]), view.mirrored

    def keep(self, keep: Keep) -> None:
        """Let resized images be kept in a store; see `Backbone`."""
        self.pixels.keep(keep)

    def forget(self) -> None:
        """Forget the images that were read; see `Backbone`."""
        self.pixels.forget()

    def train(self) -> None:
        """Go into training mode; see `Backbone`. Normalisation by running means stays as it is."""
        super().train()
        for module in self._norms:
            module.eval()

    def guard(self, template: Template, verbalizer: Verbalizer | None) -> Template:  # noqa: ARG002
        """Return the template, in which there are no names of special tokens."""
        return template

    def layer_of(self, name: str) -> int | None:
        """Return the block that a weight belongs to; see `Backbone`."""
        return self._block_of.get(name)

    def put_prompt(
        self, candidate: Candidate, template: Template, verbalizer: Verbalizer | None, seed: int
    ) -> PromptedStack:
        """Put a candidate's frame around images, or its vectors among the patches; see `Backbone`."""
        del template, verbalizer
        soft = candidate.soft_prompt
        if not soft.length:
            return PromptedStack(self.layers)
        if soft.framed:
            return Frame(self.layers, soft.length, self.pixels.shape)
        return VisualPrompt(self.layers, self._first_vectors(soft.length, seed).to(self.device), soft.layer or 0)

    def own_tokens(self, candidate: Candidate, template: Template) -> int:  # noqa: ARG002
        """Count the tokens of a prompt beside those of the image and of the soft prompt: there are none."""
        return 0

    def check_size(self, size: int | Sequence[int]) -> None:
        """Refuse an image processor that makes images of another size than the model reads.

        Args:
            size: Side, or height and width, of the images that the model reads.

        Raises:
            InvalidInputError: If it is another one.
        """
        wanted = tuple(size) if isinstance(size, list | tuple) else (size, size)
        if wanted != self.pixels.shape[1:]:
            if self.spec.image_size is not None:
                raise InvalidInputError(
                    f"backbone.image_size is {self.spec.image_size}, but the model in {self.spec.path} reads images of "
                    f"{wanted[0]} x {wanted[1]} pixels only; leave it out"
                )
            raise InvalidInputError(
                f"{self.spec.path}: its image processor makes images of {self.pixels.shape[1]} x "
                f"{self.pixels.shape[2]} pixels, but the model in config.json reads {wanted[0]} x {wanted[1]}; put "
                "preprocessor_config.json right"
            )

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states that a head reads."""
        return self.layers.width

    def _first_vectors(self, length: int, seed: int) -> Tensor:
        """Draw first values of vectors among patches, shape (length, hidden)."""
        raise InvalidInputError(
            f"backbone family {self.family!r} takes no soft prompt of {length} vectors, seed {seed}"
        )

    def _read_tokenizer(self, model: Any) -> Any:  # noqa: ARG002
        """Read the image processor; there is no tokenizer."""
        self.pixels = Pixels(self.spec, self.weights_hash)
        return None

    def _make_layers(self) -> ImageStack:
        if getattr(getattr(self.stack, "embeddings", None), "mask_token", None) is not None:
            self.stack.embeddings.mask_token = None  # Nothing reads it, as the pooler.
            self.pretrained = dict(self.model.named_parameters())
        self._norms = [own for own in self.model.modules() if isinstance(own, nn.modules.batchnorm._BatchNorm)]
        self.model.eval()
        return ImageStack(self.stack, self._parts(), self.pixels.of, self.pixels.shape)

    def _find_blocks(self) -> dict[str, nn.Module]:
        """Name the blocks; one of several modules by the first of them."""
        names = {id(own): name for name, own in self.model.named_modules()}
        weights = {id(own): name for name, own in self.pretrained.items()}
        found: dict[str, nn.Module] = {}
        self._block_of: dict[str, int] = {}
        for place, block in enumerate(self.layers.layers):
            found[names.get(id(block)) or names[id(next(block.children()))]] = block
            self._block_of |= {weights[id(own)]: place for own in block.parameters()}
        return found

    def _scorer(self, template: Template, labels: Sequence[str], weight: Tensor, head: str, pool: Pool) -> LabelScorer:
        del template
        if head == "label_words":
            raise InvalidInputError(
                f"head {head!r} reads texts, but {self.family!r} models read images; use linear or probe"
            )
        return EncoderScorer(None, labels, weight, head, pool)


def mean_of_map(state: Tensor) -> Tensor:
    """Average a map over its places; from shape (rows, channels, height, width) to (rows, 1, channels)."""
    return torch.flatten(state, 2).mean(dim=2)[:, None]
