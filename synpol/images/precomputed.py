"""Neuroglancer's precomputed format, images and segmentations, read through tensorstore.

A volume may have several scales; each is a volume of its own with its voxel size. Writers of this
format compress chunks in a folder and give them another name (``.gz``), which tensorstore does not
look for: `synpol.images.packed` reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.images.apart import ArrayApart
from synpol.images.axes import layout_of, named_axes
from synpol.images.kinds import SCHEME
from synpol.images.location import same_size
from synpol.images.metadata import Numbers, Statement, placement
from synpol.images.packed import Chunks
from synpol.images.stores import Store, reading
from synpol.images.view import View
from synpol.images.world import Placement, is_number, power_of

if TYPE_CHECKING:
    from synpol.config import ImageSource

#: name of the format in tensorstore
DRIVER = "neuroglancer_precomputed"


@dataclass(frozen=True)
class Scale:
    """One resolution of a volume, z, y, x.

    Attributes
    ----------
    about : mapping
        What the file `info` says about it.
    size : (float, float, float)
        Voxel size, nm.
    begin : (int, int, int)
        First voxel.
    shape, chunk : (int, int, int)
        Extent of the volume, and of a chunk, voxels.
    """

    about: Mapping[str, Any]
    size: Numbers
    begin: tuple[int, int, int]
    shape: tuple[int, int, int]
    chunk: tuple[int, int, int]

    @classmethod
    def of(cls, about: Any, where: str) -> Scale:
        """Read what ``info`` says.

        Parameters
        ----------
        about : mapping
        where : str
            The file and the place in it, for messages.

        Raises
        ------
        InputError
            A value is missing or is none.
        """
        if not isinstance(about, Mapping):
            raise InputError(f"{where} is {about!r:.80}; an object is expected. Correct it")
        chunks = about.get("chunk_sizes")
        first = chunks[0] if isinstance(chunks, list) and chunks else None
        z, y, x = _numbers(about.get("resolution"), f"{where}.resolution", above=0)
        begin = _whole(about.get("voxel_offset", [0, 0, 0]), f"{where}.voxel_offset")
        shape = _whole(about.get("size"), f"{where}.size", above=0)
        return cls(
            about, (z, y, x), begin, shape, _whole(first, f"{where}.chunk_sizes[0]", above=0)
        )


def scales_of(path: str, content: bytes | None) -> tuple[dict[str, Any], list[Scale]]:
    """Read the file ``info`` of a volume.

    Parameters
    ----------
    path : str
        Folder or URL, for messages.
    content : bytes or None
        The file; None where there is none.

    Returns
    -------
    info : dict
    scales : list of Scale
        In the order of the file.

    Raises
    ------
    InputError
        There is no such file, or a value is missing or is none.
    """
    if content is None:
        raise InputError(
            f"{SCHEME}{path} cannot be opened as a precomputed volume: there is no file "
            f"{path}/info. Give the folder that has one"
        )
    try:
        info = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}/info is no JSON: {error}. Copy it anew") from None
    listed = info.get("scales") if isinstance(info, dict) else None
    if not isinstance(listed, list) or not listed:
        raise InputError(
            f"{path}/info lists no `scales`, so {SCHEME}{path} is no image or segmentation; give "
            "the folder of one"
        )
    return info, [Scale.of(one, f"{path}/info: scales[{n}]") for n, one in enumerate(listed)]


def _numbers(values: object, what: str, above: float = -math.inf) -> list[float]:
    """Read x, y, z, and turn them to z, y, x."""
    ok = isinstance(values, list) and len(values) == 3 and all(is_number(v) for v in values)
    found = [float(v) for v in values[::-1]] if ok else []  # type: ignore[index]
    if not found or min(found) <= above:
        kind = "numbers above 0" if above == 0 else "numbers"
        raise InputError(f"{what} is {values!r:.80}; three {kind} x, y, z are expected. Correct it")
    return found


def _whole(values: object, what: str, above: float = -math.inf) -> tuple[int, int, int]:
    found = _numbers(values, what, above)
    if any(v != int(v) for v in found):
        raise InputError(f"{what} is {values!r:.80}; whole numbers are expected. Correct it")
    z, y, x = (int(v) for v in found)
    return z, y, x


class PrecomputedArray(ArrayApart):
    """One scale of a precomputed volume, as (channel, z, y, x).

    Parameters
    ----------
    path : str
        Folder or URL, after ``precomputed://``.
    index : int
        Which of its scales.
    fill_missing : bool
        Whether chunks that are missing are read as 0.
    anonymous : bool
        Whether no credentials are used.
    """

    def __init__(self, path: str, index: int, fill_missing: bool, anonymous: bool) -> None:
        super().__init__()
        self._how = path, index, fill_missing, anonymous
        self.path, self.fill_missing = path, fill_missing
        self._place = Store(path, anonymous)
        info, scales = scales_of(path, self._place.read("info"))
        self.scale = scales[index]
        # here tensorstore alone knows what is meant
        self._is_filled = fill_missing and self.scale.about.get("sharding") is not None
        stored = self._place.open(
            DRIVER,
            scale_index=index,
            # a chunk under another name is missing for tensorstore, and must not become 0
            fill_missing_data_reads=self._is_filled,
        )
        self._stored = stored.T
        self.shape = (int(stored.shape[3]), *self.scale.shape)
        self.chunks = (self.shape[0], *self.scale.chunk)
        self.dtype = np.dtype(stored.dtype.numpy_dtype)
        voxel_bytes = self.shape[0] * self.dtype.itemsize
        self._chunks = Chunks(self._place, info, index, voxel_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return PrecomputedArray, self._how

    def files(self, count: int) -> list[str]:
        """Name some files of this scale, spread evenly over it; ``info`` first."""
        return ["info", *self._chunks.files(count)]

    def read(self, where: tuple[int | slice, ...]) -> np.ndarray:
        channel, *space = where
        box = [
            slice(w.start + b, min(w.stop, n) + b)
            if isinstance(w, slice)
            else slice(w + b, w + b + 1)
            for w, b, n in zip(space, self.scale.begin, self.scale.shape, strict=True)
        ]
        index = (channel, *box)
        if self._is_filled:
            with reading(f"{SCHEME}{self.path}", self._place.anonymous):
                return np.asarray(self._stored[index].read().result())
        if not self._chunks.are_packed:
            try:
                return np.asarray(self._stored[index].read().result())
            except (ValueError, OSError, KeyError):  # missing, or compressed
                pass
        with self._chunks.unpacked(box, self.fill_missing) as stored:
            return np.asarray(stored.T[index].read().result())


def open_precomputed(
    path: str,
    options: ImageSource | None,
    channels: int | None,
    size: Sequence[float] | None,
) -> tuple[View, Placement, bool]:
    """Open a precomputed volume.

    Parameters
    ----------
    path : str
        With ``precomputed://``.
    options : ImageSource, optional
        Mapping of a config; `voxel_size` chooses one of several scales.
    channels : int, optional
        As in `synpol.images.image.open_image`.
    size : (float, float, float), optional
        Voxel size (nm) of the image that this one goes with. A scale that fits it is taken, else
        the finest.

    Returns
    -------
    array : View
    where : Placement
    is_finest : bool
        Whether it is the finest scale.

    Raises
    ------
    InputError
        There is no such volume, its metadata are wrong, or a key of the mapping does not fit.
    """
    place = path.removeprefix(SCHEME)
    if options is not None and options.time is not None:
        raise InputError(f"{path} is precomputed, which has no times; leave `time` out")
    anonymous = options is not None and options.anonymous
    scales = scales_of(place, Store(place, anonymous).read("info"))[1]
    index = _index_of(path, scales, options, size)
    filled = options is not None and options.fill_missing
    array = PrecomputedArray(place, index, filled, anonymous)
    named_axes(path, 4, [("precomputed", "czyx")], None if options is None else options.axes)
    wanted = 0 if channels is None and array.shape[0] == 1 else channels
    view = View.of(path, array, layout_of(path, array.shape, "czyx", wanted, options))
    where = placement(path, [_statement(path, scales[index], options)], options)
    assert where is not None  # None is for what says nothing
    return view, where, index == _finest(scales)


def _index_of(
    path: str, scales: Sequence[Scale], options: ImageSource | None, size: Sequence[float] | None
) -> int:
    """Which scale to read."""
    finest = _finest(scales)
    if options is not None and options.voxel_size is not None:
        factor = 10.0 ** power_of(options.unit or "nm", "the key `unit`")
        wanted = [v * factor for v in options.voxel_size]
        found = [n for n, scale in enumerate(scales) if same_size(scale.size, wanted)]
        if not found and len(scales) > 1:
            known = ", ".join(str(list(scale.size)) for scale in scales)
            raise InputError(
                f"{path} has scales with voxels of {known} nm (z, y, x), but the key `voxel_size` "
                f"says {wanted} nm; choose one of them"
            )
        return found[0] if found else finest
    if size is None:
        return finest
    by_size = sorted(range(len(scales)), key=lambda n: math.prod(scales[n].size))
    same = [n for n in by_size if same_size(scales[n].size, size)]
    multiples = [n for n in by_size if _is_multiple(scales[n].size, size)]
    return [*same, *multiples, finest][0]


def _finest(scales: Sequence[Scale]) -> int:
    return min(range(len(scales)), key=lambda n: math.prod(scales[n].size))


def _is_multiple(coarser: Sequence[float], finer: Sequence[float]) -> bool:
    ratios = [a / b for a, b in zip(coarser, finer, strict=True)]
    return all(round(r) >= 1 and abs(r - round(r)) <= 1e-5 * r for r in ratios)


def _statement(path: str, scale: Scale, options: ImageSource | None) -> Statement:
    """What a scale says about voxel size and place."""
    size, doubt = scale.size, ""
    if set(size) == {1.0} and (options is None or options.unit is None):
        doubt = (
            f"{path} has voxels of 1 x 1 x 1 nm by its file info, which is what writers put when "
            f"nobody told them; say the voxel size (z, y, x, nm): {{path: {path}, voxel_size: "
            "[40, 4, 4]}, or `unit: nm` if it is really so"
        )
        if options is not None and options.voxel_size is not None:
            size, doubt = options.voxel_size, ""
    z, y, x = (b * s for b, s in zip(scale.begin, size, strict=True))
    return Statement("its file info", "nm", size, (z, y, x), "corner", doubt=doubt)
