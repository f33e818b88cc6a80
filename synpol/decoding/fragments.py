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
        keys = np.stack([self.synapse, pre, self.post], axis=1)[claimed]
        unique, into = np.unique(keys, axis=0, return_inverse=True)
        stats = self.stats[np.flatnonzero(claimed)].grouped(into.reshape(-1), len(unique))
        return Claims(unique[:, 0], unique[:, 1], unique[:, 2], stats)


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
        axis = self.axis[:, None].astype(np.uint64)
        keys = np.concatenate([self.synapse[:, None], pre, self.post, axis], axis=1)[may]
        unique, into = np.unique(keys, axis=0, return_inverse=True)
        faces = np.zeros((len(unique), 3), np.int64)
        np.add.at(faces, into.reshape(-1), self.faces[may])
        names = unique[:, 0], unique[:, 1:3], unique[:, 3:5]
        return Contacts(*names, unique[:, 5].astype(np.uint8), faces)


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
class MergeNode:
    """A block, or a group of blocks, as its parent sees it; see the docstring of the module.

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
    rows : Rows
        Synapses that this node finished.
    """

    open_synapse: np.ndarray
    touching: dict[str, Touching] = field(metadata=stored("", KINDS))
    open_sides: dict[str, Sides] = field(metadata=stored("side"))
    claims: Claims = field(metadata=stored("states"))
    contacts: Contacts
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
            As in `MergeNode`.
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
