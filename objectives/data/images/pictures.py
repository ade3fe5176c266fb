"""Pictures for people: small copies of images, sheets of them, and what a model found in an image drawn onto it."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from promptgraft.objectives.data.images.files import UnreadableImageError, load_image, open_image
from promptgraft.objectives.data.images.masks import IGNORED_PIXEL, Mask

if TYPE_CHECKING:
    from PIL.Image import Image

# Pixels of a small copy, of the space between two, and of the two lines of text below each.
THUMBNAIL_SIDE, _MARGIN, _TEXT_HEIGHT = 128, 12, 30
# Pixels of the longer side of an image that is drawn onto, and of a line of text below it.
_DRAWN_SIDE, _LINE = 192, 14
# Colours of labels, told apart by people who see colours otherwise, too (Okabe and Ito 2008); more labels begin anew.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_IGNORED_COLOUR = "#808080"
# How much of a painted pixel is the colour of its label.
_OPACITY = 0.55


def thumbnail(path: Path, side: int = THUMBNAIL_SIDE) -> bytes:
    """Return a small copy of an image as the content of a JPEG file, a few kilobytes.

    Args:
        path: The image; see `open_image`.
        side: Pixels that neither side exceeds. Smaller images are enlarged by a whole number, so that one can see them.

    Raises:
        UnreadableImageError: If it can't be read.
    """
    return _as_jpeg(_small(path, side))


def contact_sheet(images: Sequence[tuple[Path, str]], columns: int = 6) -> bytes:
    """Put small copies of images in a grid, each with a text below it.

    Args:
        images: Files and texts, of which each line should have at most 20 characters. One that can't be read is a
            grey field with its text.
        columns: Images in a row.

    Returns:
        The content of a JPEG file.
    """
    from PIL import Image, ImageDraw

    width, height = THUMBNAIL_SIDE + _MARGIN, THUMBNAIL_SIDE + _TEXT_HEIGHT + _MARGIN
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (path, text) in enumerate(images):
        left, top = place % columns * width + _MARGIN // 2, place // columns * height + _MARGIN // 2
        try:
            small = _small(path, THUMBNAIL_SIDE)
        except UnreadableImageError:
            small = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "lightgrey")
        sheet.paste(small, (left + (THUMBNAIL_SIDE - small.width) // 2, top + (THUMBNAIL_SIDE - small.height) // 2))
        draw.multiline_text((left, top + THUMBNAIL_SIDE + 2), text, fill="black", spacing=2)
    return _as_jpeg(sheet)


def masked_image(reference: str, masks: Sequence[tuple[str, Mask]], labels: Sequence[str]) -> bytes:
    """Draw masks onto copies of an image, side by side behind the image itself, with the colours' labels below.

    Args:
        reference: Path or data URI of the image.
        masks: Title and classes of each; pixels of the first label are left as they are.
        labels: Names of the classes.

    Returns:
        The content of a JPEG file.

    Raises:
        UnreadableImageError: If the image can't be read.
    """
    from PIL import Image, ImageColor

    plain = _drawn_size(reference)
    colours = [_colour(place) for place in range(max(0, len(labels) - 1))]
    painted = np.array([(0, 0, 0), *map(ImageColor.getrgb, colours)], dtype=np.float64)
    panels = [("image", plain)]
    for title, mask in masks:
        whole = np.asarray(Image.fromarray(mask).resize(plain.size, Image.Resampling.NEAREST))
        pixels, ignored = np.array(plain, dtype=np.float64), whole == IGNORED_PIXEL
        paint = painted[np.where(ignored, 0, whole)]
        paint[ignored] = ImageColor.getrgb(_IGNORED_COLOUR)
        is_painted = whole > 0
        pixels[is_painted] = (1 - _OPACITY) * pixels[is_painted] + _OPACITY * paint[is_painted]
        panels.append((title, Image.fromarray(pixels.astype(np.uint8))))
    present = sorted({int(own) for _, mask in masks for own in np.unique(mask)} - {0, IGNORED_PIXEL})
    return _in_a_row(panels, [(colours[own - 1], labels[own]) for own in present])


def boxed_image(
    reference: str, boxes: Sequence[tuple[str, Sequence[tuple[float, float, float, float, int]]]], labels: Sequence[str]
) -> bytes:
    """Draw boxes onto copies of an image, side by side behind the image itself, with the colours' labels below.

    Args:
        reference: Path or data URI of the image.
        boxes: Title, and left, top, width and height of each box as shares of the image's, with its label.
        labels: Names of the labels.

    Returns:
        The content of a JPEG file.

    Raises:
        UnreadableImageError: If the image can't be read.
    """
    from PIL import ImageDraw

    plain = _drawn_size(reference)
    panels, present = [("image", plain)], set[int]()
    for title, own in boxes:
        panel = plain.copy()
        draw = ImageDraw.Draw(panel)
        for left, top, width, height, label in own:
            ends = (
                (left * plain.width, top * plain.height),
                ((left + width) * plain.width, (top + height) * plain.height),
            )
            draw.rectangle((*ends[0], *ends[1]), outline=_colour(label), width=2)
            present.add(label)
        panels.append((title, panel))
    return _in_a_row(panels, [(_colour(label), labels[label]) for label in sorted(present)])


def drawn_frame(sides: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Draw what a frame adds to the pixels of images: grey where nothing, light or dark where the most.

    Args:
        sides: `top`, `left`, `right` and `bottom`, each of shape (channels, height, width), the first and last with the
            corners.

    Returns:
        The content of a JPEG file.
    """
    from PIL import Image

    channels, height, width = sides["left"].shape
    within = np.zeros((channels, height, sides["top"].shape[2] - 2 * width), dtype=np.float32)
    middle = np.concatenate([sides["left"], within, sides["right"]], axis=2)
    whole = np.concatenate([sides["top"], middle, sides["bottom"]], axis=1)
    most = max(float(np.abs(whole).max()), float(np.finfo(np.float32).tiny))
    drawn = Image.fromarray(np.round(127.5 + 127.5 * whole / most).astype(np.uint8).transpose(1, 2, 0))
    return _as_jpeg(_enlarged(drawn, _DRAWN_SIDE))


