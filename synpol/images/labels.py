"""Labels as others write them: values that mean background, and labels that are not what they seem.

CREMI and Paintera mark what has no label, or was not looked at, by the largest values of 64 bits;
others write -1, or 255 in a mask. Such values are read as 0, and that is told.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from synpol.errors import InputError
from synpol.images.claim import SETTINGS
from synpol.images.image import Image, open_image
from synpol.images.marks import MARKS, is_mark, without_marks
from synpol.images.view import View, tell_background
from synpol.polarity import (
    UNKNOWN,
    LabelKind,
    check_polarity_labels,
    is_pre,
    partner_of,
    shown_labels,
)

if TYPE_CHECKING:
    from synpol.config import ImageSource

#: what labels mark; `ids` are neurons, `mask` is any value but 0
Kind = LabelKind | Literal["ids", "mask"]
#: voxels along an axis that are looked at together, unless chunks are larger
_PART = 64
#: chunks that are looked at to find values that mean background, before work begins
_SAMPLES = 12
#: nm; pieces of one side of a synapse are not farther apart than about this
_APART = 100.0

_log = logging.getLogger(__name__)


def open_labels(
    source: str | ImageSource, kind: Kind, beside: Image | None = None, *, marked: bool = False
) -> Image:
    """Open labels, with values that mean background read as 0.

    Parameters
    ----------
    source : str or ImageSource
        As in `open_image`; the keys `background` and `unknown` replace what is recognised.
    kind : {"polarity", "union", "ids", "mask"}
    beside : Image, optional
        Image that they go with; see `open_image`.
    marked : bool
        Whether what the keys `unknown`, `known` and `sides_unknown` declare is read as marks (see
        `synpol.images.marks`) and not as background.

    Returns
    -------
    Image
        (z, y, x).

    Raises
    ------
    InputError
        As `open_image`; not whole numbers; or a value that may be a label or background.
    """
    image = open_image(source, channels=0, beside=beside)
    options = image.options
    if image.is_marked and not marked:
        image = image.without(MARKS)
        if options is not None and options.unknown:
            known = shown_labels(np.array(options.unknown))
            _log.warning("%s: unknown (%s) is taken as background here", image.path, known)
    dtype = image.array.stored_dtype if isinstance(image.array, View) else image.array.dtype
    if options is not None and options.sides_unknown and kind != "polarity":
        raise InputError(
            f"{image.path}: `sides_unknown` is about labels with sides (labels: polarity), and "
            f"these are {kind}; leave it out"
        )
    if dtype.kind == "f" and kind == "mask":
        return image
    if dtype.kind not in "uib":
        raise InputError(f"{image.path} is {dtype}; labels are whole numbers; convert them")
    declared = options is not None and (options.background or options.unknown) is not None
    if declared or dtype.kind == "b" or SETTINGS in image.array.attrs:  # what synpol decoded
        return image
    usual = usual_background(dtype)
    if usual:
        image = image.without(usual, told=True)
        deque(sampled(image), maxlen=0)  # what is found is told before work begins
        return image
    parts = sampled(image) if kind == "ids" else whole(image)
    present = np.unique(np.concatenate([np.unique(part) for part in parts]))
    if image.is_marked:
        present = present[~is_mark(present)].astype(dtype)
    top = background_of(present, kind, image.path)
    if top is None:
        return image
    tell_background(image.path, top)
    return image.without([top])


def usual_background(dtype: np.dtype) -> tuple[int, ...]:
    """Values that mean background wherever they stand in labels of a type.

    Examples
    --------
    >>> usual_background(np.dtype("i2")), usual_background(np.dtype("u1"))
    ((-1,), ())
    >>> usual_background(np.dtype("u4"))
    (4294967295, 4294967294, 4294967293)
    """
    if dtype.kind == "i":
        return (-1,)
    if dtype.kind == "u" and dtype.itemsize > 2:
        largest = int(np.iinfo(dtype).max)
        return largest, largest - 1, largest - 2
    return ()


def background_of(present: np.ndarray, kind: Kind, path: str) -> int | None:
    """Whether the largest value of a small type means background; None where it does not.

    Parameters
    ----------
    present : array of uint8 or uint16
        Values that occur.
    kind : {"polarity", "union", "ids", "mask"}
    path : str
        For the message.

    Raises
    ------
    InputError
        Nothing tells.
    """
    top = int(np.iinfo(present.dtype).max)
    values = set(present.tolist())
    others = values - {0, top}
    if top not in values or not others:  # a mask of 0 and 255
        return None
    if kind == "polarity" or others == {1}:  # it has no partner; a mask with a value for unknown
        return top
    if top - 1 in values or kind == "mask":
        return None
    raise InputError(
        f"{path} holds the label {top}, the largest of {present.dtype}, which often means "
        f"background. Say what it is: {{path: {path}, background: [{top}]}}, or background: [0] "
        "where it is a label"
    )


def whole(image: Image) -> Iterator[np.ndarray]:
    """All of an image, part by part."""
    for where in boxes(image):
        yield np.asarray(image.array[where])


def sampled(image: Image) -> Iterator[np.ndarray]:
    """Some chunks of an image, spread over it."""
    chunks = image.array.chunks[-3:]
    grid = [-(-n // c) for n, c in zip(image.shape_vx, chunks, strict=True)]
    total = int(np.prod(grid))
    for flat in np.unique(np.linspace(0, total - 1, min(_SAMPLES, total)).astype(int)):
        corner = [int(i) * c for i, c in zip(np.unravel_index(flat, grid), chunks, strict=True)]
        where = tuple(slice(b, b + c) for b, c in zip(corner, chunks, strict=True))
        yield np.asarray(image.array[where])


def boxes(image: Image) -> Iterator[tuple[slice, ...]]:
    """Boxes that cover an image, none smaller than a chunk, in C order."""
    steps = [max(c, _PART) for c in image.array.chunks[-3:]]
    axes = zip(image.shape_vx, steps, strict=True)
    for corner in itertools.product(*(range(0, n, step) for n, step in axes)):
        yield tuple(slice(c, c + s) for c, s in zip(corner, steps, strict=True))


@dataclass(frozen=True)
class Survey:
    """The labels of a volume and where they lie.

    Attributes
    ----------
    labels : (n,) array
        Labels that occur, sorted, without 0.
    low, high : (n, 3) int64
        Box of each: first voxels, and one past the last.
    unknown : int
        Voxels that nobody looked at.
    """

    labels: np.ndarray
    low: np.ndarray
    high: np.ndarray
    unknown: int = 0

    @classmethod
    def of(cls, image: Image) -> Survey:
        """Look at all of a volume."""
        found, unknown = [], 0
        for where in boxes(image):
            part = np.asarray(image.array[where])
            if image.is_marked:
                unknown += int(np.count_nonzero(part == UNKNOWN))
                part = without_marks(part)
            found.append(_survey(part, [s.start for s in where]))
        labels, low, high = (np.concatenate(parts) for parts in zip(*found, strict=True))
        names, into = np.unique(labels, return_inverse=True)
        first = np.full((len(names), 3), np.iinfo(np.int64).max)
        last = np.zeros((len(names), 3), np.int64)
        np.minimum.at(first, into.reshape(-1), low)
        np.maximum.at(last, into.reshape(-1), high)
        return cls(names, first, last, unknown)


def _survey(values: np.ndarray, begin: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    there = np.flatnonzero(values)
    names, into = np.unique(values.reshape(-1)[there], return_inverse=True)
    dense = np.zeros(values.shape, np.int32)
    dense.reshape(-1)[there] = into.reshape(-1) + 1
    boxes = ndimage.find_objects(dense, len(names))
    ends = np.array([[[s.start, s.stop] for s in box] for box in boxes], np.int64)
    ends = ends.reshape(-1, 3, 2) + np.array(begin, np.int64)[:, None]
    return names, ends[..., 0], ends[..., 1]


def check_sides(image: Image, survey: Survey) -> None:
    """Refuse labels that cannot be 2n-1 / 2n, and tell of those that lack their partner.

    Parameters
    ----------
    image : Image
        The labels.
    survey : Survey
        What was found in them.

    Raises
    ------
    InputError
        Only odd or only even labels, labels without partners, or labels whose partners lie
        elsewhere; the message says what they seem to be.
    """
    labels, path = survey.labels, image.path
    partner = partner_of(labels)
    single = ~np.isin(partner, labels)
    single[single] = ~_beside_unknown(image, survey.low[single], survey.high[single])
    check_polarity_labels(labels[single | np.isin(partner, labels)], path)
    inside = ((survey.low > 0) & (survey.high < np.array(image.shape_vx))).all(axis=1)
    lonely = labels[single & inside]  # a border may cut the other side off
    synapses = len(np.unique(np.maximum(labels, partner)))
    if len(lonely) > synapses / 2:
        raise InputError(
            f"{path} is declared `labels: polarity`, but most of its labels lack their partner "
            f"({len(lonely)} of {synapses} synapses): {shown_labels(lonely)}. Sides of synapse n "
            "are 2n-1 (pre) and 2n (post); if it has one id a synapse, say `labels: union`"
        )
    if len(lonely):
        _log.warning(
            "%s: %d labels lack their partner (2n-1 pre, 2n post): %s",
            path,
            len(lonely),
            shown_labels(lonely),
        )
    apart, elsewhere = _pairs_apart(image, survey)
    pairs = len(labels) - len(np.setdiff1d(labels, partner_of(labels)))
    if len(apart) < 2 or 4 * len(apart) <= pairs:  # a pair is two labels; most of them are apart
        return
    named = ", ".join(f"{a} and {a + 1}" for a in apart[:5]) + ", ..." * (len(apart) > 5)
    if 2 * len(elsewhere) > len(apart):
        raise InputError(
            f"{path} is declared `labels: polarity`, but the labels 2n-1 and 2n do not lie side by "
            f"side: {named}. These seem to be plain ids, one a synapse; then say `labels: union`"
        )
    _log.warning(
        "%s is declared `labels: polarity`, but the labels 2n-1 and 2n do not lie side by side: %s."
        " If it has one id a synapse, say `labels: union`",
        path,
        named,
    )


def _beside_unknown(image: Image, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Find the boxes that hold or touch a voxel that nobody looked at; (n,) bool."""
    found = np.zeros(len(low), bool)
    if image.is_marked:
        begins = np.maximum(low - 1, 0).tolist()
        ends = np.minimum(high + 1, image.shape_vx).tolist()
        for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            box = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
            found[row] = bool((np.asarray(image.array[box]) == UNKNOWN).any())
    return found


