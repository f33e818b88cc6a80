"""TIFF files: stacks of pages, ImageJ hyperstacks, OME-TIFF, volumetric and tiled ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.errors import InputError, nearest
from synpol.formats import ArrayStack, register
from synpol.formats.axes import ArrayLike, Choice
from synpol.formats.calibration import Calibration
from synpol.formats.first_bytes import first_bytes
from synpol.formats.plain import PlainArray
from synpol.formats.tiff_metadata import calibration_of, check_whole, damage_refused

if TYPE_CHECKING:
    import tifffile

#: TIFF and BigTIFF in both byte orders
MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: pages that are unpacked at the same time
_THREADS = 4
_MIN_IS_WHITE, _MIN_IS_BLACK, _PALETTE = 0, 1, 3


@register
class TiffStack(ArrayStack):
    """Read a TIFF file whose pages are sections."""

    name = "TIFF"
    files = "TIFF (.tif)"

    def __init__(self, path: Path, key: str | None) -> None:
        import tifffile  # only this format needs it

        self.path = path
        self.what = str(path)
        with damage_refused(path):
            self.file = tifffile.TiffFile(path)
            self.file.filehandle.set_lock(True)  # pages are unpacked by several threads
            check_whole(self.file, path)
            self.series = self._series(key)
            self.page = self.series[0].keyframe
            self.array: ArrayLike = _array_of(self.file, self.series, path)
            self.names = _names_of(self.series)

    def _series(self, key: str | None) -> list[tifffile.TiffPageSeries]:
        """Return the image that is meant, or the sections that are images of their own."""
        series = list(self.file.series)
        if key is not None:
            if not key.isdigit() or int(key) >= len(series):
                known = [str(number) for number in range(len(series))]
                raise InputError(f"{self.path} has no image {key!r}{nearest('', known)}")
            return [series[int(key)]]
        kinds = {(s.shape, s.axes, s.dtype) for s in series}
        if len(series) == 1 or (len(kinds) == 1 and len(series[0].pages) == 1):
            return series
        found = "; ".join(f"{n}: {s.shape} {s.dtype}" for n, s in enumerate(series[:10]))
        raise InputError(
            f"{self.path} has pages of {len(series)} images that are not alike ({found}); grey "
            "pages that are alike are expected: choose an image, for instance `key: '0'`"
        )

    def choose(self, choice: Choice) -> None:
        super().choose(choice)
        self.read_as = _read_as(self.page, choice, self.what)

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_file() and first_bytes(path, 4) in MARKS

    def calibration(self) -> Calibration:
        return calibration_of(self.file, self.series[0])

    def close(self) -> None:
        if isinstance(self.array, PlainArray):
            self.array.close()
        self.file.close()

    def slab(self, begin: int, end: int) -> np.ndarray:
        values = super().slab(begin, end)
        if self.read_as == "inverted":
            values = self.dtype.type(2**self.page.bitspersample - 1) - values
        return values


def _read_as(page: tifffile.TiffPage, choice: Choice, what: str) -> str:
    """Say how grey values are changed.

    Raises
    ------
    InputError
        They cannot be known.
    """
    if page.photometric == _PALETTE and choice.kind == "image" and not _is_grey(page.colormap):
        raise InputError(
            f"{what} has a palette of colours, so its values are no grey values; convert it to "
            "grey (in Fiji Image > Type > 8-bit), or set `kind: labels` if they are labels"
        )
    if page.photometric != _MIN_IS_WHITE:
        return ""
    if choice.kind == "image" and page.dtype is not None and page.dtype.kind == "u":
        return "inverted"
    raise InputError(
        f"{what} has {page.dtype} values with min-is-white (an inverting lookup table), and only "
        "whole grey values of images can be inverted; save it with min-is-black (in Fiji "
        "Image > Lookup Tables > Invert LUT, and check the values)"
    )


def _is_grey(colormap: np.ndarray | None) -> bool:
    """Whether a palette of 16-bit colours shows each value as the grey of that value."""
    if colormap is None:
        return True
    ramp = np.linspace(0, 65535, colormap.shape[1])
    return bool(np.abs(colormap - ramp).max() < 65535 / (colormap.shape[1] - 1))


def _names_of(series: list[tifffile.TiffPageSeries]) -> list[str]:
    """Return the names of the axes; the pages of files that do not name them are sections."""
    names = list(series[0].axes)
    if len(series) > 1:
        names = ["I", *names]
    shape = [len(series)] * (len(series) > 1) + list(series[0].shape)
    unnamed = [i for i, name in enumerate(names) if name in "QI" and shape[i] > 1]
    if len(unnamed) == 1 and "Z" not in names:
        names[unnamed[0]] = "Z"
    elif not unnamed and "Z" not in names and "Q" in names:
        names[names.index("Q")] = "Z"
    return names


def _array_of(
    file: tifffile.TiffFile, series: list[tifffile.TiffPageSeries], path: Path
) -> ArrayLike:
    first = series[0]
    if first.dtype is None:
        raise InputError(
            f"{path} has pages of an unknown type; save it with 8 or 16 bits a pixel, in Fiji for "
            "instance"
        )
    if len(series) == 1 and first.dataoffset is not None and first.keyframe.is_final:
        dtype = first.dtype.newbyteorder(file.byteorder)
        return PlainArray(path, first.dataoffset, first.shape, dtype)
    pages = [page for one in series for page in one.pages]
    if None in pages:
        raise InputError(
            f"{path} is one of several files of an image, of which some are missing (page "
            f"{pages.index(None)}); copy them all into its folder"
        )
    shape = first.shape if len(series) == 1 else (len(series), *first.shape)
    return _Pages(pages, shape, first.dtype)


class _Pages:
    """An array whose last axes are pages, which are read whole.

    Parameters
    ----------
    pages : list of page
    shape : tuple of int
        Of all pages together.
    dtype : dtype
    """

    def __init__(self, pages: list, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype
        self.pages = pages
        count, self._lead = 1, 0
        while count < len(pages):
            count *= shape[self._lead]
            self._lead += 1
        self._index = np.arange(len(pages)).reshape(shape[: self._lead])

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        chosen = self._index[where[: self._lead]]
        inside = self.shape[self._lead :]

        def read(number: int) -> np.ndarray:
            page = self.pages[number].asarray(maxworkers=1)
            return page.reshape(inside)[where[self._lead :]]

        numbers = [int(n) for n in chosen.ravel()]
        if len(numbers) == 1:
            values = [read(numbers[0])]
        else:
            with ThreadPoolExecutor(_THREADS) as pool:
                values = list(pool.map(read, numbers))
        return np.stack(values).reshape(*chosen.shape, *values[0].shape)
