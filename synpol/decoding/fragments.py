"""Fragments of components, and how they become components: the arithmetic of the merge.

The decoding works with three labelings: the pre voxels, the post voxels, and the dilated union. A
block sees *fragments* of their components. The name of a fragment is its first voxel, as
``1 + index`` in the C order of the whole volume. The name of a component is the smallest name of
its fragments. So names do not depend on how the volume was cut, or on the order of the merges.

A `MergeNode` travels up the tree of groups: it holds the components that still touch a face shared
with another node, and only the rows of the other synapses. A pre or post component lies inside one
component of the dilated union (a *synapse*). So a synapse that touches no such face is finished
with everything in it: which of its sides are large enough, and its row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from synpol.blockwise.records import stored
from synpol.synapses.statistics import Columns, Rows, Stats

#: the three labelings
KINDS = ("synapse", "pre", "post")
#: in place of the name of a side component: it is finished, and large enough
KEPT = np.uint64(2**64 - 1)
#: in place of a name: there is no component, or it was too small
NONE = np.uint64(0)
#: in place of an axis: both voxels of a contact lie in the node
INSIDE = 255


def unique_rows(columns: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Find the rows of a table that differ, sorted by the first column, then by the next, ...

    Parameters
    ----------
    columns : sequence of (n,) arrays

    Returns
    -------
    unique : list of (m,) arrays
        The columns of the sorted rows.
    into : (n,) int64
        Where each row is among them.
    """
    order = np.lexsort(columns[::-1])
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for column in columns:
        ordered = column[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    into = np.empty(len(order), np.int64)
    into[order] = np.cumsum(new) - 1
    first = order[new]
    return [column[first] for column in columns], into


@dataclass
class Sides(Columns):
    """Side components of one kind that are still open, sorted by name.

    Attributes
    ----------
    name, synapse : (n,) uint64
        Name of the component, and name of the dilated-union component in which it lies.
    voxels : (n,) int64
        Number of voxels so far.
    """

    name: np.ndarray
    synapse: np.ndarray
    voxels: np.ndarray


@dataclass
class Claims(Columns):
    """Sets of voxels, told apart by what claims them: a pre component, a post component, or both.

    Attributes
    ----------
    synapse, pre, post : (n,) uint64
        Names of the components; `pre` and `post` may be `KEPT` or `NONE`.
    stats : Stats
        Statistics of the voxels of each set.
    """

    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    stats: Stats = field(metadata=stored(""))

    def reduced(self) -> Claims:
        """Apply what is known (post wins where both are kept), and add up equal rows."""
        pre = np.where(self.post == KEPT, NONE, self.pre)
        claimed = (pre != NONE) | (self.post != NONE)
        columns = [column[claimed] for column in (self.synapse, pre, self.post)]
        into = np.full(len(claimed), -1)
        (synapse, pre, post), into[claimed] = unique_rows(columns)
        return Claims(synapse, pre, post, self.stats.grouped(into, len(synapse)))


@dataclass
class Contacts(Columns):
    """Faces between two voxels of which one may become pre and the other post.

    Attributes
    ----------
    synapse : (n,) uint64
        Name of the component in which both voxels lie.
    pre, post : (n, 2) uint64
        Names of the components that claim the two voxels; `KEPT` or `NONE` once that is known.
    axis : (n,) uint8
        Axis of the node's high face between the two voxels. The second voxel then lies in another
        node, and its names are those of the fragments of its block. `INSIDE` where both voxels lie
        in this node.
    faces : (n, 3) int64
        Number of such faces, across z, y and x.
    """

    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    axis: np.ndarray
    faces: np.ndarray

    def reduced(self) -> Contacts:
        """Apply what is known, leave out faces without a pre and a post, and add up equal rows."""
        pre = np.where(self.post == KEPT, NONE, self.pre)
        can_pre, can_post = pre != NONE, self.post != NONE
        may = (can_pre & can_post[:, ::-1]).any(axis=1)
        columns = [self.synapse, *pre.T, *self.post.T, self.axis]
        (synapse, *ends, axis), into = unique_rows([column[may] for column in columns])
        faces = np.zeros((len(synapse), 3), np.int64)
        np.add.at(faces, into, self.faces[may])
        return Contacts(
            synapse, np.stack(ends[:2], axis=1), np.stack(ends[2:], axis=1), axis, faces
        )


@dataclass
class Touching:
    """Fragments of one kind that touch faces shared with other nodes, and their contacts.

    Attributes
    ----------
    face : (n,) uint8
        Number of the face: ``2 * axis``, plus 1 for the high face of the axis.
    fragment, component : (n,) uint64
        Name of the block's fragment that touches the face, and name of the component to which it
        belongs so far.
    contact_axis : (m,) uint8
        Axis of the high face that a contact crosses.
    contact_own, contact_other : (m,) uint64
        Name of the own component, and name of the fragment on the other side.
    """

    face: np.ndarray
    fragment: np.ndarray
    component: np.ndarray
    contact_axis: np.ndarray
    contact_own: np.ndarray
    contact_other: np.ndarray


@dataclass
class OpenNode:
    """What the parent of a block, or of a group of blocks, needs of it: what is still open.

    Attributes
    ----------
    open_synapse : (n,) uint64
        Names of the synapses that are still open, sorted.
    touching : dict of kind to Touching
        Fragments at the outer faces.
    open_sides : dict of "pre" and "post" to Sides
        Side components that are still open.
    claims : Claims
        Voxel sets of the open synapses.
    contacts : Contacts
        Faces between the sides of the open synapses.
    """

    open_synapse: np.ndarray
    touching: dict[str, Touching] = field(metadata=stored("", KINDS))
    open_sides: dict[str, Sides] = field(metadata=stored("side"))
    claims: Claims = field(metadata=stored("states"))
    contacts: Contacts


@dataclass
class MergeNode(OpenNode):
    """A block, or a group of blocks; see the docstring of the module.

    Attributes
    ----------
    rows : Rows
        Synapses that this node finished.
    """

    rows: Rows

    @classmethod
    def of(
        cls,
        touching: dict[str, Touching],
        open_sides: dict[str, Sides],
        open_synapse: np.ndarray,
        finished: np.ndarray,
        claims: Claims,
        contacts: Contacts,
    ) -> MergeNode:
        """Divide what is known into open synapses and rows of finished ones.

        Parameters
        ----------
        touching, open_sides, open_synapse
            As in `OpenNode`.
        finished : (n,) uint64
            Names of the finished synapses, sorted.
        claims, contacts : Claims, Contacts
            Of all synapses, reduced.
        """
        open_claims, finished_claims = _divided(claims.synapse, open_synapse)
        open_contacts, finished_contacts = _divided(contacts.synapse, open_synapse)
        return cls(
            open_synapse,
            touching,
            open_sides,
            claims[open_claims],
            contacts[open_contacts],
            rows_of(finished, claims[finished_claims], contacts[finished_contacts]),
        )


def _divided(names: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose name is among others, and the remaining rows."""
    inside = np.isin(names, among)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def rows_of(synapse: np.ndarray, claims: Claims, contacts: Contacts) -> Rows:
    """Make the rows of finished synapses (sorted names) from their claims and contacts."""
    into = np.searchsorted(synapse, claims.synapse)
    pre, post = claims.pre == KEPT, claims.post == KEPT
    contact = np.zeros((len(synapse), 3), np.int64)
    np.add.at(contact, np.searchsorted(synapse, contacts.synapse), contacts.faces)
    return Rows(
        synapse,
        contact,
        claims.stats[np.flatnonzero(pre)].grouped(into[pre], len(synapse)),
        claims.stats[np.flatnonzero(post)].grouped(into[post], len(synapse)),
    )


@dataclass
class Relabelling:
    """What became of the open components of a group's members.

    Attributes
    ----------
    old, new : dict of kind to (n,) uint64
        Old names, sorted, and new ones. A synapse becomes the component of which it is a part. A
        side becomes that while it is open, and then `KEPT` or `NONE`.
    """

    old: dict[str, np.ndarray]
    new: dict[str, np.ndarray]

    def of(self, kind: str, names: np.ndarray) -> np.ndarray:
        """Return what became of these names; `KEPT`, `NONE` and unknown names stay as they are."""
        return translate(names, self.old[kind], self.new[kind])

    def then(self, other: Relabelling) -> Relabelling:
        """Apply another relabelling to the new names."""
        return Relabelling(self.old, {kind: other.of(kind, self.new[kind]) for kind in KINDS})


def translate(names: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Replace the names that are in `old` (sorted) by those in `new`."""
    if not len(old):
        return names
    at = np.minimum(np.searchsorted(old, names), len(old) - 1)
    return np.where(old[at] == names, new[at], names)
