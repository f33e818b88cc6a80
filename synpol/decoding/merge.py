"""Stages ``merge 1 .. n``: merge groups of blocks, then 2x2x2 of those groups, up to one group.

The job of a group joins the open components of its members across the faces between them, in a
networkx graph of those components alone. It hands on what touches the outer faces of the group
(`synpol.decoding.fragments`). So no graph, memory or file grows with the volume, only with a
cross-section of it.

The lowest level also finds the contacts: two fragments of neighbouring blocks that lie on the two
sides of a shared face.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import BlockGrid, children, index_of
from synpol.blockwise.records import Index, read_record, stored
from synpol.blockwise.stage import Stage
from synpol.decoding.dilate import Faces
from synpol.decoding.fragments import (
    KINDS,
    Contacts,
    MergeNode,
    OpenNode,
    Relabelling,
    unique_rows,
)
from synpol.decoding.joining import Member, contact_graph, merge
from synpol.errors import InputError

if TYPE_CHECKING:  # workers of most stages never touch a graph, and it takes a third of a second
    import networkx as nx


@dataclass
class MergeRecord:
    """Record of a group: its node, and what became of the open components of its members."""

    node: MergeNode = field(metadata=stored(""))
    relabelling: Relabelling = field(metadata=stored(""))


@dataclass
class _NodeRecord:
    """What is open in any record of the merge."""

    node: OpenNode = field(metadata=stored(""))


@dataclass
class _FacesRecord:
    """The faces of the record of a block."""

    faces: Faces = field(metadata=stored(""))


@dataclass
class _BlockRecord(_FacesRecord, _NodeRecord):
    """What is open in the record of a block, and its faces."""


@dataclass(frozen=True)
class MergeStage(Stage[None, None, MergeRecord]):
    """Merge the members of every group of one tree depth.

    Attributes
    ----------
    members : Path
        Folder of the members' records.
    member_grid : (int, int, int)
        Number of members along z, y, x.
    side : int
        Number of members along a side of a group.
    lowest : bool
        Whether the members are blocks.
    thres_small : int
        Number of voxels that a side has at least.
    """

    members: Path
    member_grid: Index
    side: int
    lowest: bool
    thres_small: int

    job = "a group of 4x4x4 blocks, of 2x2x2 groups, ..."
    reads = "the records of its members"
    leaves = "what is still open, and what became of the open components of the members"
    version = 2
    #: work of one member of a group: it takes about as long as labelling that many voxels
    member_cost = 2**17
    seconds_per_member = 1e-3

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.folder.name.replace("-", " ")

    @property
    def cost(self) -> int:
        return self.member_cost * self.side**3

    @property
    def estimated_seconds(self) -> float:
        return float(np.prod(self.member_grid)) * self.seconds_per_member

    def compute(self, index: Index, opened: None, given: None) -> MergeRecord:
        return MergeRecord(*merge(self.group(index), self.side, self.thres_small))

    def group(self, index: Index) -> list[Member]:
        """Read the members of a group, each with its place in the group."""
        found: list[Member] = []
        seen: dict[Index, Faces] = {}  # low faces of the blocks behind and beside the next one
        for child in reversed(children(index, self.member_grid, self.side)):
            if self.lowest:
                record = read_record(self.members, child, _BlockRecord, copy=True)
                node, faces = record.node, record.faces
                self._find_contacts(child, faces, node, seen)
                low = {number: face for number, face in faces.face.items() if number % 2 == 0}
                seen[child] = replace(faces, face=low)
                seen.pop(_next(child, 0), None)
            else:
                node = read_record(self.members, child, _NodeRecord, copy=True).node
            found.append((node, index_of(i % self.side for i in child)))
        return found[::-1]

    def _find_contacts(
        self, block: Index, faces: Faces, node: OpenNode, seen: Mapping[Index, Faces]
    ) -> None:
        """Add to the node of a block its contacts across its high faces.

        The low faces of blocks that `seen` lacks are read; those that it has are taken out of it,
        since no other block needs them.
        """
        pieces: dict[str, list[tuple[int, np.ndarray]]] = {kind: [] for kind in KINDS}
        contacts = [node.contacts]
        for axis in range(3):
            own = faces.face.get(2 * axis + 1)
            if own is None or own.shape[1] == 0:
                continue
            other = _next(block, axis)
            if other in seen:
                across = seen[other]
            else:
                across = read_record(self.members, other, _FacesRecord).faces
            claims = _claims_across(own, faces.names, across.face.pop(2 * axis), across.names)
            for kind in KINDS:
                both = (claims[kind] > 0).all(axis=1)
                pairs, _ = unique_rows([*claims[kind][both].T])
                pieces[kind].append((axis, np.stack(pairs, axis=1)))
            synapse = claims["synapse"][:, 0]
            crossed = np.full(len(synapse), axis, np.uint8)
            number = np.zeros((len(synapse), 3), np.int64)
            number[:, axis] = 1
            found = Contacts(synapse, claims["pre"], claims["post"], crossed, number)
            contacts.append(found.reduced())
        node.contacts = Contacts.joined(contacts)
        for kind, found_pairs in pieces.items():
            if found_pairs:
                touching = node.touching[kind]
                touching.contact_axis = np.concatenate(
                    [np.full(len(pairs), axis, np.uint8) for axis, pairs in found_pairs]
                )
                touching.contact_own = np.concatenate([pairs[:, 0] for _, pairs in found_pairs])
                touching.contact_other = np.concatenate([pairs[:, 1] for _, pairs in found_pairs])


def _next(block: Index, axis: int) -> Index:
    """Return the index of the block beyond the high face of an axis."""
    return index_of(i + (a == axis) for a, i in enumerate(block))


def _claims_across(
    own: np.ndarray,
    own_names: dict[str, np.ndarray],
    other: np.ndarray,
    other_names: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Name the fragments on both sides of a face where both blocks have one.

    Parameters
    ----------
    own, other : (4, n) uint32
        The two sides of the face; see `Faces`.
    own_names, other_names : dict of kind to (n,) uint64
        Name of each label.

    Returns
    -------
    dict of kind to (n, 2) uint64
        Names on the own side, and on the other side.
    """
    _, here, across = np.intersect1d(own[0], other[0], assume_unique=True, return_indices=True)
    return {
        kind: np.stack(
            [own_names[kind][own[1 + row, here]], other_names[kind][other[1 + row, across]]], axis=1
        )
        for row, kind in enumerate(KINDS)
    }


