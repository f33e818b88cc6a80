"""Folders of sections, a file each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import RAW, SAID, File

#: boxes of 8 x 8 equal pixels, which JPEG keeps as they are at its best quality
BOXES = RAW[:, ::8, ::8].repeat(8, 1).repeat(8, 2)[:, : RAW.shape[1], : RAW.shape[2]]


def section_files() -> Iterator[File]:
    here = partial(File, "sections")
    deep = RAW.astype(np.uint16) * 257
    for ending in ("png", "bmp", "tif"):
        write = partial(sections, pattern=f"s{{:04d}}.{ending}")
        yield here("Pillow", ending, write, keys=SAID)
    yield here("Pillow", "png, 16 bits", partial(sections, values=deep), deep, SAID)
    jpeg = partial(sections, values=BOXES, pattern="s{}.jpg")
    yield here("Pillow", "jpg, images of 8 x 8 boxes", jpeg, BOXES, SAID)
    labels = SAID | {"kind": "labels"}
    yield here("Pillow", "jpg as labels", jpeg, None, labels, remark="JPEG changes values")
    gap = partial(sections, gap=True)
    yield here("Pillow", "png, a gap", gap, None, SAID, remark="section 5 is missing")
    for ending in ("png", "tif"):
        write = partial(sections, pattern=f"s{{}}.{ending}", by="imageio")
        yield here("imageio", ending, write, keys=SAID)
    write = partial(sections, by="matplotlib")
    yield here("matplotlib", "png of colours", write, None, SAID, remark="no grey values")


def sections(
    folder: Path,
    pattern: str = "s{:04d}.png",
    values: np.ndarray = RAW,
    by: str = "Pillow",
    gap: bool = False,
) -> Path:
    import imageio.v3
    import matplotlib.pyplot
    import PIL.Image

    (folder / "sections").mkdir()
    for z, section in enumerate(values):
        path = folder / "sections" / pattern.format(z)
        if by == "Pillow":
            how: Any = {"quality": 100} if path.suffix == ".jpg" else {}
            PIL.Image.fromarray(section).save(path, **how)
        elif by == "imageio":
            imageio.v3.imwrite(path, section)
        else:
            matplotlib.pyplot.imsave(path, section)
    if gap:
        sorted((folder / "sections").iterdir())[5].unlink()
    return folder / "sections"
