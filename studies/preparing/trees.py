"""Trees in photos from above, cut into tiles, and drawn crowns that a model may begin with."""

import io
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from studies.preparing.downloads import DATA, download

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("prepare")

DEEPFOREST = "deepforest==2.1.0"
# Photos of which all trees have boxes, 951 in all.
PHOTOS = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
# Pixels of a tile's side, 13 metres; of a box that a tile cuts, so much must be in it.
TILE, LEAST_SHARE = 128, 0.5
DRAWN = 800
# Left, top, width and height in pixels.
Boxes: TypeAlias = list[list[float]]


def prepare_trees() -> None:
    """Write tiles of photos with the boxes of trees."""
    _write("trees", "951 trees in four photos (21 MB to download)", _tiles())


def prepare_drawn_trees() -> None:
    """Write drawn crowns of trees on drawn ground."""
    _write("drawn_trees", f"{DRAWN} drawings of trees", map(_draw, range(DRAWN)))


def _write(name: str, description: str, tiles: Iterable[tuple["Image", Boxes]]) -> None:
    table, partial = DATA / f"{name}.jsonl", DATA / f"{name}.partial"
    if table.exists():
        return
    logger.info("data: %s", description)
    for unfinished in (partial, DATA / name):
        shutil.rmtree(unfinished, ignore_errors=True)
    partial.mkdir(parents=True)
    rows: list[str] = []
    for number, (image, boxes) in enumerate(tiles):
        image.save(partial / f"{number:04d}.png")
        labelled = [{"box": box, "label": "tree"} for box in boxes]
        rows.append(json.dumps({"image": f"{name}/{number:04d}.png", "boxes": labelled}))
    partial.rename(DATA / name)
    table.with_suffix(".partial").write_text("\n".join(rows) + "\n", encoding="utf-8")
    table.with_suffix(".partial").rename(table)


def _tiles() -> Iterator[tuple["Image", Boxes]]:
    """Cut photos into tiles; those without a tree are left out."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(DEEPFOREST, Path(temporary))) as archive:
        for name in PHOTOS:
            photo = Image.open(io.BytesIO(archive.read(f"deepforest/data/{name}.png"))).convert("RGB")
            known = _corners(archive.read(f"deepforest/data/{name}.xml"))
            for top in range(0, photo.height - TILE + 1, TILE):
                for left in range(0, photo.width - TILE + 1, TILE):
                    boxes = _inside(known, left, top)
                    if boxes:
                        yield photo.crop((left, top, left + TILE, top + TILE)), boxes


def _corners(annotations: bytes) -> npt.NDArray[np.float64]:
    """Read boxes in the form of Pascal VOC: left, top, right and lower side; shape (boxes, 4)."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = ElementTree.fromstring(annotations).iter("bndbox")
    return np.array([[float(box.findtext(side, "")) for side in sides] for box in boxes])


def _inside(corners: npt.NDArray[np.float64], left: int, top: int) -> Boxes:
    """Return the parts of boxes that are in a tile, of those that mostly are."""
    cut = np.clip(corners - [left, top, left, top], 0, TILE)
    sizes = cut[:, 2:] - cut[:, :2]
    kept = sizes.prod(axis=1) > LEAST_SHARE * (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    found: Boxes = np.concatenate([cut[:, :2], sizes], axis=1)[kept].tolist()
    return found


def _draw(number: int) -> tuple["Image", Boxes]:
    """Draw crowns as shaded discs with shadows, on ground of two colours."""
    from PIL import Image

    random = np.random.default_rng(number)
    y, x = np.mgrid[:TILE, :TILE].astype(float)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6)).astype(np.uint8)).resize((TILE, TILE))
    mixed = np.asarray(coarse)[..., None] / 255
    pixels = mixed * random.uniform([90, 80, 50], [190, 170, 130]) + (1 - mixed) * random.uniform(70, 150, 3)
    boxes: Boxes = []
    for _ in range(random.integers(1, 7)):
        radius, centre = random.uniform(7, 26), random.uniform(8, TILE - 8, 2)
        away = np.hypot(x - centre[0] - radius / 2, y - centre[1] - radius / 2)
        pixels[away < radius] *= 0.6
        distance = np.hypot(x - centre[0], y - centre[1]) + random.normal(0, 1.5, (TILE, TILE))
        shade = np.clip(1.1 - 0.5 * distance / radius - 0.2 * (x - centre[0]) / radius, 0.2, 1.2)[..., None]
        own = distance < radius
        pixels[own] = (shade * random.uniform([30, 60, 25], [100, 130, 70]))[own]
        ends = np.clip([centre - radius, centre + radius], 0, TILE)
        boxes.append([*ends[0].tolist(), *(ends[1] - ends[0]).tolist()])
    return Image.fromarray(np.clip(pixels + random.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)), boxes
