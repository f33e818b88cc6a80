"""World units: sizes and places in any length unit become whole numbers of one unit.

gunpowder and funlib count in whole numbers and would truncate others without a word. So each image
is in the unit that its metadata name, or in the first finer one of nm, angstrom, pm and fm in which
its voxel size and its offset are whole. What is never whole is rounded to a femtometre. Images in
different units are compared in nm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funlib.geometry import Coordinate

from synpol.errors import InputError, nearest

#: nm in one unit, for every unit that images are in; the coarsest first
NANOMETERS = {"nm": 1.0, "angstrom": 0.1, "pm": 1e-3, "fm": 1e-6}
#: how many of the finest unit make one of another
_FINEST = {"nm": 10**6, "angstrom": 10**5, "pm": 10**3, "fm": 1}
#: names of the units in OME metadata
OME_NAMES = {"nm": "nanometer", "angstrom": "angstrom", "pm": "picometer", "fm": "femtometer"}
#: longest name, power of ten of a nm, and other names of every length unit that is understood
_LENGTHS = {
    "femtometer": (-6, "fm"),
    "picometer": (-3, "pm"),
    "angstrom": (-1, "a", "å", "ångström", "ångstrom"),
    "nanometer": (0, "nm"),
    "micrometer": (3, "um", "µm", "micron"),
    "millimeter": (6, "mm"),
    "centimeter": (7, "cm"),
    "decimeter": (8, "dm"),
    "meter": (9, "m"),
}
_POWERS: dict[str, int] = {}
for _name, (_power, *_others) in _LENGTHS.items():
    for _one in (_name, _name.replace("meter", "metre"), *_others):
        _POWERS[str(_one)] = int(_power)
        if len(str(_one)) > 2:
            _POWERS[f"{_one}s"] = int(_power)
_BASES = {0: "nm", -1: "angstrom", -3: "pm", -6: "fm"}
#: nm; what is larger is no voxel, and what is farther away is no place in a specimen
_LARGEST_SIZE, _FARTHEST = 1e9, 1e15


def in_nm(value: int, unit: str) -> float:
    """A whole number of a unit in nm."""
    return value if unit == "nm" else round(value * NANOMETERS[unit], 6)


def power_of(unit: object, what: str) -> int:
    """How many powers of ten a length unit is away from a nm.

    Parameters
    ----------
    unit : str
        In any spelling: "um", "micrometer", "µm".
    what : str
        What has the unit, for the message.

    Raises
    ------
    InputError
        The unit is unknown.
    """
    name = str(unit).strip().lower().replace("μ", "µ")  # a Greek letter and a sign look alike
    if isinstance(unit, str) and name in _POWERS:
        return _POWERS[name]
    known = [*NANOMETERS, "um", "mm", "cm", "m"]
    raise InputError(
        f"{what}: unknown unit {unit!r}{nearest(str(unit), known)}. Write one of these units"
    )


@dataclass(frozen=True)
class Placement:
    """Where an image lies.

    Attributes
    ----------
    voxel_size, offset : Coordinate
        Size of a voxel, and corner of the first voxel, in `unit`; z, y, x.
    unit : {"nm", "angstrom", "pm", "fm"}
    said_unit : {"nm", "angstrom", "pm", "fm"}
        Unit of the metadata, nm for longer ones; `unit` is this or a finer one.
    placed : bool
        False where nothing says the place, so that the corner or the centre of the first voxel may
        be at 0.
    point : {"corner", "centre"}
        Which point of the first voxel the metadata tell the place of.
    """

    voxel_size: Coordinate
    offset: Coordinate
    unit: str
    said_unit: str
    placed: bool = True
    point: str = "corner"


def unknown_placement(path: str) -> Placement:
    """Say with a warning that a voxel counts as 1 nm, for an image that says nothing."""
    warnings.warn(f"{path} says nothing about its voxel size; it counts as 1 nm", stacklevel=3)
    return Placement(Coordinate(1, 1, 1), Coordinate(0, 0, 0), "nm", "nm", placed=False)


def whole_placement(
    voxel_size: Sequence[float],
    offset: Sequence[float],
    unit: str,
    what: str,
    *,
    placed: bool = True,
) -> Placement:
    """Turn a voxel size and a place as given into whole numbers of one unit.

    Parameters
    ----------
    voxel_size, offset : sequence of 3 numbers
        Size of a voxel, and corner of the first voxel, z, y, x; in `unit`.
    unit : str
        Any length unit.
    what : str
        What they are of, for the message.
    placed : bool
        Whether the offset is said by somebody.

    Returns
    -------
    Placement
        In `unit` if both are whole in it (in nm if it is a longer unit), else in the first finer
        unit in which they are, at last rounded to whole fm.

    Raises
    ------
    InputError
        Three numbers that are not three, an unknown unit, or a size that is not above zero.

    Examples
    --------
    >>> found = whole_placement((40, 4.6, 4.6), (0, 0, 0), "nm", "an image")
    >>> tuple(found.voxel_size), found.unit
    ((400, 46, 46), 'angstrom')
    """
    size = three_numbers(voxel_size, f"voxel_size of {what}")
    corner = three_numbers(offset, f"offset of {what}")
    power = power_of(unit, f"voxel_size of {what}")
    if min(size) <= 0:
        raise InputError(f"voxel_size of {what} is {size} {unit}; it must be above zero everywhere")
    nm = 10.0**power
    if max(size) * nm > _LARGEST_SIZE or max(map(abs, corner)) * nm > _FARTHEST:
        raise InputError(
            f"voxel_size of {what} is {size} {unit} and its offset {corner} {unit}, which no "
            "microscope sees; correct the numbers or the unit"
        )
    said = _BASES[min(0, power)]
    for name in [u for u in NANOMETERS if NANOMETERS[u] <= NANOMETERS[said]]:
        scale = 10 ** (power + 6) // _FINEST[name]
        scaled = [v * scale for v in (*size, *corner)]
        whole = [round(v) for v in scaled]
        if min(whole[:3]) > 0 and (name == "fm" or all(map(_is_whole, scaled, whole))):
            return Placement(Coordinate(whole[:3]), Coordinate(whole[3:]), name, said, placed)
    raise InputError(f"voxel_size of {what} is {size} {unit}, which is below 1 fm; correct it")


def _is_whole(value: float, whole: int) -> bool:
    # what float32 and a change of unit leave of a whole number, but never a tenth of a unit
    return abs(value - whole) <= min(1e-6 * max(1.0, abs(value)), 1e-3)


def three_numbers(values: Any, what: str) -> tuple[float, float, float]:
    """Read three finite numbers of metadata or of a config.

    Raises
    ------
    InputError
        They are not three, or not numbers.
    """
    found = list(values) if isinstance(values, Sequence | Coordinate) else []
    if len(found) != 3 or isinstance(values, str):
        raise InputError(f"{what} is {_shown(values)}; three numbers z, y, x are expected")
    if not all(is_number(v) for v in found):
        raise InputError(f"{what} is {_shown(values)}; three finite numbers are expected")
    z, y, x = (float(v) for v in found)
    return z, y, x


def is_number(value: object) -> bool:
    """Whether a value of metadata is a finite number."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _shown(value: object) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def finest(units: Sequence[str]) -> str:
    """The finest of some units, in which whatever is whole in one of them is whole."""
    return min(units, key=lambda unit: _FINEST[unit])


def in_unit(value: Coordinate, unit: str, finer: str) -> Coordinate:
    """Whole numbers of a unit in a finer one, exactly."""
    return value * (_FINEST[unit] // _FINEST[finer])
