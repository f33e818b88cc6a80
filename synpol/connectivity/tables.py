"""Write the tables of parts, partners and links, and the graph of neurons."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.connectivity.graph import connections, write_graphml
from synpol.connectivity.links import (
    all_pairs,
    areas_of,
    duplicates_of,
    largest_pairs,
    link_rows,
)
from synpol.connectivity.partners import Parts, largest_partners
from synpol.connectivity.rows import begins
from synpol.errors import InputError
from synpol.files import digest_beside, whole_file
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.link_forms import SCORED
from synpol.synapses.reading import read_table
from synpol.synapses.table import confidence

if TYPE_CHECKING:
    from synpol.config import Connect


@dataclass
class Summary:
    """What was found, in numbers.

    Attributes
    ----------
    synapses, unassigned, autapses : int
        Synapses, those with a side in no neuron, and those with both sides in one neuron.
    outside : int
        Sides with voxels of which none lies in a neuron.
    polyadic : int
        Synapses that are more than one link.
    left_out : int
        Links that `connect.partners` largest leaves out of the tables.
    links, duplicates, below : int
        Links in the table, those that repeat others, and those below `connect.min_score`.
    neurons, connections : int
        Neurons and connections of the graph.
    """

    synapses: int = 0
    unassigned: int = 0
    autapses: int = 0
    outside: int = 0
    polyadic: int = 0
    left_out: int = 0
    links: int = 0
    duplicates: int = 0
    below: int = 0
    neurons: int = 0
    connections: int = 0


def write_tables(
    ranges: Iterable[Parts],
    table: str | os.PathLike[str],
    folder: Path,
    options: Connect,
    scratch: Path,
) -> Summary:
    """Write ``parts``, ``partners``, ``links`` and ``connectivity``, the last one as GraphML too.

    Parameters
    ----------
    ranges : iterable of Parts
        Parts of all synapses, range by range in the order of their numbers.
    table : path
        Table of the synapses.
    folder : Path
        Folder of the tables to write.
    options : Connect
        Which parts make links, and which links make connections.
    scratch : Path
        Folder for a file that is removed at the end.

    Returns
    -------
    Summary
    """
    summary, mark = Summary(), {TABLE_HASH: digest_of(table)}
    synapses = read_table(table, SCORED)
    unmarked = scratch / "links.unmarked"
    with ExitStack() as stack:
        path = {}
        for name in ("parts", "partners", "links", "connectivity"):
            stack.enter_context(digest_beside(folder / f"{name}.parquet"))
            path[name] = stack.enter_context(whole_file(folder / f"{name}.parquet"))
        with (
            _Writer(path["parts"], mark) as parts_file,
            _Writer(path["partners"], mark) as partners_file,
            _Writer(unmarked, mark) as links_file,
        ):
            labelled = [np.zeros(0, np.uint64)]
            for parts in ranges:
                partners = largest_partners(parts)
                labelled.append(partners["synapse_id"].to_numpy())
                _count(summary, parts, partners)
                parts_file.write(parts.table())
                partners_file.write(partners)
                links_file.write(_scored(_links(summary, parts, options), synapses, options))
        check_same_synapses(np.concatenate(labelled), synapses["synapse_id"].to_numpy(), table)
        del synapses  # the graph needs its memory
        with _Writer(path["links"], mark) as links_file:
            edges = connections(_counted(unmarked, options, links_file, summary))
        unmarked.unlink()
        pq.write_table(edges.replace_schema_metadata(mark), path["connectivity"])
        summary.connections = edges.num_rows
        summary.neurons = write_graphml(edges, folder / "connectivity.graphml")
    return summary


def check_same_synapses(
    labelled: np.ndarray, listed: np.ndarray, table: str | os.PathLike[str]
) -> None:
    """Refuse a synapse table of other instances than those whose partners were found.

    Parameters
    ----------
    labelled, listed : (n,) uint64
        Synapses that have a label, and those that have a row in the table.
    table : path
        File of the synapse table, for the message.

    Raises
    ------
    InputError
        A synapse has a label and no row, or a row and no label.
    """
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


class _Writer:
    """Write a Parquet file table by table."""

    def __init__(self, path: Path, metadata: dict[bytes, bytes]) -> None:
        self._path, self._metadata = path, metadata
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, table: pa.Table) -> None:
        """Write more rows; the first ones say which columns there are."""
        table = table.replace_schema_metadata(self._metadata)
        if self._file is None:
            self._file = pq.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)


def _count(summary: Summary, parts: Parts, partners: pa.Table) -> None:
    """Add the synapses of a range to the numbers."""
    summary.synapses += partners.num_rows
    summary.unassigned += int(partners["unassigned"].to_numpy().sum())
    summary.autapses += int(partners["autapse"].to_numpy().sum())
    summary.outside += int(begins(parts.label).sum()) - len(parts.largest)


def _links(summary: Summary, parts: Parts, options: Connect) -> pa.Table:
    """Find the links of a range of synapses."""
    pre, post = all_pairs(parts, options.min_voxels, options.min_fraction)
    first = np.append(np.flatnonzero(begins(parts.label[pre])), len(pre))
    summary.polyadic += int((np.diff(first) > 1).sum())
    if options.partners == "all":
        return link_rows(parts, pre, post, areas_of(parts, pre, post))
    best, of_best = largest_pairs(parts)
    size = len(parts.label)
    summary.left_out += int((~np.isin(pre * size + post, best * size + of_best)).sum())
    return link_rows(parts, best, of_best, areas_of(parts, best, of_best))


def _scored(links: pa.Table, synapses: pa.Table, options: Connect) -> pa.Table:
    """Add the scores of the synapses; a link that stands for a whole synapse has its contact."""
    numbers, synapse = synapses["synapse_id"].to_numpy(), links["synapse_id"].to_numpy()
    row = np.minimum(np.searchsorted(numbers, synapse), max(0, len(numbers) - 1))
    listed = numbers[row] == synapse if len(numbers) else np.zeros(len(row), bool)
    links, row = links.filter(listed), row[listed]
    if options.partners == "largest":
        area = synapses["contact_area"].to_numpy()[row]
        links = links.set_column(
            links.column_names.index("contact_area"), "contact_area", pa.array(area)
        )
    where = links.column_names.index("autapse")
    return links.add_column(where, "score", pa.array(confidence(synapses)[row]))


def _counted(
    unmarked: Path, options: Connect, marked: _Writer, summary: Summary
) -> Iterator[pa.Table]:
    """Number all links, mark repeated ones, and yield those that make connections."""
    file = pq.ParquetFile(unmarked)
    first, best = 0, _best_of_all(file, options.duplicates)
    for group in range(max(1, file.num_row_groups)):
        links = file.read_row_group(group) if file.num_row_groups else file.read()
        own = np.arange(first, first + links.num_rows, dtype=np.int64)
        repeats = own if best is None else best[own]
        again = repeats != own
        links = links.add_column(0, "link_id", pa.array((own + 1).astype(np.uint64)))
        marks = np.where(again, repeats + 1, 0).astype(np.uint64)
        marked.write(links.append_column("duplicate_of", pa.array(marks)))
        high = links["score"].to_numpy() >= options.min_score
        summary.links += links.num_rows
        summary.duplicates += int(again.sum())
        summary.below += int((~high & ~again).sum())
        first += links.num_rows
        yield links.filter(high & ~again)


def _best_of_all(file: pq.ParquetFile, distance: float) -> np.ndarray | None:
    """Find for each link the row of the best one that it repeats, else its own; see `Connect`."""
    if not distance:
        return None
    names = ["pre_id", "post_id", "post_z", "post_y", "post_x", "score"]
    links = file.read(columns=names)
    pre_id, post_id, *place, score = (links[name].to_numpy() for name in names)
    return duplicates_of(pre_id, post_id, np.stack(place, axis=1), score, distance)
