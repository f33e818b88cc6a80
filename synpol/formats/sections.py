"""Folders of image files, one a section."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError
from synpol.formats import Stack, reading, register
from synpol.formats.axes import Choice
from synpol.formats.calibration import Calibration
from synpol.formats.first_bytes import first_bytes
from synpol.formats.section_names import gap_refusal, kind_of, sections_of
from synpol.formats.tiff import TiffStack

#: sections that are unpacked at the same time
_THREADS = 4


@register
class SectionStack(Stack):
    """Read a folder with one image a section, in the order of the numbers in their names."""

    name = "sections"
    files = "a folder of PNG, TIFF, JPEG or BMP sections"
    is_fallback = True  # folders of other formats are folders, too

    def __init__(self, path: Path, key: str | None) -> None:
        self.folder = path
        self.sections = sections_of(path, key)
        self._first = self.sections.files[0]
        self._choice = Choice()

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_dir()

    def choose(self, choice: Choice) -> None:
        if choice.channel is None:
            super().choose(choice)
        self._choice = choice
        if self.sections.missing and not choice.fill_missing:
            raise gap_refusal(self.folder, self.sections)
        first = self._read(self._first)
        self.shape, self.dtype = (len(self.sections.paths), *first.shape), first.dtype

    def calibration(self) -> Calibration:
        if kind_of(self._first) != "TIFF":
            return Calibration()
        with closing(TiffStack(self._first, None)) as stack:
            return stack.calibration()

    def slab(self, begin: int, end: int) -> np.ndarray:
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(self._section, self.sections.paths[begin:end])))

    def _section(self, path: Path | None) -> np.ndarray:
        if path is None:
            return np.zeros(self.shape[1:], self.dtype)
        section = self._read(path)
        if section.shape != self.shape[1:] or section.dtype != self.dtype:
            raise InputError(
                f"{path} is {section.shape} {section.dtype}, but {self._first} is "
                f"{self.shape[1:]} {self.dtype}; all sections have to be alike: resave or crop it"
            )
        return section

    def _read(self, path: Path) -> np.ndarray:
        """Read a section as (y, x)."""
        kind = kind_of(path)
        if kind == "JPEG" and self._choice.kind == "labels":
            raise InputError(
                f"{path} is JPEG, whose compression changes labels; export the labels as PNG or "
                "TIFF"
            )
        if kind == "TIFF":
            return self._tiff(path)
        with reading(path, "an image"):
            values = _decoded(path, self._choice.kind == "image")
        if values.ndim == 3 and self._choice.channel is not None:
            if self._choice.channel >= values.shape[2]:
                raise InputError(
                    f"channel is {self._choice.channel}, but {path} has {values.shape[2]}"
                )
            values = values[:, :, self._choice.channel]
        if values.ndim != 2:
            raise InputError(
                f"{path} has the shape {values.shape}; a grey image is expected: convert the "
                "sections to grey, or choose a channel of the colours, for instance `channel: 0`"
            )
        return values

    def _tiff(self, path: Path) -> np.ndarray:
        with closing(TiffStack(path, None)) as stack:
            stack.choose(self._choice)
            if stack.shape[0] != 1 or len(stack.shape) != 3:
                raise InputError(
                    f"{path} has the shape {stack.shape}; one section a file is expected: import "
                    "each stack by itself, or choose others with `key`"
                )
            return stack.slab(0, 1)[0]


def _decoded(path: Path, as_image: bool) -> np.ndarray:
    """Read a PNG, JPEG or BMP file; samples of less than 8 bits stay as they are stored."""
    import PIL.Image  # only this format needs it

    # whoever imports sections of gigapixels means it; PIL takes them for an attack
    PIL.Image.MAX_IMAGE_PIXELS = None
    with PIL.Image.open(path) as image:
        if image.mode == "P":
            return _indices(image, path, as_image)
        values = np.asarray(image)
        if image.format == "PNG" and image.mode == "L":
            bits = first_bytes(path, 25)[24]
            values = values // (255 // (2**bits - 1)) if bits < 8 else values
    return values


def _indices(image: Any, path: Path, as_image: bool) -> np.ndarray:
    """Read an image with a palette: labels are the indices, grey values the palette's."""
    values = np.asarray(image)
    if not as_image:
        return values
    palette = np.asarray(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if (palette != palette[:, :1]).any():
        raise InputError(
            f"{path} has a palette of colours, so its values are no grey values; convert the "
            "sections to grey, or set `kind: labels` if they are labels"
        )
    return palette[:, 0][values]
