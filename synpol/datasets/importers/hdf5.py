"""HDF5 files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synpol.datasets.importers import Stack, register
from synpol.errors import InputError, nearest


@register
class Hdf5Stack(Stack):
    """Read a dataset (z, y, x) of an HDF5 file."""

    name = "HDF5"
    files = "HDF5 (.h5)"

    def __init__(self, path: Path, key: str | None) -> None:
        import h5py  # only this format needs it

        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"{path} cannot be read as HDF5: {error}") from None
        keys: list[str] = []
        self.file.visititems(
            lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None
        )
        if key is None:
            raise InputError(f"{path} is HDF5: say which dataset (`key:`){nearest('', keys)}")
        key = key.strip("/")
        if key not in keys:
            raise InputError(f"{path} has no dataset {key!r}{nearest(key, keys)}")
        self.data = self.file[key]
        if self.data.ndim != 3:
            raise InputError(f"{path}:{key} has the shape {self.data.shape}; (z, y, x) is expected")
        self.shape, self.dtype = self.data.shape, self.data.dtype

    @classmethod
    def opens(cls, path: Path) -> bool:
        return path.is_file() and path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".he5")

    def slab(self, begin: int, end: int) -> np.ndarray:
        return self.data[begin:end]
