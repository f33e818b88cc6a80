"""HDF5 files of programs that store a volume in a way of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.formats.axes import ArrayLike
from synpol.formats.calibration import Calibration, rounded
from synpol.formats.first_bytes import first_bytes

if TYPE_CHECKING:
    import h5py

_BIGDATAVIEWER = re.compile(r"/t\d+/s(\d+)/(\d+)/cells")
_IMARIS = re.compile(r"/DataSet/ResolutionLevel (\d+)/TimePoint \d+/Channel \d+/Data")


class Part:
    """Show the first voxels of an array, under another type of the same size.

    Parameters
    ----------
    array : array
    shape : tuple of int
        Voxels that count along each axis.
    dtype : dtype
    """

    def __init__(self, array: ArrayLike, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.array, self.shape, self.dtype = array, shape, dtype

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        inside = tuple(
            w if isinstance(w, int) else slice(*w.indices(n))
            for w, n in zip(where, self.shape, strict=True)
        )
        return np.asarray(self.array[inside]).view(self.dtype)


def matlab_axes(data: h5py.Dataset, path: Path, what: str) -> list[str] | None:
    """Return the axes of a MATLAB variable, None for another file.

    MATLAB stores columns first, so that HDF5 shows its rows, columns, sections (y, x, z) as
    z, x, y.

    Raises
    ------
    InputError
        The variable is not a full numeric array.
    """
    kind = data.attrs.get("MATLAB_class")
    if kind is None and not first_bytes(path, 16).startswith(b"MATLAB 7.3"):
        return None
    name = "double" if kind is None else kind.decode() if isinstance(kind, bytes) else str(kind)
    numeric = re.fullmatch(r"u?int\d+|single|double|logical", name)
    if not numeric or "MATLAB_sparse" in data.attrs or "MATLAB_empty" in data.attrs:
        raise InputError(
            f"{what} is a MATLAB variable of the class {name} that holds no full numeric array; "
            "give the `key` of a numeric one"
        )
    return ["t", "c", "z", "x", "y"][-data.ndim :] if data.ndim >= 2 else None


def bigdataviewer(data: h5py.Dataset, path: Path) -> tuple[ArrayLike, Calibration] | None:
    """Return array and voxel size of a BigDataViewer dataset, None for another one.

    Its 16-bit values are without a sign, although the dataset says int16; its voxel size stands in
    the XML file beside it.
    """
    match = _BIGDATAVIEWER.fullmatch(str(data.name))
    if match is None:
        return None
    dtype = np.dtype(np.uint16) if data.dtype == np.int16 else data.dtype
    array = Part(data, data.shape, dtype)
    setup, level = match.groups()
    about = path.with_suffix(".xml")
    try:
        root = ElementTree.parse(about).getroot()
    except (OSError, ElementTree.ParseError):
        return array, Calibration()
    for entry in root.iter("ViewSetup"):
        size = entry.find("voxelSize")
        if size is None or (entry.findtext("id") or "").strip() != str(int(setup)):
            continue
        numbers = [float(v) for v in (size.findtext("size") or "").split()]
        levels: Any = data.file.get(f"s{setup}/resolutions")
        if len(numbers) == 3 and levels is not None:
            x, y, z = (n * f for n, f in zip(numbers, levels[int(level)], strict=True))
            unit = (size.findtext("unit") or "pixel").strip()
            return array, Calibration.of((z, y, x), unit, about.name)
    return array, Calibration()


def imaris(data: h5py.Dataset, what: str) -> tuple[ArrayLike, Calibration] | None:
    """Return array and voxel size of an Imaris dataset, None for another one.

    Its datasets are filled up to whole chunks; the image is smaller.
    """
    match = _IMARIS.fullmatch(str(data.name))
    if match is None:
        return None
    try:
        sizes = [int(_letters(data.parent.attrs[f"ImageSize{axis}"])) for axis in "ZYX"]
        about = data.file["DataSetInfo/Image"].attrs
        low = [float(_letters(about[f"ExtMin{i}"])) for i in (2, 1, 0)]
        high = [float(_letters(about[f"ExtMax{i}"])) for i in (2, 1, 0)]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{what} looks like an Imaris image, but its size is not said ({error}); save it as "
            "TIFF in Fiji"
        ) from None
    z, y, x = (rounded((b - a) / n) for a, b, n in zip(low, high, sizes, strict=True))
    unit = _letters(about["Unit"]) if "Unit" in about else "um"
    found = Calibration.of((z, y, x), unit, "DataSetInfo/Image")
    return Part(data, (sizes[0], sizes[1], sizes[2]), data.dtype), found


def _letters(value: Any) -> str:
    """Return the text of an attribute that holds an array of single letters."""
    return b"".join(np.asarray(value, dtype="S1").ravel().tolist()).decode()
