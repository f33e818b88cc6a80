"""Who talks to whom: neurons on both sides of every synapse, and the graph of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pyarrow as pa

from synpol.evaluation.overlaps import meetings_blockwise
from synpol.images.image import Image
from synpol.polarity import post_label, pre_label, synapse_of
from synpol.synapses.table import confidence

if TYPE_CHECKING:
    from synpol.config import Workers


def partners_blockwise(
    instances: Image,
    segmentation: Image,
    *,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> pa.Table:
    """The neuron on each side of every synapse, of volumes of any size.

    Parameters
    ----------
    instances : Image
        2n-1 on the pre side of synapse n, 2n on its post side.
    segmentation : Image
        Neurons, 0 between them. Covers the instances; its voxels are whole multiples of theirs.
    block_shape, work_dir, num_workers, workers
        As in `synpol.evaluation.overlaps.evaluate_blockwise`.

    Returns
    -------
    pyarrow.Table
        See `partners_of`.

    Raises
    ------
    InputError
        The volumes do not fit, or hold no labels.
    """
    pairs, counts = meetings_blockwise(
        instances,
        segmentation,
        "the segmentation",
        coarser=True,
        predicted_only=True,
        block_shape=block_shape,
        work_dir=work_dir,
        num_workers=num_workers,
        workers=workers,
    )
    return partners_of(pairs, counts)


def partners_of(pairs: np.ndarray, counts: np.ndarray) -> pa.Table:
    """The neuron that most voxels of each side lie in.

    Parameters
    ----------
    pairs : (k, 2) uint64
        Instance label (not 0) and neuron.
    counts : (k,) int64
        Voxels; a pair may come more than once.

    Returns
    -------
    pyarrow.Table
        Sorted by ``synapse_id``. ``pre_id`` and ``post_id``: the neuron with most voxels of the
        side (of equals the smallest id), 0 where there is none; ``pre_fraction`` and
        ``post_fraction``: its share of all voxels of the side; ``autapse``: both are the same
        neuron; ``unassigned``: a side has none.
    """
    unique, into = np.unique(pairs, axis=0, return_inverse=True)
    voxels = np.zeros(len(unique), np.int64)
    np.add.at(voxels, into.reshape(-1), counts)
    label, neuron = unique.T
    labels, side = np.unique(label, return_inverse=True)
    total = np.bincount(side, weights=voxels, minlength=len(labels))
    inside = np.flatnonzero(neuron)
    order = inside[np.lexsort((neuron[inside], -voxels[inside], side[inside]))]
    sides, first = np.unique(side[order], return_index=True)
    best, share = np.zeros(len(labels), np.uint64), np.zeros(len(labels))
    best[sides] = neuron[order[first]]
    share[sides] = voxels[order[first]] / total[sides]
    synapse = np.unique(synapse_of(labels))
    columns: dict[str, np.ndarray] = {"synapse_id": synapse}
    for name, wanted in (("pre", pre_label(synapse)), ("post", post_label(synapse))):
        at = np.minimum(np.searchsorted(labels, wanted), max(0, len(labels) - 1))
        there = labels[at] == wanted
        columns[f"{name}_id"] = np.where(there, best[at], np.uint64(0))
        columns[f"{name}_fraction"] = np.where(there, share[at], 0.0)
    columns["unassigned"] = (columns["pre_id"] == 0) | (columns["post_id"] == 0)
    columns["autapse"] = ~columns["unassigned"] & (columns["pre_id"] == columns["post_id"])
    return pa.table(columns)


def connections(partners: pa.Table, synapses: pa.Table) -> pa.Table:
    """The pairs of neurons that synapses join.

    Parameters
    ----------
    partners : pyarrow.Table
        Of `partners_of`.
    synapses : pyarrow.Table
        The synapse table; its columns ``synapse_id`` (sorted), ``pre_score``, ``post_score`` and
        ``contact_area``.

    Returns
    -------
    pyarrow.Table
        Sorted by ``pre_id`` and ``post_id``; ``synapses`` (how many), ``contact_area`` (nm^2, of
        all), ``score`` (mean of the smaller mean probability of the two sides). Synapses with an
        unassigned side are left out.
    """
    numbers, area = (synapses[k].to_numpy() for k in ("synapse_id", "contact_area"))
    score = confidence(synapses)
    there = ~partners["unassigned"].to_numpy() & np.isin(partners["synapse_id"].to_numpy(), numbers)
    ends = np.stack([partners[k].to_numpy() for k in ("pre_id", "post_id")], axis=1)[there]
    row = np.searchsorted(numbers, partners["synapse_id"].to_numpy()[there])
    pairs, into, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
    into = into.reshape(-1)
    return pa.table(
        {
            "pre_id": pairs[:, 0],
            "post_id": pairs[:, 1],
            "synapses": count,
            "contact_area": np.bincount(into, area[row], len(pairs)),
            "score": np.bincount(into, score[row], len(pairs)) / np.maximum(count, 1),
        }
    )


def graph_of(edges: pa.Table) -> nx.DiGraph:
    """The rows of `connections` as a graph of neurons by id; autapses are loops."""
    graph = nx.DiGraph()
    for row in edges.to_pylist():
        graph.add_edge(row.pop("pre_id"), row.pop("post_id"), **row)
    return graph
