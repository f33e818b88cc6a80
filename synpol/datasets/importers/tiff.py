"""TIFF files of several pages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from synpol.datasets.importers import Stack, register
from synpol.errors import InputError


@register
class TiffStack(Stack):
    """Read a TIFF file in which each page is a section."""

    name = "TIFF"
    files = "TIFF (.tif)"

    def __init__(self, path: Path, key: str | None) -> None:
        import tifffile  # only this format needs it

        try:
            self.file = tifffile.TiffFile(path)
            self.pages = list(self.file.pages)
            sections = sum(math.prod(series.shape[:-2]) for series in self.file.series)
            first, kinds = self.pages[0], {(page.shape, page.dtype) for page in self.pages}
        except Exception as error:
            raise InputError(f"{path} cannot be read as TIFF: {error}") from None
        if len(kinds) > 1 or len(first.shape) != 2 or first.dtype is None:
            found = ", ".join(f"{shape} {dtype}" for shape, dtype in sorted(kinds, key=str))
            raise InputError(f"{path} has pages of {found}; grey pages that are alike are expected")
        if sections != len(self.pages):
            raise InputError(
                f"{path} has {sections} sections in {len(self.pages)} pages; one page a section is "
                "expected"
            )
        self.shape, self.dtype = (len(self.pages), *first.shape), first.dtype

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in (".tif", ".tiff")

    def slab(self, begin: int, end: int) -> np.ndarray:
        return np.stack([page.asarray() for page in self.pages[begin:end]])
