"""Open the training volumes and check them before anything is trained or written."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from funlib.geometry import Coordinate, Roi
from tqdm import tqdm

from synpol.config import TrainingVolume
from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.apart import RemoteArray
from synpol.images.appearance import Appearance, shown_range
from synpol.images.claim import check_complete
from synpol.images.image import Image, check_readable, open_image
from synpol.images.intensity import Intensity, Range, intensity_of
from synpol.images.labels import Survey, boxes, check_sides, is_semantic, open_labels
from synpol.images.location import same_size
from synpol.images.marks import Marks
from synpol.images.nodes import zip_of
from synpol.images.world import finest

_log = logging.getLogger(__name__)
#: difference of two voxel sizes from which on a config has to allow it, as a fraction of one
_DIFFERS = 0.05


@dataclass(frozen=True)
class OpenVolume:
    """An image with its labels on the same voxels.

    Attributes
    ----------
    raw : Image
        Image of the tissue.
    truth : Image
        Labels.
    sides_known : bool
        Whether the labels are 2n-1 / 2n; else they mark synapses without sides.
    intensity : Intensity
        Mapping of the image's values to 0..1.
    appearance : Appearance
        What the network sees of the image.
    semantic : bool
        Whether labels are 1 and 2 alone, which do not tell synapses apart.
    """

    raw: Image
    truth: Image
    sides_known: bool
    intensity: Intensity
    appearance: Appearance
    semantic: bool = False

    def positions(self, patch: Sequence[int]) -> int:
        """Return the number of places where a patch (z, y, x; voxels) fits."""
        fits = [max(0, s - p + 1) for s, p in zip(self.raw.shape_vx, patch, strict=True)]
        return int(np.prod(fits))


def open_volume(
    volume: TrainingVolume,
    intensity_range: Range | None,
    missing: bool = False,
    patch: Sequence[int] = (0, 0, 0),
    marked: bool = False,
) -> OpenVolume:
    """Open one volume of the config and check all of it.

    Labels may cover a part of the image; then only that part is used.

    Parameters
    ----------
    volume : TrainingVolume
        Entry of ``data.train``, or ``data.validation``.
    intensity_range : (float, float) or None
        Values of the image that the network sees as 0 and 1, where the entry does not say them.
    missing : bool
        Whether values may be NaN or infinite; prediction takes them for missing.
    patch : 3 ints
        Size of a patch, voxels, for volumes with ``context``.
    marked : bool
        Whether the labels get marks (see `synpol.images.marks`) although the entry declares none,
        because those of another volume have some.

    Raises
    ------
    InputError
        A file is missing, image and labels have different voxels, the labels are not whole numbers
        or not what the config says, no voxel of them is known, or a float image is outside 0..1 or
        not finite.
    """
    raw = open_image(volume.raw, channels=0)
    truth = open_labels(volume.truth, volume.labels, raw, marked=True)
    for image in (raw, truth):
        check_complete(image)
        check_readable(image)
    whole = raw
    raw, truth = on_same_voxels(raw, truth)
    survey = Survey.of(truth)
    if survey.unknown:
        _tell_unknown(truth, survey.unknown)
    if (marked or volume.context) and not truth.is_marked:
        truth = truth.marked(marks=Marks())
    if volume.context:
        raw, truth = _with_context(whole, raw, truth, [p // 2 for p in patch])
    semantic = is_semantic(truth, survey.labels)
    if volume.labels == "polarity":
        check_sides(truth, survey)
        if semantic:
            _log.warning(
                "%s holds the labels 1 and 2 alone, on many separate pieces: they say pre and post "
                "without telling synapses apart. A network can be trained on them, but neither "
                "validated nor scored",
                truth.path,
            )
    declared = volume.intensity_range or intensity_range
    intensity = intensity_of(raw, declared)
    if raw.array.dtype.kind == "f":
        _check_floats(raw, intensity, missing)
    appearance = Appearance.of(raw, declared)
    if bits := appearance.bits:
        _log.warning(
            "%s is uint16 with values up to %d: %d bits, of which the network sees only %.2g of "
            "its range 0..1. To let it see all, say data.intensity_range=%s, or intensity_range "
            "for this volume alone",
            raw.path,
            appearance.largest,
            bits,
            2**bits / 2**16,
            shown_range((0, 2**bits - 1)),
        )
    sides_known = volume.labels == "polarity"
    return OpenVolume(raw, truth, sides_known, intensity, appearance, semantic)


def _tell_unknown(truth: Image, unknown: int) -> None:
    """Tell the share of the voxels that nobody looked at.

    Raises
    ------
    InputError
        Nobody looked at any.
    """
    total = int(np.prod(truth.shape_vx))
    if unknown == total:
        raise InputError(
            f"all voxels of {truth.path} are unknown by the keys of its source, so nothing can be "
            "learned or scored there; correct `unknown` or `known`"
        )
    _log.warning(
        "%s: %.2g %% of the voxels are unknown; they are neither learned nor scored",
        truth.path,
        100 * unknown / total,
    )


def _with_context(
    whole: Image, raw: Image, truth: Image, margin: Sequence[int]
) -> tuple[Image, Image]:
    """Let an image that was cut to its labels reach beyond them; labels are unknown there."""
    begin = whole.place_of(raw, "the image")
    low = [min(m, b) for m, b in zip(margin, begin, strict=True)]
    left = [w - b - n for w, b, n in zip(whole.shape_vx, begin, raw.shape_vx, strict=True)]
    high = [min(m, n) for m, n in zip(margin, left, strict=True)]
    shape = [a + n + b for a, n, b in zip(low, raw.shape_vx, high, strict=True)]
    first = [b - a for b, a in zip(begin, low, strict=True)]
    return whole.part(first, shape), truth.part([-a for a in low], shape)


def _check_floats(raw: Image, intensity: Intensity, missing: bool) -> None:
    """Look at all of a float image.

    Raises
    ------
    InputError
        Values are outside 0..1 where no range is declared; or, unless they may be `missing`, NaN
        or infinite.
    """
    count, first = 0, None
    parts = tqdm(list(boxes(raw)), "look for NaN", leave=False, delay=3, unit="part")
    for where in parts:
        lost = intensity.apply(np.asarray(raw.array[where]), raw.path)[1]
        if lost is None or missing:
            continue
        count += int(lost.sum())
        corner = np.argwhere(lost)[0] + [s.start for s in where]
        found = tuple(int(v) for v in corner)
        first = found if first is None else min(first, found)
    if count:
        raise InputError(
            f"{raw.path} holds {count} voxels that are NaN or infinite, the first at the voxel "
            f"{first} (z, y, x); no network can learn from them. Replace them in the file, for "
            "example by the mean of the image, or give labels (truth) that cover a part of the "
            "image without them: only that part is used"
        )


def on_same_voxels(raw: Image, truth: Image) -> tuple[Image, Image]:
    """Cut an image to the part that its labels cover, or labels to the image within them.

    Raises
    ------
    InputError
        Labels that lie beside the image or on other voxels.
    """
    smaller, larger = (
        all(a <= b for a, b in zip(one.shape_vx, other.shape_vx, strict=True))
        for one, other in ((truth, raw), (raw, truth))
    )
    comparable = same_size(raw.voxel_size_nm, truth.voxel_size_nm) and smaller != larger
    if not comparable:
        raw.same_grid(truth, "the labels")
        return raw, truth
    part, all_of_it = (truth, raw) if smaller else (raw, truth)
    if not part.placed:
        raise InputError(
            f"the labels {truth.path} have {tuple(truth.shape_vx)} voxels (z, y, x), but "
            f"{raw.path} has {tuple(raw.shape_vx)}, and nothing says where {part.path} lies. Say "
            f"where its first voxel begins (corner, nm): {{path: {part.path}, offset: [z, y, x]}}, "
            f"or crop {all_of_it.path}"
        )
    begin = all_of_it.place_of(part, "the image" if smaller else "the label volume")
    _log.warning(
        "%s covers a part of %s, from voxel %s on; only that part is used",
        part.path,
        all_of_it.path,
        begin,
    )
    cut = all_of_it.part(begin, part.shape_vx)
    return (cut, truth) if smaller else (raw, cut)


def in_one_unit(volumes: Sequence[OpenVolume]) -> list[OpenVolume]:
    """Bring volumes to one unit and voxel grid, as gunpowder needs them.

    Voxel sizes that differ become that of the first volume. Offsets become whole
    multiples of the voxel size, the same for image and labels.

    Parameters
    ----------
    volumes : sequence of OpenVolume
        Of voxel sizes that may be trained on together; see `check_together`.

    Returns
    -------
    list of OpenVolume
    """
    unit = finest([i.unit for v in volumes for i in (v.raw, v.truth)])
    size = volumes[0].raw.in_unit(unit).voxel_size

    def on_grid(image: Image) -> Image:
        offset = zip(image.in_unit(unit).offset, size, strict=True)
        return replace(
            image, voxel_size=size, offset=Coordinate(o // s * s for o, s in offset), unit=unit
        )

    return [
        replace(v, raw=on_grid(v.raw), truth=on_grid(v.truth.fitted_to(v.raw))) for v in volumes
    ]


def check_together(
    volumes: Sequence[OpenVolume],
    patch: Sequence[int],
    context: Sequence[int] = (0, 0, 0),
    mixed: bool = False,
) -> None:
    """Refuse volumes of different voxel sizes, and a patch that does not fit into a volume.

    Small differences of the voxel sizes are told.

    Parameters
    ----------
    volumes : sequence of OpenVolume
    patch : 3 ints
        Size of a patch, voxels.
    context : 3 ints
        Voxels beyond each end of a patch that augmentation looks at.
    mixed : bool
        Whether any difference of the voxel sizes is told only.

    Raises
    ------
    InputError
        A volume does not fit; the message names it with both sizes.
    """
    first = volumes[0].raw
    for volume in volumes:
        size = volume.raw.voxel_size_nm
        if not same_size(size, first.voxel_size_nm):
            said = (
                f"{volume.raw.path} has voxels of {size} nm, but {first.path} of "
                f"{first.voxel_size_nm} nm"
            )
            sizes = zip(size, first.voxel_size_nm, strict=True)
            if not mixed and any(abs(a - b) > _DIFFERS * min(a, b) for a, b in sizes):
                raise InputError(
                    f"{said}; volumes trained on together need one voxel size. Give data of one "
                    "size, or say data.mixed_voxel_sizes=true to let the network see all of them "
                    "voxel by voxel"
                )
            _log.warning("%s; the network sees both voxel by voxel, as if they were equal", said)
        if volume.positions(patch) == 0:
            raise InputError(
                f"train.patch {tuple(patch)} is larger than {volume.raw.path} with "
                f"{tuple(volume.raw.shape_vx)} voxels (z, y, x); choose a smaller patch"
            )
        needed = [p + 2 * c for p, c in zip(patch, context, strict=True)]
        if volume.positions(needed) == 0:
            raise InputError(
                f"train.patch {tuple(patch)} and what augmentation looks at around it "
                f"(augment.elastic_sigma, augment.misalign), {tuple(needed)} voxels, is larger "
                f"than {volume.raw.path} with "
                f"{tuple(volume.raw.shape_vx)} voxels (z, y, x); choose less of either"
            )


def shares_of(
    entries: Sequence[TrainingVolume], volumes: Sequence[OpenVolume], patch: Sequence[int]
) -> list[float]:
    """Return the share of the patches that each volume gives.

    Parameters
    ----------
    entries : sequence of TrainingVolume
        ``data.train``, whose weights decide where there are any.
    volumes : sequence of OpenVolume
        The same volumes, opened; without weights the number of places for a patch decides.
    patch : 3 ints
        Size of a patch, voxels.
    """
    said = [one.weight for one in entries if one.weight is not None]
    weights = np.array(said or [v.positions(patch) for v in volumes], dtype=float)
    return list(weights / weights.sum())


#: bytes of training volumes that are held in memory, at most, while patches are drawn from them
HELD = 2**30


class ByRoi:
    """An image that is read by boxes in world units, as ``gunpowder.ArraySource`` reads.

    funlib's own array makes a dask graph for every box, which takes as long as reading a patch.

    gunpowder looks for patches at whole multiples of the voxel size only. An image that begins
    between two of them (half a voxel off, as where its first voxel is centred at 0) would lose one
    place along each axis, so it is moved to the multiple below. Image and labels move alike.

    Parameters
    ----------
    image : Image
        Image of axes z, y, x.
    held : int
        Bytes up to which the image is read at once and held in memory.

    Attributes
    ----------
    roi : Roi
        Box of the whole image, in its unit.
    voxel_size : Coordinate
        Size of a voxel, in its unit.
    dtype : np.dtype
        Type of its voxels.
    """

    def __init__(self, image: Image, held: int = 0) -> None:
        self._array: Any = image.array
        if math.prod(image.array.shape) * image.array.dtype.itemsize <= held:
            self._array = np.asarray(image.array[tuple(slice(0, n) for n in image.shape_vx)])
        elif is_url(image.path) or zip_of(image.path) is not None:  # these do not survive a fork
            self._array = RemoteArray(image.array)
        self.voxel_size = Coordinate(image.voxel_size)
        self.roi = Roi(
            image.offset - image.offset % image.voxel_size,
            self.voxel_size * Coordinate(image.shape_vx),
        )
        self.dtype = image.array.dtype

    def __getitem__(self, roi: Roi) -> np.ndarray:
        """Read a box of whole voxels.

        Raises
        ------
        IndexError
            The box reaches beyond the image.
        """
        if not self.roi.contains(roi):
            raise IndexError(f"{roi} reaches beyond the image, which is {self.roi}")
        box = ((roi - self.roi.begin) / self.voxel_size).to_slices()
        # a copy, which nodes may change, in C order whatever that of the file is
        return np.array(self._array[box], order="C")
