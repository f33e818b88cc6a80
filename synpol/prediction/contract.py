"""Hold an image to what a network learned from: voxel size, type and range of intensities."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from synpol.config import Config
from synpol.errors import InputError
from synpol.files import join
from synpol.images.appearance import Appearance, is_like, shown_range, shown_size
from synpol.images.groups import image_path, levels_of
from synpol.images.image import Image, open_image
from synpol.images.intensity import Intensity
from synpol.images.resampling import Resampling

_log = logging.getLogger(__name__)
#: how much larger than the network's the voxels of a resampled image may be without a word
_COARSE = 1.5
#: largest ratio of voxel sizes between which an image is resampled
_FARTHEST = 16
#: checkpoints and images that this process has said something about
_told: set[str] = set()


def check_like(
    config: Config, image: Image, learned: Sequence[Appearance], what: str
) -> Resampling | None:
    """Refuse an image that looks otherwise than those that a network learned from.

    Parameters
    ----------
    config : Config
        Its section ``predict`` says the image's range of intensities, and whether to resample.
    image : Image
        Image to predict.
    learned : sequence of Appearance
        What the network learned from; empty where nothing says it.
    what : str
        Checkpoint, for messages.

    Returns
    -------
    Resampling or None
        From the image to voxels of the network's size, where that is asked for and needed.

    Raises
    ------
    InputError
        Other voxels, another type or another range of intensities; with both, and what to do.
    """
    seen = Appearance.of(image, declared_range(config))
    if not learned:
        _tell_unknown(config, seen, image, what)
        return None
    if config.predict.intensity_range is None:
        _check_values(image, seen, learned, what)
    sizes = [one.voxel_size for one in learned]
    if is_like(seen.voxel_size, sizes):
        return None
    if not config.predict.resample:
        raise _other_size(image, seen, sizes, what)
    return _resampling(image, seen, sizes)


def declared_range(config: Config) -> tuple[float, float] | None:
    """Return the intensities of the image to predict that become 0 and 1, where a config says."""
    return config.predict.intensity_range or config.data.intensity_range


def _tell_unknown(config: Config, seen: Appearance, image: Image, what: str) -> None:
    """Say once for each checkpoint that nothing can be compared.

    Raises
    ------
    InputError
        The image is to be resampled.
    """
    if config.predict.resample:
        raise InputError(
            f"predict.resample needs to know the voxel size that the network learned from, and "
            f"{what} does not say it. Resample {image.path} yourself, or leave out predict.resample"
        )
    if what not in _told:
        _told.add(what)
        _log.warning(
            "%s does not say what it learned from: whether voxels of %s and intensities %s suit "
            "it cannot be checked",
            what,
            shown_size(seen.voxel_size),
            shown_range(seen.intensity_range),
        )


def _check_values(image: Image, seen: Appearance, learned: Sequence[Appearance], what: str) -> None:
    known = dict.fromkeys((one.dtype, one.intensity_range) for one in learned)
    if (seen.dtype, seen.intensity_range) not in known:
        theirs = " or ".join(f"{dtype} of {shown_range(span)}" for dtype, span in known)
        raise InputError(
            f"{image.path} is {seen.dtype}, of which {shown_range(seen.intensity_range)} would "
            f"become 0..1, but {what} learned from {theirs}: it would see other intensities. Say "
            "which values of this image are as black and white as those: "
            "predict.intensity_range=[low,high] (data.validation.intensity_range for that volume)"
        )
    _tell_bits(image, seen, learned, what)


def _tell_bits(image: Image, seen: Appearance, learned: Sequence[Appearance], what: str) -> None:
    """Tell where 12 bits in uint16 were or were not learned from, or nothing says it."""
    known = [one for one in learned if one.largest is not None]
    said = (image.path, seen.largest, what)
    if image.path in _told:
        return
    _told.add(image.path)
    if seen.bits is not None and any(one.bits is not None for one in known):
        _log.warning(
            "%s holds values up to %d of uint16, as the data that %s learned from. To let a "
            "network see more of the range, train with data.intensity_range=%s",
            *said,
            shown_range((0, 2**seen.bits - 1)),
        )
    elif seen.bits is not None:
        _log.warning(
            "%s holds values up to %d of uint16: if %s did not learn from such data, say which "
            "values of this image become 0 and 1: predict.intensity_range=%s",
            *said,
            shown_range((0, 2**seen.bits - 1)),
        )
    elif seen.largest and known and all(one.bits is not None for one in known):
        _log.warning(
            "%s holds values up to %d of uint16, but %s learned from values up to %d: it sees "
            "other intensities. predict.intensity_range says which values become 0 and 1",
            *said,
            max(one.largest or 0 for one in known),
        )


def _other_size(
    image: Image, seen: Appearance, sizes: Sequence[Sequence[float]], what: str
) -> InputError:
    known = " and ".join(dict.fromkeys(map(shown_size, sizes)))
    level = _level_like(image, sizes)
    level = f"predict {level}, which has such voxels; or " if level else ""
    return InputError(
        f"{image.path} has voxels of {shown_size(seen.voxel_size)}, but {what} learned from voxels "
        f"of {known}: it would see everything at another scale. Do one of these: {level}let the "
        "image be resampled (predict.resample=true); or give a network for such voxels"
    )


def _level_like(image: Image, sizes: Sequence[Sequence[float]]) -> str | None:
    """Path of a coarser level of an image that has the right voxels."""
    for name in levels_of(image):
        path = join(image_path(image), name)
        try:
            level = open_image(path)
        except InputError:
            continue
        if is_like(level.voxel_size_nm, sizes):
            return path
    return None


def _resampling(image: Image, seen: Appearance, sizes: Sequence[Sequence[float]]) -> Resampling:
    """Go to the nearest voxel size that was learned from; axes that are like it stay."""

    def distance(size: Sequence[float]) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(size, seen.voxel_size, strict=True))

    target = min(sizes, key=distance)
    ratio = [
        1.0 if is_like([own], [[wanted]]) else wanted / own
        for own, wanted in zip(seen.voxel_size, target, strict=True)
    ]
    if max(*ratio, *(1 / r for r in ratio)) > _FARTHEST:
        raise InputError(
            f"{image.path} has voxels of {shown_size(seen.voxel_size)}, and the network learned "
            f"from voxels of {shown_size(target)}; an image is resampled by factors of up to "
            f"{_FARTHEST}. Give a level of the image that is nearer, or correct its voxel size"
        )
    if min(ratio) * _COARSE < 1:
        _log.warning(
            "%s has voxels of %s and is resampled to %s: what is smaller than its voxels cannot "
            "be seen, so less may be found",
            image.path,
            shown_size(seen.voxel_size),
            shown_size(target),
        )
    return Resampling.of(image.shape_vx, ratio)


def check_float_range(source: Image, intensity: Intensity, samples: int = 64) -> None:
    """Look at some chunks of a float image before anything is written; workers look at all.

    Parameters
    ----------
    source : Image
        The image.
    intensity : Intensity
        Rule from the image's values to what the network sees.
    samples : int
        Number of chunks.

    Raises
    ------
    InputError
        There are values outside 0..1.
    """
    if not intensity.checked:
        return
    chunks = [-(-s // c) for s, c in zip(source.array.shape, source.array.chunks, strict=True)]
    total = int(np.prod(chunks))
    for flat in np.unique(np.linspace(0, total - 1, min(samples, total)).astype(int)):
        corner = np.unravel_index(flat, chunks)
        where = tuple(
            slice(int(i) * c, (int(i) + 1) * c)
            for i, c in zip(corner, source.array.chunks, strict=True)
        )
        intensity.apply(np.asarray(source.array[where]), source.path)
