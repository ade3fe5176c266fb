"""NanoDet's cells: the whole model's boxes and scores, run in parts, of which one is handed on around each object."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForObjectDetection

from promptgraft.objectives.backbones import BACKBONES, NANODET, count_layers, guess_family
from promptgraft.objectives.kinds.images.average_precision import overlaps
from promptgraft.objectives.prompting import PromptedModel
from promptgraft.objectives.spec import BackboneSpec
from promptgraft.objectives.vision.nanodet import NanoDetForObjectDetection
from promptgraft.spaces import Candidate
from tests.support.image_objectives import LABELS_OF_BOXES, TEMPLATE, found_beside
from tests.support.models import write_tiny_detector
from tests.support.paths import MODELS

CPU = torch.device("cpu")
LINEAR = Candidate(TEMPLATE.id, "", head="linear")
SIDE = 64
# Cell, likeliest label, its score, and the box as shares.
OF_THE_GRAPH = [
    (0, 0, 0.02856, 0.01772, 0.01763, 0.04643, 0.05894),
    (1000, 51, 0.02281, 0.24134, 0.37717, 0.11873, 0.10721),
    (2704, 0, 0.00927, 0.02056, 0.01805, 0.32741, 0.32068),
    (3379, 56, 0.00974, 0.97922, 0.98577, 0.33287, 0.31245),
    (3500, 61, 0.01525, 0.26858, 0.74208, 0.58222, 0.49801),
    (3548, 58, 0.0116, 0.96081, 0.96867, 0.6198, 0.54163),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random NanoDet of 84 cells; returns its folder."""
    return write_tiny_detector(tmp_path_factory.mktemp("model"), NANODET, SIDE)


def test_cells_are_those_of_the_whole_model_and_the_surest_of_those_that_overlap(path: str, tmp_path: Path) -> None:
    backbone = BACKBONES["detection"](BackboneSpec(path, "detection"), CPU)
    assert guess_family(path) == "detection"
    assert count_layers(path, "detection") == backbone.n_layers == len(backbone.layers) == 5
    prompted = PromptedModel(backbone, LINEAR, TEMPLATE, None, LABELS_OF_BOXES, seed=0)
    reference = AutoModelForObjectDetection.from_pretrained(path).eval()
    head = reference.class_labels_classifier[0]
    for other in reference.class_labels_classifier:
        other.load_state_dict(head.state_dict())
    own = {"weight": head.weight[..., 0, 0], "bias": head.bias, "nothing": torch.zeros(1, 32)}
    prompted.load(
        {f"reader.{name}": value.detach() for name, value in own.items()}
        | {"reader.nothing_bias": torch.full((1,), 0.5)}
    )
    expected, outputs = found_beside(reference, prompted, tmp_path)
    assert expected.logits.shape == (3, 84, 2)
    nothing = torch.full((3, 84, 1), 0.5)
    whole = torch.cat([expected.logits, nothing, expected.pred_boxes], dim=-1)
    for row, found in zip(whole.numpy(), outputs.numpy(), strict=True):
        cells = np.abs(row[:, None] - found[None])[..., [0, 1, 3, 4, 5, 6]].max(axis=2).argmin(axis=0)
        assert len(set(cells)) == len(found) == 50
        suppressed = found[:, 2] > 1
        np.testing.assert_allclose(found[~suppressed], row[cells[~suppressed]], atol=1e-5)
        assert set(cells[~suppressed]) >= set(_surest_alone(row)[:50])


@pytest.mark.slow
@pytest.mark.skipif(not (MODELS / "nanodet").exists(), reason="npm wasn't there to fetch NanoDet")
def test_the_converted_model_finds_what_the_graph_of_its_package_does() -> None:
    """What the graph computes of the same pixels, in the order of blue, green and red."""
    model = NanoDetForObjectDetection.from_pretrained(MODELS / "nanodet").eval()
    model.bbox_predictor.size = (416, 416)  # What the graph reads.
    pixels = torch.rand(1, 3, 416, 416, generator=torch.Generator().manual_seed(0)) * 4 - 2
    with torch.no_grad():
        found = model(pixel_values=pixels)
    for cell, label, *numbers in OF_THE_GRAPH:
        assert int(found.logits[0, cell].argmax()) == label
        both = torch.cat([found.logits[0, cell].amax().sigmoid()[None], found.pred_boxes[0, cell]])
        torch.testing.assert_close(both, torch.tensor(numbers), atol=2e-5, rtol=0)


def _surest_alone(row: np.ndarray) -> list[int]:
    """Return the cells that no surer one that is returned overlaps by more than half, the surest first."""
    corners = np.concatenate([row[:, 3:5] - row[:, 5:] / 2, row[:, 5:]], axis=1).astype(np.float64)
    alike, found = overlaps(corners, corners), list[int]()
    for cell in np.argsort(-row[:, :2].max(axis=1))[:100]:
        if all(alike[cell, other] <= 0.5 for other in found):
            found.append(int(cell))
    return found
