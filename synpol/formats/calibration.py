"""What a file says about its voxel size and place, and whether the config agrees with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from synpol.errors import InputError
from synpol.images.world import NANOMETERS, power_of

#: two numbers that people and headers give for one size differ by less than this, relative
_ROUNDING = 1e-3
#: a voxel below this many nm is a number in another unit
_SMALLEST = 0.1
#: range of the voxel sizes of electron microscopy, nm
_PLAUSIBLE = (0.5, 500)


def nanometers(unit: str) -> float | None:
    """Return the nm in one unit of length, None for a unit that is not known.

    Examples
    --------
    >>> nanometers("Micrometers"), nanometers("Å"), nanometers("pixel")
    (1000.0, 0.1, None)
    """
    try:
        return float(f"1e{power_of(unit, 'a unit')}")
    except InputError:
        return None


def rounded(value: float) -> float:
    """Round to six digits, which is what float32 and fractions of TIFF tags are good for."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Calibration:
    """What a file says about its voxels.

    Attributes
    ----------
    voxel_size : (z, y, x) of float or None
        Size of a voxel in `unit`, None along axes of which the file says nothing.
    offset : (z, y, x) of float, optional
        Place of the first voxel in `unit`.
    unit : float, optional
        nm in one unit; None where the file gives numbers without a unit.
    where : str
        Place in the file that says so, for messages.
    point : {"corner", "centre"}
        Which point of the first voxel is at `offset`; the centre only where the file says no voxel
        size.
    """

    voxel_size: tuple[float | None, float | None, float | None] = (None, None, None)
    offset: tuple[float, float, float] | None = None
    unit: float | None = 1.0
    where: str = ""
    point: Literal["corner", "centre"] = "corner"

    @classmethod
    def of(
        cls,
        size: Sequence[float | None],
        unit: str | None,
        where: str,
        offset: Sequence[float] | None = None,
    ) -> Calibration:
        """Make a calibration of numbers and a unit as they stand in a file.

        Sizes that are zero, negative or not finite say nothing. Without a unit, numbers count as
        nm where that is possible for voxels (0.1 nm or more), else as numbers without a unit.
        """
        good = [v if v and math.isfinite(v) and v > 0 else None for v in size]
        z, y, x = (None if v is None else float(v) for v in good)
        factor = nanometers(unit) if unit else 1.0
        if not unit and any(v is not None and v < _SMALLEST for v in (z, y, x)):
            factor = None
        place = None if offset is None else (float(offset[0]), float(offset[1]), float(offset[2]))
        return cls((z, y, x), place, factor, where)

    @property
    def says_nothing(self) -> bool:
        return self.offset is None and all(v is None for v in self.voxel_size)

    def in_nm(self) -> Calibration:
        """Return the same in nm, without what has no unit."""
        if self.unit is None:
            return Calibration(where=self.where)
        z, y, x = (None if v is None else _clean(v * self.unit) for v in self.voxel_size)
        offset = self.offset
        if offset is not None:
            offset = tuple(_clean(v * self.unit) for v in offset)  # type: ignore[assignment]
        return replace(self, voxel_size=(z, y, x), offset=offset, unit=1.0)

    def corners(self, size: Sequence[float]) -> list[list[float]]:
        """Where the corner of the first voxel may be; nothing where the file says no place.

        The likeliest comes first. OME means the centre, but many of its writers mean the corner.
        """
        if self.offset is None:
            return []
        place = list(self.offset)
        if self.point == "corner":
            return [place]
        return [[_clean(p - s / 2) for p, s in zip(place, size, strict=True)], place]

    def joined(self, other: Calibration, path: str) -> Calibration:
        """Join what two places of a file say.

        Raises
        ------
        InputError
            They contradict each other.
        """
        if other.says_nothing or (other.unit is None and not self.says_nothing):
            return self
        if self.says_nothing or self.unit is None:
            return other
        mine, its = self.in_nm(), other.in_nm()
        for what, a, b in (
            ("voxel size", mine.voxel_size, its.voxel_size),
            ("offset", mine.offset, its.offset),
        ):
            if a is not None and b is not None and not _agree(a, b):
                raise InputError(
                    f"{path} contradicts itself: {self.where} says the {what} {_text(a)} nm, "
                    f"{other.where} says {_text(b)} nm; say the right one in the config together "
                    "with `ignore_metadata: true`"
                )
        z, y, x = (
            b if a is None else a for a, b in zip(mine.voxel_size, its.voxel_size, strict=True)
        )
        offset = its.offset if mine.offset is None else mine.offset
        return replace(mine, voxel_size=(z, y, x), offset=offset)


