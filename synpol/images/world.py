"""Where an image lies in the world: voxel size, offset and unit, as metadata say them.

Two conventions differ by half a voxel: funlib's ``offset`` is the *corner* of the first voxel, the
OME translation its *centre* (which is how neuroglancer reads it). Both are written; the
corner is what synpol calls ``offset``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zarr
from funlib.geometry import Coordinate

from synpol.errors import InputError, nearest

#: nm in one unit, for every length unit that is understood
NANOMETERS = {"nm": 1.0, "angstrom": 0.1, "pm": 0.001}
_OME_NAME = {"nm": "nanometer", "angstrom": "angstrom", "pm": "picometer"}
#: attributes of an array that tell its voxel size, funlib.persistence's and gunpowder's
SIZE_KEYS = {"voxel_size", "resolution"}
_UNIT_ALIASES = {
    "nm": ("nm", 1),
    "nanometer": ("nm", 1),
    "nanometers": ("nm", 1),
    "angstrom": ("angstrom", 1),
    "a": ("angstrom", 1),
    "pm": ("pm", 1),
    "picometer": ("pm", 1),
    "um": ("nm", 1000),
    "µm": ("nm", 1000),
    "micrometer": ("nm", 1000),
    "micron": ("nm", 1000),
    "": ("nm", 1),
}


def in_nm(value: int, unit: str) -> float:
    """A whole number of a unit in nm."""
    return value if unit == "nm" else round(value * NANOMETERS[unit], 6)


def to_world(
    sizes: Sequence[float], unit: str, what: str, *, positive: bool = False
) -> tuple[Coordinate, str]:
    """Turn sizes as given into whole world units.

    Parameters
    ----------
    sizes : sequence of 3 numbers
        z, y, x, in `unit`.
    unit : str
        "nm", "angstrom", "pm", or a longer name of one of them ("micrometer" becomes nm).
    what : str
        What the sizes are, for the message.
    positive : bool
        Whether every size has to be above zero.

    Returns
    -------
    (Coordinate, str)
        Whole numbers, and the unit they are in.

    Raises
    ------
    InputError
        A size that is not whole (gunpowder and funlib would truncate it without a word), three
        sizes that are not three, or an unknown unit.
    """
    if str(unit).lower() not in _UNIT_ALIASES:
        raise InputError(f"{what}: unknown unit {unit!r}{nearest(str(unit), NANOMETERS)}")
    base, factor = _UNIT_ALIASES[str(unit).lower()]
    if len(sizes) != 3:
        raise InputError(f"{what} is {tuple(sizes)}; three numbers z, y, x are expected")
    scaled = [float(s) * factor for s in sizes]
    whole = [round(s) for s in scaled]
    # what float32 and a change of unit leave of a whole number, but never a tenth of a unit
    slack = [min(1e-6 * max(1.0, abs(s)), 1e-3) for s in scaled]
    if any(abs(s - w) > t for s, w, t in zip(scaled, whole, slack, strict=True)):
        finer = {"nm": "angstrom", "angstrom": "pm"}.get(base, "pm")
        ratio = NANOMETERS[base] / NANOMETERS[finer]
        raise InputError(
            f"{what} {tuple(sizes)} {unit} is not whole in {base}, and world units are whole "
            f"numbers here; give it in {finer}: {tuple(round(s * ratio, 6) for s in scaled)} "
            f"with `unit: {finer}`"
        )
    if positive and min(whole) <= 0:
        raise InputError(f"{what} is {tuple(sizes)} {unit}; it must be above zero on every axis")
    return Coordinate(whole), base


def multiscales_of(attrs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first multiscale image that a group's attributes describe, OME 0.5 or 0.4."""
    found = dict(attrs).get("ome", attrs).get("multiscales")
    return found[0] if found else None


