"""False positives and negatives of near-duplicate images, on the sets that `studies/prepare.py --images` writes.

    python -m tests.bench.similar_images                 # a minute
    python -m tests.bench.similar_images --images 10000  # and the time that so many images take to compare

The images of a set are all different, so that two in one cluster are a false positive, unless somebody looks at the
pairs that are listed and finds them the same. Copies are images with an edit that files go through; each is compared
with all images of its set.
"""

import argparse
import csv
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from promptgraft.objectives.data import find_similar_images, image_clusters
from tests.support.paths import STUDIES

SETS = ("textile", "digits", "mnist", "fashion_mnist")
COPIES = 150
Edit = Callable[[Image.Image], Image.Image]


def scaled(share: float) -> Edit:
    """Return the edit that scales an image."""
    return lambda image: image.resize((round(image.width * share), round(image.height * share)))


def cropped(image: Image.Image) -> Image.Image:
    """Cut off a twentieth on each side."""
    across, down = max(1, image.width // 20), max(1, image.height // 20)
    return image.crop((across, down, image.width - across, image.height - down))


def noisy(image: Image.Image) -> Image.Image:
    """Add noise with a standard deviation of 4 grey levels."""
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 4, (*reversed(image.size), 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


EDITS: dict[str, tuple[Edit, str, int]] = {
    "JPEG, quality 75": (lambda image: image, ".jpg", 75),
    "JPEG, quality 30": (lambda image: image, ".jpg", 30),
    "half the size": (scaled(0.5), ".png", 0),
    "twice the size": (scaled(2.0), ".png", 0),
    "brighter by a tenth": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), ".png", 0),
    "noise": (noisy, ".png", 0),
    "cropped": (cropped, ".png", 0),
}


def images_of(name: str) -> list[Path]:
    """List the images of a set."""
    table = STUDIES / "data" / f"{name}.csv"
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as rows:
        return [table.parent / row["image"] for row in csv.DictReader(rows)]


def measure(name: str, paths: list[Path]) -> None:
    """Print the false positives of a set, and the share of copies that is found, by edit."""
    clusters = image_clusters(paths)
    sizes = Counter(clusters)
    shared = [path for path, cluster in zip(paths, clusters, strict=True) if sizes[cluster] > 1]
    print(f"\n{name}: {len(paths)} images, {len(shared)} with another that counts as the same")
    for path in shared[:8]:
        print(f"    {path.relative_to(STUDIES / 'data')}")
    originals = paths[:: max(1, len(paths) // COPIES)]
    for edit, (change, suffix, quality) in EDITS.items():
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder, f"{number}{suffix}") for number in range(len(originals))]
            for path, copy in zip(originals, copies, strict=True):
                change(Image.open(path).convert("RGB")).save(copy, quality=quality)
            found = find_similar_images(copies, originals)
        right = sum(found.get(number) == number for number in range(len(copies)))
        print(f"  {edit:22} {right / len(copies):.2f} found, {len(found) - right} taken for another image")


def time_many(count: int) -> None:
    """Print how long so many images take to read and to compare, and once more with all of one colour."""
    for kind in ("photos of 640 x 480", "images of one colour"):
        random = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{number}.jpg") for number in range(count)]
            for path in paths:
                small = random.integers(0, 255, (12, 16, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC)
                (image if kind.startswith("photos") else Image.new("RGB", (64, 64), "white")).save(path)
            start = time.perf_counter()
            image_clusters(paths)
            middle = time.perf_counter()
            clusters = image_clusters(paths)
            end = time.perf_counter()
        print(f"\n{count} {kind}: {middle - start:.1f} s, again {end - middle:.1f} s; {len(set(clusters))} clusters")


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=0, help="Number of images to time.")
    arguments = parser.parse_args()
    for name in SETS:
        if paths := images_of(name):
            measure(name, paths)
        else:
            print(f"\n{name}: not prepared; run: python studies/prepare.py --images")
    if arguments.images:
        time_many(arguments.images)


if __name__ == "__main__":
    main()
