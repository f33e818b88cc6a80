"""Images on disk: OME-Zarr 0.5 groups that neuroglancer, napari and funlib.persistence open.

Every image that synpol writes is a Zarr v3 group with the OME 0.5 metadata and its full
resolution in the array ``s0``, which also carries the attributes that
``funlib.persistence.open_ds`` reads. Decoding workers start in a second because this module needs
zarr alone: funlib.persistence brings dask and xarray, which take several seconds to import.
``metadata.py`` reads where an image lies, ``location.py`` compares places.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import zarr
from funlib.geometry import Coordinate

from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.axes import Layout, layout_of
from synpol.images.kinds import SCHEME, is_n5, is_precomputed
from synpol.images.location import Located, is_whole
from synpol.images.marks import Marks
from synpol.images.metadata import HASH, SIZE_KEYS, axes_of, placement, statements
from synpol.images.nodes import Found, described, find_array, refuse_outage
from synpol.images.ome import Multiscale
from synpol.images.quick import quick
from synpol.images.reading import damaged_chunk, way_on
from synpol.images.view import View, Voxels, check_kind
from synpol.images.world import in_nm, in_unit, power_of, unknown_placement

if TYPE_CHECKING:
    from synpol.config import ImageSource


@dataclass(frozen=True)
class Image(Located):
    """An open image: a zarr array and where it lies in the world.

    Attributes
    ----------
    path : str
        Path or URL of the array itself.
    array : zarr.Array
        ``(z, y, x)``, or ``(channel, z, y, x)``; a `View` where it is stored otherwise, a
        `View` too where it is not Zarr.
    voxel_size, offset : Coordinate
        Size of a voxel, and corner of the first voxel, in `unit`; z, y, x.
    unit : {"nm", "angstrom", "pm", "fm"}
    said_unit : str
        Unit of the metadata, nm for longer ones; empty: `unit`.
    placed : bool
        False where nothing says the place, so that `offset` is 0; the centre of the first voxel may
        as well be there.
    point : {"corner", "centre"}
        Which point of the first voxel the metadata tell the place of.
    options : ImageSource or None
        Mapping that a config named the image by, where it is no plain path.
    background : tuple of int
        Values that are read as 0, where `options` does not say them.
    """

    path: str
    array: zarr.Array
    voxel_size: Coordinate
    offset: Coordinate
    unit: str
    said_unit: str = ""
    placed: bool = True
    point: str = "corner"
    options: ImageSource | None = None
    background: tuple[int, ...] = ()

    @property
    def source(self) -> str | ImageSource:
        """What `open_image` opens this image by again, in another process too."""
        if self.options is None and not self.background:
            return self.path
        from synpol.config import ImageSource  # for images that a path does not suffice for

        told = {} if self.options is None else self.options.model_dump()
        background = {"background": list(self.background)} if self.background else {}
        return ImageSource.model_validate({**told, "path": self.path, **background})

    @property
    def shape_vx(self) -> Coordinate:
        """Spatial shape in voxels."""
        return Coordinate(self.array.shape[-3:])

    def fitted_to(self, finer: Image) -> Image:
        """This image on the voxel grid of another, and in its unit, where both fit.

        It is as it was where its voxels are no whole multiples of those of the other, or begin
        between them.
        """
        try:
            multiple = self.multiple_of(finer, "")
        except InputError:
            return self
        begin = self.begin_of(finer, multiple)
        if not all(map(is_whole, begin)):
            return self
        return replace(
            self,
            voxel_size=finer.voxel_size * Coordinate(multiple),
            offset=finer.offset - Coordinate(round(b) for b in begin) * finer.voxel_size,
            unit=finer.unit,
        )

    @property
    def is_part(self) -> bool:
        """Whether this is a part of what lies at `path`; see `part`."""
        return isinstance(self.array, View) and self.array.is_part

    def in_unit(self, finer: str) -> Image:
        """This image in a unit that is finer than its own, or the same."""
        size, offset = (in_unit(v, self.unit, finer) for v in (self.voxel_size, self.offset))
        return replace(self, voxel_size=size, offset=offset, unit=finer)

    def part(self, begin: Sequence[int], shape: Sequence[int]) -> Image:
        """A box of this image; nothing is read."""
        return replace(
            self,
            array=cast(zarr.Array, self._view.part(begin, shape)),
            offset=self.offset + Coordinate(begin) * self.voxel_size,
        )

    def without(self, background: Sequence[int], told: bool = False) -> Image:
        """This image with some labels read as 0; see `View`."""
        return replace(
            self,
            array=cast(zarr.Array, self._view.without(background, told)),
            background=(*self.background, *background),
        )

    def marked(self, mode: str = "r", marks: Marks | None = None) -> Image:
        """These labels with marks, by default those that a config declares; see `Marks`."""
        marks = marks or Marks.of(self.options, self.path, self.array.dtype, self._mask)
        if marks is None:
            return self
        if mode != "r":
            raise InputError(f"{self.path} is read with `unknown` labels, so it is read only")
        return replace(self, array=cast(zarr.Array, self._view.marked(marks)))

    def _mask(self, path: str) -> tuple[Voxels, Sequence[int]]:
        mask = open_image(path, channels=0)
        return cast(Voxels, mask.array), mask.place_of(self, "the mask `known`")

    @property
    def _view(self) -> View:
        return self.array if isinstance(self.array, View) else View.of(self.path, self.array)

    @property
    def is_marked(self) -> bool:
        """Whether labels of it may be `UNKNOWN` or `SIDES_UNKNOWN`."""
        return isinstance(self.array, View) and self.array.marks is not None

    def part_like(self, part: Image, what: str) -> np.ndarray:
        """The voxels of a (z, y, x) image that another covers, in memory; see `place_of`."""
        begin = self.place_of(part, what)
        return np.asarray(self.array[shifted([slice(0, n) for n in part.shape_vx], begin)])


def shifted(where: Sequence[slice], begin: Sequence[int]) -> tuple[slice, ...]:
    """The same voxels in an image that begins earlier."""
    return tuple(slice(w.start + b, w.stop + b) for w, b in zip(where, begin, strict=True))


def open_image(
    source: str | os.PathLike[str] | ImageSource,
    *,
    channels: int | None = None,
    mode: str = "r",
    bare: bool = False,
    inside: bool = True,
    beside: Image | None = None,
) -> Image:
    """Open an image wherever it is read: a group or an array, Zarr v3 or v2, OME 0.4 to 0.6.

    Parameters
    ----------
    source : path or URL, or ImageSource
        An OME-Zarr group (its first, full-resolution dataset is taken) or an array; or, to be read
        only, a precomputed volume (``precomputed://`` and its folder or URL). A mapping of a
        config says more: which channel, and what metadata leave open.
    channels : int, optional
        Refuse an array that does not have this many channels; 0 means ``(z, y, x)`` is expected.
    mode : {"r", "r+"}
    bare : bool
        Accept an array that says nothing about its voxel size, where that does not matter: a
        voxel counts as 1 nm then, with a warning.
    inside : bool
        Whether a group that holds exactly one image stands for it.
    beside : Image, optional
        Image that this one goes with. Of several scales of a precomputed volume the one that fits
        its voxel size is taken; without it the finest.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        Nothing there, no array in it, no voxel size known, metadata that contradict each other or
        the mapping, or another number of channels.

    Examples
    --------
    >>> from synpol.images.writing import create_image
    >>> _ = create_image(
    ...     "volume",
    ...     "raw",
    ...     shape=(16, 64, 64),
    ...     dtype="uint8",
    ...     voxel_size=(30, 8, 8),
    ...     offset=(300, 0, 0),
    ...     unit="nm",
    ...     chunk_shape=(16, 32, 32),
    ... )
    >>> image = open_image("volume/raw")
    >>> image.path, image.array.shape, image.unit
    ('volume/raw/s0', (16, 64, 64), 'nm')
    >>> image.voxel_size, image.roi.shape
    ((30, 8, 8), (480, 512, 512))
    """
    options = None if isinstance(source, str | os.PathLike) else source
    path = str(source if options is None else options.path).rstrip("/")
    if path.startswith(SCHEME) or (not is_url(path) and is_precomputed(path)):
        return _in_place(path, options, channels, mode, beside)
    anonymous = options is not None and options.anonymous
    if is_n5(path):
        return _open_n5(path, options, channels, mode, bare)
    try:
        found = find_array(path, mode, inside, anonymous)
    except InputError:
        if not is_url(path) or not is_precomputed(path, anonymous):
            raise
        return _in_place(path, options, channels, mode, beside)
    multiscale, name = _metadata(found, options)
    layout = _layout(found, multiscale, channels, options)
    path, array = found.path, found.array
    said = statements(path, array, layout, multiscale, name, options)
    where = placement(path, said, options, bare=bare) or unknown_placement(path)
    array = _as_read(found, layout, mode, _background(options))
    return Image(path=path, array=array, options=options, **vars(where)).marked(mode)


def check_readable(image: Image) -> None:
    """Read two voxels of an image, so that metadata that do not fit its chunks are found at once.

    Raises
    ------
    InputError
        The chunk cannot be read.
    """
    shape = image.array.shape
    for voxel in ([0] * len(shape), [n // 2 for n in shape]):
        where = tuple(slice(v, v + 1) for v in voxel)
        try:
            np.asarray(image.array[where])
        except InputError:
            raise
        except Exception as error:  # whatever the codecs make of bytes that are not theirs
            refuse_outage(image.path, error)
            chunk = damaged_chunk(image.array, where)
            name = "the chunk" if chunk is None else join(image.path, chunk)
            raise InputError(
                f"{image.path} cannot be read at the voxel {tuple(voxel)}: {error!s:.300}. Its "
                f"metadata do not fit its chunks, or {name} is damaged. {way_on(image.array)}"
            ) from error


def open_voxels(path: str, *, channels: int) -> zarr.Array:
    """Open the array of an image to read all of it, wherever it lies in the world; see `quick`.

    Parameters
    ----------
    path : path or URL
        Of an array or a group.
    channels : int
        As in `open_image`.

    Raises
    ------
    InputError
        As `open_image`, but for the voxel size.
    """
    found = find_array(path, "r", True)
    layout = _layout(found, _metadata(found, None)[0], channels, None)
    return cast(zarr.Array, quick(_as_read(found, layout, "r", ())))


def _metadata(found: Found, options: ImageSource | None) -> tuple[Multiscale | None, str]:
    """The OME metadata that list an array and its path there; broken ones where nothing else."""
    if found.multiscale is not None:
        return found.multiscale, found.name
    if HASH in found.array.attrs and SIZE_KEYS[0] in found.array.attrs:
        return None, ""  # what synpol wrote does not contradict itself
    try:
        listed = described(found.path, options is not None and options.anonymous)
    except InputError:
        sized = any(key in found.array.attrs for key in SIZE_KEYS)
        if not (sized or (options and options.voxel_size)):
            raise
        return None, ""
    return (None, "") if listed is None else listed


def _layout(
    found: Found, multiscale: Multiscale | None, channels: int | None, options: ImageSource | None
) -> Layout:
    check_kind(found.path, found.array.dtype)
    if options is not None and options.fill_missing:
        raise InputError(
            f"{found.path} is Zarr, whose missing chunks mean its fill value, so `fill_missing` is "
            "not read; leave it out"
        )
    wanted = None if options is None else options.axes
    axes = axes_of(found.path, found.array, multiscale, wanted)
    return layout_of(found.path, found.array.shape, axes, channels, options)


def _as_read(found: Found, layout: Layout, mode: str, background: tuple[int, ...]) -> zarr.Array:
    if layout.is_plain and found.array.dtype.isnative and not background:
        return found.array
    if mode != "r":
        raise InputError(
            f"{found.path} is stored in another way than it is read (axes, byte order), so it "
            "cannot be written to; import it with pipelines/prepare.py of synpol's repository"
        )
    view = View.of(found.path, found.array, layout).without(background)
    return cast(zarr.Array, view)


def _background(options: ImageSource | None) -> tuple[int, ...]:
    """Values that a config declares as background; 0 needs no reading."""
    return () if options is None else tuple(v for v in options.background or () if v)


def _in_place(
    path: str, options: ImageSource | None, channels: int | None, mode: str, beside: Image | None
) -> Image:
    """Open an image of another format than Zarr."""
    if mode != "r":
        raise InputError(f"{path} is precomputed, which is read only; give another place")
    path = path if path.startswith(SCHEME) else f"{SCHEME}{path}"
    size = None if beside is None else beside.voxel_size_nm
    from synpol.images.precomputed import open_precomputed  # only where there is one

    view, where, is_finest = open_precomputed(path, options, channels, size)
    if not is_finest and (options is None or options.voxel_size is None):  # to open it again
        from synpol.config import ImageSource

        told = {} if options is None else options.model_dump()
        factor = 10.0 ** -power_of(told.get("unit", "nm"), "the key `unit`")
        chosen = [in_nm(v, where.unit) * factor for v in where.voxel_size]
        options = ImageSource.model_validate({**told, "path": path, "voxel_size": chosen})
    array = cast(zarr.Array, view.without(_background(options)))
    return Image(path=path, array=array, options=options, **vars(where)).marked(mode)


def _open_n5(
    path: str, options: ImageSource | None, channels: int | None, mode: str, bare: bool
) -> Image:
    if mode != "r":
        raise InputError(f"{path} is N5, which is read only; give another path to write to")
    from synpol.images.n5 import open_n5  # only where there is one

    view, where = open_n5(path, options, channels, bare)
    array = cast(zarr.Array, view.without(_background(options)))
    where = where or unknown_placement(path)
    return Image(path=path, array=array, options=options, **vars(where)).marked(mode)