def resolved(
    source: str,
    found: Calibration,
    voxel_size: Sequence[float] | None,
    offset: Sequence[float] | None,
    unit: str | None,
) -> tuple[list[float], list[float], str | None]:
    """Find voxel size and offset of a source from what its file and the config say.

    Parameters
    ----------
    source : str
        Path for messages.
    found : Calibration
        What the file says.
    voxel_size, offset : 3 numbers, optional
        What the config says, in `unit`.
    unit : str, optional
        Unit in the config; nm where it says none.

    Returns
    -------
    voxel_size, offset : list of 3 float
    unit : str or None
        Unit of both; None: nm, to be brought to a unit in which they are whole.

    Raises
    ------
    InputError
        Neither says the voxel size, or they contradict each other.
    """
    factor = NANOMETERS[unit or "nm"]
    if found.unit is None:
        found = _with_unit(source, found, voxel_size, unit)
    found = found.in_nm()
    if voxel_size is None:
        if any(v is None for v in found.voxel_size):
            raise InputError(_size_is_missing(source, found))
        size = [float(v or 0) for v in found.voxel_size]
    else:
        size = [v * factor for v in voxel_size]
        if not _agree(found.voxel_size, size):
            raise _contradiction(source, found, "voxel_size", found.voxel_size, size)
    corners = found.corners(size)
    if offset is None:
        place = corners[0] if corners else [0.0, 0.0, 0.0]
    else:
        place = [v * factor for v in offset]
        says_nothing = found.point == "centre" and not any(found.offset or ())
        if corners and not says_nothing and not any(_agree(c, place, size) for c in corners):
            raise _contradiction(source, found, "offset", corners[0], place)
    if unit is None and (voxel_size is None or (offset is None and any(place))):
        return size, place, None
    return (
        list(voxel_size) if voxel_size is not None else [_clean(v / factor) for v in size],
        list(offset) if offset is not None else [_clean(v / factor) for v in place],
        unit or "nm",
    )


def _with_unit(
    source: str, found: Calibration, voxel_size: Sequence[float] | None, unit: str | None
) -> Calibration:
    """Give the unit of the config to numbers without one."""
    if voxel_size is None:
        if unit is None:
            raise InputError(
                f"{source}: {found.where} says the voxel size {_text(found.voxel_size)} (z, y, x) "
                f"without a unit; {_way_on(found.voxel_size)}"
            )
        return replace(found, unit=NANOMETERS[unit])
    factor = NANOMETERS[unit or "nm"]
    known = [(v, s) for v, s in zip(found.voxel_size, voxel_size, strict=True) if v is not None]
    if not known:
        return Calibration()
    ratio = known[0][1] * factor / known[0][0]
    return replace(found, unit=ratio)


def _size_is_missing(source: str, found: Calibration) -> str:
    known = {a: v for a, v in zip("zyx", found.voxel_size, strict=True) if v is not None}
    if not known:
        return (
            f"{source} does not say its voxel size; say it in the config: `voxel_size: [z, y, x]` "
            "in nm"
        )
    sizes = ", ".join(f"{v:g} nm along {a}" for a, v in known.items())
    missing = " and ".join(a for a in "zyx" if a not in known)
    return (
        f"{source} says the voxel size {sizes} ({found.where}), but not along {missing}; say all "
        "in the config: `voxel_size: [z, y, x]` in nm"
    )


def _contradiction(
    source: str,
    found: Calibration,
    key: str,
    says: Sequence[float | None],
    given: Sequence[float],
) -> InputError:
    return InputError(
        f"{key} is {_text(given)} nm (z, y, x) in the config, but {source} says {_text(says)} nm "
        f"({found.where}); leave `{key}` out to take the file's, or set `ignore_metadata: true` "
        "if the file is wrong"
    )


def _agree(
    a: Sequence[float | None], b: Sequence[float | None], scale: Sequence[float] = (0, 0, 0)
) -> bool:
    """Whether numbers are equal but for rounding, or a thousandth of `scale`."""
    return all(
        m is None or n is None or abs(m - n) <= _ROUNDING * max(abs(s), 0 if s else abs(n))
        for m, n, s in zip(a, b, scale, strict=True)
    )


def _clean(value: float) -> float:
    """Remove what multiplication by a unit leaves behind the twelfth digit."""
    return float(f"{value:.12g}")


def _way_on(size: Sequence[float | None]) -> str:
    """Advise what to say about numbers without a unit, by the unit that is plausible."""
    known = [v for v in size if v is not None]
    for name, factor in (("nm", 1.0), ("um", 1e3), ("mm", 1e6)):
        if known and all(_PLAUSIBLE[0] <= v * factor <= _PLAUSIBLE[1] for v in known):
            if factor == 1:
                return "if they are nm, say `unit: nm`, else `voxel_size: [z, y, x]` in nm"
            sizes = ", ".join("?" if v is None else f"{_clean(v * factor):g}" for v in size)
            return f"if they are {name}, say `voxel_size: [{sizes}]`, which is in nm"
    return "say `voxel_size: [z, y, x]` in nm"


def _text(values: Sequence[float | None]) -> str:
    return " x ".join("?" if v is None else f"{v:g}" for v in values)
