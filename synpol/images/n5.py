"""Datasets of N5 containers, read through tensorstore.

N5 counts axes the other way round: in its attributes x comes first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.files import join
from synpol.images.apart import ArrayApart
from synpol.images.axes import Layout, layout_of, letter_of, named_axes
from synpol.images.kinds import N5_ATTRIBUTES
from synpol.images.metadata import Statement, along, placement, statement_of
from synpol.images.stores import Store
from synpol.images.view import View, check_kind
from synpol.images.world import Placement

if TYPE_CHECKING:
    from synpol.config import ImageSource


class N5Array(ArrayApart):
    """A dataset of an N5 container, its last axis first.

    Parameters
    ----------
    path : str
        Folder or URL.
    anonymous : bool
        Whether no credentials are used.
    """

    def __init__(self, path: str, anonymous: bool) -> None:
        super().__init__()
        self._how = path, anonymous
        store = Store(path, anonymous)
        content = store.read(N5_ATTRIBUTES)
        if content is None:
            raise InputError(f"{path} is no N5 dataset: there is no file {N5_ATTRIBUTES} in it")
        try:
            self.about: Mapping[str, Any] = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{join(path, N5_ATTRIBUTES)} is no JSON: {error}. Copy it anew"
            ) from None
        stored = store.open("n5")
        self._stored = stored.T
        self.shape = tuple(int(n) for n in self._stored.shape)
        chunks: Any = stored.chunk_layout.read_chunk.shape
        self.chunks = tuple(int(n) for n in chunks[::-1])
        self.dtype = np.dtype(stored.dtype.numpy_dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return N5Array, self._how

    def read(self, where: tuple[int | slice, ...]) -> np.ndarray:
        return np.asarray(self._stored[where].read().result())


def open_n5(
    path: str, options: ImageSource | None, channels: int | None, bare: bool
) -> tuple[View, Placement | None]:
    """Open a dataset of an N5 container.

    Parameters
    ----------
    path : str
        Folder or URL of the dataset.
    options, channels, bare
        As in `synpol.images.image.open_image`.

    Raises
    ------
    InputError
        It is none, its attributes cannot be understood, or nothing says the voxel size.
    """
    if options is not None and options.fill_missing:
        raise InputError(
            f"{path} is N5, whose missing blocks are 0, so `fill_missing` is not read; leave it out"
        )
    array = N5Array(path, options is not None and options.anonymous)
    check_kind(path, array.dtype)
    if array.about.get("isLabelMultiset"):
        raise InputError(
            f"{path} is a label multiset of Paintera; export it as plain labels "
            "(paintera-conversion-helper: to scalar)"
        )
    wanted = None if options is None else options.axes
    axes = named_axes(path, array.ndim, _axes(array.about), wanted)
    layout = layout_of(path, array.shape, axes, channels, options)
    keys = options and (options.voxel_size or options.offset)
    unit = options.unit if options is not None and not keys else None
    said: list[Statement] = []
    for one in (_by_pixels, _by_transform, _by_resolution):
        try:
            said += one(path, array, layout, unit)
        except InputError:
            if options is None or options.voxel_size is None:
                raise
    return View.of(path, array, layout), placement(path, said, options, bare=bare)


def _axes(about: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Letters of the axes, the last one first."""
    named = about.get("axes")
    if not isinstance(named, list) or not all(isinstance(a, str) for a in named):
        return []
    return [("the attribute `axes`", [letter_of(a) for a in named[::-1]])]


def _turned(values: object) -> object:
    """Turn a list that begins with x."""
    return values[::-1] if isinstance(values, list) else values


def _by_pixels(path: str, array: N5Array, layout: Layout, unit: str | None) -> list[Statement]:
    about = array.about.get("pixelResolution")
    if about is None:
        return []
    size, named = about, None
    if isinstance(about, Mapping):
        size, named = about.get("dimensions"), about.get("unit")
    voxel = along(_turned(size), layout, array.ndim, f"pixelResolution of {path}", float)
    where = "its attribute `pixelResolution`"
    return [statement_of(path, where, voxel, None, "corner", [_name(named)] * 3, unit)]


def _by_transform(path: str, array: N5Array, layout: Layout, unit: str | None) -> list[Statement]:
    about = array.about.get("transform")
    if not isinstance(about, Mapping) or "scale" not in about:
        return []
    ndim, axes = array.ndim, about.get("axes")
    what = f"transform of {path}"
    if not isinstance(axes, list) or len(axes) not in (3, ndim):
        raise InputError(f"{what} names the axes {axes!r:.80}; three names are expected")
    letters = [letter_of(str(a)) for a in axes]
    if not set("zyx") <= set(letters):
        raise InputError(f"{what} names the axes {axes!r:.80}; z, y and x are expected")

    def sorted_along(values: object, kind: type) -> Any:
        if isinstance(values, list) and len(values) == len(letters):
            values = [values[letters.index(a)] for a in "zyx"]
        return along(values, layout, ndim, what, kind)

    units = about.get("units")
    named = [None] * 3 if units is None else sorted_along(units, str)
    moved = about.get("translate")
    place = None if moved is None else sorted_along(moved, float)
    size = sorted_along(about["scale"], float)
    where = "its attribute `transform`"
    return [statement_of(path, where, size, place, "centre", named, unit)]


def _by_resolution(path: str, array: N5Array, layout: Layout, unit: str | None) -> list[Statement]:
    about, ndim = array.about, array.ndim
    if about.get("resolution") is None:
        return []
    size = along(_turned(about["resolution"]), layout, ndim, f"resolution of {path}", float)
    place = None
    if about.get("offset") is not None:
        place = along(_turned(about["offset"]), layout, ndim, f"offset of {path}", float)
    units = about.get("units", about.get("unit"))
    named = units if isinstance(units, list) else [_name(units)] * 3
    of_axes: Sequence[str | None] = along(_turned(named), layout, ndim, f"units of {path}", str)
    where = "its attribute `resolution`"
    return [statement_of(path, where, size, place, "corner", of_axes, unit)]


def _name(unit: object) -> str | None:
    return unit if isinstance(unit, str) else None