def placement(
    path: str, array: zarr.Array, multiscales: Mapping[str, Any] | None
) -> tuple[Coordinate, Coordinate, str]:
    """Voxel size, offset (corner of the first voxel) and unit of an array.

    The array's own attributes count; where it has none, the `multiscales` of its group.

    Raises
    ------
    InputError
        Nothing says the voxel size, or it is not whole in its unit.
    """
    attrs: dict[str, Any] = dict(array.attrs)
    size = attrs.get("voxel_size", attrs.get("resolution"))
    if size is not None:
        units = attrs.get("units", [])
        unit = _one_unit([units] if isinstance(units, str) else units, path)
        voxel_size, base = to_world(size[-3:], unit, f"voxel_size of {path}", positive=True)
        offset, _ = to_world(attrs.get("offset", [0, 0, 0])[-3:], unit, f"offset of {path}")
        return voxel_size, offset, base
    if multiscales is None:
        raise InputError(
            f"{path} says nothing about its voxel size (neither `voxel_size` on the array nor OME "
            "multiscales on its group); set the attribute `voxel_size` (z, y, x in nm), or import "
            "it with pipelines/prepare.py of synpol's repository"
        )
    scale, translation = ome_transform(multiscales)
    unit = _one_unit([a.get("unit") for a in multiscales.get("axes", [])], path)
    voxel_size, base = to_world(scale, unit, f"voxel size of {path}", positive=True)
    corner = [0.0] * 3
    if translation is not None:  # the centre of the first voxel
        corner = [t - s / 2 for t, s in zip(translation, scale, strict=True)]
    # half a voxel may be whole in a finer unit only
    for finer in [u for u in NANOMETERS if NANOMETERS[u] <= NANOMETERS[base]]:
        ratio = NANOMETERS[_UNIT_ALIASES[unit.lower()][0]] / NANOMETERS[finer]
        ratio *= _UNIT_ALIASES[unit.lower()][1]
        fine = [round(c * ratio, 6) for c in corner]
        if all(c == round(c) for c in fine):
            ratio = round(NANOMETERS[base] / NANOMETERS[finer])
            return voxel_size * ratio, Coordinate(int(c) for c in fine), finer
    offset, _ = to_world(corner, unit, f"offset of {path} (OME translation less half a voxel)")
    return voxel_size, offset, base


def ome_transform(multiscales: Mapping[str, Any]) -> tuple[list[float], list[float] | None]:
    """Scale and translation of the full resolution along z, y, x, in the unit of the axes.

    The translation is that of the centre of the first voxel, None where there is none.
    """
    scale: list[float] = [1.0, 1.0, 1.0]
    translation: list[float] | None = None
    for transform in [
        *multiscales["datasets"][0].get("coordinateTransformations", []),
        *multiscales.get("coordinateTransformations", []),
    ]:
        if transform["type"] == "scale":
            factors = transform["scale"][-3:]
            scale = [s * f for s, f in zip(scale, factors, strict=True)]
            if translation is not None:
                translation = [t * f for t, f in zip(translation, factors, strict=True)]
        elif transform["type"] == "translation":
            steps = transform["translation"][-3:]
            translation = [t + s for t, s in zip(translation or [0.0] * 3, steps, strict=True)]
    return scale, translation


def ome_level(full: Mapping[str, Any], path: str, factors: Sequence[int]) -> dict[str, Any]:
    """What the OME metadata say of a coarser level, in terms of what they say of the full one.

    Parameters
    ----------
    full : mapping
        The entry of the full resolution in ``datasets``.
    path : str
        Of the level.
    factors : 3 ints
        Voxels of the full resolution that make one of the level.
    """
    transforms = full.get("coordinateTransformations", [])
    scale = next((t["scale"] for t in transforms if t["type"] == "scale"), [1.0, 1.0, 1.0])
    moved = next((t["translation"] for t in transforms if t["type"] == "translation"), None)
    by = [*[1] * (len(scale) - 3), *factors]
    first = zip(moved or [0.0] * len(scale), scale, by, strict=True)
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [s * f for s, f in zip(scale, by, strict=True)]},
            {"type": "translation", "translation": [t + (f - 1) / 2 * s for t, s, f in first]},
        ],
    }


def _one_unit(units: Sequence[str | None], path: str) -> str:
    found = [u for u in units[-3:] if u]
    if len({_UNIT_ALIASES.get(u.lower(), u) for u in found}) > 1:
        raise InputError(f"{path} has axes in different units, {', '.join(found)}; one is expected")
    return found[-1] if found else "nm"


def ome_metadata(
    name: str, spatial: bool, voxel_size: Sequence[int], offset: Sequence[int], unit: str
) -> dict[str, Any]:
    """The OME 0.5 metadata of an image's group, with its full resolution ``s0`` alone."""
    channel = [] if spatial else [{"name": "c", "type": "channel"}]
    space = [{"name": a, "type": "space", "unit": _OME_NAME[unit]} for a in "zyx"]
    lead = [] if spatial else [1.0]
    centre = [o + v / 2 for o, v in zip(offset, voxel_size, strict=True)]
    transforms = [
        {"type": "scale", "scale": [*lead, *(float(v) for v in voxel_size)]},
        {"type": "translation", "translation": [*([0.0] * len(lead)), *centre]},
    ]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [*channel, *space],
                "datasets": [{"path": "s0", "coordinateTransformations": transforms}],
            }
        ],
    }
