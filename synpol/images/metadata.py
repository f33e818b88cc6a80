"""What metadata and a config say about an array: its axes, its voxel size and its place.

An array may say it itself (funlib's ``voxel_size``, gunpowder's ``resolution``), and so may the OME
metadata of its group. All that is said is compared. Two conventions differ by half a voxel:
funlib's ``offset`` is the *corner* of the first voxel, the OME translation its *centre* (which is
how neuroglancer reads it); the corner is what synpol calls ``offset``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import zarr

from synpol.errors import InputError
from synpol.images.axes import Layout, letter_of, named_axes
from synpol.images.location import same_place, same_size
from synpol.images.ome import Multiscale
from synpol.images.webknossos import layer_of
from synpol.images.world import Placement, is_number, power_of, whole_placement

if TYPE_CHECKING:
    from synpol.config import ImageSource

#: attribute of every array that synpol writes: the hash of what it was made from
HASH = "synpol_hash"
#: attributes of an array that tell its voxel size, funlib.persistence's and gunpowder's
SIZE_KEYS = ("voxel_size", "resolution")
#: attribute of an array that synpol writes when nobody said where its source lies
UNPLACED = "synpol_unplaced"
#: nm; sizes without a unit are taken for nm only between these
_PLAUSIBLE = (1.0, 1000.0)

Numbers = tuple[float, float, float]


@dataclass(frozen=True)
class Statement:
    """What one source says about voxel size and place.

    Attributes
    ----------
    where : str
        The source, for messages.
    unit : str
        Unit of its numbers.
    size : (float, float, float)
        Voxel size, z, y, x; nm.
    place : (float, float, float) or None
        Place of the first voxel, z, y, x; nm.
    point : {"corner", "centre"}
        Which point of the first voxel is at `place` by the convention of the source.
    placed : bool
        False where `place` counts from a first voxel whose own place nobody knows.
    doubt : str
        Why the numbers are not to be trusted, and what to do; empty where they are.
    """

    where: str
    unit: str
    size: Numbers
    place: Numbers | None
    point: Literal["corner", "centre"]
    placed: bool = True
    doubt: str = ""

    def corners(self, origin: str | None) -> list[Numbers]:
        """Where the corner of the first voxel may be, nm; the likeliest first."""
        if self.place is None:
            return []
        half = [p - s / 2 for p, s in zip(self.place, self.size, strict=True)]
        centred: Numbers = (half[0], half[1], half[2])
        if origin is not None:
            return [centred if origin == "centre" else self.place]
        return [self.place] if self.point == "corner" else [centred, self.place]


def axes_of(
    path: str, array: zarr.Array, multiscale: Multiscale | None, wanted: str | None
) -> tuple[str, ...] | None:
    """The letter of each axis of an array (see `named_axes`), None where nobody names them."""
    sources = []
    if multiscale is not None:
        letters = [letter_of(axis.name, axis.type) for axis in multiscale.axes]
        sources.append(("the OME axes", letters))
    attributes: Mapping[str, Any] = array.attrs
    listed = {
        "`dimension_names`": getattr(array.metadata, "dimension_names", None),
        "the attribute `axis_names`": attributes.get("axis_names"),
        "the attribute `_ARRAY_DIMENSIONS`": attributes.get("_ARRAY_DIMENSIONS"),
    }
    for where, given in listed.items():
        if isinstance(given, Sequence) and not isinstance(given, str):
            sources.append((where, [letter_of(name) for name in given]))
    layer = layer_of(path, array.ndim)
    if layer is not None:
        sources.append((layer.where, layer.axes))
    return named_axes(path, array.ndim, sources, wanted)


def statements(
    path: str,
    array: zarr.Array,
    layout: Layout,
    multiscale: Multiscale | None,
    name: str,
    options: ImageSource | None,
) -> list[Statement]:
    """All that is said about voxel size and place.

    Parameters
    ----------
    path : str
        Path of the array, for messages.
    array : zarr.Array
    layout : Layout
        Which axis is which.
    multiscale : Multiscale, optional
        Metadata of the group that lists the array, under `name`.
    name : str
    options : ImageSource, optional
        Keys of a config. Where they tell the voxel size, what cannot be understood counts as
        nothing.

    Raises
    ------
    InputError
        Values that cannot be understood.
    """
    keys = options and (options.voxel_size or options.offset)
    unit = options.unit if options is not None and not keys else None
    found = []
    for one in (_by_attributes, _by_ome, _by_webknossos):
        try:
            found += one(path, array, layout, multiscale, name, unit)
        except InputError:
            if options is None or options.voxel_size is None:
                raise
    return found


def _by_attributes(
    path: str,
    array: zarr.Array,
    layout: Layout,
    multiscale: Multiscale | None,
    name: str,
    unit: str | None,
) -> list[Statement]:
    attributes: dict[str, Any] = dict(array.attrs)
    given = attributes.get("units")
    found = []
    for key in SIZE_KEYS:
        if attributes.get(key) is None:
            continue
        size = along(attributes[key], layout, array.ndim, f"{key} of {path}", float)
        listed = [given] * 3 if given is None or isinstance(given, str) else given
        units = along(listed, layout, array.ndim, f"units of {path}", str)
        place = None
        if attributes.get("offset") is not None:
            place = along(attributes["offset"], layout, array.ndim, f"offset of {path}", float)
        one = statement_of(path, f"its attribute `{key}`", size, place, "corner", units, unit)
        found.append(replace(one, placed=not attributes.get(UNPLACED)))
    return found


def _by_ome(
    path: str,
    array: zarr.Array,
    layout: Layout,
    multiscale: Multiscale | None,
    name: str,
    unit: str | None,
) -> list[Statement]:
    if multiscale is None:
        return []
    scale, moved = multiscale.transform(name, array.ndim)
    if scale is None:
        return []
    units = layout.spatial([a.unit for a in multiscale.axes] or [None] * array.ndim)
    place = None if moved is None else layout.spatial(moved)
    where = f"the OME metadata of {multiscale.where}"
    return [statement_of(path, where, layout.spatial(scale), place, "centre", units, unit)]


def _by_webknossos(
    path: str,
    array: zarr.Array,
    layout: Layout,
    multiscale: Multiscale | None,
    name: str,
    unit: str | None,
) -> list[Statement]:
    layer = layer_of(path, array.ndim)
    if layer is None:
        return []
    corner = (0.0, 0.0, 0.0)
    return [statement_of(path, layer.where, layer.size, corner, "corner", [layer.unit] * 3, unit)]


def along(values: object, layout: Layout, ndim: int, what: str, kind: type) -> Any:
    """Return the values of an attribute along z, y, x; one that is missing is None."""
    fits = is_number if kind is float else lambda v: v is None or isinstance(v, str)
    ok = isinstance(values, list | tuple) and all(map(fits, values))
    if not ok or len(values) not in (3, ndim):  # type: ignore[arg-type]
        kinds = "numbers" if kind is float else "names"
        raise InputError(
            f"{what} is {values!r:.80}; three {kinds} z, y, x are expected. Correct the attribute"
        )
    return layout.spatial(list(values))  # type: ignore[call-overload]


def statement_of(
    path: str,
    where: str,
    size: Sequence[float],
    place: Sequence[float] | None,
    point: Literal["corner", "centre"],
    units: Sequence[str | None],
    unit: str | None,
) -> Statement:
    """Make a statement of numbers as a source has them.

    Parameters
    ----------
    path, where : str
        Path of the array, and the source of the numbers, for messages.
    size, place : sequence of 3 numbers
        Voxel size, and place of the first voxel (None where nobody says it), z, y, x.
    point : {"corner", "centre"}
        Which point of the first voxel is at `place`.
    units : sequence of 3 str or None
        Unit along each axis.
    unit : str or None
        Unit where the source names none.

    Raises
    ------
    InputError
        A unit that is unknown.
    """
    named = [u or unit for u in units]
    axes = {axis: u for axis, u in zip("zyx", named, strict=True)}
    lacking = [axis for axis, u in axes.items() if not u]
    doubt = ""
    if 0 < len(lacking) < 3:
        known = ", ".join(f"{axis} in {u}" for axis, u in axes.items() if u)
        doubt = (
            f"{path} has no unit along {', '.join(lacking)}, while {known} (by {where}); say which "
            f"it is: {{path: {path}, unit: nm}}"
        )
    elif len(lacking) == 3:
        low, high = _PLAUSIBLE
        if min(size) > 0 and (min(size) < low or max(size) > high or set(size) == {1}):
            doubt = (
                f"{path} has voxels of {tuple(size)} (z, y, x) without a unit (by {where}), which "
                f"are hardly nm; say the unit: {{path: {path}, unit: um}}"
            )
    powers = [power_of(u or "nm", f"{where}, for {path}") for u in named]
    if not unit and not lacking and len(set(powers)) > 1:
        doubt = (
            f"{path} has axes in different units, {', '.join(str(u) for u in named)} (by {where}); "
            f"one is expected. Say the voxel size: {{path: {path}, voxel_size: [z, y, x in nm]}}"
        )
    factors = [10.0**p for p in powers]
    z, y, x = (s * f for s, f in zip(size, factors, strict=True))
    first: Numbers | None = None
    if place is not None:
        pz, py, px = (p * f for p, f in zip(place, factors, strict=True))
        first = pz, py, px
    return Statement(where, named[-1] or "nm", (z, y, x), first, point, doubt=doubt)


def placement(
    path: str, said: Sequence[Statement], options: ImageSource | None, *, bare: bool = False
) -> Placement | None:
    """Voxel size, place and unit of an array, of all that is said about it.

    Parameters
    ----------
    path : str
        Path of the array, for messages.
    said : sequence of Statement
    options : ImageSource, optional
        Keys of a config that settle what metadata leave open.
    bare : bool
        Whether None is an answer: nothing is said that can be trusted.

    Raises
    ------
    InputError
        Nothing says the voxel size, or two things say different ones.
    """
    if options is not None and options.voxel_size is not None:
        size, unit = _size_by_key(path, said, options)
    elif not said:
        if bare:
            return None
        raise InputError(
            f"{path} says nothing about its voxel size (neither the attribute `voxel_size` of the "
            "array nor a scale in the OME metadata of its group); say it in the config, z, y, x in "
            f"nm: {{path: {path}, voxel_size: [40, 4, 4]}}, set the attribute `voxel_size`, or "
            "import it with pipelines/prepare.py of synpol's repository"
        )
    else:
        first = said[0]
        for one in said:
            if one.doubt and not bare:
                raise InputError(one.doubt)
            if not same_size(one.size, first.size):
                raise InputError(
                    f"{path} has voxels of {first.size} nm by {first.where}, but of {one.size} nm "
                    f"by {one.where}; say which is right: "
                    f"{{path: {path}, voxel_size: {list(one.size)}}}, or {list(first.size)} there"
                )
        size, unit = first.size, first.unit
    corner, placed = _corner(path, said, size, options)
    point = next((one.point for one in said if one.place is not None), "corner")
    if options is not None and (options.origin or options.offset):
        point = options.origin or "corner"
    power = min(0, power_of(unit, path))
    size, corner = ([v / 10.0**power for v in values] for values in (size, corner))  # type: ignore
    found = whole_placement(size, corner, unit if power < 0 else "nm", path, placed=placed)
    return replace(found, point=point)


def _size_by_key(path: str, said: Sequence[Statement], options: ImageSource) -> tuple[Numbers, str]:
    unit = options.unit or "nm"
    factor = 10.0 ** power_of(unit, "the key `unit`")
    z, y, x = (v * factor for v in options.voxel_size or ())
    agreed = [one for one in said if same_size(one.size, (z, y, x))]
    if said and not agreed and not all(one.doubt for one in said):
        raise InputError(
            f"{path} has voxels of {said[0].size} nm by {said[0].where}, but the key `voxel_size` "
            f"says {(z, y, x)} nm; correct one of them, or leave the key out"
        )
    return (agreed[0].size, agreed[0].unit) if agreed else ((z, y, x), unit)


def _corner(
    path: str, said: Sequence[Statement], size: Numbers, options: ImageSource | None
) -> tuple[Numbers, bool]:
    """Corner of the first voxel in nm, and whether anything says it."""
    origin = None if options is None else options.origin
    # where the config corrects the size, half a voxel is half of that
    placed = [replace(one, size=size) for one in said if one.place is not None]
    if placed and not placed[0].placed and (options is None or not (options.offset or origin)):
        return placed[0].corners(None)[0], False
    corner: Numbers | None = None
    for one in placed:
        possible = one.corners(origin)
        if corner is None:
            corner = possible[0]
        elif not any(same_place(corner, other, size) for other in possible):
            if options is not None and options.offset is not None:
                continue
            raise InputError(
                f"{path} begins at {placed[0].place} nm by {placed[0].where}, but at {one.place} "
                f"nm by {one.where}; say the corner of the first voxel: "
                f"{{path: {path}, offset: {list(placed[0].corners(origin)[0])}}}"
            )
    if options is not None and options.offset is not None:
        factor = 10.0 ** power_of(options.unit or "nm", "the key `unit`")
        z, y, x = (v * factor for v in options.offset)
        known = [c for one in placed for c in one.corners(origin)]
        zero = all(one.place == (0, 0, 0) for one in placed)  # what writers say by default
        if not zero and not any(same_place((z, y, x), c, size) for c in known):
            raise InputError(
                f"{path} begins at {corner} nm by {placed[0].where}, but the key `offset` says "
                f"{(z, y, x)} nm; correct one of them, or leave the key out"
            )
        return (z, y, x), True
    if corner is not None:
        return corner, True
    if origin == "centre":
        return (-size[0] / 2, -size[1] / 2, -size[2] / 2), True
    return (0.0, 0.0, 0.0), origin is not None
