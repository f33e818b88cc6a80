"""Axes, voxel size and offset in the attributes of an HDF5 dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.formats.axes import Layout, letters_of
from synpol.formats.calibration import Calibration, nanometers

if TYPE_CHECKING:
    import h5py

#: attributes that name the axes: funlib.persistence, xarray, others
_AXES = ("axes", "axis_names", "_ARRAY_DIMENSIONS", "dimension_names", "DIMENSION_LABELS")
#: attributes that give the voxel size, and their unit where it is fixed
_SIZES = {
    "resolution": None,
    "voxel_size": None,
    "voxelsize": None,
    "element_size_nm": "nm",
    "element_size_um": "um",
}
#: attributes that give the offset, and their unit where it is fixed
_OFFSETS = {"offset": None, "offset_nm": "nm"}
_UNITS = ("units", "unit", "resolution_unit", "voxel_size_unit")


def axis_names(data: h5py.Dataset, what: str) -> list[str] | None:
    """Return the names of the axes, slowest first, None where the file does not say them.

    Raises
    ------
    InputError
        The names are not as many as the axes, or two attributes contradict each other.
    """
    said: dict[str, list[str]] = {}
    if "axistags" in data.attrs:  # ilastik and vigra
        try:
            tags = json.loads(_text(data.attrs["axistags"]))
            said["axistags"] = [str(axis["key"]) for axis in tags["axes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{what} has an attribute axistags that cannot be read ({error}); correct or "
                "remove it"
            ) from None
    for key in _AXES:
        names = _texts(data.attrs[key]) if key in data.attrs else []
        if len(names) == 1 and (len(names[0]) == data.ndim or set(names[0]) <= set("tczyx")):
            names = list(names[0])
        if any(names) and not all(n.startswith(("dim_", "phony_dim")) or not n for n in names):
            said[key] = names
    for key, names in said.items():
        if len(names) != data.ndim:
            raise InputError(
                f"{what} has {data.ndim} axes (shape {data.shape}), but its attribute {key} names "
                f"{', '.join(names)}; correct or remove it"
            )
    if len({letters_of(names) for names in said.values()}) > 1:
        texts = " and ".join(f"{key}: {', '.join(names)}" for key, names in said.items())
        raise InputError(f"{what} names its axes in different ways, {texts}; correct one of them")
    return next(iter(said.values()), None)


def calibration_of(data: h5py.Dataset, layout: Layout, what: str) -> Calibration:
    """Return what the attributes say about voxel size and offset.

    Numbers stand in the order of the dataset's axes.

    Raises
    ------
    InputError
        Attributes cannot be understood, or contradict each other.
    """
    unit = _unit(data, layout, what)
    found = Calibration()
    for key, fixed in _SIZES.items():
        size = _spatial(data, key, layout, what)
        if size is not None:
            where = f"its attribute {key}"
            found = found.joined(Calibration.of(size, fixed or unit, where), what)
    for key, fixed in _OFFSETS.items():
        offset = _spatial(data, key, layout, what)
        if offset is not None:
            where = f"its attribute {key}"
            place = Calibration.of((None,) * 3, fixed or unit, where, offset)
            if found.unit is None:  # the size has no unit, nor has the offset then
                place = Calibration(found.voxel_size, place.offset, None, found.where)
                found = place
            found = found.joined(place, what)
    return found


def _spatial(
    data: h5py.Dataset, key: str, layout: Layout, what: str
) -> tuple[float, float, float] | None:
    """Return z, y and x of an attribute."""
    if key not in data.attrs:
        return None
    try:
        numbers = np.atleast_1d(np.asarray(data.attrs[key], dtype=float))
        if numbers.ndim == 1 and np.isfinite(numbers).all():
            return layout.spatial(numbers.tolist())
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"{what} has an attribute {key} = {data.attrs[key]!r}; a number for each axis is expected: "
        "correct it, or say `voxel_size` and `offset` in the config with `ignore_metadata: true`"
    )


def _unit(data: h5py.Dataset, layout: Layout, what: str) -> str | None:
    for key in _UNITS:
        names = [n for n in _texts(data.attrs[key]) if n] if key in data.attrs else []
        if len(names) == len(data.shape) > 3:
            names = [n for n, i in zip(names, layout.index, strict=True) if str(i) in "zyx"]
        if not names:
            continue
        factors = {nanometers(n) for n in names}
        if len(factors) > 1 or None in factors:
            raise InputError(
                f"{what} has an attribute {key} = {', '.join(names)}; one unit of length is "
                "expected, such as nm: correct it, or say `voxel_size` in the config with "
                "`ignore_metadata: true`"
            )
        return names[0]
    return None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _texts(value: Any) -> list[str]:
    """Return the texts of an attribute, which holds one or several."""
    if isinstance(value, (np.ndarray, Sequence)) and not isinstance(value, (str, bytes)):
        return [_text(item) for item in np.asarray(value, dtype=object).ravel()]
    return [_text(value)]
