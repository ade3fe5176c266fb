"""Copies of an image are found whatever was done to the file; other images of its class aren't copies."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from promptgraft.objectives.data import UnreadableImageError, find_similar_images, image_clusters


def scene(seed: int, side: int = 96) -> Image.Image:
    """Draw soft shapes in colour: what a photo is to a hash."""
    noise = np.random.default_rng(seed).normal(size=(side, side, 3))
    soft = gaussian_filter(noise, (6, 6, 0))
    return Image.fromarray(np.uint8(255 * (soft - soft.min()) / np.ptp(soft)))


def save_all(images: dict[str, Image.Image], folder: Path) -> list[Path]:
    for name, image in images.items():
        image.save(folder / name)
    return [folder / name for name in images]


COPIES: dict[str, Callable[[Image.Image, Path], None]] = {
    "the same": lambda image, path: image.save(path, "PNG"),
    "jpeg": lambda image, path: image.save(path, "JPEG", quality=40),
    "smaller": lambda image, path: image.resize((48, 48)).save(path, "PNG"),
    "larger": lambda image, path: image.resize((300, 300)).save(path, "JPEG"),
    "darker": lambda image, path: ImageEnhance.Brightness(image).enhance(0.8).save(path, "PNG"),
    "less contrast": lambda image, path: ImageEnhance.Contrast(image).enhance(0.8).save(path, "PNG"),
    "turned by its EXIF data": lambda image, path: turned(image, path),
}


def turned(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", exif=exif)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found(name: str, tmp_path: Path) -> None:
    originals = save_all({f"{seed}.png": scene(seed) for seed in range(8)}, tmp_path)
    copies = []
    for seed in range(8):
        copies.append(tmp_path / f"copy {seed}")
        COPIES[name](scene(seed), copies[-1])
    assert find_similar_images(copies, originals) == {seed: seed for seed in range(8)}


def test_scenes_that_differ_are_told_apart(tmp_path: Path) -> None:
    paths = save_all({f"{seed}.png": scene(seed) for seed in range(40)}, tmp_path)
    assert find_similar_images(paths[:20], paths[20:]) == {}
    assert len(set(image_clusters(paths))) == 40


def test_digits_of_one_class_are_not_copies_of_each_other(tmp_path: Path) -> None:
    digits = [Image.fromarray(np.uint8(digit * 15)) for digit in load_digits().images[:600]]
    paths = save_all({f"{place}.png": digit for place, digit in enumerate(digits)}, tmp_path)
    assert len(set(image_clusters(paths))) >= 598
    larger = save_all({f"{place} large.png": digits[place].resize((24, 24)) for place in range(40)}, tmp_path)
    found = find_similar_images(larger, paths)
    assert sum(found.get(place) == place for place in range(40)) >= 30


def test_flat_images_are_told_apart_by_their_colour(tmp_path: Path) -> None:
    # All have nothing but one colour, or nearly: their hashes say nothing.
    colours = {
        "red": (200, 0, 0),
        "red too": (201, 1, 0),
        "green": (0, 200, 0),
        "white": (255, 255, 255),
        "black": (0, 0, 0),
    }
    paths = save_all({f"{name}.png": Image.new("RGB", (32, 32), colour) for name, colour in colours.items()}, tmp_path)
    assert image_clusters(paths) == [0, 0, 1, 2, 3]
    speck = Image.new("RGB", (32, 32), (255, 255, 255))
    speck.putpixel((3, 3), (0, 0, 0))
    noise = np.random.default_rng(0).integers(254, 256, (32, 32, 3), dtype=np.uint8)
    more = save_all({"speck.png": speck, "noise.png": Image.fromarray(noise)}, tmp_path)
    assert find_similar_images(more, paths) == {1: 3}


def test_images_that_differ_in_colour_alone_differ(tmp_path: Path) -> None:
    red = scene(0).convert("L")
    empty = Image.new("L", red.size)
    parts = {"red.png": (red, empty, empty), "blue.png": (empty, empty, red)}
    paths = save_all({name: Image.merge("RGB", own) for name, own in parts.items()}, tmp_path)
    assert find_similar_images(paths[:1], paths[1:]) == {}


def test_clusters_are_linked_through_images_and_groups(tmp_path: Path) -> None:
    first, second, third = (scene(seed) for seed in range(3))
    images = {"a.png": first, "b.png": second, "c.jpg": first, "d.png": third, "e.png": second, "f.png": scene(3)}
    paths = save_all(images, tmp_path)
    assert image_clusters(paths) == [0, 1, 0, 2, 1, 3]
    clusters = image_clusters(
        paths, ["x", "y", "z", "y", "z", "w"]
    )  # a-c by sight, c-e by group, e-b by sight, b-d by group.
    assert clusters[:5] == [clusters[0]] * 5
    assert clusters[5] != clusters[0]


def test_it_holds_beyond_what_is_compared_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save_all({f"{seed}.png": scene(seed % 9, side=32) for seed in range(30)}, tmp_path)
    whole = image_clusters(paths), find_similar_images(paths[9:], paths[:9])
    monkeypatch.setattr("promptgraft.objectives.data.images.similar._CHUNK", 4)
    assert (image_clusters(paths), find_similar_images(paths[9:], paths[:9])) == whole
    assert whole == ([seed % 9 for seed in range(30)], {seed: seed % 9 for seed in range(21)})


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    paths = save_all({"a.png": scene(0), "b.png": scene(1)}, tmp_path)
    assert find_similar_images(paths[:1], paths[1:]) == {}
    scene(1).save(paths[0])
    assert find_similar_images(paths[:1], paths[1:]) == {0: 0}


def test_without_images_nothing_is_found(tmp_path: Path) -> None:
    paths = save_all({"a.png": scene(0)}, tmp_path)
    assert find_similar_images([], paths) == find_similar_images(paths, []) == {}
    assert image_clusters([]) == []
    with pytest.raises(UnreadableImageError, match="there is no such file"):
        image_clusters([*paths, tmp_path / "b.png"])


def test_only_what_compares_images_loads_the_package_that_hashes_them() -> None:
    code = """
import sys
from promptgraft.objectives.data import image_folder_rows, open_image, find_similar_images
print([module for module in ("PIL", "imagehash", "torch") if module in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