def _drawn_size(reference: str) -> "Image":
    """Return an image in the size that is drawn onto."""
    plain = load_image(reference, least_side=_DRAWN_SIDE)
    factor = _DRAWN_SIDE / max(plain.size)
    return plain.resize((max(1, round(plain.width * factor)), max(1, round(plain.height * factor))))


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _in_a_row(panels: Sequence[tuple[str, "Image"]], colours: Sequence[tuple[str, str]]) -> bytes:
    """Put titled images of one size side by side, and below them what colours mean; a JPEG file."""
    from PIL import Image, ImageDraw

    width, height = panels[0][1].size
    top = height + _LINE + _MARGIN
    sheet = Image.new("RGB", (len(panels) * (width + _MARGIN), top + _LINE * len(colours)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (title, image) in enumerate(panels):
        left = place * (width + _MARGIN)
        draw.text((left + 1, 1), title, fill="black")
        sheet.paste(image, (left, _LINE))
    for place, (colour, name) in enumerate(colours):
        line = top + place * _LINE
        draw.rectangle((1, line + 2, 11, line + 12), fill=colour)
        draw.text((18, line + 1), name, fill="black")
    return _as_jpeg(sheet)


def _small(path: Path, side: int) -> "Image":
    image = open_image(path, least_side=side)
    if max(image.size) > side:
        image.thumbnail((side, side))
        return image
    return _enlarged(image, side)


def _enlarged(image: "Image", side: int) -> "Image":
    """Enlarge an image by a whole number, so that neither side exceeds so many pixels."""
    from PIL.Image import Resampling

    times = max(1, side // max(image.size))
    return image.resize((image.width * times, image.height * times), Resampling.NEAREST)


def _as_jpeg(image: "Image") -> bytes:
    content = BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()
