"""Misaligned sections."""

from __future__ import annotations

import gunpowder as gp

from synpol.gp.randomness import generator, leaves_alone


class Misalign(gp.BatchFilter):
    """Shift one section (slip), or all from one on (translation), in plane.

    All arrays of a request move together, image and labels; what comes into view is real data,
    since more is asked for upstream. Arrays are ``(z, y, x)``.

    Parameters
    ----------
    displacement : int
        Largest shift along y and along x, voxels.
    p : float
        Probability that a patch is changed.
    slip : float
        Probability that a changed patch has a slip, and not a translation.

    References
    ----------
    Lee et al., arXiv:1706.00120, section 3.1.
    """

    def __init__(self, displacement: int, p: float, slip: float = 0.5) -> None:
        self.displacement, self.p, self.slip = displacement, p, slip

    def skip_node(self, request: gp.BatchRequest) -> bool:
        return self.displacement == 0 or leaves_alone(self, request, self.p)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        for key, spec in request.items():
            if spec.roi is not None:
                _, y, x = self.spec[key].voxel_size
                grow = gp.Coordinate(0, self.displacement * y, self.displacement * x)
                spec.roi = spec.roi.grow(grow, grow)
        return request

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        reach = self.displacement
        rng = generator(self, request, 1)
        shift = rng.integers(-reach, reach + 1, 2)
        slips, place = rng.random() < self.slip, rng.random()
        for key, array in batch.items():
            if array.spec.roi is None:
                continue
            sections = array.data.shape[0]
            first = 1 + int(place * (sections - 1)) if sections > 1 else 0
            moved = slice(first, first + 1) if slips else slice(first, None)
            _, height, width = (
                n - m for n, m in zip(array.data.shape, (0, *[2 * reach] * 2), strict=True)
            )
            cut = array.data[:, reach : reach + height, reach : reach + width].copy()
            y, x = reach + shift
            cut[moved] = array.data[moved, y : y + height, x : x + width]
            array.data = cut
            array.spec.roi = request[key].roi.copy()
