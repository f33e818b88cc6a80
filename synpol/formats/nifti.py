"""NIfTI files, of ITK-SNAP and napari for instance."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from synpol.errors import InputError
from synpol.formats import ArrayStack, register
from synpol.formats.axes import Choice
from synpol.formats.calibration import Calibration
from synpol.formats.directions import calibration_of, world_axes
from synpol.formats.first_bytes import compression_of, unpacked_first_bytes
from synpol.formats.plain import PlainArray

#: marks of the first and the second version, with the values in the same file and beside it
_MARKS = ((b"n+1\0", b"ni1\0"), (b"n+2\0", b"ni2\0"))


@register
class NiftiStack(ArrayStack):
    """Read a NIfTI file."""

    name = "NIfTI"
    files = "NIfTI (.nii, .nii.gz)"

    array: PlainArray

    def __init__(self, path: Path, key: str | None) -> None:
        import nibabel  # only this format needs it

        self.what = str(path)
        found = unpacked_first_bytes(path)
        is_first, is_pair = found[344:348] in _MARKS[0], b"ni" in (found[344:346], found[4:6])
        kind = nibabel.Nifti1Header if is_first else nibabel.Nifti2Header
        self.header = kind.from_fileobj(io.BytesIO(found), check=False)
        self.slope, self.intercept = (
            default if value is None else float(value)
            for value, default in zip(self.header.get_slope_inter(), (1.0, 0.0), strict=True)
        )
        self.affine = np.asarray(self.header.get_best_affine(), float)
        self.is_placed = bool(self.header["qform_code"] or self.header["sform_code"])
        values = _values_beside(path) if is_pair else path
        begin = int(self.header["vox_offset"])
        if not is_pair:
            begin = max(begin, int(self.header.single_vox_offset))
        shape = tuple(int(n) for n in self.header.get_data_shape())[::-1]
        dtype = np.dtype(self.header.get_data_dtype())
        self.array = PlainArray(values, begin, shape, dtype, compression_of(values))
        names = list("xyz")
        axes = world_axes(self.affine[:3, :3].T) if self.is_placed else None
        if axes is not None:
            names = ["xyz"[axis] for axis in axes]
        self.names = [*names, "t", "c", "5", "6"][: len(shape)][::-1]

    @classmethod
    def opens(cls, path: Path) -> bool:
        found = unpacked_first_bytes(path) if path.is_file() else b""
        return found[344:348] in _MARKS[0] or found[4:8] in _MARKS[1]

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


def _values_beside(path: Path) -> Path:
    """Return the file with the values of a header (.hdr) that stands alone."""
    name = path.name.replace(".hdr", ".img")
    found = next(
        (p for p in (path.with_name(name), path.with_name(f"{name}.gz")) if p.is_file()), None
    )
    if found is None or found == path:
        raise InputError(f"{path} is the header of {name}, which is missing; copy it too")
    return found
