"""Make the graph of neurons: which of them synapses connect, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa

from synpol.connectivity.rows import grouped
from synpol.files import whole_file

#: rows of a graph that are written at once
_AT_ONCE = 100_000


def connections(tables: pa.Table | Iterable[pa.Table]) -> pa.Table:
    """Find the pairs of neurons that links connect.

    Parameters
    ----------
    tables : pyarrow.Table or iterable of them
        Links that count, with the columns ``pre_id``, ``post_id``, ``contact_area`` and ``score``.

    Returns
    -------
    pyarrow.Table
        A row for each pair, sorted by ``pre_id`` and ``post_id``; ``synapses``: number of synapses,
        each of which is one link of the pair; ``contact_area``: sum of their contact areas, nm^2;
        ``score``: mean of their scores.

    Examples
    --------
    >>> import pyarrow as pa
    >>> links = pa.table(
    ...     {
    ...         "pre_id": [7, 7],
    ...         "post_id": [9, 9],
    ...         "contact_area": [100.0, 300.0],
    ...         "score": [0.5, 0.75],
    ...     }
    ... )
    >>> connections(links).to_pylist()
    [{'pre_id': 7, 'post_id': 9, 'synapses': 2, 'contact_area': 400.0, 'score': 0.625}]
    """
    ids, none = np.zeros(0, np.uint64), np.zeros(0)
    summed: tuple[np.ndarray, ...] = (ids, ids, np.zeros(0, np.int64), none, none)
    waiting = []
    for table in [tables] if isinstance(tables, pa.Table) else tables:
        pre, post = (table[name].to_numpy().astype(np.uint64) for name in ("pre_id", "post_id"))
        area, score = (table[name].to_numpy() for name in ("contact_area", "score"))
        waiting.append(_summed((pre, post, np.ones(len(pre), np.int64), area, score)))
        if sum(len(part[0]) for part in waiting) > len(summed[0]):  # so that few sums are made
            summed, waiting = _summed(summed, *waiting), []
    pre, post, count, area, score = _summed(summed, *waiting)
    return pa.table(
        {
            "pre_id": pre,
            "post_id": post,
            "synapses": count,
            "contact_area": area,
            "score": score / np.maximum(count, 1),
        }
    )


def _summed(*parts: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Add up the rows of the same two neurons: number, area and score."""
    pre, post, count, area, score = (
        np.concatenate(columns) for columns in zip(*parts, strict=True)
    )
    pairs, into = grouped([pre, post])
    rows = len(pairs[0])
    numbers = np.bincount(into, count, rows).astype(np.int64)
    return *pairs, numbers, np.bincount(into, area, rows), np.bincount(into, score, rows)


def graph_of(edges: pa.Table) -> nx.DiGraph:
    """Turn the rows of `connections` into a graph of neurons by id; autapses become loops."""
    graph = nx.DiGraph()
    for row in edges.to_pylist():
        graph.add_edge(row.pop("pre_id"), row.pop("post_id"), **row)
    return graph


def write_graphml(edges: pa.Table, path: Path) -> int:
    """Write the rows of `connections` as GraphML, part by part, and return the number of neurons.

    networkx would need 3 kB of memory for each connection.
    """
    neurons = np.unique(np.concatenate([edges["pre_id"].to_numpy(), edges["post_id"].to_numpy()]))
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for lines in _graphml(edges, neurons):
            file.write(lines)
    return len(neurons)


def _graphml(edges: pa.Table, neurons: np.ndarray) -> Iterator[str]:
    kinds = {"synapses": "long", "contact_area": "double", "score": "double"}
    yield "<?xml version='1.0' encoding='utf-8'?>\n"
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for name, kind in kinds.items():
        yield f'  <key id="{name}" for="edge" attr.name="{name}" attr.type="{kind}"/>\n'
    yield '  <graph edgedefault="directed">\n'
    for first in range(0, len(neurons), _AT_ONCE):
        some = neurons[first : first + _AT_ONCE].tolist()
        yield "".join(f'    <node id="{neuron}"/>\n' for neuron in some)
    for batch in edges.to_batches(_AT_ONCE):
        columns = [batch[name].to_pylist() for name in ("pre_id", "post_id", *kinds)]
        yield "".join(
            f'    <edge source="{pre}" target="{post}">'
            f'<data key="synapses">{synapses}</data><data key="contact_area">{area!r}</data>'
            f'<data key="score">{score!r}</data></edge>\n'
            for pre, post, synapses, area, score in zip(*columns, strict=True)
        )
    yield "  </graph>\n</graphml>\n"
