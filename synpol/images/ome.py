"""OME-Zarr metadata: versions 0.4, 0.5 and 0.6 are read, 0.5 is written.

What these metadata say is read strictly: a version, a transformation or a value that is unknown
here is refused by its name, since an image at a wrong place or size is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synpol.errors import InputError
from synpol.images.world import OME_NAMES, is_number

#: versions of which the metadata are understood; older ones know neither scale nor unit
_VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5", "0.6")


@dataclass(frozen=True)
class Axis:
    """An axis as the metadata name it.

    Attributes
    ----------
    name : str
        Name of the axis.
    type : str or None
        space, channel, time, or another one.
    unit : str or None
        Unit of the numbers along it.
    """

    name: str
    type: str | None
    unit: str | None


@dataclass(frozen=True)
class Multiscale:
    """An image at one or more resolutions, as the metadata of its group describe it.

    Attributes
    ----------
    where : str
        Path or URL of the group, for messages.
    version : str or None
        Version of the metadata.
    axes : tuple of Axis
        Axes of all arrays; empty where none are named.
    datasets : tuple of mapping
        Arrays, the full resolution first.
    outer : tuple of mapping
        Transformations of all arrays, after their own.
    """

    where: str
    version: str | None
    axes: tuple[Axis, ...]
    datasets: tuple[Mapping[str, Any], ...]
    outer: tuple[Mapping[str, Any], ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths of the arrays within the group, the full resolution first."""
        return tuple(str(d["path"]).strip("/") for d in self.datasets)

    def transform(
        self, path: str, ndim: int
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Scale and translation of an array along each of its axes, None where they are not said.

        The translation is that of the first voxel, of its centre if the writer follows the
        standard. Both are in the units of the axes.

        Raises
        ------
        InputError
            A transformation that is no scale, translation, identity or sequence of these.
        """
        number = self.paths.index(path)
        own = self.datasets[number].get("coordinateTransformations", [])
        if str(self.version).startswith("0.6") and self.outer:
            raise InputError(
                f"{self.where} has coordinateTransformations of the whole image, which lead to "
                "other coordinate systems in OME-Zarr 0.6 and are not read. Write the image "
                f"without them, or give {KEYS_ALONE}"
            )
        scale: list[float] | None = None
        moved: list[float] | None = None
        name = f"datasets[{number}].coordinateTransformations"
        steps = [*self._steps(own, name), *self._steps(self.outer, "coordinateTransformations")]
        for kind, values, which in steps:
            if kind == "identity":
                scale = scale or [1.0] * ndim
                continue
            factors = self._numbers(values, which, ndim, 1.0 if kind == "scale" else 0.0)
            if kind == "scale":
                scale = [s * f for s, f in zip(scale or [1.0] * ndim, factors, strict=True)]
                if moved is not None:
                    moved = [t * f for t, f in zip(moved, factors, strict=True)]
            else:
                moved = [t + f for t, f in zip(moved or [0.0] * ndim, factors, strict=True)]
        return None if scale is None else tuple(scale), None if moved is None else tuple(moved)

    def _steps(self, transforms: object, which: str) -> Iterator[tuple[str, object, str]]:
        if not isinstance(transforms, Sequence) or isinstance(transforms, str):
            raise self._wrong(which, transforms, "a list")
        for number, one in enumerate(transforms):
            at = f"{which}[{number}]"
            kind = one.get("type") if isinstance(one, Mapping) else None
            if kind == "sequence":
                yield from self._steps(one.get("transformations"), f"{at}.transformations")
            elif kind in ("scale", "translation") and kind in one:
                yield kind, one[kind], f"{at}.{kind}"
            elif kind == "identity":
                yield kind, None, at
            else:
                raise InputError(
                    f"{self.where}: the transformation {at} is {_short(one)}, which is not read; "
                    "scale, translation, identity and sequence are. Write the image without it, "
                    f"or give {KEYS_ALONE}"
                )

    def _numbers(self, values: object, which: str, ndim: int, missing: float) -> list[float]:
        found = list(values) if isinstance(values, Sequence) else []
        if len(found) not in (ndim, 3) or not all(map(is_number, found)):
            raise self._wrong(which, values, f"{ndim} numbers, one for each axis")
        return [missing] * (ndim - len(found)) + [float(v) for v in found]

    def _wrong(self, which: str, value: object, expected: str) -> InputError:
        return _wrong(self.where, which, value, expected)


#: what to say in a config where metadata cannot be used
KEYS_ALONE = "{path: PATH OF THE ARRAY, axes: zyx, voxel_size: [Z, Y, X]} (nm) instead of the path"


def _wrong(where: str, which: str, value: object, expected: str) -> InputError:
    return InputError(
        f"{where}: {which} in the OME metadata is {_short(value)}; {expected} is expected. Correct "
        f"it, or give {KEYS_ALONE}"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def ome_attributes(attributes: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Those attributes of a group that are OME metadata: of version 0.5 on they lie in ``ome``.

    Raises
    ------
    InputError
        ``ome`` holds something else.
    """
    found = attributes.get("ome", attributes)
    if not isinstance(found, Mapping):
        raise _wrong(where, "ome", found, "a mapping")
    return found


def multiscale_of(attributes: Mapping[str, Any], where: str) -> Multiscale | None:
    """The image that a group's attributes describe, None where they describe none.

    Raises
    ------
    InputError
        Several images, an unknown version, or metadata that are none.
    """
    ome = ome_attributes(attributes, where)
    listed = ome.get("multiscales")
    if listed is None or listed == []:
        return None
    if not isinstance(listed, Sequence) or not isinstance(listed[0], Mapping):
        raise _wrong(where, "multiscales", listed, "a list of images")
    whole = [one for one in listed if isinstance(one, Mapping) and one.get("datasets")]
    if len(whole) > 1:
        names = [one["datasets"][0].get("path", "?") for one in whole if _has_paths(one)]
        raise InputError(
            f"{where} holds {len(whole)} images; give the path of the array of one: "
            + ", ".join(f"{where}/{name}" for name in names)
        )
    first = listed[0]
    version = ome.get("version", first.get("version"))
    if version is not None and not str(version).startswith(_VERSIONS):
        raise InputError(
            f"{where} is OME-Zarr of version {_short(version)}, which is not read; 0.4 to 0.6 are. "
            f"Convert it, or give {KEYS_ALONE}"
        )
    if not _has_paths(first):
        raise _wrong(where, "datasets", first.get("datasets"), "a list of arrays, each with a path")
    outer = first.get("coordinateTransformations", [])
    if not isinstance(outer, list):
        raise _wrong(where, "coordinateTransformations", outer, "a list")
    return Multiscale(
        where,
        None if version is None else str(version),
        tuple(_axes(first, where)),
        tuple(first["datasets"]),
        tuple(outer),
    )


def _has_paths(multiscale: Mapping[str, Any]) -> bool:
    datasets = multiscale.get("datasets")
    return (
        isinstance(datasets, list)
        and bool(datasets)
        and all(isinstance(d, Mapping) and isinstance(d.get("path"), str) for d in datasets)
    )


def _axes(multiscale: Mapping[str, Any], where: str) -> Iterator[Axis]:
    listed = multiscale.get("axes")
    if listed is None and "coordinateSystems" in multiscale:
        listed = _system(multiscale, where).get("axes")
    if listed is None:
        return
    if not isinstance(listed, list):
        raise _wrong(where, "axes", listed, "a list")
    for number, axis in enumerate(listed):
        if isinstance(axis, str):  # version 0.3
            axis = {"name": axis}
        texts = [axis.get(k) for k in ("name", "type", "unit")] if isinstance(axis, Mapping) else []
        if not texts or not isinstance(texts[0], str):
            raise _wrong(where, f"axes[{number}]", axis, "an axis with a name")
        if not all(text is None or isinstance(text, str) for text in texts):
            raise _wrong(where, f"axes[{number}]", axis, "an axis with texts")
        yield Axis(texts[0], texts[1], texts[2] or None)


def _system(multiscale: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The coordinate system (version 0.6) in which the full resolution lies."""
    systems = multiscale["coordinateSystems"]
    if not isinstance(systems, list) or not all(isinstance(s, Mapping) for s in systems):
        raise _wrong(where, "coordinateSystems", systems, "a list of coordinate systems")
    transforms = multiscale["datasets"][0].get("coordinateTransformations")
    last = transforms[-1] if isinstance(transforms, list) and transforms else {}
    output = last.get("output") if isinstance(last, Mapping) else None
    name = output.get("name") if isinstance(output, Mapping) else output
    for system in systems:
        if name is None or system.get("name") == name:
            return system
    raise _wrong(where, "coordinateSystems", systems, f"one with the name {name!r}")


def inner_paths(attributes: Mapping[str, Any], where: str) -> list[str] | None:
    """Paths of the images inside a group whose attributes list some; None where they list none.

    These are the series of bioformats2raw, the wells of a plate, the fields of a well, and labels.

    Raises
    ------
    InputError
        The list is none.
    """
    ome = ome_attributes(attributes, where)
    for name, key in (("plate", "wells"), ("well", "images")):
        if name in ome:
            listed = ome[name].get(key) if isinstance(ome[name], Mapping) else None
            if not isinstance(listed, list) or not all(isinstance(v, Mapping) for v in listed):
                raise _wrong(where, name, ome[name], f"a mapping with a list of {key}")
            return [str(one.get("path", "")) for one in listed]
    for name in ("series", "labels"):
        if name in ome:
            if not isinstance(ome[name], list) or not all(isinstance(v, str) for v in ome[name]):
                raise _wrong(where, name, ome[name], "a list of paths")
            return list(ome[name])
    return None


def is_layout_of_series(attributes: Mapping[str, Any], where: str) -> bool:
    """Whether a group is what bioformats2raw writes: a group for each series, by its number."""
    key = "bioformats2raw.layout"
    return key in attributes or key in ome_attributes(attributes, where)


def ome_metadata(
    name: str, spatial: bool, voxel_size: Sequence[int], offset: Sequence[int], unit: str
) -> dict[str, Any]:
    """The OME 0.5 metadata of an image's group, with its full resolution ``s0`` alone."""
    channel = [] if spatial else [{"name": "c", "type": "channel"}]
    space = [{"name": a, "type": "space", "unit": OME_NAMES[unit]} for a in "zyx"]
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


def ome_level(full: Mapping[str, Any], path: str, factors: Sequence[int]) -> dict[str, Any]:
    """What the OME metadata say of a coarser level, in terms of what they say of the full one.

    Parameters
    ----------
    full : mapping
        The entry of the full resolution in ``datasets``.
    path : str
        Path of the level within the group.
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
