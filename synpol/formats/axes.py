"""Axes of a stored array: which of them are z, y and x, and what to do with the others.

Axes are obeyed where a file names them: the volume is turned to (z, y, x) on reading. Axes of
length one are dropped; a channel or time is chosen by a key of the config, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from synpol.errors import InputError
from synpol.images.axes import letter_of

#: more names of axes in files, beside those of Zarr, and the letter of each
_LETTERS = {
    "depth": "z",
    "plane": "z",
    "height": "y",
    "width": "x",
    "s": "c",  # samples of a pixel in TIFF
}


class ArrayLike(Protocol):
    """An array in memory or in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, where: Any, /) -> Any: ...


@dataclass(frozen=True)
class Choice:
    """What the config says about how a source is read.

    Attributes
    ----------
    kind : {"image", "labels", "polarity"}
        Kind of the volume.
    channel, time : int, optional
        Index of the channel and of the time to import.
    axes : str, optional
        Letters of the stored axes, slowest first, such as ``"zcyx"``.
    fill_missing : bool
        Whether zeros stand for sections or blocks that are missing.
    anonymous : bool
        Whether a URL is read without credentials.
    """

    kind: Literal["image", "labels", "polarity"] = "image"
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    fill_missing: bool = False
    anonymous: bool = False


def letters_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the letter of each named axis; a name that is not known stays as it is.

    Examples
    --------
    >>> letters_of(["Z", "c^", "height", "phi"])
    ('z', 'c', 'y', 'phi')
    """
    return tuple(_LETTERS.get(name.lower()) or letter_of(name) or name for name in names)


@dataclass(frozen=True)
class Layout:
    """How a stored array is turned to (z, y, x), or to (channel, z, y, x).

    Attributes
    ----------
    shape : tuple of int
        Shape after turning.
    index : tuple
        For each stored axis its letter, or the one index that is read of it.
    """

    shape: tuple[int, ...]
    index: tuple[str | int, ...]

    @classmethod
    def of(
        cls, what: str, names: Sequence[str] | None, shape: Sequence[int], choice: Choice
    ) -> Layout:
        """Find the layout of an array.

        Parameters
        ----------
        what : str
            Name of the array for messages.
        names : sequence of str or None
            Names of its axes as the file says them, slowest first.
        shape : sequence of int
        choice : Choice

        Raises
        ------
        InputError
            The axes are no volume, or a channel or time has to be chosen.
        """
        axes, lengths, kept = _named(what, names, tuple(shape), choice)
        index: list[str | int] = [0] * len(shape)
        spare = {"channel": choice.channel, "time": choice.time}
        for axis, length, place in zip(axes, lengths, kept, strict=True):
            if axis in "zyx":
                index[place] = axis
            elif axis == "t":
                index[place] = _chosen(what, "time", length, spare.pop("time"), shape, axes)
            elif axis == "c" and choice.kind == "polarity" and choice.channel is None:
                index[place] = axis
            elif axis == "c":
                index[place] = _chosen(what, "channel", length, spare.pop("channel"), shape, axes)
            elif length > 1:
                raise InputError(
                    f"{what} has an axis {axis!r} of length {length} (axes {', '.join(axes)}); "
                    "z, y and x are expected: say what its axes are, for instance `axes: "
                    f"{'czyx'[-len(axes) :]}`, and choose a `channel` or `time`"
                )
        for key, given in spare.items():
            if given is not None:
                raise InputError(
                    f"{key} is {given}, but {what} has no {key} (shape {tuple(shape)}); leave "
                    f"`{key}` out"
                )
        sizes = dict(zip(index, shape, strict=True))
        order = "czyx" if "c" in index else "zyx"
        layout = cls(tuple(sizes.get(axis, 1) for axis in order), tuple(index))
        if choice.kind == "polarity" and (len(layout.shape) != 4 or layout.shape[0] != 3):
            raise InputError(
                f"{what} has the shape {tuple(shape)}, and a polarity prediction has three "
                "channels, (3, z, y, x); set `kind: image` or `kind: labels` for another volume"
            )
        return layout

    def spatial(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Return z, y and x of values that stand in the order of the stored axes.

        Raises
        ------
        ValueError
            They are neither as many as all axes, nor as the spatial ones.
        """
        stored = [i if isinstance(i, str) else "" for i in self.index]
        if len(values) != len(stored):
            stored = [i for i in stored if i in ("z", "y", "x")] or ["z", "y", "x"]
        by_axis = dict(zip(stored, values, strict=True))
        if "z" not in by_axis or "y" not in by_axis or "x" not in by_axis:
            raise ValueError(f"{list(values)} are no numbers for z, y and x")
        return by_axis["z"], by_axis["y"], by_axis["x"]

    def read(self, array: ArrayLike, begin: int, end: int) -> np.ndarray:
        """Read sections begin .. end - 1 of the turned array."""
        regions = {"z": slice(begin, end)}
        where = tuple(
            i if isinstance(i, int) else regions.get(i, slice(0, n))
            for i, n in zip(self.index, array.shape, strict=True)
        )
        block = np.asarray(array[where])
        left = [i for i in self.index if isinstance(i, str)]
        if "z" not in left:
            left, block = ["z", *left], block[None]
        order = "czyx" if "c" in left else "zyx"
        return block.transpose([left.index(axis) for axis in order])


