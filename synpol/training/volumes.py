"""Open the training volumes and check them before anything is trained or written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from funlib.persistence import Array

from synpol.config import TrainingVolume
from synpol.errors import InputError
from synpol.images.claim import check_complete
from synpol.images.image import Image, open_image
from synpol.images.intensity import Intensity, intensity_of
from synpol.polarity import check_polarity_labels


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
    """

    raw: Image
    truth: Image
    sides_known: bool
    intensity: Intensity

    def positions(self, patch: Sequence[int]) -> int:
        """Return the number of places where a patch (z, y, x; voxels) fits."""
        fits = [max(0, s - p + 1) for s, p in zip(self.raw.shape_vx, patch, strict=True)]
        return int(np.prod(fits))


def open_volume(volume: TrainingVolume, intensity_range: tuple[float, float] | None) -> OpenVolume:
    """Open one volume of the config and check all of it.

    Parameters
    ----------
    volume : TrainingVolume
        Entry of ``data.train``, or ``data.validation``.
    intensity_range : (float, float) or None
        Values of the image that the network sees as 0 and 1.

    Raises
    ------
    InputError
        A file is missing, image and labels have different voxels, the labels are not whole numbers
        or cannot be 2n-1 / 2n, or a float image is outside 0..1.
    """
    raw = open_image(volume.raw, channels=0)
    truth = open_image(volume.truth, channels=0)
    for image in (raw, truth):
        check_complete(image)
    raw.same_grid(truth, "the labels")
    if truth.array.dtype.kind not in "uib":
        raise InputError(f"{truth.path} is {truth.array.dtype}; labels are whole numbers")
    present = np.unique(np.concatenate([np.unique(part) for part in _parts(truth)]))
    if present[0] < 0:
        raise InputError(f"{truth.path} holds the label {present[0]}; labels are 0 or above")
    if volume.labels == "polarity":
        check_polarity_labels(present, truth.path)
    intensity = intensity_of(raw, intensity_range)
    if intensity.checked:
        for part in _parts(raw):
            intensity.apply(part, raw.path)
    return OpenVolume(raw, truth, volume.labels == "polarity", intensity)


def check_together(
    volumes: Sequence[OpenVolume], patch: Sequence[int], context: Sequence[int] = (0, 0, 0)
) -> None:
    """Refuse volumes of different voxel sizes, and a patch that does not fit into a volume.

    Parameters
    ----------
    volumes : sequence of OpenVolume
    patch : 3 ints
        Size of a patch, voxels.
    context : 3 ints
        Voxels beyond each end of a patch that augmentation looks at.

    Raises
    ------
    InputError
        A volume does not fit; the message names it with both sizes.
    """
    first = volumes[0].raw
    for volume in volumes:
        size, unit = tuple(volume.raw.voxel_size), volume.raw.unit
        if (size, unit) != (tuple(first.voxel_size), first.unit):
            raise InputError(
                f"{volume.raw.path} has voxels of {size} {unit}, but {first.path} of "
                f"{tuple(first.voxel_size)} {first.unit}; volumes trained on together need one "
                "voxel size in one unit"
            )
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


def as_funlib(image: Image) -> Array:
    """Return the image as the array that ``gunpowder.ArraySource`` takes."""
    return Array(
        image.array,
        image.offset,
        image.voxel_size,
        ["z", "y", "x"],
        [image.unit] * 3,
        ["space"] * 3,
    )


def _parts(image: Image) -> Iterator[np.ndarray]:
    steps = [max(c, 64) for c in image.array.chunks]
    for corner in itertools.product(
        *(range(0, s, step) for s, step in zip(image.shape_vx, steps, strict=True))
    ):
        slices = tuple(slice(c, c + s) for c, s in zip(corner, steps, strict=True))
        yield np.asarray(image.array[slices])
