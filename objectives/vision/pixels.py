"""Images as a model reads them: resized by its own processor, kept as bytes, scaled when they are run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoImageProcessor

from promptgraft.objectives.backbones import Keep, explained_errors, model_folder
from promptgraft.objectives.data import image_hash, load_image, mask_as_data, mask_in
from promptgraft.objectives.progress import report_progress
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.vision.augmentation import View
from promptgraft.spaces import InvalidInputError

# Images that are resized and stored together.
WINDOW_IMAGES = 64
# Views that are remembered, many times those of a batch.
_KEPT_VIEWS = 65_536
# What processors do to the numbers of an image, beside resizing and cropping it; EfficientNet's has the last one.
_NUMBERS = ("do_rescale", "do_normalize", "include_top")
# Sizes of an image that processors are tried on, neither square nor of a usual shape.
_TRIED_SIZES = ((37, 53), (61, 41))


class Pixels:
    """The images that a model has been shown, by their numbers; a number is a hash of an image's file.

    Decoding and resizing are the slow parts, and the same for all candidates. Where a store is given they are done
    once, 64 images together; otherwise whenever an image is asked for.

    Args:
        spec: The model. Its processor is always the one that computes with Pillow: torchvision resizes otherwise, so
            that predictions would depend on whether it is installed.
        weights_hash: Hash of the model's files, the processor's configuration among them.

    Attributes:
        processor: The model's image processor.
        shape: Channels, height and width of each image.
        scale: What bytes of each channel are multiplied by, shape (channels, 1, 1).
        offset: What is then added, likewise.

    Raises:
        InvalidInputError: If the processor can't be read, makes images of different shapes, or does more than scale
            their numbers.
    """

    def __init__(self, spec: BackboneSpec, weights_hash: str) -> None:
        with explained_errors(spec):
            self.processor = self._read(spec)
            if spec.image_size is not None:
                self.processor = self._read(spec, **_resized_to(spec.image_size, self.processor))
        self._bare = {name: False for name in _NUMBERS if getattr(self.processor, name, None) is not None}
        self.shape, self.scale, self.offset = self._tried(spec.path)
        self._key: dict[str, object] = {"stage": "pixels", "processor": weights_hash, "pillow": _pillow_version()}
        if spec.image_size is not None:
            self._key["size"] = spec.image_size
        if "include_top" in self._bare:
            self._key["include_top"] = False  # In what earlier versions stored, values were scaled by it.
        self._keep: Keep | None = None
        self._references: dict[int, str] = {}
        self._waiting: list[int] = []
        self._windows: dict[int, tuple[tuple[int, ...], int]] = {}
        self._masks: dict[str, str] = {}
        self._views: dict[int, View] = {}

    @staticmethod
    def _read(spec: BackboneSpec, **options: Any) -> Any:
        folder, custom = model_folder(spec.path), spec.trust_remote_code
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=custom, **options)

    def keep(self, keep: Keep) -> None:
        """Let what is resized be kept in a store."""
        self._keep = keep

    def number(self, reference: str) -> int:
        """Return an image's number, and remember where the image is.

        Args:
            reference: Path or data URI; see `objectives.data.images.files`.

        Raises:
            UnreadableImageError: If the file can't be read.
        """
        found = int(image_hash(reference)[:16], 16) >> 1  # A signed integer of 64 bits holds it.
        if found not in self._references:
            self._references[found] = reference
            self._waiting.append(found)
        return found

    def forget(self) -> None:
        """Forget all images, and the store."""
        self._keep = None
        self._references.clear()
        self._waiting.clear()
        self._windows.clear()
        self._masks.clear()
        self._views.clear()

    def view(self, view: View) -> int:
        """Return the number of a view of an image, and remember how it is made, until many others came."""
        found = view.own_number
        self._views.pop(found, None)
        self._views[found] = view
        if len(self._views) > _KEPT_VIEWS:
            del self._views[next(iter(self._views))]
        return found

    def of(self, numbers: Sequence[int], device: torch.device) -> Tensor:
        """Return images as the model reads them.

        Args:
            numbers: Numbers of images that it has been shown, or of views of them.
            device: Where they are needed.

        Returns:
            Shape (images, channels, height, width), of floats.
        """
        views = [self._views.get(number) for number in numbers]
        pairs = zip(numbers, views, strict=True)
        found = self._whole([number if view is None else view.number for number, view in pairs])
        for place, view in enumerate(views):
            if view is not None:
                found[place] = view.of(found[place])
        return found.to(device).float() * self.scale.to(device) + self.offset.to(device)

    def _whole(self, numbers: Sequence[int]) -> Tensor:
        """Return images as they were resized; shape (images, channels, height, width), of bytes."""
        if self._keep is None:
            return self._resized(numbers)
        self._lay_out()
        windows = {self._windows[number][0]: None for number in numbers}
        kept = {own: self._window(self._keep, own) for own in windows}
        places = [self._windows[number] for number in numbers]
        return torch.stack([kept[window][place] for window, place in places])

    def prepare(self, image: Any) -> Any:
        """Resize one image with the processor; an array of bytes of shape (channels, height, width)."""
        made = self.processor(image, return_tensors="np", **self._bare)["pixel_values"][0]
        return np.clip(np.round(made), 0, 255).astype(np.uint8)

    def mask(self, answer: str) -> str:
        """Return a mask in the size of the images that the model reads, as the processor resizes it.

        Args:
            answer: The mask, as a data URI.
        """
        if answer not in self._masks:
            from PIL import Image

            mask = mask_in(answer)
            image = Image.new("RGB", mask.shape[::-1])
            made = self.processor(image, segmentation_maps=mask, return_tensors="np", do_reduce_labels=False)
            self._masks[answer] = mask_as_data(made["labels"][0].astype(np.uint8))
        return self._masks[answer]

    def _lay_out(self) -> None:
        """Divide the images that came since into windows, in the order in which they came."""
        for start in range(0, len(self._waiting), WINDOW_IMAGES):
            window = tuple(self._waiting[start : start + WINDOW_IMAGES])
            self._windows |= {number: (window, place) for place, number in enumerate(window)}
        self._waiting.clear()

    def _window(self, keep: Keep, numbers: tuple[int, ...]) -> Tensor:
        """Return the resized images of a window, from the store if they are there."""
        key = {**self._key, "images": [f"{number:016x}" for number in numbers]}
        return keep(key, lambda: {"pixels": self._resized(numbers)})["pixels"]

    def _resized(self, numbers: Sequence[int]) -> Tensor:
        """Decode and resize images; shape (images, channels, height, width), of bytes."""
        found = torch.empty(len(numbers), *self.shape, dtype=torch.uint8)
        for place, number in enumerate(numbers):
            found[place] = torch.from_numpy(self.prepare(load_image(self._references[number])))
            report_progress("reading images", place + 1, len(numbers))
        return found

    def _tried(self, path: str) -> tuple[tuple[int, int, int], Tensor, Tensor]:
        """Return the shape that images get, and scale and offset of each channel's bytes, shape (channels, 1, 1).

        Processors scale linearly: what they make of black and of white says how.
        """
        from PIL import Image

        shapes = {self.prepare(Image.new("RGB", size)).shape for size in _TRIED_SIZES}
        if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
            made = " and ".join(map(str, sorted(shapes)))
            raise InvalidInputError(
                f"{path}: its image processor makes tensors of the shapes {made} from images of different sizes, which "
                "can't be run together; let preprocessor_config.json resize or crop them to one height and width"
            )
        black, white = (
            self.processor(Image.new("RGB", _TRIED_SIZES[0], color), return_tensors="np")["pixel_values"][0]
            for color in ((0, 0, 0), (255, 255, 255))
        )
        middle = (slice(None), black.shape[1] // 2, black.shape[2] // 2)
        offset = torch.from_numpy(np.asarray(black[middle], dtype=np.float64))
        scale = (torch.from_numpy(np.asarray(white[middle], dtype=np.float64)) - offset) / 255
        scale, offset = scale.float()[:, None, None], offset.float()[:, None, None]
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*_TRIED_SIZES[0], 3), dtype=np.uint8))
        wanted = torch.from_numpy(self.processor(noise, return_tensors="np")["pixel_values"][0])
        if ((torch.from_numpy(self.prepare(noise)) * scale + offset - wanted).abs() > scale.abs()).any():
            raise InvalidInputError(
                f"{path}: its image processor does more to the numbers of an image than to scale them, which isn't "
                "supported; set do_rescale and do_normalize alone in preprocessor_config.json"
            )
        return shapes.pop(), scale, offset


def _resized_to(side: int, processor: Any) -> dict[str, dict[str, int]]:
    """Return the sizes by which a processor makes images of another height and width; what it crops keeps its share."""
    size: dict[str, int | None] = dict(processor.size)
    if not getattr(processor, "do_center_crop", False):
        return {"size": {name: side for name, own in size.items() if own}}
    before = int(processor.crop_size["height"])
    larger = {name: round(own * side / before) for name, own in size.items() if own}
    return {"size": larger, "crop_size": {"height": side, "width": side}}


def _pillow_version() -> str:
    import PIL

    return str(PIL.__version__)
