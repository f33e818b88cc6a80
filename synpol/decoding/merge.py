"""Stages ``merge 1 .. n``: groups of 2x2x2 blocks, then groups of groups, up to one.

A group's job joins the open components of its members across the faces between them, in a networkx
graph of only those, and hands on what touches its own outer faces (`synpol.decoding.fragments`).
So no graph, memory or file grows with the volume, only with a cross-section of it.

The lowest level also finds the contacts: where two fragments of neighbouring blocks lie on
the two sides of a shared face.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.blockwise.grid import BlockGrid, children, index_of
from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import Stage
from synpol.decoding.fragments import KINDS, Contacts, Node, from_arrays, to_arrays
from synpol.decoding.joining import contact_graph, merge
from synpol.errors import InputError

if TYPE_CHECKING:  # workers of most stages never touch a graph, and it takes a third of a second
    import networkx as nx

VERSION = 2


@dataclass(frozen=True)
class MergeStage(Stage):
    """Merge the members of every group of a level.

    Attributes
    ----------
    members : Path
        Folder of the members' records.
    member_grid : (int, int, int)
    lowest : bool
        Whether the members are blocks.
    thres_small : int
    """

    members: Path
    member_grid: Index
    lowest: bool
    thres_small: int

    job_cost = 2**20  # a job costs about as much as labelling that many voxels

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.folder.name.replace("-", " ")

    def compute(self, index: Index, loaded: Any, given: Any) -> dict[str, np.ndarray]:
        nodes = self.nodes(index)
        node, links = merge(nodes, self.thres_small)
        record = to_arrays(node)
        for kind in KINDS:
            record |= {f"old.{kind}": links.old[kind], f"new.{kind}": links.new[kind]}
        return record

    def nodes(self, index: Index) -> list[tuple[Node, Index]]:
        """The members of a group with their places in it."""
        found = []
        for child in children(index, self.member_grid):
            z, y, x = child
            record = read_record(self.members, child)
            node = from_arrays(record)
            if self.lowest:
                self._find_contacts(child, record, node)
            found.append((node, (z % 2, y % 2, x % 2)))
        return found

    def _find_contacts(self, block: Index, record: dict[str, np.ndarray], node: Node) -> None:
        pieces: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {k: [] for k in KINDS}
        contacts = [node.contacts]
        for axis in range(3):
            mine = record.get(f"face.{2 * axis + 1}")
            if mine is None or mine.shape[1] == 0:
                continue
            z, y, x = (i + (a == axis) for a, i in enumerate(block))
            other = read_record(self.members, (z, y, x))
            theirs = other[f"face.{2 * axis}"]
            _, here, there = np.intersect1d(
                mine[0], theirs[0], assume_unique=True, return_indices=True
            )
            claims = {}
            for row, kind in enumerate(KINDS):
                own = record[f"names.{kind}"][mine[1 + row, here]]
                across = other[f"names.{kind}"][theirs[1 + row, there]]
                claims[kind] = np.stack([own, across], axis=1)
                both = (own > 0) & (across > 0)
                pairs = np.unique(np.stack([own[both], across[both]], axis=1), axis=0)
                pieces[kind].append((axis, pairs[:, 0], pairs[:, 1]))
            crossed = np.full(len(here), axis, np.uint8)
            faces = np.zeros((len(here), 3), np.int64)
            faces[:, axis] = 1
            synapse = claims["synapse"][:, 0]
            found = Contacts(synapse, claims["pre"], claims["post"], crossed, faces)
            contacts.append(found.settled())
        node.contacts = Contacts.joined(contacts)
        for kind, met in pieces.items():
            if met:
                touching = node.touching[kind]
                touching.contact_axis = np.concatenate(
                    [np.full(len(own), axis, np.uint8) for axis, own, _ in met]
                )
                touching.contact_own = np.concatenate([own for _, own, _ in met])
                touching.contact_other = np.concatenate([other for _, _, other in met])


def merge_graph(
    work_dir: str | os.PathLike[str],
    level: int = 1,
    index: Sequence[int] = (0, 0, 0),
    kind: str = "synapse",
) -> nx.Graph:
    """The merge graph of one group of a decoding, to inspect or plot.

    Parameters
    ----------
    work_dir : path
        Of the decoding (``<output>.work`` unless it was given).
    level : int
        1: groups of 2x2x2 blocks; 2: groups of those; and so on.
    index : 3 ints
        Which group of its level, z, y, x.
    kind : {"synapse", "pre", "post"}
        Whose components: of the dilated union, or of a side.

    Returns
    -------
    networkx.Graph
        A node for each component of a member that touches a face shared with another block, named
        by its first voxel (``1 + index`` in the C order of the volume); an edge for each contact
        across a face inside the group. Nodes of sides have their size so far as ``voxels``.

    Raises
    ------
    InputError
        There is no such decoding, level, group or kind, or it has not come that far.
    """
    jobs = sorted(Path(work_dir).glob("decode-*/job.json"))
    if not jobs:
        raise InputError(f"{work_dir} holds no decoding; the work_dir of decode_blockwise is meant")
    about = json.loads(jobs[0].read_text())
    levels = BlockGrid(index_of(about["shape"]), index_of(about["block_shape"])).levels()
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; one of {', '.join(KINDS)} is expected")
    if not 1 <= level < len(levels):
        raise InputError(f"level is {level}; this decoding has the levels 1 to {len(levels) - 1}")
    if len(index) != 3 or any(not 0 <= i < n for i, n in zip(index, levels[level], strict=True)):
        raise InputError(
            f"index is {tuple(index)}; level {level} is a grid of {levels[level]} groups"
        )
    folders = [jobs[0].parent / ("dilate" if n == 0 else f"merge-{n}") for n in (level - 1, level)]
    stage = MergeStage(folders[1], levels[level], folders[0], levels[level - 1], level == 1, 0)
    try:
        nodes = stage.nodes(index_of(index))
    except FileNotFoundError as error:
        raise InputError(
            f"the decoding in {work_dir} has not come to level {level} yet: {error.filename} is "
            "missing"
        ) from None
    touching = [(node.touching[kind], np.array(place)) for node, place in nodes]
    names = np.unique(np.concatenate([t.component for t, _ in touching]))
    belongs = {
        int(f): int(c) for t, _ in touching for f, c in zip(t.fragment, t.component, strict=True)
    }
    own = np.concatenate([t.contact_own[place[t.contact_axis] == 0] for t, place in touching])
    other = np.concatenate([t.contact_other[place[t.contact_axis] == 0] for t, place in touching])
    met = np.array([belongs[int(f)] for f in other], dtype=np.uint64)
    graph = contact_graph(names, own, met)
    if kind != "synapse":
        for node, _ in nodes:
            sides = node.open_sides[kind]
            for name, voxels in zip(sides.name.tolist(), sides.voxels.tolist(), strict=True):
                graph.add_node(name, voxels=voxels)
    return graph
