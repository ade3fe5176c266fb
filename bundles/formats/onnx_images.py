"""A bundle that classifies images as one ONNX graph, bytes of pixels in, logits out, and how files become these."""

import json
import runpy
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from promptgraft.bundles import Manifest
from promptgraft.bundles.formats.script_parts import IMAGES, PROMPT_FILE, SCRIPT_FILE
from promptgraft.objectives.backbones import Batch
from promptgraft.objectives.data import IMAGE_FORMATS
from promptgraft.objectives.layers import Known
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.spaces import InvalidInputError

MODEL_FILE = "model.onnx"
# Sizes of the images on which the script is compared with the image processor; some are smaller than what is made.
_TRIED_SIZES = ((37, 53), (61, 41), (640, 480), (333, 500))

_SCRIPT = (
    '''"""Classify images with onnxruntime and Pillow alone: python classify.py image.jpg another.png."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

FOLDER = Path(__file__).resolve().parent
PROMPT = json.loads((FOLDER / "prompt.json").read_text(encoding="utf-8"))


def load():
    """Load the model."""
    return (onnxruntime.InferenceSession(FOLDER / "model.onnx"),)


'''
    + IMAGES
    + '''

def score(model, fields):
    """Return each label's score, the largest of which is the answer; a softmax makes them probabilities."""
    (logits,) = model.run(None, {"pixels": prepared(opened(fields[PROMPT["fields"][0]]))[None]})
    return logits[0]


if __name__ == "__main__":
    MODEL = load()
    for path in sys.argv[1:]:
        found = np.exp(score(*MODEL, {PROMPT["fields"][0]: path}))
        sys.stdout.write(f"{PROMPT['labels'][int(found.argmax())]} {found.max() / found.sum():.4f} {path}\\n")
'''
)


class _Graph(nn.Module):
    """Bytes of resized images, shape (rows, channels, height, width), to logits."""

    def __init__(self, model: PromptedModel, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.labels = model, labels
        self.layers: Any = model.backbone.layers
        pixels: Any = model.backbone.pixels  # type: ignore[attr-defined]
        self.scale, self.offset = pixels.scale, pixels.offset

    def forward(self, pixels: Tensor) -> Tensor:
        embed = getattr(self.model.stack, "embed_pixels", self.layers.embed_pixels)  # A frame has its own.
        hidden = embed(pixels.float() * self.scale + self.offset)
        lengths = torch.full((hidden.shape[0],), self.layers.tokens)
        ids = lengths[:, None].expand(-1, self.layers.tokens)
        logits = self.model.logits(Batch(ids, lengths, Known(0, hidden, {})), self.labels)
        return logits if self.model.bias is None else logits - self.model.bias


def write_image_model(model: PromptedModel, manifest: Manifest, folder: Path) -> None:
    """Write a loaded bundle's model as an ONNX model, with what makes pixels of files; see `write_onnx_model`.

    Args:
        model: The model.
        manifest: The bundle's.
        folder: Where to.

    Raises:
        InvalidInputError: If its image processor does more than resize and crop.
    """
    pixels: Any = model.backbone.pixels  # type: ignore[attr-defined]
    content = {
        "fields": list(manifest.columns),
        "labels": list(manifest.labels),
        "formats": list(IMAGE_FORMATS),
        **_steps(pixels.processor),
        "temperature": manifest.temperature,
        "bundle": manifest.digest,
    }
    with TemporaryDirectory() as tried:
        _write_script(content, Path(tried))
        if not _same_pixels(Path(tried), pixels):
            raise _unlike(pixels.processor)
    traced = torch.zeros(2, *pixels.shape, dtype=torch.uint8)
    write_graph(model, _Graph(model, manifest.labels), (traced,), {"pixels": {0: "rows"}}, folder)
    _write_script(content, folder)


def write_graph(
    model: PromptedModel,
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    sizes: Mapping[str, dict[int, str]],
    folder: Path,
) -> None:
    """Write what a model computes as an ONNX graph whose output is `logits`.

    Args:
        model: The model, whose weights can't be trained any more.
        graph: Calls it.
        inputs: What it is traced with, two rows.
        sizes: Name of each input, and of its axes whose sizes are free.
        folder: Where to.

    Raises:
        InvalidInputError: If torch can't write it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for weight in model.weights().values():
        weight.requires_grad_(False)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # Of what the tracer holds constant; `convert` checks what came out.
        # The newer exporter holds the number of rows constant here (torch 2.13).
        try:
            torch.onnx.export(
                graph.eval(),
                inputs,
                folder / MODEL_FILE,
                dynamo=False,
                input_names=list(sizes),
                output_names=["logits"],
                dynamic_axes={**sizes, "logits": {0: "rows"}},
            )
        except OnnxExporterError as error:
            folder.rmdir()
            kind = model.backbone.model.config.model_type
            raise InvalidInputError(
                f"torch can't write {kind!r} models as ONNX: {str(error).splitlines()[0]} Convert the bundle to "
                "mlflow, or predict or serve the bundle itself"
            ) from error


def _steps(processor: Any) -> dict[str, Any]:
    """Return how an image processor resizes and crops, as the script takes it."""
    own = processor.to_dict()
    resize = dict(own["size"]) if own.get("do_resize") else None
    crop = dict(own["crop_size"]) if own.get("do_center_crop") else None
    if resize is not None and own.get("crop_pct") and "shortest_edge" in resize:  # ConvNeXt's.
        edge = resize["shortest_edge"]
        crop = {"height": edge, "width": edge} if edge < 384 else None
        resize = {"shortest_edge": int(edge / own["crop_pct"])} if crop else {"height": edge, "width": edge}
    if resize is not None and resize.keys() not in ({"height", "width"}, {"shortest_edge"}):
        raise _unlike(processor)
    return {"resize": resize, "crop": crop, "resample": int(own.get("resample") or 0)}


def _unlike(processor: Any) -> InvalidInputError:
    return InvalidInputError(
        f"the image processor {type(processor).__name__} does more than resize images and crop them, which is all that "
        "the script of an ONNX model can do; convert the bundle to mlflow, or predict or serve the bundle itself"
    )


def _same_pixels(folder: Path, pixels: Any) -> bool:
    """Whether the script makes of images exactly what the image processor makes."""
    from PIL import Image

    prepare, random = runpy.run_path(str(folder / SCRIPT_FILE))["prepared"], np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in _TRIED_SIZES]
    return all(np.array_equal(prepare(image), pixels.prepare(image)) for image in images)


def _write_script(content: Mapping[str, object], folder: Path) -> None:
    (folder / PROMPT_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / SCRIPT_FILE).write_text(_SCRIPT, encoding="utf-8")
