"""Fragments of components, and how they become components: the arithmetic of the merge.

Three labelings meet in the decoding: the pre voxels, the post voxels and the dilated union. A
block sees fragments of their components. A fragment is named by its first voxel, as ``1 + index``
in the C order of the whole volume, and a component by the smallest name of its fragments: a name
that does not depend on how the volume was cut or in which order pieces were joined.

What travels up the tree of groups is a `Node`: the components that still touch a face shared with
another node, and nothing of the others but the row of their synapse. A pre or post component lies
inside one component of the dilated union (a *synapse*), so a synapse that touches no such face
is finished with everything in it: which sides are large enough, and what the table will say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from synpol.synapses.statistics import (
    Rows,
    Stats,
    rows_from_arrays,
    rows_to_arrays,
    stats_from_arrays,
    stats_to_arrays,
)

KINDS = ("synapse", "pre", "post")
#: in place of a side component's name: it is finished and large enough
KEPT = np.uint64(2**64 - 1)
#: in place of a name: there is none, or it was too small
NONE = np.uint64(0)
#: in place of an axis: both voxels of a contact lie in the node
INSIDE = 255


@dataclass
class Sides:
    """Side components of one kind that are still open, sorted by name.

    Attributes
    ----------
    name, synapse : (n,) uint64
        Of the component, and of the dilated-union component it lies in.
    voxels : (n,) int64
    """

    name: np.ndarray
    synapse: np.ndarray
    voxels: np.ndarray


@dataclass
class States:
    """Voxel sets by what claims them: a pre component, a post component, or both.

    Attributes
    ----------
    synapse, pre, post : (n,) uint64
        Names; `pre` and `post` may be `KEPT` or `NONE`.
    stats : Stats
    """

    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    stats: Stats

    def __getitem__(self, rows: np.ndarray) -> States:
        return States(self.synapse[rows], self.pre[rows], self.post[rows], self.stats[rows])

    def settled(self) -> States:
        """Apply what is known (post wins where both are kept) and add up equal rows."""
        pre = np.where(self.post == KEPT, NONE, self.pre)
        named = (pre != NONE) | (self.post != NONE)
        keys = np.stack([self.synapse, pre, self.post], axis=1)[named]
        unique, into = np.unique(keys, axis=0, return_inverse=True)
        stats = self.stats[np.flatnonzero(named)].grouped(into.reshape(-1), len(unique))
        return States(unique[:, 0], unique[:, 1], unique[:, 2], stats)


@dataclass
class Contacts:
    """Faces between two voxels of which one may become pre and the other post.

    Attributes
    ----------
    synapse : (n,) uint64
        Component that both lie in.
    pre, post : (n, 2) uint64
        Names of what claims the two voxels; `KEPT` or `NONE` once that is known.
    axis : (n,) uint8
        Of the node's high face between them: then the second voxel lies in another node, and what
        claims it is named by the fragment of its block. `INSIDE`: both lie in this one.
    faces : (n, 3) int64
        How many such faces, across z, y and x.
    """

    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    axis: np.ndarray
    faces: np.ndarray

    @classmethod
    def empty(cls) -> Contacts:
        names = np.zeros((0, 2), np.uint64)
        none = np.zeros(0, np.uint8)
        return cls(names[:, 0], names, names, none, np.zeros((0, 3), np.int64))

    def __getitem__(self, rows: np.ndarray) -> Contacts:
        return Contacts(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Contacts]) -> Contacts:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def settled(self) -> Contacts:
        """Apply what is known, leave out what joins no pre with a post, and add up equal rows."""
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
        ``2 * axis + (0 low, 1 high)``.
    fragment, component : (n,) uint64
        Name of the block's fragment that touches, and of the component it belongs to by now.
    contact_axis : (m,) uint8
        Axis of the high face that a contact crosses.
    contact_own, contact_other : (m,) uint64
        Own component, and fragment on the other side.
    """

    face: np.ndarray
    fragment: np.ndarray
    component: np.ndarray
    contact_axis: np.ndarray
    contact_own: np.ndarray
    contact_other: np.ndarray


@dataclass
class Node:
    """A block, or a group of them, as its parent sees it; see the module's docstring."""

    touching: dict[str, Touching]
    open_synapse: np.ndarray
    open_sides: dict[str, Sides]
    states: States
    contacts: Contacts
    rows: Rows


@dataclass
class Links:
    """What became of the open components of a group's children.

    Attributes
    ----------
    old, new : dict of kind to (n,) uint64
        `old` is sorted. A synapse becomes the component that it is part of; a side too while that
        is open, else `KEPT` or `NONE`.
    """

    old: dict[str, np.ndarray]
    new: dict[str, np.ndarray]

    def of(self, kind: str, names: np.ndarray) -> np.ndarray:
        """What became of these; `KEPT`, `NONE` and unknown names stay as they are."""
        return translate(names, self.old[kind], self.new[kind])


def translate(names: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Replace the names found in `old` (sorted) by those in `new`."""
    if not len(old):
        return names
    at = np.minimum(np.searchsorted(old, names), len(old) - 1)
    return np.where(old[at] == names, new[at], names)


def to_arrays(node: Node) -> dict[str, np.ndarray]:
    """The node as named arrays, for its record."""
    arrays = {"open_synapse": node.open_synapse}
    for kind in KINDS:
        arrays |= {f"{kind}.{k}": v for k, v in vars(node.touching[kind]).items()}
    for kind in ("pre", "post"):
        arrays |= {f"side.{kind}.{k}": v for k, v in vars(node.open_sides[kind]).items()}
    states = node.states
    arrays |= {f"states.{k}": getattr(states, k) for k in KINDS}
    arrays |= {f"contacts.{k}": v for k, v in vars(node.contacts).items()}
    return arrays | stats_to_arrays(states.stats, "states") | rows_to_arrays(node.rows)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Node:
    """The inverse of `to_arrays`."""
    touching = {
        kind: Touching(*(arrays[f"{kind}.{f.name}"] for f in fields(Touching))) for kind in KINDS
    }
    sides = {
        kind: Sides(*(arrays[f"side.{kind}.{f.name}"] for f in fields(Sides)))
        for kind in ("pre", "post")
    }
    synapse, pre, post = (arrays[f"states.{k}"] for k in ("synapse", "pre", "post"))
    states = States(synapse, pre, post, stats_from_arrays(arrays, "states"))
    contacts = Contacts(*(arrays[f"contacts.{f.name}"] for f in fields(Contacts)))
    rows = rows_from_arrays(arrays)
    return Node(touching, arrays["open_synapse"], sides, states, contacts, rows)


def rows_of(synapse: np.ndarray, states: States, contacts: Contacts) -> Rows:
    """Rows of finished synapses (sorted names) from their settled states and contacts."""
    into = np.searchsorted(synapse, states.synapse)
    pre, post = states.pre == KEPT, states.post == KEPT
    contact = np.zeros((len(synapse), 3), np.int64)
    np.add.at(contact, np.searchsorted(synapse, contacts.synapse), contacts.faces)
    return Rows(
        synapse,
        states.stats[np.flatnonzero(pre)].grouped(into[pre], len(synapse)),
        states.stats[np.flatnonzero(post)].grouped(into[post], len(synapse)),
        contact,
    )
