"""Find the neurons on both sides of every synapse, and the graph of their connections."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pyarrow as pa

from synpol.errors import InputError
from synpol.evaluation.overlaps import overlaps_blockwise
from synpol.images.image import Image
from synpol.polarity import post_label, pre_label, synapse_of
from synpol.synapses.table import confidence

if TYPE_CHECKING:
    from synpol.config import Workers

_log = logging.getLogger(__name__)


def partners_blockwise(
    instances: Image,
    segmentation: Image,
    *,
    partly: bool = False,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> pa.Table:
    """Find the neuron on each side of every synapse, in volumes of any size.

    Parameters
    ----------
    instances : Image
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    segmentation : Image
        Labels of neurons, 0 between them. It covers the instances; its voxel size is a whole
        multiple of theirs along each axis.
    partly : bool
        Whether the segmentation may cover a part of the instances; beyond it there is no neuron,
        and a warning tells the share.
    block_shape, work_dir, num_workers, workers
        As in `synpol.evaluation.overlaps.evaluate_blockwise`.

    Returns
    -------
    pyarrow.Table
        A row for each synapse; see `partners_of`.

    Raises
    ------
    InputError
        The segmentation does not cover the instances, the voxel sizes do not fit, or a volume does
        not hold labels.
    """
    if partly:
        _tell_share(instances, segmentation)
    overlaps = overlaps_blockwise(
        instances,
        segmentation,
        "the segmentation",
        coarser=True,
        predicted_only=True,
        partly=partly,
        block_shape=block_shape,
        work_dir=work_dir,
        num_workers=num_workers,
        workers=workers,
    )
    return partners_of(overlaps.pairs, overlaps.counts)


def _tell_share(instances: Image, segmentation: Image) -> None:
    """Say how much of the instances a segmentation covers, where that is not all.

    Raises
    ------
    InputError
        It covers a part, and nothing says which.
    """
    what = "the segmentation"
    begin = segmentation.place_of(instances, what, coarser=True, partly=True)
    multiple = segmentation.multiple_of(instances, what)
    sides = zip(begin, instances.shape_vx, segmentation.shape_vx, multiple, strict=True)
    covered = [(min(b + n, m * f) - max(b, 0)) / n for b, n, m, f in sides]
    share = float(np.prod(covered))
    if share == 1:
        return
    if not segmentation.placed:
        raise InputError(
            f"{segmentation.path} covers a part of {instances.path}, and nothing says which. Say "
            "where its first voxel begins (corner, nm): "
            f"{{path: {segmentation.path}, offset: [z, y, x]}}"
        )
    _log.warning(
        "%s covers %.3g %% of %s; beyond it no neuron is known",
        segmentation.path,
        100 * share,
        instances.path,
    )


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
        row = np.minimum(np.searchsorted(labels, wanted), max(0, len(labels) - 1))
        exists = labels[row] == wanted
        columns[f"{name}_id"] = np.where(exists, best[row], np.uint64(0))
        columns[f"{name}_fraction"] = np.where(exists, share[row], 0.0)
    columns["unassigned"] = (columns["pre_id"] == 0) | (columns["post_id"] == 0)
    columns["autapse"] = ~columns["unassigned"] & (columns["pre_id"] == columns["post_id"])
    return pa.table(columns)


def check_same_synapses(partners: pa.Table, synapses: pa.Table, table: str) -> None:
    """Refuse a synapse table of other instances than those whose partners were found.

    Parameters
    ----------
    partners : pyarrow.Table
        Result of `partners_of`.
    synapses : pyarrow.Table
        Synapse table, with the column ``synapse_id``.
    table : str
        File of the synapse table, for the message.

    Raises
    ------
    InputError
        A synapse has a label and no row, or a row and no label.
    """
    labelled, listed = (t["synapse_id"].to_numpy() for t in (partners, synapses))
    for have, lack, what in (
        (labelled, listed, "has no row for synapse {}, which the instances have"),
        (listed, labelled, "has a row for synapse {}, which the instances do not have"),
    ):
        odd = np.setdiff1d(have, lack)
        if len(odd):
            raise InputError(
                f"{table} {what.format(odd[0])} ({len(odd)} such synapses); a table of these "
                "instances is expected: decode again, which makes it anew "
                "(pipelines/predict_blockwise.py CONFIG --only decode of synpol's repository), and "
                "keep a table that you have filtered under another name"
            )


def connections(partners: pa.Table, synapses: pa.Table) -> pa.Table:
    """Find the pairs of neurons that synapses connect.

    Parameters
    ----------
    partners : pyarrow.Table
        Result of `partners_of`.
    synapses : pyarrow.Table
        Columns ``synapse_id`` (sorted), ``pre_score``, ``post_score`` and ``contact_area`` of the
        synapse table.

    Returns
    -------
    pyarrow.Table
        A row for each pair, sorted by ``pre_id`` and ``post_id``; ``synapses``: number of synapses;
        ``contact_area``: sum of their contact areas, nm^2; ``score``: mean of their scores (see
        `synpol.synapses.table.confidence`). Synapses with an unassigned side are left out.

    Examples
    --------
    >>> import pyarrow as pa
    >>> partners = pa.table(
    ...     {
    ...         "synapse_id": [1, 2],
    ...         "pre_id": [7, 7],
    ...         "post_id": [9, 9],
    ...         "unassigned": [False, False],
    ...     }
    ... )
    >>> synapses = pa.table(
    ...     {
    ...         "synapse_id": [1, 2],
    ...         "pre_score": [0.5, 0.75],
    ...         "post_score": [0.75, 1.0],
    ...         "contact_area": [100.0, 300.0],
    ...     }
    ... )
    >>> connections(partners, synapses).to_pylist()
    [{'pre_id': 7, 'post_id': 9, 'synapses': 2, 'contact_area': 400.0, 'score': 0.625}]
    """
    numbers, area = (synapses[k].to_numpy() for k in ("synapse_id", "contact_area"))
    score = confidence(synapses)
    synapse = partners["synapse_id"].to_numpy()
    joining = ~partners["unassigned"].to_numpy() & np.isin(synapse, numbers)
    ends = np.stack([partners[k].to_numpy() for k in ("pre_id", "post_id")], axis=1)[joining]
    row = np.searchsorted(numbers, synapse[joining])
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
    """Turn the rows of `connections` into a graph of neurons by id; autapses become loops."""
    graph = nx.DiGraph()
    for row in edges.to_pylist():
        graph.add_edge(row.pop("pre_id"), row.pop("post_id"), **row)
    return graph
