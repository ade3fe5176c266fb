"""Images of every form are read as RGB; files that are none are refused with the reason."""

import io
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptgraft.objectives.data import (
    UnreadableImageError,
    as_data,
    contact_sheet,
    image_hash,
    image_size,
    load_image,
    located,
    open_image,
    thumbnail,
)

RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def corner(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("1", 1, ".png", WHITE),
        ("L", 100, ".png", (100, 100, 100)),
        ("L", 100, ".pgm", (100, 100, 100)),
        ("RGB", RED, ".png", RED),
        ("RGB", RED, ".bmp", RED),
        ("RGB", RED, ".tiff", RED),
        ("RGB", RED, ".webp", RED),
        ("RGBA", (*RED, 255), ".png", RED),
        ("RGBA", (*RED, 0), ".png", WHITE),
        ("RGBA", (0, 0, 0, 51), ".png", (204, 204, 204)),
        ("LA", (0, 51), ".png", (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), ".tiff", RED),
        ("YCbCr", (76, 85, 255), ".tiff", (254, 0, 0)),
        ("F", 0.5, ".tiff", (128, 128, 128)),
        ("F", 200.0, ".tiff", (200, 200, 200)),
    ],
)
def test_an_image_of_each_mode_is_read_as_rgb(
    mode: str, colour: float | tuple[int, ...], suffix: str, expected: tuple[int, ...], tmp_path: Path
) -> None:
    path = saved(Image.new(mode, (8, 6), colour), tmp_path / f"image{suffix}", lossless=True)
    image = open_image(path)
    assert image.size == (8, 6)
    assert np.abs(np.subtract(corner(image), expected)).max() <= 1


def test_a_cmyk_jpeg_has_its_colours(tmp_path: Path) -> None:
    path = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "print.jpg", quality=95)
    assert np.abs(np.subtract(corner(open_image(path)), RED)).max() <= 3


@pytest.mark.parametrize("transparency", [False, True])
def test_a_palette_has_its_colours_and_a_transparent_one_is_white(transparency: bool, tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLACK, *GREEN])
    options: dict[str, Any] = {"transparency": 1} if transparency else {}
    for suffix in (".png", ".gif"):
        path = saved(image, tmp_path / f"image{suffix}", **options)
        assert corner(open_image(path)) == (WHITE if transparency else GREEN)


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_16_bits_are_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    grey = np.asarray(open_image(saved(Image.fromarray(values), tmp_path / f"scan{suffix}")))
    assert np.abs(grey[..., 0].astype(float) - values / 257).max() <= 0.5
    dark = np.full((8, 8), 1000, dtype=np.uint16)  # Scaled as the other is, not stretched.
    assert corner(open_image(saved(Image.fromarray(dark), tmp_path / f"dark{suffix}"))) == (4, 4, 4)


def test_numbers_of_no_known_scale_are_stretched(tmp_path: Path) -> None:
    values = np.array([[-100.0, 900.0], [400.0, np.nan]], dtype=np.float32)
    grey = np.asarray(open_image(saved(Image.fromarray(values), tmp_path / "heights.tiff")))
    assert grey[0, 0, 0] == 0
    assert grey[0, 1, 0] == 255
    assert np.asarray(open_image(saved(Image.new("I", (2, 2), 10**6), tmp_path / "flat.tiff"))).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_rotation_of_exif_data_is_applied(orientation: int, tmp_path: Path) -> None:
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(BLACK, (0, 0, 16, 16))
    # How a camera stores the picture that is to be looked at upright.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(image, tmp_path / "photo.jpg", exif=exif, quality=95)
    read = np.asarray(open_image(path), dtype=float)
    assert read.shape == (32, 48, 3)
    assert np.abs(read - np.asarray(upright, dtype=float)).mean() < 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_data_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    path = saved(
        Image.new("RGB", (16, 8), RED), tmp_path / "photo.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00"
    )
    assert open_image(path).size == (16, 8)


