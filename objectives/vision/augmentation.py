"""Images changed at random while they are trained on: mirrored, cropped, in other colours, or by RandAugment.

Pillow does it: torchvision's wheels on PyPI are built for CUDA, and can't be imported beside a torch for CPUs.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

Change: TypeAlias = "Callable[[Image, Random], Image]"
# Smallest share of an image's area that a crop keeps, and how far its sides may differ from the image's.
LEAST_AREA, MOST_RATIO = 0.5, 4 / 3
# How far brightness, contrast and saturation go from 1 either way.
COLORS = 0.4
# RandAugment's number of operations, and how far each goes, as a share of the furthest: 9 of 30.
OPERATIONS, STRENGTH = 2, 0.3
# What is outside of an image that was turned or moved.
_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class View:
    """An image as one pass over the training rows shows it.

    Attributes:
        number: The image's number.
        augmentation: How it is changed; see `Candidate`.
        seed: Tells the trial's seed and the pass.
    """

    number: int
    augmentation: str
    seed: str

    @property
    def own_number(self) -> int:
        """The number of the view itself, in the place of an image's."""
        content = f"{self.number} {self.augmentation} {self.seed}"
        return int(hashlib.sha256(content.encode()).hexdigest()[:16], 16) >> 1

    @property
    def mirrored(self) -> bool:
        """Whether left and right are exchanged, as then in the answer, too."""
        return self.augmentation == "flip" and _tossed(self._random())

    def of(self, pixels: Tensor) -> Tensor:
        """Change an image.

        Args:
            pixels: Shape (3, height, width), of bytes.

        Returns:
            The same shape.
        """
        from PIL import Image

        image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        return torch.from_numpy(np.array(_CHANGES[self.augmentation](image, self._random()))).permute(2, 0, 1)

    def _random(self) -> Random:
        return Random(f"{self.number} {self.seed}")


def _tossed(random: Random) -> bool:
    return random.random() < 0.5


def _flip(image: "Image", random: Random) -> "Image":
    """Mirror every other image."""
    from PIL import ImageOps

    return ImageOps.mirror(image) if _tossed(random) else image


def _crop(image: "Image", random: Random) -> "Image":
    """Cut out a part, and enlarge it to the image's size."""
    from PIL.Image import Resampling

    area, ratio = random.uniform(LEAST_AREA, 1), math.exp(random.uniform(-1, 1) * math.log(MOST_RATIO))
    width = min(1, math.sqrt(area * ratio)) * image.width
    height = min(1, math.sqrt(area / ratio)) * image.height
    left, top = random.random() * (image.width - width), random.random() * (image.height - height)
    return image.resize(image.size, Resampling.BILINEAR, (left, top, left + width, top + height))


def _color(image: "Image", random: Random) -> "Image":
    """Change brightness, contrast and saturation."""
    from PIL import ImageEnhance

    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(random.uniform(1 - COLORS, 1 + COLORS))
    return image


def _rand_augment(image: "Image", random: Random) -> "Image":
    """Apply some operations of RandAugment, one after the other.

    Source: Cubuk et al. 2020, arXiv:1909.13719; the operations and their ranges are those of its table and torchvision.
    """
    for operation in random.choices(_OPERATIONS, k=OPERATIONS):
        image = operation(image, STRENGTH if _tossed(random) else -STRENGTH)
    return image


def _enhanced(name: str) -> "Callable[[Image, float], Image]":
    def change(image: "Image", by: float) -> "Image":
        from PIL import ImageEnhance

        changed: Image = getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * by)
        return changed

    return change


def _moved(
    shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)
) -> "Callable[[Image, float], Image]":
    """Return what shears and moves an image by shares of its width and height."""

    def change(image: "Image", by: float) -> "Image":
        from PIL.Image import Resampling, Transform

        right, down = shift[0] * image.width * by, shift[1] * image.height * by
        matrix = (1, shear[0] * by, right, shear[1] * by, 1, down)
        return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR, fillcolor=_GREY)

    return change


def _turned(image: "Image", by: float) -> "Image":
    from PIL.Image import Resampling

    return image.rotate(30 * by, Resampling.BILINEAR, fillcolor=_GREY)


def _toned(name: str, amount: Callable[[float], int] | None = None) -> "Callable[[Image, float], Image]":
    def change(image: "Image", by: float) -> "Image":
        from PIL import ImageOps

        changed: Image = getattr(ImageOps, name)(image, *([] if amount is None else [amount(abs(by))]))
        return changed

    return change


_OPERATIONS: "tuple[Callable[[Image, float], Image], ...]" = (
    lambda image, _: image,
    _toned("autocontrast"),
    _toned("equalize"),
    _toned("posterize", lambda by: 8 - round(4 * by)),
    _toned("solarize", lambda by: round(255 * (1 - by))),
    *map(_enhanced, ("Brightness", "Color", "Contrast", "Sharpness")),
    _turned,
    _moved(shear=(0.3, 0)),
    _moved(shear=(0, 0.3)),
    _moved(shift=(0.45, 0)),
    _moved(shift=(0, 0.45)),
)
_CHANGES: Mapping[str, Change] = {"flip": _flip, "crop": _crop, "color": _color, "rand_augment": _rand_augment}