def merge_graph(
    work_dir: str | os.PathLike[str],
    level: int = 1,
    index: Sequence[int] = (0, 0, 0),
    kind: str = "synapse",
) -> nx.Graph:
    """Open the merge graph of one group of a decoding, to inspect or plot it.

    Parameters
    ----------
    work_dir : path
        Work folder of the decoding (``<output>.work`` unless it was given).
    level : int
        Tree depth: 1 means groups of blocks (4x4x4), 2 means 2x2x2 of those groups, and so on.
    index : 3 ints
        Index of the group at that depth, z, y, x.
    kind : {"synapse", "pre", "post"}
        Which components: those of the dilated union, or those of a side.

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

    Examples
    --------
    A synapse that two blocks share, along x:

    >>> import numpy as np
    >>> from synpol import decode_blockwise, seg_to_polarity
    >>> from synpol.images.writing import create_image
    >>> label = np.zeros((8, 32, 32), np.uint64)
    >>> label[2:6, 8:16, 8:16], label[2:6, 8:16, 16:24] = 1, 2
    >>> image = create_image(
    ...     "volume",
    ...     "polarity",
    ...     shape=(3, 8, 32, 32),
    ...     dtype=np.uint8,
    ...     voxel_size=(30, 16, 16),
    ...     offset=(0, 0, 0),
    ...     unit="nm",
    ...     chunk_shape=(3, 8, 16, 16),
    ... )
    >>> image.array[:] = 255 * seg_to_polarity(label)
    >>> _ = decode_blockwise("volume/polarity", "volume", block_shape=(8, 32, 16))
    >>> graph = merge_graph("volume.work")
    >>> graph.number_of_nodes(), graph.number_of_edges()
    (2, 1)
    """
    stage = _merge_stage(work_dir, level, index, kind)
    try:
        members = stage.group(index_of(index))
    except FileNotFoundError as error:
        raise InputError(
            f"the decoding in {work_dir} has not come to level {level} yet: {error.filename} is "
            "missing"
        ) from None
    touching = [(node.touching[kind], np.array(place)) for node, place in members]
    names = np.unique(np.concatenate([t.component for t, _ in touching]))
    belongs = {
        int(f): int(c) for t, _ in touching for f, c in zip(t.fragment, t.component, strict=True)
    }
    inside = [place[t.contact_axis] < stage.side - 1 for t, place in touching]
    own, other = (
        np.concatenate([end[here] for end, here in zip(ends, inside, strict=True)])
        for ends in (
            [t.contact_own for t, _ in touching],
            [t.contact_other for t, _ in touching],
        )
    )
    component = np.array([belongs[int(f)] for f in other], dtype=np.uint64)
    graph = contact_graph(names, own, component)
    if kind != "synapse":
        for node, _ in members:
            sides = node.open_sides[kind]
            for name, voxels in zip(sides.name.tolist(), sides.voxels.tolist(), strict=True):
                graph.add_node(name, voxels=voxels)
    return graph


