"""An array that is read otherwise than it is stored.

A `View` reads any array as (z, y, x) or (channel, z, y, x): axes in another order are turned, axes
of length one dropped, a channel or a time picked, a part cut out, values that mean background
become 0, and labels that nobody knows are marked. Everything happens to what is read, when it is
read. Arrays that need nothing of that are never wrapped.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from synpol.errors import InputError
from synpol.images.axes import Layout
from synpol.images.marks import Marks, marked
from synpol.polarity import SIDES_UNKNOWN, UNKNOWN

_log = logging.getLogger(__name__)
#: what this process has told already
_told: set[tuple[str, int]] = set()


class Voxels(Protocol):
    """What a view reads from: a Zarr array, or one of another format."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def chunks(self) -> tuple[int, ...]: ...
    @property
    def attrs(self) -> Mapping[str, Any]: ...

    def __getitem__(self, where: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class View:
    """An array as it is read.

    Attributes
    ----------
    path : str
        Path of the array, for messages.
    source : Voxels
        The array as it is stored.
    layout : Layout
        Which axis of it is which.
    begin, size : tuple of int
        First voxel and extent along the axes that are read, voxels.
    background : tuple of int
        Values that are read as 0.
    told : bool
        Whether it is told when such a value is met: nobody declared it.
    attrs : mapping
        Attributes of the array.
    marks : Marks or None
        Labels that nobody knows; where there are marks, what lies beyond the stored volume is
        unknown too. All labels are uint64 then.
    """

    path: str
    source: Voxels
    layout: Layout
    begin: tuple[int, ...]
    size: tuple[int, ...]
    background: tuple[int, ...] = ()
    told: bool = False
    attrs: Mapping[str, Any] = field(default_factory=dict)
    marks: Marks | None = None

    @classmethod
    def of(cls, path: str, source: Voxels, layout: Layout | None = None) -> View:
        """All of an array."""
        layout = layout or Layout(tuple(range(len(source.shape))), {})
        size = tuple(int(source.shape[axis]) for axis in layout.order)
        return cls(path, source, layout, (0,) * len(size), size, attrs=source.attrs)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def ndim(self) -> int:
        return len(self.size)

    @property
    def dtype(self) -> np.dtype:
        """Type of what is read, in the byte order of this machine."""
        return self.stored_dtype if self.marks is None else np.dtype(np.uint64)

    @property
    def stored_dtype(self) -> np.dtype:
        """Type of what is stored, in the byte order of this machine."""
        return self.source.dtype.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels that are stored together."""
        stored = [self.source.chunks[axis] for axis in self.layout.order]
        return tuple(max(1, min(c, n)) for c, n in zip(stored, self.size, strict=True))

    @property
    def shards(self) -> None:
        """None: nothing is written through a view."""
        return None

    @property
    def is_part(self) -> bool:
        """Whether something was cut out."""
        return self.size != tuple(self.source.shape[axis] for axis in self.layout.order)

    def part(self, begin: Sequence[int], size: Sequence[int]) -> View:
        """A box of it, along the last three axes; with marks it may reach beyond all sides."""
        lead = self.ndim - 3
        first = tuple(a + b for a, b in zip(self.begin[lead:], begin, strict=True))
        shape = (*self.size[:lead], *map(int, size))
        return replace(self, begin=(*self.begin[:lead], *first), size=shape)

    def marked(self, marks: Marks) -> View:
        """The same labels with marks."""
        return replace(self, marks=marks)

    def without(self, values: Sequence[int], told: bool = False) -> View:
        """The same with more values that are read as 0."""
        return replace(self, background=(*self.background, *values), told=told)

    def __getitem__(self, where: Any) -> np.ndarray:
        slices, single = _slices(where, self.size)
        box = [slice(b + s.start, b + s.stop) for b, s in zip(self.begin, slices, strict=True)]
        steps = tuple(slice(None, None, s.step) for s in slices)
        if self.marks is None:
            found = self._without_background(self._turned(box, steps))
        else:
            found = self._marked(box, self.marks)[steps]
        return found[tuple(0 if k in single else slice(None) for k in range(self.ndim))]

    def _turned(self, box: Sequence[slice], steps: tuple[slice, ...] = ()) -> np.ndarray:
        """Read a box of the stored array, its axes in the order in which they are read."""
        index: list[int | slice] = [0] * len(self.source.shape)
        for axis, picked in self.layout.picked.items():
            index[axis] = picked
        for axis, one in zip(self.layout.order, box, strict=True):
            index[axis] = one
        stored = np.asarray(self.source[tuple(index)])
        there = sorted(self.layout.order)
        found = stored.transpose([there.index(axis) for axis in self.layout.order])[steps]
        return np.ascontiguousarray(found, self.stored_dtype).reshape(found.shape)

    def _marked(self, box: Sequence[slice], marks: Marks) -> np.ndarray:
        """Read a box of labels with their marks."""
        lengths = [self.source.shape[axis] for axis in self.layout.order]
        inside = [slice(max(0, s.start), min(n, s.stop)) for s, n in zip(box, lengths, strict=True)]
        found = np.full([s.stop - s.start for s in box], UNKNOWN, np.uint64)
        if all(s.start < s.stop for s in inside):
            labels = self._turned(inside)
            lost, unsided = marks.where(labels, inside)
            labels = np.where(lost | unsided, labels.dtype.type(0), labels)
            within = zip(inside, box, strict=True)
            there = tuple(slice(s.start - b.start, s.stop - b.start) for s, b in within)
            labels = self._without_background(labels)
            found[there] = marked(labels, lost, unsided, self.path)
        for mark in {UNKNOWN, SIDES_UNKNOWN}.intersection(self.background):
            found[found == mark] = 0
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def __dask_tokenize__(self) -> object:
        return ("synpol-view", id(self))

    def _without_background(self, values: np.ndarray) -> np.ndarray:
        if not self.background or not values.size:
            return values
        low, high = values.min(), values.max()
        for value in self.background:
            if low <= value <= high and (there := values == value).any():
                if self.told:
                    tell_background(self.path, value)
                values = np.where(there, values.dtype.type(0), values)
        if low < 0 and (low := values.min()) < 0:
            raise InputError(
                f"{self.path} holds the label {low}; labels are 0 or above. If it means no label, "
                f"say so: {{path: {self.path}, background: [{low}]}}"
            )
        return values


def tell_background(path: str, value: int) -> None:
    """Say once for each file that a value is taken as background."""
    if (path, value) not in _told:
        _told.add((path, value))
        _log.warning(
            "%s: the label %d is taken as background; where it is a label, say which values are "
            "background: {path: ..., background: [0]}",
            path,
            value,
        )


def _slices(where: Any, shape: Sequence[int]) -> tuple[list[slice], set[int]]:
    """What an index means along each axis, as slices with all ends, and which axes it drops."""
    given = list(where) if isinstance(where, tuple) else [where]
    if any(k is Ellipsis for k in given):
        at = next(n for n, k in enumerate(given) if k is Ellipsis)
        given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    given += [slice(None)] * (len(shape) - len(given))
    slices, single = [], set()
    for axis, (one, length) in enumerate(zip(given, shape, strict=True)):
        if isinstance(one, slice):
            start, stop, step = one.indices(length)
            if step < 1:
                raise IndexError(f"{one} has a negative step")
            slices.append(slice(start, max(start, stop), step))
        else:
            number = int(one) + (length if one < 0 else 0)
            if not 0 <= number < length:
                raise IndexError(f"{one} is beyond the {length} voxels of axis {axis}")
            slices.append(slice(number, number + 1, 1))
            single.add(axis)
    return slices, single


def check_kind(path: str, dtype: np.dtype) -> None:
    """Refuse an array of something else than numbers.

    Raises
    ------
    InputError
    """
    if np.dtype(dtype).kind not in "uifb":
        raise InputError(
            f"{path} is of the type {dtype}; whole or real numbers are expected. Convert it"
        )
