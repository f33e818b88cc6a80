"""NIfTI files, of ITK-SNAP and napari for instance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synpol.datasets.importers import ArrayStack, reading, register
from synpol.datasets.importers.axes import Choice
from synpol.datasets.importers.calibration import Calibration
from synpol.datasets.importers.directions import calibration_of, world_axes
from synpol.datasets.importers.first_bytes import compression_of, unpacked_first_bytes
from synpol.datasets.importers.plain import PlainArray
from synpol.errors import InputError


@register
class NiftiStack(ArrayStack):
    """Read a NIfTI file."""

    name = "NIfTI"
    files = "NIfTI (.nii, .nii.gz)"

    array: PlainArray

    def __init__(self, path: Path, key: str | None) -> None:
        import nibabel  # only this format needs it

        self.what = str(path)
        with reading(path, "NIfTI"):
            loaders = (nibabel.Nifti1Image, nibabel.Nifti1Pair, nibabel.Nifti2Image)
            kind = next(k for k in loaders if _is_of(k, path))
            image = kind.from_filename(path)
            self.header = image.header
            data: Any = image.dataobj
            self.slope, self.intercept = float(data.slope), float(data.inter)
            self.affine = np.asarray(image.affine, float)
            self.is_placed = bool(self.header["qform_code"] or self.header["sform_code"])
            values = Path(str(data.file_like))
            shape, dtype = data.shape[::-1], data.dtype
            self.array = PlainArray(values, data.offset, shape, dtype, compression_of(values))
        names = list("xyz")
        axes = world_axes(self.affine[:3, :3].T) if self.is_placed else None
        if axes is not None:
            names = ["xyz"[axis] for axis in axes]
        self.names = [*names, "t", "c", "5", "6"][: len(shape)][::-1]

    @classmethod
    def opens(cls, path: Path) -> bool:
        found = unpacked_first_bytes(path) if path.is_file() else b""
        return found[344:348] in (b"n+1\0", b"ni1\0") or found[4:8] in (b"n+2\0", b"ni2\0")

    @property
    def _is_scaled(self) -> bool:
        return (self.slope, self.intercept) != (1, 0)

    def choose(self, choice: Choice) -> None:
        super().choose(choice)
        if self._is_scaled:
            if choice.kind == "labels":
                raise InputError(
                    f"{self.what} scales its values by {self.slope:g} and adds "
                    f"{self.intercept:g}, so they are no labels; save them without scaling"
                )
            self.dtype = np.dtype(np.float32)

    def close(self) -> None:
        self.array.close()

    def calibration(self) -> Calibration:
        spatial, _ = self.header.get_xyzt_units()
        unit = None if spatial == "unknown" else spatial
        if not self.is_placed:
            size = [float(v) for v in self.header.get_zooms()[:3]]
            return calibration_of(self.what, np.diag(size), None, unit, "pixdim in its header")
        directions, origin = self.affine[:3, :3].T, self.affine[:3, 3].tolist()
        return calibration_of(self.what, directions, origin, unit, "the affine in its header")

    def slab(self, begin: int, end: int) -> np.ndarray:
        values = super().slab(begin, end)
        if self._is_scaled:
            values = (values * self.slope + self.intercept).astype(np.float32)
        return values


def _is_of(kind: type, path: Path) -> bool:
    found, _ = kind.path_maybe_image(path)  # type: ignore[attr-defined]
    return bool(found)
