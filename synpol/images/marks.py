"""What a source declares about its labels: voxels that nobody looked at, synapses without sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.polarity import SIDES_UNKNOWN, UNKNOWN

if TYPE_CHECKING:
    from synpol.config import ImageSource

#: both marks
MARKS = (UNKNOWN, SIDES_UNKNOWN)


@dataclass(frozen=True, eq=False)
class Marks:
    """Labels that become `UNKNOWN` and `SIDES_UNKNOWN`, whatever they are in the file.

    Attributes
    ----------
    unknown : tuple of int
        Labels of voxels that nobody looked at.
    sides_unknown : tuple of int
        Labels of synapses whose sides nobody knows.
    known : Voxels or None
        Mask, (z, y, x), 0 where nobody looked.
    begin : (int, int, int)
        Position of the labels' first voxel in the mask.
    """

    unknown: tuple[int, ...] = ()
    sides_unknown: tuple[int, ...] = ()
    known: Any = None
    begin: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(
        cls,
        options: ImageSource | None,
        path: str,
        dtype: np.dtype,
        open_mask: Callable[[str], tuple[Any, Sequence[int]]],
    ) -> Marks | None:
        """The marks that the keys of a source declare; None where they declare none.

        Parameters
        ----------
        options : ImageSource or None
        path : str
            Path of the labels, for messages.
        dtype : dtype
            Type of the labels.
        open_mask : callable
            Function that opens a mask, and says where in it the labels begin.

        Raises
        ------
        InputError
            The image does not hold labels, or the mask does not cover it.
        """
        if options is None or not (options.unknown or options.sides_unknown or options.known):
            return None
        if dtype.kind not in "uib":
            raise InputError(
                f"{path} is {dtype}; the keys `unknown`, `known` and `sides_unknown` are for "
                "labels, which are whole numbers. Leave them out"
            )
        known, begin = (None, (0, 0, 0)) if not options.known else open_mask(options.known)
        z, y, x = begin
        unknown, unsided = options.unknown or (), options.sides_unknown or ()
        return cls(tuple(unknown), tuple(unsided), known, (z, y, x))

    def where(self, labels: np.ndarray, box: Sequence[slice]) -> tuple[np.ndarray, np.ndarray]:
        """Which voxels of a box are unknown, and in which only the sides are.

        Parameters
        ----------
        labels : (z, y, x) array
            Labels as they are stored.
        box : sequence of slice
            Their voxels in the stored volume.
        """
        lost, unsided = (
            np.any([labels == value for value in values], axis=0)
            if values
            else np.zeros(labels.shape, bool)
            for values in (self.unknown, self.sides_unknown)
        )
        if self.known is not None:
            there = zip(box, self.begin, strict=True)
            mask = self.known[tuple(slice(s.start + b, s.stop + b) for s, b in there)]
            lost = lost | (np.asarray(mask) == 0)
        return lost, unsided & ~lost


def marked(labels: np.ndarray, lost: np.ndarray, unsided: np.ndarray, path: str) -> np.ndarray:
    """Write both marks over labels.

    Raises
    ------
    InputError
        A label is one of both.
    """
    values = labels.astype(np.uint64)
    if (taken := is_mark(values)).any():
        label = int(values[taken][0])
        raise InputError(
            f"{path} holds the label {label}, which synpol uses for what is unknown; number the "
            f"labels anew, or, if it means no label: {{path: {path}, background: [{label}]}}"
        )
    values[unsided] = SIDES_UNKNOWN
    values[lost] = UNKNOWN
    return values


def is_mark(labels: np.ndarray) -> np.ndarray:
    """Which labels are `UNKNOWN` or `SIDES_UNKNOWN`."""
    found: np.ndarray = (labels == UNKNOWN) | (labels == SIDES_UNKNOWN)
    return found


def without_marks(labels: np.ndarray) -> np.ndarray:
    """Read both marks in marked labels as background."""
    return np.where(is_mark(labels), labels.dtype.type(0), labels)
