"""KNOSSOS data sets: folders of raw cubes of 128 voxels along each axis."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.axes import Choice
from synpol.formats.calibration import Calibration

_EDGE = 128
_NUMBER = r"([\d.]+)"


@register
class KnossosStack(ArrayStack):
    """Read a KNOSSOS data set at full resolution."""

    name = "KNOSSOS"
    files = "KNOSSOS (a folder with knossos.conf)"
    names = "zyx"

    def __init__(self, path: Path, key: str | None) -> None:
        conf = _conf_of(path)
        if conf is None:
            raise InputError(f"{path} has no knossos.conf; give the folder mag1 that has one")
        text = conf.read_text(encoding="utf-8", errors="replace")
        self.what = str(path)
        self.array: _Cubes = _Cubes(conf.parent, _triple(text, "boundary", conf))
        self._size = _triple(text, "scale", conf)

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_dir() and _conf_of(path) is not None

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        return sorted(path.rglob("*.raw"))

    def choose(self, choice: Choice) -> None:
        super().choose(choice)
        self.array.fill_missing = choice.fill_missing

    def calibration(self) -> Calibration:
        return Calibration.of(self._size, "nm", "knossos.conf")


class _Cubes:
    """An array in cubes; one that is missing is refused, or read as zeros.

    Parameters
    ----------
    folder : Path
    shape : (z, y, x) of float
    """

    def __init__(self, folder: Path, shape: tuple[float, float, float]) -> None:
        self.folder = folder
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(np.uint8)
        self.fill_missing = False
        found = next(iter(sorted(folder.rglob("*x0000_y0000_z0000*"))), None)
        if found is None or found.suffix != ".raw":
            there = found.name if found else "no first cube"
            raise InputError(
                f"{folder} holds {there}; raw cubes of {_EDGE} x {_EDGE} x {_EDGE} bytes are "
                "expected: export them as .raw, or as TIFF"
            )
        _check_size(found)
        self._prefix = found.name.partition("x0000_y0000_z0000")[0]

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        (z0, z1, _), *plane = (w.indices(n) for w, n in zip(where, self.shape, strict=True))
        if [p[:2] for p in plane] != [(0, n) for n in self.shape[1:]]:
            raise ValueError("whole sections are read")
        cubes = [-(-n // _EDGE) for n in self.shape[1:]]
        values = np.zeros((z1 - z0, *(n * _EDGE for n in cubes)), self.dtype)
        for cube in range(z0 // _EDGE, -(-z1 // _EDGE)):
            first, last = max(z0, cube * _EDGE), min(z1, (cube + 1) * _EDGE)
            rows = slice(first - z0, last - z0)
            for y in range(cubes[0]):
                for x in range(cubes[1]):
                    part = self._part((cube, y, x), first - cube * _EDGE, last - first)
                    at_y = slice(y * _EDGE, (y + 1) * _EDGE)
                    values[rows, at_y, x * _EDGE : (x + 1) * _EDGE] = part
        return values[:, : self.shape[1], : self.shape[2]]

    def _part(self, cube: tuple[int, int, int], begin: int, count: int) -> np.ndarray | int:
        z, y, x = cube
        name = f"{self._prefix}x{x:04d}_y{y:04d}_z{z:04d}.raw"
        path = self.folder / f"x{x:04d}" / f"y{y:04d}" / f"z{z:04d}" / name
        if not path.is_file():
            if self.fill_missing:
                return 0
            raise InputError(
                f"{path} is missing; copy it too, or set `fill_missing: true` to import zeros in "
                "its place"
            )
        _check_size(path)
        area = _EDGE**2
        part = np.fromfile(path, self.dtype, count * area, offset=begin * area)
        return part.reshape(count, _EDGE, _EDGE)


def _check_size(path: Path) -> None:
    """Refuse a cube that is cut, or of other voxels than bytes."""
    size = path.stat().st_size
    if size != _EDGE**3:
        raise InputError(
            f"{path} has {size} bytes instead of {_EDGE**3}; copy it again, or export the data set "
            f"as raw cubes of {_EDGE} x {_EDGE} x {_EDGE} bytes or as TIFF"
        )


def _conf_of(path: Path) -> Path | None:
    for folder in (path, path / "mag1"):
        for name in sorted(p for p in folder.glob("*.conf") if p.is_file()):
            if b"experiment name" in name.read_bytes()[:4096]:
                return name
    return None


def _triple(text: str, key: str, conf: Path) -> tuple[float, float, float]:
    """Return z, y and x of a setting such as ``scale x 10.0;``."""
    found = [re.search(rf"{key}\s+{axis}\s+{_NUMBER}", text) for axis in "zyx"]
    z, y, x = (None if match is None else float(match[1].rstrip(".")) for match in found)
    if z is None or y is None or x is None:
        raise InputError(f"{conf} does not say the {key} along x, y and z; complete it")
    return z, y, x
