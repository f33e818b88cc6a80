"""Candidates: what a lower threshold finds beyond the synapses of a table."""

from __future__ import annotations

import os

import numpy as np
from scipy.spatial import cKDTree

from synpol.review.found import Found, read_found
from synpol.synapses.reading import read_table
from synpol.synapses.table import values_of

#: synapses around a candidate that are looked at
NEIGHBOURS = 8


def below_threshold(
    table: str | os.PathLike[str], candidates: str | os.PathLike[str]
) -> tuple[Found, str]:
    """Return the candidates that hold no synapse of the table.

    What a lower threshold decodes contains what the higher one did. So a candidate is new unless
    its bounding box holds the centroid of a synapse of the table.

    Parameters
    ----------
    table, candidates : path
        Synapse tables of the same prediction, decoded with a higher and with a lower threshold.

    Returns
    -------
    Found
    str
        SHA-256 of the table of candidates.
    """
    found, digest = read_found(candidates)
    centroids = _columns(table, "{}")
    if not len(found) or not len(centroids):
        return found, digest
    low, high = (_columns(candidates, f"bbox_{{}}_{end}") for end in ("min", "max"))
    tree = cKDTree(centroids)
    reach = float(np.linalg.norm(high - low, axis=1).max()) / 2
    _, near = tree.query((low + high) / 2, k=NEIGHBOURS, distance_upper_bound=reach + 1e-6)
    valid = near < len(centroids)
    places = centroids[np.where(valid, near, 0)]
    inside = ((places >= low[:, None]) & (places <= high[:, None])).all(axis=2) & valid
    return found[np.flatnonzero(~inside.any(axis=1))], digest


def _columns(table: str | os.PathLike[str], name: str) -> np.ndarray:
    """Read a column for each axis, (n, 3) z, y, x."""
    names = [name.format(axis) for axis in "zyx"]
    rows = read_table(table, names)
    return np.stack([values_of(rows[n]) for n in names], axis=1).reshape(-1, 3)
