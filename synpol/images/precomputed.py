"""Segmentations in neuroglancer's precomputed format, read through tensorstore."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from funlib.geometry import Coordinate

from synpol.errors import InputError

#: how their paths and URLs begin
SCHEME = "precomputed://"


class PrecomputedArray:
    """The full resolution of a precomputed volume with one channel, as (z, y, x).

    Parameters
    ----------
    path : str
        Folder, or URL (``https://``, ``gs://``, ``s3://``), after ``precomputed://``.

    Attributes
    ----------
    shape, chunks : (int, int, int)
    dtype : numpy.dtype
    resolution, begin : (float, float, float)
        nm, and voxels of the first corner.
    attrs : mapping
        Empty: the format has no place for attributes.
    """

    attrs: Mapping[str, Any] = {}

    def __init__(self, path: str) -> None:
        import tensorstore

        where: Any = path.rstrip("/") + "/"
        if "://" not in path:
            where = {"driver": "file", "path": f"{Path(path).resolve()}/"}
        try:
            self._store = tensorstore.open(
                {"driver": "neuroglancer_precomputed", "kvstore": where},
                read=True,
                open=True,
            ).result()
        except (ValueError, OSError) as error:
            raise InputError(
                f"{SCHEME}{path} cannot be opened as a precomputed volume: {error}"
            ) from None
        if self._store.shape[3] != 1:
            raise InputError(
                f"{SCHEME}{path} has {self._store.shape[3]} channels; a single one is expected"
            )
        about = json.loads(json.dumps(self._store.spec(retain_context=False).to_json()))
        z, y, x = about["scale_metadata"]["resolution"][::-1]
        self.resolution = float(z), float(y), float(x)
        x, y, z = self._store.domain.inclusive_min[:3]
        self.begin = z, y, x
        x, y, z = self._store.shape[:3]
        self.shape = z, y, x
        x, y, z = (self._store.chunk_layout.read_chunk.shape or ())[:3]
        self.chunks = z, y, x
        self.dtype = np.dtype(self._store.dtype.numpy_dtype)

    def __getitem__(self, where: tuple[slice, slice, slice]) -> np.ndarray:
        ranges = zip(where, self.begin, self.shape, strict=True)
        z, y, x = (slice(w.start + b, min(w.stop, n) + b) for w, b, n in ranges)
        return np.asarray(self._store[x, y, z, 0].read().result()).T

    def placement(self, path: str) -> tuple[Coordinate, Coordinate, str]:
        """Voxel size, offset (corner of the first voxel) and unit.

        Raises
        ------
        InputError
            They are not even whole in pm.
        """
        offset = [b * r for b, r in zip(self.begin, self.resolution, strict=True)]
        for unit, factor in (("nm", 1), ("angstrom", 10), ("pm", 1000)):
            values = [round(v * factor, 6) for v in (*self.resolution, *offset)]
            if all(v.is_integer() for v in values):
                size, first = (Coordinate(map(int, part)) for part in (values[:3], values[3:]))
                return size, first, unit
        raise InputError(f"{path} has voxels of {self.resolution} nm, which are not whole in pm")