def _pairs_apart(image: Image, survey: Survey) -> tuple[list[int], list[int]]:
    """Find pairs of sides that are not neighbours.

    Returns
    -------
    apart : list of int
        Pre labels whose post label is farther away, along some axis, than both are long.
    elsewhere : list of int
        Those of them that have another label nearer than their post label.
    """
    partner = partner_of(survey.labels)
    pre = np.flatnonzero(is_pre(survey.labels) & np.isin(partner, survey.labels))
    post = np.searchsorted(survey.labels, partner[pre])
    low, high = survey.low, survey.high
    gap = np.maximum(low[pre] - high[post], low[post] - high[pre])
    length = np.maximum((high - low)[pre], (high - low)[post])
    apart = (gap > length).any(axis=1)
    if not apart.any():
        return [], []
    centre = (low + high) / 2 * np.array(image.voxel_size_nm)
    nearest = cKDTree(centre).query(centre[pre], 2)[0][:, 1]
    distance = np.linalg.norm(centre[pre] - centre[post], axis=1)
    elsewhere = apart & (nearest < 0.999 * distance)
    first, second = ([int(v) for v in survey.labels[pre[w]]] for w in (apart, elsewhere))
    return first, second


def check_truth(image: Image, kind: LabelKind) -> None:
    """Refuse labels that results cannot be scored against.

    Parameters
    ----------
    image : Image
        The labels.
    kind : {"polarity", "union"}
        What they are said to mark.

    Raises
    ------
    InputError
        As `check_sides`, or labels 1 and 2 that stand for all pre and all post sides.
    """
    survey = Survey.of(image)
    if kind == "polarity":
        check_sides(image, survey)
    if is_semantic(image, survey.labels):
        raise no_numbers(image)


def no_numbers(image: Image) -> InputError:
    """The error about labels that say sides without telling synapses apart."""
    return InputError(
        f"{image.path} holds the labels 1 and 2 alone, on many separate pieces: they seem to say "
        "pre and post without telling synapses apart, so nothing can be counted. Number the "
        "synapses first, for example by synpol.polarity2instance(synpol.seg_to_polarity(labels), "
        "thres_small=1), and save that"
    )


def is_semantic(image: Image, labels: Iterable[int]) -> bool:
    """Whether 1 and 2 are all labels, and each of them lies on several separate pieces."""
    return {int(v) for v in labels} == {1, 2} and all(pieces(image, v) > 1 for v in (1, 2))


def pieces(image: Image, label: int) -> int:
    """Number of pieces of a label that lie clearly apart."""
    cell = [max(1, round(_APART / v)) for v in image.voxel_size_nm]
    coarse = np.zeros([-(-n // c) for n, c in zip(image.shape_vx, cell, strict=True)], bool)
    for where in boxes(image):
        places = np.argwhere(np.asarray(image.array[where]) == label)
        coarse[tuple(((places + [s.start for s in where]) // cell).T)] = True
    return int(ndimage.label(coarse, np.ones((3, 3, 3)))[1])