def _named(
    what: str, names: Sequence[str] | None, shape: tuple[int, ...], choice: Choice
) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Letters, lengths and places of the axes that count; others have the length one."""
    wide = [place for place, length in enumerate(shape) if length > 1]
    places = list(range(len(shape)))
    if choice.axes is not None:
        axes = letters_of(choice.axes)
        if len(axes) == len(wide) != len(shape):
            places = wide
        if len(axes) != len(places) or len(set(axes)) < len(axes) or set(axes) - set("tczyx"):
            raise InputError(
                f"axes is {choice.axes!r}, but {what} has the shape {shape}; a letter of t, c, z, "
                "y, x for each axis is expected, slowest first"
            )
    elif names is not None:
        axes = letters_of(names)
        places = [p for p in places if shape[p] > 1 or axes.count(axes[p]) == 1]
        axes = tuple(axes[p] for p in places)
        double = {a for a in axes if axes.count(a) > 1}
        if double:
            raise InputError(
                f"{what} has several axes {', '.join(sorted(double))} (shape {shape}); say what "
                "they are, for instance `axes: zcyx`, and choose a `channel` or `time`"
            )
    else:
        places = _spatial_places(what, shape, choice)
        axes = tuple("czyx"[-len(places) :])
    if "y" not in axes or "x" not in axes:
        raise InputError(
            f"{what} has the axes {', '.join(axes)} and the shape {shape}; z, y and x are "
            "expected: say what its axes are, for instance `axes: zyx`"
        )
    return axes, [shape[p] for p in places], places


def _spatial_places(what: str, shape: tuple[int, ...], choice: Choice) -> list[int]:
    """Places of (channel,) z, y, x in an array whose axes have no names."""
    places = list(range(len(shape)))
    with_channel = choice.channel is not None or choice.kind == "polarity"
    ones = [place for place in places if shape[place] == 1]
    surplus = len(shape) - 3
    if surplus < 0:
        raise InputError(f"{what} has the shape {shape}; (z, y, x) is expected")
    if surplus == 1 and with_channel:
        return places
    lead = next((p for p in places if shape[p] > 1), 0)
    if len(ones) == surplus or lead >= surplus:
        dropped = ones if len(ones) == surplus else places[:surplus]
        return [place for place in places if place not in dropped]
    three = " A prediction of pre, post and both is imported with `kind: polarity`."
    raise InputError(
        f"{what} has the shape {shape}; (z, y, x) is expected. Say what its axes are and which "
        "channel to import, for instance `axes: czyx` and `channel: 0`."
        + (three if surplus == 1 and shape[0] == 3 else "")
    )


def _chosen(
    what: str,
    key: str,
    length: int,
    given: int | None,
    shape: Sequence[int],
    axes: Sequence[str],
) -> int:
    if given is None:
        if length == 1:
            return 0
        hint = ""
        if key == "channel" and length == 3:
            hint = " A prediction of pre, post and both is imported with `kind: polarity`."
        elif "z" not in axes:
            hint = f" Sections that were saved as {key}s: `axes: zyx`."
        raise InputError(
            f"{what} has {length} {key}s (axes {', '.join(axes)}, shape {tuple(shape)}); choose "
            f"one, for instance `{key}: 0`.{hint}"
        )
    if not 0 <= given < length:
        raise InputError(f"{key} is {given}, but {what} has {length}; 0..{length - 1} is expected")
    return given
