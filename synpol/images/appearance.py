"""What a network sees of an image: size of its voxels, their type, and their values.

A checkpoint keeps it of every image that the network learned from, so that an image that looks
otherwise is noticed before it is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from synpol.images.image import Image
from synpol.images.intensity import Range, range_of
from synpol.images.labels import sampled
from synpol.images.world import in_nm

#: how far a voxel size may be from another that counts as like it, as a fraction
LIKE_SIZE = 0.01
#: share of the values of uint16 below which an image seems to have fewer bits
_NARROW = 0.25
#: numbers of bits that cameras and detectors have
_BITS = (8, 10, 12, 14)


@dataclass(frozen=True)
class Appearance:
    """What a network sees of an image.

    Attributes
    ----------
    voxel_size : (float, float, float)
        Size of a voxel along z, y, x, nm.
    dtype : str
        Type of the values; ``float`` for every floating type.
    intensity_range : (float, float)
        Values that the network sees as 0 and 1.
    largest : int or None
        Largest value of some chunks of a uint16 image without a declared range.
    """

    voxel_size: tuple[float, ...]
    dtype: str
    intensity_range: Range
    largest: int | None = None

    @classmethod
    def of(cls, image: Image, declared: Range | None) -> Appearance:
        """Look at an image; of a uint16 image without a declared range some chunks are read.

        Raises
        ------
        InputError
            The type of the image has no natural range, and none is declared.
        """
        dtype = image.array.dtype
        largest = None
        if declared is None and dtype == np.uint16:
            largest = max(int(part.max()) for part in sampled(image))
        return cls(
            voxel_size=tuple(float(v) for v in image.voxel_size_nm),
            dtype=_kind(dtype),
            intensity_range=range_of(image, declared),
            largest=largest,
        )

    @property
    def bits(self) -> int | None:
        """Bits that the values of a uint16 image seem to have, where these are fewer than 16."""
        if not self.largest or self.largest >= _NARROW * 2**16:
            return None
        return next(bits for bits in _BITS if self.largest < 2**bits)

    def kept(self) -> dict[str, Any]:
        """Return it as a checkpoint keeps it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def learned_from(checkpoint: Mapping[str, Any]) -> tuple[Appearance, ...]:
    """Read from a checkpoint what its network learned from.

    Parameters
    ----------
    checkpoint : mapping
        Content of the checkpoint. An older one says it in other words, if it does.

    Returns
    -------
    tuple of Appearance
        One for each training volume; empty where the checkpoint does not say.
    """
    if "learned_from" in checkpoint:
        return tuple(_read(one) for one in checkpoint["learned_from"])
    declared = checkpoint["config"].get("data", {}).get("intensity_range")
    images = checkpoint.get("data_state", [])[::2]  # labels follow their image
    return tuple(_of_state(state, declared) for state in images if "voxel_size" in state)


def _read(kept: Mapping[str, Any]) -> Appearance:
    low, high = kept["intensity_range"]
    return Appearance(tuple(kept["voxel_size"]), kept["dtype"], (low, high), kept["largest"])


def _of_state(state: Mapping[str, Any], declared: Sequence[float] | None) -> Appearance:
    dtype = np.dtype(state["dtype"])
    size = tuple(float(in_nm(v, state.get("unit", "nm"))) for v in state["voxel_size"])
    low, high = declared or (0.0, 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max))
    return Appearance(size, _kind(dtype), (low, high))


def _kind(dtype: np.dtype) -> str:
    return "float" if dtype.kind == "f" else dtype.name


def is_like(size: Sequence[float], sizes: Sequence[Sequence[float]]) -> bool:
    """Whether a voxel size is one of some sizes or between them, but for a small difference."""
    for axis, value in enumerate(size):
        known = [one[axis] for one in sizes]
        if not min(known) * (1 - LIKE_SIZE) <= value <= max(known) * (1 + LIKE_SIZE):
            return False
    return True


def shown_size(size: Sequence[float]) -> str:
    """Write a voxel size for people, in nm."""
    return "({}) nm".format(", ".join(f"{v:.10g}" for v in size))


def shown_range(values: Range) -> str:
    """Write a range of intensities as a config has it."""
    return "[{:.10g}, {:.10g}]".format(*values)
