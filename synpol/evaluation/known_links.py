"""Leave out the links of places whose links nobody has annotated."""

from __future__ import annotations

import numpy as np

from synpol.evaluation.links import LinkRule, candidates
from synpol.images.image import Image
from synpol.images.points import values_at
from synpol.synapses.links import Links


def where_known(
    predicted: Links, truth: Links, rule: LinkRule, known: Image
) -> tuple[np.ndarray, np.ndarray]:
    """Find the links that can be scored where a part of a volume was annotated.

    A true link is scored if both of its ends lie in the annotated part. A predicted link is scored
    if it may match such a link, or if both of its ends lie in the annotated part and it may match
    no other true link.

    Parameters
    ----------
    predicted, truth : Links
        Both tables, in the same world.
    rule : LinkRule
        When a link counts as found.
    known : Image
        Not 0 in the annotated part.

    Returns
    -------
    predicted, truth : (n,) bool
        Which rows of both tables are scored.
    """
    ours, true = (_ends_inside(links, known) for links in (predicted, truth))
    i, j, _ = candidates(predicted, truth, rule)
    near_scored, near_other = np.zeros((2, len(predicted)), bool)
    near_scored[i[true[j]]] = True
    near_other[i[~true[j]]] = True
    return near_scored | (ours & ~near_other), true


def _ends_inside(links: Links, known: Image) -> np.ndarray:
    inside = [values_at(known, end)[0] != 0 for end in (links.pre, links.post)]
    return inside[0] & inside[1]