def grouped_as_begun(blocks: BlockGrid, folder: Path) -> BlockGrid:
    """Return the blocks of a decoding, in the groups in which it was begun.

    Parameters
    ----------
    blocks : BlockGrid
        Blocks of the prediction.
    folder : Path
        Folder of all records of the decoding.
    """
    older = (folder / "merge-1").exists()  # by a version whose lowest groups had 2x2x2 blocks
    return replace(blocks, group=2) if older else blocks


def groups_folder(folder: Path, blocks: BlockGrid) -> Path:
    """Return the folder of the records of groups, in the folder of all records of a decoding."""
    return folder if blocks.group == 2 else folder / f"groups-{blocks.group}"


def _merge_stage(
    work_dir: str | os.PathLike[str], level: int, index: Sequence[int], kind: str
) -> MergeStage:
    """Find the stage that merged a group; raises InputError as `merge_graph`."""
    jobs = sorted(Path(work_dir).glob("decode-*/job.json"))
    if not jobs:
        raise InputError(f"{work_dir} holds no decoding; the work_dir of decode_blockwise is meant")
    try:
        about = json.loads(jobs[0].read_text())
        blocks = BlockGrid(index_of(about["shape"]), index_of(about["block_shape"]))
        blocks = grouped_as_begun(blocks, jobs[0].parent)
        grids = blocks.tree()
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(
            f"{jobs[0]} is damaged ({error!r:.100}); decode again, which makes it anew"
        ) from None
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; one of {', '.join(KINDS)} is expected")
    if not 1 <= level < len(grids):
        raise InputError(f"level is {level}; this decoding has the levels 1 to {len(grids) - 1}")
    if len(index) != 3 or any(not 0 <= i < n for i, n in zip(index, grids[level], strict=True)):
        raise InputError(
            f"index is {tuple(index)}; level {level} is a grid of {grids[level]} groups"
        )
    groups = groups_folder(jobs[0].parent, blocks)
    members = groups / f"merge-{level - 1}" if level > 1 else jobs[0].parent / "dilate"
    return MergeStage(
        folder=groups / f"merge-{level}",
        grid=grids[level],
        members=members,
        member_grid=grids[level - 1],
        side=blocks.group if level == 1 else 2,
        lowest=level == 1,
        thres_small=0,
    )