def noisy(side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".tiff", ".bmp", ".webp", ".ppm"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = saved(noisy(), tmp_path / f"whole{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImageError, match=rf"whole{suffix}: (truncated or damaged|not an image)"):
        open_image(path)
    with pytest.raises(UnreadableImageError):
        open_image(path, least_side=8)


def test_files_that_are_no_images_are_refused_with_the_reason(tmp_path: Path) -> None:
    contents = {
        "empty.jpg": b"",
        "text.png": b"not an image",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    reasons = {
        "empty.jpg": "the file is empty",
        "text.png": "not an image in one of the formats JPEG, PNG",
        "script.eps": "not an image in one of the formats",
        "absent.jpg": "there is no such file",
        ".": "it is a folder",
        "a\0b.jpg": "there is no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError) as caught:
            open_image(tmp_path / name)
        assert reason in caught.value.reason


@pytest.mark.parametrize("read", [image_hash, as_data, image_size, load_image])
def test_what_is_no_file_of_ours_is_refused_by_all_that_read_one(read: Callable[[str], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # Reading it would never end.
    reasons = {
        "absent.jpg": "there is no such file",
        "~nobody.png": "there is no such file",
        ".": "it is a folder",
        "pipe.png": "it is no regular file",
        "x" * 5000: "File name too long",
        "https://example.com/a.png": "images aren't fetched from URLs",
        "s3://bucket/a.png": "images aren't fetched from URLs",
        "file:///etc/hostname": "images aren't fetched from URLs",
    }
    for name, reason in reasons.items():
        with pytest.raises(UnreadableImageError, match=reason) as caught:
            read(located(name, tmp_path))
        assert len(str(caught.value)) < 400


@pytest.mark.filterwarnings("error")
def test_nothing_is_warned_of(tmp_path: Path) -> None:
    """A file may be worth a warning of Pillow's; there is one message for each, or none."""
    exif = b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00"
    damaged = saved(Image.new("RGB", (16, 8), RED), tmp_path / "photo.jpg", exif=exif)
    assert open_image(damaged).size == image_size(str(damaged))[::-1] == (16, 8)
    large = saved(Image.new("1", (10_000, 10_000)), tmp_path / "large.png")
    with pytest.raises(UnreadableImageError, match="10000 x 10000 pixels, which is more than 50000000"):
        open_image(large)


def test_errors_come_back_from_workers(tmp_path: Path) -> None:
    error = UnreadableImageError(tmp_path / "a.png", "the file is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.reason) == (f"{tmp_path / 'a.png'}: the file is empty", error.path, error.reason)


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


@pytest.mark.parametrize("side", [8_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int, tmp_path: Path) -> None:
    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path = tmp_path / "bomb.png"
    # Without valid pixels: whatever tries to decode them says that the file is damaged.
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b""))
    with pytest.raises(UnreadableImageError, match="more than 50000000"):
        open_image(path)


def test_the_limit_of_pixels_can_be_set(tmp_path: Path) -> None:
    path = saved(noisy(), tmp_path / "a.png")
    assert open_image(path, max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(UnreadableImageError, match="64 x 64 pixels, which is more than 4095 in all"):
        open_image(path, max_pixels=64 * 64 - 1)


def test_a_jpeg_may_be_decoded_smaller(tmp_path: Path) -> None:
    path = saved(noisy(512), tmp_path / "photo.jpg")
    assert open_image(path, least_side=32).size == (64, 64)
    assert open_image(path, least_side=200).size == (512, 512)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_is_an_unreadable_image_or_none_at_all(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in (".jpg", ".png", ".gif", ".tiff", ".bmp", ".webp", ".ppm"):
        whole = saved(noisy(16), tmp_path / f"whole{suffix}", exif=exif).read_bytes()
        for trial in range(40):
            damaged = np.frombuffer(whole, dtype=np.uint8).copy()
            places = random.integers(0, min(len(damaged), 600 if trial % 2 else 60), 4)
            damaged[places] = random.integers(0, 255, len(places))
            path = tmp_path / f"damaged{suffix}"
            path.write_bytes(damaged.tobytes())
            try:
                assert open_image(path, max_pixels=10**6).mode == "RGB"
            except UnreadableImageError:
                continue


def test_a_thumbnail_is_small_whatever_the_image(tmp_path: Path) -> None:
    large = thumbnail(saved(noisy(900).resize((900, 300)), tmp_path / "large.jpg"))
    assert len(large) < 20_000
    assert Image.open(io.BytesIO(large)).size == (128, 43)
    tiny = Image.open(io.BytesIO(thumbnail(saved(Image.new("L", (8, 6), 255), tmp_path / "tiny.png"))))
    assert (tiny.format, tiny.size, tiny.getpixel((64, 40))) == ("JPEG", (128, 96), WHITE)
    with pytest.raises(UnreadableImageError):
        thumbnail(tmp_path / "absent.png")


def test_a_contact_sheet_has_all_images_and_texts(tmp_path: Path) -> None:
    red = saved(Image.new("RGB", (200, 200), RED), tmp_path / "red.png")
    green = saved(Image.new("RGB", (16, 8), GREEN), tmp_path / "green.png")
    content = contact_sheet([(red, "true: cat\npredicted: dog"), (green, ""), (tmp_path / "absent.png", "")], columns=2)
    sheet = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)
    assert sheet.shape == (340, 280, 3)
    centres = [sheet[70, 70], sheet[70, 210], sheet[240, 70], sheet[240, 210]]
    for centre, expected in zip(centres, [RED, GREEN, (211, 211, 211), WHITE], strict=True):
        assert np.abs(centre - expected).max() < 12
    below = sheet[136:170]
    assert below[:, :140].min() < 100, "text stands below the first image"
    assert below[:, 140:].min() > 200, "and none below the second"
