"""Misaligned sections."""

from __future__ import annotations

import gunpowder as gp

from synpol.gp.randomness import generator, leaves_alone


class MisalignAugment(gp.BatchFilter):
    """Shift one section (slip), or all sections from one on (translation), in plane.

    All arrays of a request, ``(z, y, x)``, move together: the image with its labels. What comes
    into view is real data, because the node requests a larger region upstream.

    Parameters
    ----------
    displacement : int
        Largest shift along y and along x, in voxels.
    p : float
        Probability that a patch is changed.
    slip : float
        Probability that a changed patch gets a slip instead of a translation.

    References
    ----------
    Lee et al., arXiv:1706.00120, section 3.1.
    """

    stream = "Misalign"

    def __init__(self, displacement: int, p: float, slip: float = 0.5) -> None:
        self.displacement, self.p, self.slip = displacement, p, slip

    def skip_node(self, request: gp.BatchRequest) -> bool:
        return self.displacement == 0 or leaves_alone(self.stream, request, self.p)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        for key, spec in request.items():
            if spec.roi is not None:
                _, y, x = self.spec[key].voxel_size
                grow = gp.Coordinate(0, self.displacement * y, self.displacement * x)
                spec.roi = spec.roi.grow(grow, grow)
        return request

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        largest = self.displacement
        rng = generator(self.stream, request)
        shift = rng.integers(-largest, largest + 1, 2)
        slips, depth = rng.random() < self.slip, rng.random()
        for key, array in batch.items():
            if array.spec.roi is None:
                continue
            sections = array.data.shape[0]
            first = 1 + int(depth * (sections - 1)) if sections > 1 else 0
            moved = slice(first, first + 1) if slips else slice(first, None)
            height, width = (n - 2 * largest for n in array.data.shape[1:])
            cut = array.data[:, largest : largest + height, largest : largest + width].copy()
            y, x = largest + shift
            cut[moved] = array.data[moved, y : y + height, x : x + width]
            array.data = cut
            array.spec.roi = request[key].roi.copy()
