"""NRRD files, of Slicer and ITK for instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.calibration import Calibration
from synpol.formats.directions import calibration_of, world_axes
from synpol.formats.first_bytes import first_bytes
from synpol.formats.plain import PlainArray

_ENCODINGS = {"raw": "", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_SPATIAL = ("domain", "space", "none", "???")


@register
class NrrdStack(ArrayStack):
    """Read an NRRD file, or a header (.nhdr) with its data beside it."""

    name = "NRRD"
    files = "NRRD (.nrrd)"

    array: PlainArray

    def __init__(self, path: Path, key: str | None) -> None:
        import nrrd  # only this format needs it

        self.what = str(path)
        with open(path, "rb") as file:
            self.header: dict[str, Any] = dict(nrrd.read_header(file))
            begin = file.tell()
        dtype = self._dtype()
        encoding = str(self.header["encoding"]).lower()
        if encoding not in _ENCODINGS:
            raise InputError(
                f"{path} has the encoding {encoding}; save it with the encoding raw or gzip"
            )
        values = self._values(path)
        begin = self._begin(values, begin if values == path else 0, dtype, encoding)
        shape = [int(n) for n in self.header["sizes"]][::-1]
        self.names = self._axes()
        if _ENCODINGS[encoding]:
            skip = max(0, int(self.header.get("byte skip", 0)))
            self.array = PlainArray(values, skip, shape, dtype, _ENCODINGS[encoding], begin)
        else:
            self.array = PlainArray(values, begin, shape, dtype)

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_file() and first_bytes(path, 4) == b"NRRD"

    def _dtype(self) -> np.dtype:
        name = str(self.header["type"]).lower()
        for kind, names in _TYPES.items():
            if name in names:
                order = ">" if self.header.get("endian") == "big" else "<"
                return np.dtype(order + kind)
        raise InputError(f"{self.what} holds values of the type {name}; save it as numbers")

    def _values(self, path: Path) -> Path:
        """Return the file that holds the values."""
        name = self.header.get("data file", self.header.get("datafile"))
        if name is None:
            return path
        other = (path.parent / str(name)).resolve()
        if len(str(name).split()) > 1 or not other.is_relative_to(path.parent.resolve()):
            raise InputError(
                f"{path} keeps its values in {name}; one file in the same folder is expected: save "
                "the volume as one .nrrd file"
            )
        if not other.is_file():
            raise InputError(f"{path} keeps its values in {name}, which is missing; copy it too")
        return other

    def _begin(self, values: Path, begin: int, dtype: np.dtype, encoding: str) -> int:
        """Return the first byte of the values, compressed or not."""
        lines = int(self.header.get("line skip", 0))
        skip = int(self.header.get("byte skip", 0))
        if lines:
            with open(values, "rb") as file:
                file.seek(begin)
                for _ in range(lines):
                    file.readline()
                begin = file.tell()
        if _ENCODINGS[encoding]:
            return begin
        if skip == -1:  # the values are the last bytes of the file
            count = int(np.prod([int(n) for n in self.header["sizes"]]))
            return values.stat().st_size - count * dtype.itemsize
        return begin + skip

    def _axes(self) -> list[str] | None:
        """Names of the axes, slowest first."""
        count = int(self.header["dimension"])
        kinds = [str(k).lower() for k in self.header.get("kinds", ["domain"] * count)]
        spatial = [i for i, kind in enumerate(kinds) if kind in _SPATIAL]
        directions = self._directions()
        if directions is not None:
            spatial = [i for i in range(count) if np.isfinite(directions[i]).all()]
        if len(spatial) != 3:
            return None
        axes = [0, 1, 2]
        if directions is not None and directions.shape[1] == 3:
            axes = world_axes(directions[spatial]) or axes
        names = ["t" if kind == "time" else "c" for kind in kinds]
        for place, axis in zip(spatial, axes, strict=True):
            names[place] = "xyz"[axis]
        return names[::-1]

    def _directions(self) -> np.ndarray | None:
        found = self.header.get("space directions")
        if found is None:
            return None
        width = next((len(row) for row in found if row is not None), 0)
        rows = [[np.nan] * width if row is None else row for row in found]
        return np.asarray(rows, float)

    def close(self) -> None:
        self.array.close()

    def calibration(self) -> Calibration:
        directions = self._directions()
        if directions is not None:
            directions = directions[np.isfinite(directions).all(axis=1)]
        units = self.header.get("space units", self.header.get("units")) or []
        found = {str(u).strip('" ') for u in units if str(u).strip('" ')}
        unit = found.pop() if len(found) == 1 else None
        if directions is not None and directions.shape == (3, 3):
            origin = self.header.get("space origin")
            where = "its field `space directions`"
            return calibration_of(self.what, directions, origin, unit, where)
        spacings = self.header.get("spacings")
        if spacings is None or len(spacings) != 3 or not np.isfinite(spacings).all():
            return Calibration()
        where = "its field `spacings`"
        return calibration_of(self.what, np.diag(spacings), None, unit, where)
