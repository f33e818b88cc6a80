"""Sections that are missing, wholly or in part."""

from __future__ import annotations

import gunpowder as gp
import numpy as np

from synpol.gp.sections_augment import SectionsAugment


class MissingSectionsAugment(SectionsAugment):
    """Fill sections with one grey value, wholly or on one side of a random line.

    The labels stay, so the network learns to infer what is hidden from the neighbouring sections.

    Parameters
    ----------
    image : gp.ArrayKey
        Image to change, ``(z, y, x)``, intensities 0..1.
    most : int
        Largest number of sections that are missing in a patch.
    p : float
        Probability that a patch is changed.
    whole : float
        Probability that the whole section is missing.

    References
    ----------
    Lee et al., arXiv:1706.00120, section 3.1.
    """

    stream = "MissingSections"

    def __init__(self, image: gp.ArrayKey, most: int, p: float, whole: float = 0.5) -> None:
        super().__init__(image, most, p)
        self.whole = whole

    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fill = rng.random()
        if rng.random() < self.whole:
            return np.full_like(section, fill)
        angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75)
        y, x = np.indices(section.shape, dtype=np.float32)
        along = np.sin(angle) * y + np.cos(angle) * x
        return np.where(along < np.quantile(along, share), fill, section).astype(section.dtype)
