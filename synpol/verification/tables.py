"""Check the tables of a result: against the instances, and against each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from synpol.connectivity.rows import find_rows, grouped
from synpol.errors import InputError
from synpol.files import has_rotted
from synpol.polarity import is_pre, post_label, pre_label, synapse_of
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.reading import open_table, read_table
from synpol.verification.arrays import Labels
from synpol.verification.problem import Commands, Problem

#: tables that pipelines/connect.py writes, and columns of them that are compared
CONNECTED = {
    "parts": ("synapse_id", "side", "neuron_id", "voxels"),
    "partners": ("synapse_id", "pre_id", "post_id"),
    "links": ("synapse_id", "pre_id", "post_id", "pre_voxels", "post_voxels"),
    "connectivity": ("pre_id", "post_id", "synapses"),
}

Columns = dict[str, np.ndarray]


def check_synapses(table: Path, instances: Labels | None, sides: bool, redo: str) -> list[Problem]:
    """Read the synapse table, and compare it with the instances.

    Parameters
    ----------
    table : Path
        File of the table.
    instances : Labels or None
        Labels of the instances; None where those are damaged themselves.
    sides : bool
        Whether labels tell the sides of a synapse apart.
    redo : str
        Command that writes the table anew.
    """
    try:
        listed = _listed(table, sides)
    except InputError as error:
        return [Problem(str(table), str(error), redo)]
    if instances is None:
        return []
    label = np.union1d(listed.label, instances.label)
    said, there = (_voxels_of(labels, label) for labels in (listed, instances))
    wrong = np.flatnonzero(said != there)
    if not len(wrong):
        return []
    first = label[wrong[0]]
    synapse, side = (
        (int(first), "")
        if not sides
        else (
            int(synapse_of(first)),
            " on its pre side" if is_pre(first) else " on its post side",
        )
    )
    found = (
        f"synapse {synapse} has {said[wrong[0]]} voxels{side} by the table and {there[wrong[0]]} "
        f"in the instances; {len(wrong)} labels differ: it is a table of other instances"
    )
    return [Problem(str(table), found, redo)]


def _listed(table: Path, sides: bool) -> Labels:
    """Return the labels that the instances have by the table."""
    names = ("pre_voxels", "post_voxels") if sides else ("union_voxels",)
    rows = read_table(table, ("synapse_id", *names))
    number = rows["synapse_id"].to_numpy()
    voxels = np.concatenate([rows[name].to_numpy() for name in names])
    label = np.concatenate([pre_label(number), post_label(number)]) if sides else number
    order = np.argsort(label)
    order = order[voxels[order] > 0]
    return Labels(label[order].astype(np.uint64), voxels[order].astype(np.int64))


def _voxels_of(labels: Labels, label: np.ndarray) -> np.ndarray:
    voxels = np.zeros(len(label), np.int64)
    voxels[np.searchsorted(label, labels.label)] = labels.voxels
    return voxels


@dataclass(frozen=True)
class ConnectionCheck:
    """Check the tables of neurons.

    Attributes
    ----------
    folder : Path
        Folder of the tables.
    commands : Commands
        Commands that make them right.
    synapses : Path or None
        Table of the synapses that they are compared with; None where that is wrong itself.
    """

    folder: Path
    commands: Commands
    synapses: Path | None

    def check(self) -> list[Problem]:
        """Return what is wrong; nothing where no table was written."""
        files = {name: self.folder / f"{name}.parquet" for name in CONNECTED}
        graph = self.folder / "connectivity.graphml"
        if not any(file.exists() for file in [*files.values(), graph]):
            return []
        problems: list[Problem] = []
        tables: dict[str, Columns] = {}
        for name, file in files.items():
            try:
                tables[name] = self._columns(name, file)
            except InputError as error:
                problems.append(self._problem(file, str(error)))
        for name, found in self._disagreements(tables):
            problems.append(self._problem(files[name], found))
        if "connectivity" in tables and not problems:
            count = _edges(graph)
            rows = len(tables["connectivity"]["pre_id"])
            if count != rows:
                found = f"it has {count} connections; connectivity.parquet has {rows}"
                problems.append(self._problem(graph, found))
        return problems

    def _problem(self, file: Path, found: str) -> Problem:
        return Problem(str(file), found, self.commands.run("connect"))

    def _columns(self, name: str, file: Path) -> Columns:
        """Read some columns of a table.

        Raises
        ------
        InputError
            The file is missing or damaged, or was made from another synapse table.
        """
        if not file.is_file():
            raise InputError("it is missing")
        columns = CONNECTED[name]
        if "synapse_id" in columns:
            open_table(file, columns)
        elif has_rotted(file):
            raise InputError(f"its SHA-256 is not the one in {file.name}.sha256")
        try:
            table = pq.read_table(file, columns=list(columns), page_checksum_verification=True)
            found = {column: table[column].to_numpy() for column in columns}
        except Exception as error:  # whatever pyarrow makes of a file that is damaged
            said = str(error).partition("\n")[0]
            raise InputError(f"it cannot be read: {said:.200}") from error
        mark = (table.schema.metadata or {}).get(TABLE_HASH)
        if self.synapses is not None and mark != digest_of(self.synapses):
            raise InputError(f"it was made from another {self.synapses.name}")
        return found

    def _disagreements(self, tables: dict[str, Columns]) -> Iterator[tuple[str, str]]:
        """Find tables that do not agree with the tables from which they follow."""
        parts, partners, links = (tables.get(n) for n in ("parts", "partners", "links"))
        if partners is not None and self.synapses is not None:
            rows = read_table(self.synapses, ("synapse_id",))["synapse_id"].to_numpy()
            if not np.array_equal(rows, partners["synapse_id"]):
                yield "partners", f"its synapses are not those of {self.synapses.name}"
        if parts is not None:
            pre = parts["side"] == "pre"
            label = np.where(
                pre, pre_label(parts["synapse_id"]), post_label(parts["synapse_id"])
            ).astype(np.uint64)
            order = np.lexsort((parts["neuron_id"], label))
            known = [a[order] for a in (label, parts["neuron_id"], parts["voxels"])]
            for name, table in (("partners", partners), ("links", links)):
                missing = 0 if table is None else _missing_parts(known, table)
                if missing:
                    yield name, f"{missing} neurons or sizes in it are not those of parts.parquet"
        graph = tables.get("connectivity")
        if graph is not None and links is not None:
            (pre_id, post_id), into = grouped([links["pre_id"], links["post_id"]])
            count = np.bincount(into, minlength=len(pre_id))
            row = find_rows(pre_id, post_id, graph["pre_id"], graph["post_id"])
            wrong = (row < 0) | (graph["synapses"] > np.append(count, 0)[row])
            if wrong.any():
                yield "connectivity", f"{wrong.sum()} connections do not follow from links.parquet"


def _missing_parts(known: Sequence[np.ndarray], table: Columns) -> int:
    """Count the sides in a table whose neuron or number of voxels is not that of a part."""
    label, neuron, voxels = known
    missing = 0
    of_side: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("pre", pre_label),
        ("post", post_label),
    )
    for side, label_of in of_side:
        inside = table[f"{side}_id"] != 0
        wanted = label_of(table["synapse_id"][inside]).astype(np.uint64)
        row = find_rows(label, neuron, wanted, table[f"{side}_id"][inside])
        wrong = row < 0
        if f"{side}_voxels" in table and len(voxels):
            wrong |= voxels[row] != table[f"{side}_voxels"][inside]
        missing += int(wrong.sum())
    return missing


def _edges(graph: Path) -> int:
    """Count the edges of a GraphML file; -1 where there is none."""
    if not graph.is_file():
        return -1
    with open(graph, "rb") as file:
        return sum(line.count(b"<edge ") for line in file)
