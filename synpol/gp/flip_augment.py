"""Mirrored and transposed patches."""

from __future__ import annotations

import gunpowder as gp


class FlipAugment(gp.SimpleAugment):
    """Mirror each axis, and swap y and x, each with probability 0.5.

    All arrays of a request move together. y and x are swapped only where pixels are square.

    Parameters
    ----------
    flip : bool
        Whether axes are mirrored.
    rotate90 : bool
        Whether y and x are swapped. Together with mirroring this gives all rotations by 90 degrees
        in plane.
    """

    def __init__(self, flip: bool = True, rotate90: bool = True) -> None:
        super().__init__(mirror_probs=[0.5 if flip else 0.0] * 3)
        self.rotate90 = rotate90

    def setup(self) -> None:
        sizes = [s.voxel_size for s in self.spec.array_specs.values() if not s.nonspatial]
        square = all(y == x for _, y, x in sizes)
        self.transpose_only = [1, 2] if self.rotate90 and square else []
        super().setup()
