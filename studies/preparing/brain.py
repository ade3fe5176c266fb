"""Slices of a brain with masks of its grey and white matter, from the template that nilearn holds."""

import gzip
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from studies.preparing.downloads import DATA, download, write_table

logger = logging.getLogger("prepare")

NILEARN = "nilearn==0.14.1"
# The ICBM 152 template: T1-weighted image, and how much of each voxel is grey or white matter; all from 0 to 255.
VOLUME = "nilearn/datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
# Header of NIfTI-1: where sizes and the start of the voxels are.
_SIZES, _START = 40, 108
# Slices with less brain in them are left out, as a share of their pixels.
LEAST_BRAIN = 0.1
# Slices that follow each other, of a millimetre each, and are kept together by splits.
SLAB = 8
Volume: TypeAlias = npt.NDArray[np.uint8]


def prepare_brain() -> None:
    """Write axial slices of the back half of a brain, and coronal ones of its front half, so that they share no voxel.

    Masks have 0 for what is neither, 1 for grey and 2 for white matter. Tables have the columns `image`, `mask` and
    `slab`.
    """
    names = ("brain_axial", "brain_coronal")
    if all((DATA / f"{name}.csv").exists() for name in names):
        return
    logger.info("data: slices of a brain (12 MB to download)")
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(download(NILEARN, Path(temporary))) as archive:
        head, grey, white = (_voxels(archive.read(VOLUME.format(name))) for name in ("t1", "gm", "wm"))
    # Axes of the volumes go to the right, to the front and up.
    rest = 255 - np.minimum(255, grey.astype(int) + white)
    tissue = np.stack([rest, grey, white]).argmax(axis=0).astype(np.uint8)
    middle = head.shape[1] // 2
    _write(names[0], ((head[:, :middle, z], tissue[:, :middle, z]) for z in range(head.shape[2])))
    _write(names[1], ((head[:, y], tissue[:, y]) for y in range(middle, head.shape[1])))


def _voxels(content: bytes) -> Volume:
    """Read the voxels of a NIfTI-1 file of one byte each."""
    content = gzip.decompress(content)
    shape = np.frombuffer(content, "<i2", 3, _SIZES + 2)
    start = int(np.frombuffer(content, "<f4", 1, _START)[0])
    return np.frombuffer(content, np.uint8, int(np.prod(shape)), start).reshape(shape, order="F")


def _write(name: str, slices: Iterator[tuple[Volume, Volume]]) -> None:
    """Write slices and their masks, upright, and their table."""
    from PIL import Image

    partial, rows = DATA / f"{name}.partial", [("image", "mask", "slab")]
    for unfinished in (partial, DATA / name):
        shutil.rmtree(unfinished, ignore_errors=True)
    for part in ("images", "masks"):
        (partial / part).mkdir(parents=True)
    for number, (image, mask) in enumerate(slices):
        if (mask > 0).mean() < LEAST_BRAIN:
            continue
        for part, pixels in (("images", image), ("masks", mask)):
            Image.fromarray(np.ascontiguousarray(np.flipud(pixels.T))).save(partial / part / f"{number:03d}.png")
        rows.append((f"{name}/images/{number:03d}.png", f"{name}/masks/{number:03d}.png", f"slab {number // SLAB}"))
    partial.rename(DATA / name)
    write_table(DATA / f"{name}.csv", rows)
