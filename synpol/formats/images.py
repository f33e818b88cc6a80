"""Images that synpol reads in place, Zarr and precomputed, local or at a URL.

They need no import to be used. It makes them OME-Zarr with the voxel size that the config says,
crops and shrinks them.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Literal

from synpol.config import ImageSource
from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.axes import Choice
from synpol.formats.calibration import Calibration
from synpol.formats.first_bytes import first_bytes
from synpol.images.image import open_image
from synpol.images.kinds import SCHEME

_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


@register
class ZarrStack(ArrayStack):
    """Read a Zarr array or OME-Zarr image."""

    name = "Zarr"
    is_anonymous = True
    files = "Zarr and OME-Zarr (v2 and v3, also in a ZIP file)"

    def __init__(self, path: Path, key: str | None) -> None:
        self._path = "/".join([str(path), *([key.strip("/")] if key else [])])

    def choose(self, choice: Choice) -> None:
        source = ImageSource(
            path=self._path,
            channel=choice.channel,
            time=choice.time,
            axes=choice.axes,
            fill_missing=choice.fill_missing,
            anonymous=choice.anonymous,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.image = open_image(source, bare=True)
            except InputError as error:
                # the keys of a mapping are keys of the import itself
                text = re.sub(r"\{path: .*?, (\w+): (\w+)\}", r"`\1: \2`", str(error))
                raise InputError(text) from None
        self._has_size = _says_size(source)
        self.what = self.image.path
        self.array = self.image.array
        self.names = "czyx"[-len(self.image.array.shape) :]
        super().choose(Choice(choice.kind))

    @classmethod
    def opens(cls, path: Path) -> bool:
        if path.is_dir():
            return any((path / name).is_file() for name in _ZARR)
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] in _ZARR for name in archive.namelist())

    @classmethod
    def opens_url(cls, url: str) -> bool:
        return not url.startswith(SCHEME)

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        return sorted(p for p in path.rglob("*") if p.is_file()) or [path]

    def calibration(self) -> Calibration:
        if not self._has_size:
            return self._place_alone()
        size = self.image.voxel_size_nm
        offset = self.image.offset_nm if self.image.placed else None
        return Calibration.of(size, "nm", "its metadata", offset)

    def _place_alone(self) -> Calibration:
        """The place of an image without voxel size: its centre in OME, read as in place."""
        if not self.image.placed:
            return Calibration()
        half = [s / 2 if self.image.point == "centre" else 0 for s in self.image.voxel_size_nm]
        z, y, x = (p + h for p, h in zip(self.image.offset_nm, half, strict=True))
        point: Literal["corner", "centre"] = "centre" if any(half) else "corner"
        return Calibration(offset=(z, y, x), where="its metadata", point=point)


@register
class PrecomputedStack(ZarrStack):
    """Read a precomputed volume."""

    name = "precomputed"
    files = "neuroglancer's precomputed format (a folder with `info`, precomputed://)"

    def __init__(self, path: Path, key: str | None) -> None:
        self._path = f"{SCHEME}{str(path).removeprefix(SCHEME)}"

    @classmethod
    def opens(cls, path: Path) -> bool:
        if not (path / "info").is_file():
            return False
        try:
            return "scales" in json.loads(first_bytes(path / "info", 2**20))
        except ValueError:
            return False

    @classmethod
    def opens_url(cls, url: str) -> bool:
        return url.startswith(SCHEME)


def _says_size(source: ImageSource) -> bool:
    """Whether an image that can be opened says a voxel size that can be trusted."""
    try:
        open_image(source)
    except InputError:
        return False
    return True
