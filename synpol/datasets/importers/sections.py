"""Folders of image files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from synpol.datasets.importers import Stack, register
from synpol.errors import InputError


@register
class SectionStack(Stack):
    """Read a folder with one image a section, in the order of their names."""

    name = "sections"
    files = "a folder of PNG or TIFF sections"

    def __init__(self, path: Path, key: str | None) -> None:
        endings = {".png", ".tif", ".tiff"}
        images = (p for p in path.iterdir() if p.suffix.lower() in endings)
        self.paths = sorted(images, key=_natural)
        if not self.paths:
            raise InputError(f"{path} holds no PNG or TIFF sections")
        first = self._read(self.paths[0])
        self.shape, self.dtype = (len(self.paths), *first.shape), first.dtype

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_dir()

    def _read(self, path: Path) -> np.ndarray:
        import imageio.v3 as iio  # only this format needs it

        try:
            section = np.asarray(iio.imread(path))
        except Exception as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from None
        if section.ndim != 2:
            raise InputError(f"{path} has the shape {section.shape}; a grey image is expected")
        return section

    def slab(self, begin: int, end: int) -> np.ndarray:
        sections = []
        for path in self.paths[begin:end]:
            section = self._read(path)
            if section.shape != self.shape[1:] or section.dtype != self.dtype:
                raise InputError(
                    f"{path} is {section.shape} {section.dtype}, but {self.paths[0]} is "
                    f"{self.shape[1:]} {self.dtype}; all sections have to be alike"
                )
            sections.append(section)
        return np.stack(sections)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which s2 comes before s10."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", path.name)]
