"""Drawn images of three labels that colour and pattern tell apart, and tables of them."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from promptgraft.objectives.data import TaskSpec

LABELS = ("blue", "green", "red")
HEIGHT, WIDTH = 40, 36


def draw(number: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Draw the image of a number: noise in its label's colour, with stripes; shape (height, width, 3)."""
    random, place = np.random.default_rng([seed, number]), number % len(LABELS)
    pixels = random.integers(0, 120, (HEIGHT, WIDTH, 3))
    pixels[..., 2 - place] += 100
    pixels[np.arange(HEIGHT) // (3 + place) % 2 == 0] //= 2
    return pixels.astype(np.uint8)


def write_images(folder: Path, count: int = 60, seed: int = 0) -> Path:
    """Write images, and beside them a table with the columns `image` and `colour`; return its path."""
    (folder / "pictures").mkdir(parents=True)
    lines = ["image,colour"]
    for number in range(count):
        Image.fromarray(draw(number, seed)).save(folder / "pictures" / f"{number}.png")
        lines.append(f"pictures/{number}.png,{LABELS[number % len(LABELS)]}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def spec_of_images(table: Path, **changes: object) -> TaskSpec:
    """Describe the target task over such a table."""
    values = {"test_rows": 12} | changes
    return TaskSpec(str(table), {"image": "image"}, "colour", kind="image_classification", **values)  # type: ignore[arg-type]


CLASSES = ("ground", "blue", "red")


def draw_masked(number: int, seed: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw noise with a rectangle in the colour of its class, and its mask, whose first line is ignored."""
    random = np.random.default_rng([seed, number])
    pixels, mask = random.integers(0, 120, (HEIGHT, WIDTH, 3)), np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    (top, left), (height, width) = random.integers(1, 16, 2), random.integers(10, 20, 2)
    own = (slice(top, top + height), slice(left, left + width))
    mask[own] = 1 + number % 2
    pixels[own][..., 2 if number % 2 == 0 else 0] += 130
    mask[0] = 255
    return pixels.astype(np.uint8), mask


def write_masked(folder: Path, count: int = 40, seed: int = 0) -> Path:
    """Write images and masks, and beside them a table with the columns `image` and `mask`; return its path."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["image,mask"]
    for number in range(count):
        image, mask = draw_masked(number, seed)
        Image.fromarray(image).save(folder / "pictures" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        lines.append(f"pictures/{number}.png,masks/{number}.png")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def spec_of_masks(table: Path, **changes: object) -> TaskSpec:
    """Describe the target task over such a table."""
    values = {"test_rows": 8, "labels": CLASSES} | changes
    return TaskSpec(str(table), {"image": "image"}, "mask", kind="semantic_segmentation", **values)  # type: ignore[arg-type]


def write_boxed(folder: Path, count: int = 40, seed: int = 0, labels: int = 2) -> Path:
    """Write images with one or two rectangles of so many labels, and a table with the columns `image` and `boxes`."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(count):
        random = np.random.default_rng([seed, number])
        pixels, boxes = random.integers(0, 120, (HEIGHT, WIDTH, 3)), []
        for place in range(1 + number % 2):
            (top, left), (height, width) = random.integers(1, 16, 2), random.integers(10, 20, 2)
            label = (number // 2 + place) % labels
            pixels[top : top + height, left : left + width, 2 if label == 0 else 0] += 130
            boxes.append({"box": [int(left), int(top), int(width), int(height)], "label": CLASSES[1 + label]})
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "pictures" / f"{number}.png")
        rows.append(json.dumps({"image": f"pictures/{number}.png", "boxes": boxes}))
    (folder / "table.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "table.jsonl"


def spec_of_boxes(table: Path, **changes: object) -> TaskSpec:
    """Describe the target task over such a table."""
    values = {"test_rows": 8} | changes
    return TaskSpec(str(table), {"image": "image"}, "boxes", kind="object_detection", **values)  # type: ignore[arg-type]


def _add(table: Path, name: str, label: str) -> None:
    with table.open("a") as file:
        file.write(f"pictures/{name},{label}\n")


def add_other_forms(table: Path) -> None:
    """Add, in the middle of a table, three images of other forms, and three files that can't be read."""
    pictures = table.parent / "pictures"
    Image.fromarray(draw(90)).convert("CMYK").save(pictures / "print.jpg", quality=95)
    _add(table, "print.jpg", "blue")
    Image.fromarray(draw(91)[..., 1].astype(np.uint16) * 257).save(pictures / "scan.png")
    _add(table, "scan.png", "green")
    Image.fromarray(draw(92)).convert("RGBA").save(pictures / "logo.webp", lossless=True)
    _add(table, "logo.webp", "red")
    whole = (pictures / "3.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[: len(whole) // 2])
    _add(table, "cut.png", "blue")
    (pictures / "empty.jpg").touch()
    _add(table, "empty.jpg", "green")
    _add(table, "absent.jpg", "red")
    lines = table.read_text().splitlines()
    middle = len(lines) // 2
    table.write_text("\n".join([*lines[:middle], *lines[-6:], *lines[middle:-6]]) + "\n")
