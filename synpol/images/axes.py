"""Which axes an array has, and how they become z, y, x or channel, z, y, x.

Axes are named by OME metadata, by Zarr's own ``dimension_names``, by funlib's ``axis_names`` and by
xarray's ``_ARRAY_DIMENSIONS``. Names are obeyed, whatever their order. Without names the last three
axes are z, y and x.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from synpol.errors import InputError

if TYPE_CHECKING:
    from synpol.config import ImageSource

#: names of axes in full, and the letters that stand for them
_LETTERS = {"channel": "c", "channels": "c", "ch": "c", "time": "t"}
_LETTERS |= {letter: letter for letter in "zyxct"}
#: names that writers give when nobody named the axes
_NO_NAME = re.compile(r"(d|dim_?|axis_?|c(?=\d))?\d*")


@dataclass(frozen=True)
class Layout:
    """How an array is read.

    Attributes
    ----------
    order : tuple of int
        Axes of the array that are read as z, y, x, or as channel, z, y, x.
    picked : mapping of int to int
        Index at each other axis.
    """

    order: tuple[int, ...]
    picked: Mapping[int, int]

    @property
    def is_plain(self) -> bool:
        """Whether the array itself is what is read."""
        return not self.picked and self.order == tuple(range(len(self.order)))

    def spatial[A](self, values: Sequence[A]) -> tuple[A, A, A]:
        """Values along z, y and x of values along all axes, or along the three of space."""
        z, y, x = self.order[-3:]
        if len(values) == 3:  # along the axes of space alone, in their order
            z, y, x = (sorted(self.order[-3:]).index(axis) for axis in (z, y, x))
        return values[z], values[y], values[x]


def letter_of(name: object, kind: object = None) -> str:
    """The letter of an axis: z, y, x, c or t; "" without a name, and an unknown name itself.

    Parameters
    ----------
    name : str or None
        As somebody wrote it: "Z", "c^", "channel".
    kind : str, optional
        Its type in OME metadata.
    """
    text = str(name or "").strip().lower().rstrip("^")
    if text in _LETTERS:
        return _LETTERS[text]
    if kind in ("channel", "time"):
        return str(kind)[0]
    return "" if _NO_NAME.fullmatch(text) else str(name)


def named_axes(
    path: str,
    ndim: int,
    sources: Iterable[tuple[str, Sequence[str]]],
    wanted: str | None,
) -> tuple[str, ...] | None:
    """The letter of each axis of an array, None where nobody names them.

    Parameters
    ----------
    path : str
        Path of the array, for messages.
    ndim : int
        Number of its axes.
    sources : iterable of (str, sequence of str)
        What names axes, and the letters (`letter_of`) that it gives.
    wanted : str, optional
        The key `axes` of a config, such as "xyz".

    Raises
    ------
    InputError
        Sources that disagree, or that name another number of axes.
    """
    said: list[tuple[str, tuple[str, ...]]] = []
    for where, letters in sources:
        if not any(letters):
            continue
        if len(letters) != ndim:
            raise InputError(
                f"{path} has {ndim} axes, but {where} name {len(letters)}: {', '.join(letters)}. "
                "Correct them"
            )
        if not all(letters):
            raise InputError(
                f"{path}: {where} leave axes without a name: {', '.join(k or '-' for k in letters)}"
                ". Name them all, or none"
            )
        said.append((where, tuple(letters)))
    names = {letters for _, letters in said}
    if wanted is not None:
        mine = tuple(letter_of(k) for k in wanted)
        if len(mine) != ndim or (names and mine not in names):
            what = " and ".join(f"{', '.join(v)} ({w})" for w, v in said) or f"{ndim} axes"
            raise InputError(
                f"{path} has the axes {what}, but the key `axes` says {wanted!r}; correct one of "
                "them, or leave the key out"
            )
        return mine
    if len(names) > 1:
        told = " but ".join(f"{', '.join(letters)} by {where}" for where, letters in said)
        raise InputError(
            f"{path} has its axes named in two ways, {told}; say which is right with the key "
            f"`axes`: {{path: {path}, axes: {''.join(said[0][1])}}}"
        )
    return said[0][1] if said else None


def layout_of(
    path: str,
    shape: Sequence[int],
    letters: Sequence[str] | None,
    channels: int | None,
    options: ImageSource | None = None,
) -> Layout:
    """How to read an array as (z, y, x) or (channel, z, y, x).

    Parameters
    ----------
    path : str
        Path of the array, for messages.
    shape : sequence of int
    letters : sequence of str, optional
        From `named_axes`.
    channels : int, optional
        How many channels are wanted, 0 for none; None: as it is.
    options : ImageSource, optional
        Which channel and time are chosen.

    Raises
    ------
    InputError
        Axes of space that are missing, others that are not of length one and not chosen, or
        another number of channels.
    """
    axes = list(letters) if letters is not None else _usual_axes(shape, channels)
    if axes is None:
        how = "import the sections as a stack" if len(shape) < 3 else "cut it to one of these"
        raise InputError(
            f"{path} has the shape {tuple(shape)}; (z, y, x) or (channel, z, y, x) is expected: "
            f"{how}"
        )
    shown = ", ".join(f"{a or '?'} {n}" for a, n in zip(axes, shape, strict=True))
    doubled = [a for a in "zyxct" if axes.count(a) > 1]
    missing = [a for a in "zyx" if a not in axes]
    if doubled or missing:
        fault = f"two axes {doubled[0]}" if doubled else f"no axis {', '.join(missing)}"
        raise InputError(
            f"{path} has the axes {shown}: {fault}. A volume with z, y and x is expected; if the "
            f"names are wrong, correct them"
        )
    picked: dict[int, int] = {}
    keep = None
    for axis, (letter, length) in enumerate(zip(axes, shape, strict=True)):
        if letter in ("z", "y", "x"):
            continue
        index = _index(path, letter, length, options, shown)
        if index is not None:
            picked[axis] = index
        elif letter == "c" and (channels or (channels is None and (length > 1 or len(shape) == 4))):
            keep = axis
        elif length == 1:
            picked[axis] = 0
        else:
            raise InputError(_unchosen(path, letter, length, shape, letters, shown, channels))
    found = 0 if keep is None else shape[keep]
    if channels is not None and found != channels:
        expected = "(z, y, x)" if channels == 0 else f"({channels}, z, y, x)"
        raise InputError(f"{path} has the shape {tuple(shape)}; {expected} is expected")
    lead = () if keep is None else (keep,)
    return Layout((*lead, *(axes.index(a) for a in "zyx")), picked)


def _usual_axes(shape: Sequence[int], channels: int | None) -> list[str] | None:
    """Axes without names: the last three are those of space; others of length one do not count."""
    if len(shape) < 3:
        return None
    if len(shape) == 4 and channels == 0 and shape[0] > 1 and shape[3] == 1:
        return [*"zyx", "c"]
    lead = list(shape[:-3])
    if sum(n > 1 for n in lead) > 1:
        return None
    names = ["1"] * len(lead)  # of length one, whatever it is
    if lead:
        where = next((k for k, n in enumerate(lead) if n > 1), len(lead) - 1)
        names[where] = "c"
    return [*names, *"zyx"]


def _index(
    path: str, letter: str, length: int, options: ImageSource | None, shown: str
) -> int | None:
    """What a config chooses along an axis."""
    key = {"c": "channel", "t": "time"}.get(letter)
    index = None if options is None or key is None else getattr(options, key)
    if index is not None and index >= length:
        raise InputError(
            f"{path} has the axes {shown}, but the key `{key}` chooses {index}; choose one of "
            f"0..{length - 1}"
        )
    return None if index is None else int(index)


def _unchosen(
    path: str,
    letter: str,
    length: int,
    shape: Sequence[int],
    letters: Sequence[str] | None,
    shown: str,
    channels: int | None,
) -> str:
    key = {"c": "channel", "t": "time"}.get(letter)
    if key is None:
        return (
            f"{path} has the axes {shown}, of which {letter} is none of z, y, x, channel and time; "
            "cut it to one image, or correct its name"
        )
    told = f"{length} channels" if letter == "c" else f"{length} times"
    named = f"Its axes are {', '.join(letters)}: it" if letters else "It"
    expected = f"({channels}, z, y, x)" if channels else "(z, y, x)"
    return (
        f"{path} has the shape {tuple(shape)}; {expected} is expected. {named} has {told}; choose "
        f"one: {{path: {path}, {key}: 0}}"
    )
