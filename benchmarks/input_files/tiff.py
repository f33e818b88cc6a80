"""TIFF stacks, with the codecs of imagecodecs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import BOTH, IDS, LABELS, RAW, SAID, File


def tiff_files() -> Iterator[File]:
    here = partial(File, "TIFF")
    yield here("tifffile", "pages", tif, keys=SAID)
    yield here("tifffile", "big-endian", partial(tif, byteorder=">"), keys=SAID)
    yield here("tifffile", "BigTIFF", partial(tif, bigtiff=True), keys=SAID)
    yield here("tifffile", "uint64", partial(tif, values=IDS), IDS, SAID | LABELS)
    yield here("tifffile", "tiled", partial(tif, tile=(16, 16)), keys=SAID)
    yield here("tifffile", "volumetric", partial(tif, volumetric=True), keys=SAID)
    size = {"PhysicalSizeZ": 0.04, "PhysicalSizeY": 0.008, "PhysicalSizeX": 0.004}
    yield here("tifffile", "OME-TIFF", partial(tif, ome=True, metadata={"axes": "ZYX", **size}))
    about = {"axes": "ZYX", "spacing": 0.04, "unit": "um"}
    imagej = partial(tif, imagej=True, resolution=(250, 125), metadata=about)
    yield here("tifffile", "ImageJ", imagej)
    yield here("tifffile", "ImageJ, one page as above 4 GB", partial(imagej, truncate=True))
    both = np.ascontiguousarray(BOTH.swapaxes(0, 1))
    write = partial(tif, values=both, imagej=True, metadata={"axes": "ZCYX"})
    several = "a channel has to be chosen"
    yield here("tifffile", "ImageJ, two channels", write, None, SAID, remark=several)
    yield here("tifffile", "ImageJ, second channel", write, 255 - RAW, SAID | {"channel": 1})
    write = partial(tif, imagej=True, metadata={"axes": "TYX"})
    times = SAID | {"axes": "zyx"}
    yield here("tifffile", "ImageJ, sections as times", write, keys=times)
    white = partial(tif, values=255 - RAW, photometric="miniswhite")
    yield here("tifffile", "min-is-white", white, keys=SAID, remark="values are inverted")
    colours = partial(tif, values=np.stack([RAW] * 3, -1), photometric="rgb")
    yield here("tifffile", "colours", colours, None, SAID, remark="no grey values")
    for codec in ("lzw", "zlib", "zstd", "lzma", "packbits", "jpeg2000", "jpegxl"):
        how = {"lossless": True} if codec == "jpegxl" else None
        write = partial(tif, compression=codec, compressionargs=how)
        yield here("imagecodecs", codec, write, keys=SAID)
    cut = "it ends before its last section"
    yield here("imagecodecs", "lzw, cut", cut_tif, None, SAID, remark=cut)
    yield here("scikit-image", "imsave", skimage_tif, keys=SAID)
    yield here("Pillow", "save_all", pillow_tif, keys=SAID)


def tif(folder: Path, values: np.ndarray = RAW, **how: Any) -> Path:
    import tifffile

    grey = {} if "imagej" in how or "photometric" in how else {"photometric": "minisblack"}
    tifffile.imwrite(folder / "a.tif", values, **{**grey, **how})
    return folder / "a.tif"


def cut_tif(folder: Path) -> Path:
    path = tif(folder, compression="lzw")
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def skimage_tif(folder: Path) -> Path:
    import skimage.io

    skimage.io.imsave(folder / "a.tif", RAW, check_contrast=False)
    return folder / "a.tif"


def pillow_tif(folder: Path) -> Path:
    import PIL.Image

    first, *others = [PIL.Image.fromarray(section) for section in RAW]
    first.save(folder / "a.tif", save_all=True, append_images=others, compression="tiff_lzw")
    return folder / "a.tif"
