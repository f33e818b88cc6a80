"""Tables of the neurons on both sides of synapses: every part, and the largest one of each side."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from synpol.connectivity.rows import begins, find_rows, first_of_each, grouped, totals
from synpol.polarity import is_pre, post_label, pre_label, synapse_of


@dataclass(frozen=True)
class Parts:
    """What neurons hold of sides of synapses, a row each, sorted by label and neuron.

    Attributes
    ----------
    label : (n,) uint64
        2n-1 for the pre side of synapse n, 2n for its post side.
    neuron : (n,) uint64
        Neuron; 0 for voxels in none.
    voxels : (n,) int64
        Number of voxels of the side in the neuron.
    anchor : (n, 3) float64
        Centre of a voxel of the part, the one nearest to the mean place of all; z, y, x; nm.
    pre, post : (k,) int64
        Rows of the pre and of the post part of each contact, in the order of the rows.
    area : (k,) float64
        Area of each contact, nm^2.
    """

    label: np.ndarray
    neuron: np.ndarray
    voxels: np.ndarray
    anchor: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    area: np.ndarray

    @cached_property
    def fraction(self) -> np.ndarray:
        """Share of all voxels of the side that lie in the neuron; (n,) float64."""
        side = np.cumsum(begins(self.label)) - 1
        total = np.bincount(side, weights=self.voxels)
        return np.asarray(self.voxels / total[side], float)

    def rows(self, label: np.ndarray, neuron: np.ndarray) -> np.ndarray:
        """Find rows; -1 where there is none."""
        return find_rows(self.label, self.neuron, label, neuron)

    @cached_property
    def largest(self) -> np.ndarray:
        """Find for each side the neuron with most voxels, the smallest id of several; rows."""
        inside = np.flatnonzero(self.neuron)
        kept = self.label[inside]
        first = first_of_each(kept, -self.voxels[inside], self.neuron[inside])
        return np.asarray(inside[first])

    def table(self) -> pa.Table:
        """Return the rows with a neuron as a table.

        Columns: ``synapse_id``; ``side``: pre or post; ``neuron_id``; ``voxels``; ``fraction``: of
        all voxels of the side; ``contact_area``: with the other side, nm^2; ``z``, ``y``, ``x``:
        anchor, nm.
        """
        area = np.bincount(self.pre, self.area, len(self.label))
        area += np.bincount(self.post, self.area, len(self.label))
        rows = np.flatnonzero(self.neuron)
        side = pa.array(is_pre(self.label[rows]).astype(np.int8) ^ 1)
        columns = {
            "synapse_id": synapse_of(self.label[rows]),
            "side": pa.DictionaryArray.from_arrays(side, ["pre", "post"]),
            "neuron_id": self.neuron[rows],
            "voxels": self.voxels[rows],
            "fraction": self.fraction[rows],
            "contact_area": area[rows],
        }
        columns |= {axis: self.anchor[rows, k] for k, axis in enumerate("zyx")}
        return pa.table(columns)


def partners_of(pairs: np.ndarray, counts: np.ndarray) -> pa.Table:
    """Find the neuron that holds most voxels of each side.

    Parameters
    ----------
    pairs : (k, 2) uint64
        Label of an instance (not 0) and label of a neuron that overlap.
    counts : (k,) int64
        Number of voxels in which they overlap. A pair may occur more than once.

    Returns
    -------
    pyarrow.Table
        A row for each synapse, sorted by ``synapse_id``. ``pre_id`` and ``post_id``: the neuron
        with most voxels of the side (the smallest id of several), 0 without a neuron;
        ``pre_fraction`` and ``post_fraction``: the neuron's share of all voxels of the side;
        ``autapse``: whether both sides lie in the same neuron; ``unassigned``: whether a side lies
        in no neuron.

    Examples
    --------
    The pre side of synapse 1 lies in neuron 7 and partly in neuron 8, its post side in neuron 9:

    >>> import numpy as np
    >>> pairs = np.array([[1, 7], [1, 8], [2, 9]], np.uint64)
    >>> partners = partners_of(pairs, np.array([30, 10, 40]))
    >>> partners.select(["synapse_id", "pre_id", "pre_fraction", "post_id"]).to_pylist()
    [{'synapse_id': 1, 'pre_id': 7, 'pre_fraction': 0.75, 'post_id': 9}]
    """
    (label, neuron), into = grouped([pairs[:, 0], pairs[:, 1]])
    none = np.zeros(0, np.int64)
    voxels = totals(counts, into, len(label))
    return largest_partners(
        Parts(label, neuron, voxels, np.zeros((len(label), 3)), none, none, none)
    )


def largest_partners(parts: Parts) -> pa.Table:
    """Find the neuron with most voxels of each side; the table of `partners_of`."""
    rows, share = parts.largest, parts.fraction
    synapse = synapse_of(parts.label)
    synapse = synapse[begins(synapse)]
    columns: dict[str, np.ndarray] = {"synapse_id": synapse}
    for name, label in (("pre", pre_label(synapse)), ("post", post_label(synapse))):
        best = np.minimum(np.searchsorted(parts.label[rows], label), max(0, len(rows) - 1))
        columns[f"{name}_id"] = np.zeros(len(synapse), np.uint64)
        columns[f"{name}_fraction"] = np.zeros(len(synapse))
        if len(rows):
            there = parts.label[rows[best]] == label
            columns[f"{name}_id"][there] = parts.neuron[rows[best[there]]]
            columns[f"{name}_fraction"][there] = share[rows[best[there]]]
    columns["unassigned"] = (columns["pre_id"] == 0) | (columns["post_id"] == 0)
    columns["autapse"] = ~columns["unassigned"] & (columns["pre_id"] == columns["post_id"])
    return pa.table(columns)
