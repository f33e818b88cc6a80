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
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # workers of most stages never touch a graph, and it takes a third of a second
    import networkx as nx

KINDS = ("synapse", "pre", "post")
#: in place of a side component's name: it is finished and large enough
KEPT = np.uint64(2**64 - 1)
#: in place of a name: there is none, or it was too small
NONE = np.uint64(0)
#: columns of `States.sums`: voxels, sums of their z, y, x indices, sums of the three channels
SUMS = ("voxels", "z", "y", "x", "channel_0", "channel_1", "channel_2")
#: above this many contacts a group's components are computed by scipy over the same graph
_NETWORKX_EDGES = 20_000


def _ids(count: int = 0) -> np.ndarray:
    return np.zeros(count, np.uint64)


@dataclass
class Stats:
    """Sums and bounds over sets of voxels, one row a set; whole numbers, so order never matters.

    Attributes
    ----------
    sums : (n, 7) int64
        See `SUMS`.
    low, high : (n, 3) int64
        Smallest and largest voxel index, z, y, x. Rows without voxels hold the largest and -1.
    """

    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def empty(cls, count: int = 0) -> Stats:
        return cls(
            np.zeros((count, len(SUMS)), np.int64),
            np.full((count, 3), np.iinfo(np.int64).max),
            np.full((count, 3), -1, np.int64),
        )

    def __getitem__(self, rows: np.ndarray) -> Stats:
        return Stats(self.sums[rows], self.low[rows], self.high[rows])

    def grouped(self, into: np.ndarray, count: int) -> Stats:
        """Add up rows; row i goes into row ``into[i]`` of `count`."""
        result = Stats.empty(count)
        np.add.at(result.sums, into, self.sums)
        np.minimum.at(result.low, into, self.low)
        np.maximum.at(result.high, into, self.high)
        return result

    @classmethod
    def joined(cls, parts: Sequence[Stats]) -> Stats:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


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
class Rows:
    """Finished synapses, sorted by name: what the numbering and the table need.

    Attributes
    ----------
    synapse : (n,) uint64
    pre, post : Stats
        Of the voxels that carry the label.
    """

    synapse: np.ndarray
    pre: Stats
    post: Stats

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of several, sorted by name."""
        names = np.concatenate([p.synapse for p in parts])
        order = np.argsort(names)
        pre = Stats.joined([p.pre for p in parts])[order]
        post = Stats.joined([p.post for p in parts])[order]
        return cls(names[order], pre, post)

    @classmethod
    def of(cls, synapse: np.ndarray, states: States) -> Rows:
        """Rows of finished synapses (sorted names) from their settled states."""
        into = np.searchsorted(synapse, states.synapse)
        pre, post = states.pre == KEPT, states.post == KEPT
        return cls(
            synapse,
            states.stats[np.flatnonzero(pre)].grouped(into[pre], len(synapse)),
            states.stats[np.flatnonzero(post)].grouped(into[post], len(synapse)),
        )


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


def contact_graph(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> nx.Graph:
    """The merge graph: components of the children, and the contacts between them.

    Parameters
    ----------
    names : (n,) uint64
        Components.
    first, second : (m,) uint64
        Ends of the contacts.

    Returns
    -------
    networkx.Graph
        Nodes and edges by name (int).
    """
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(names.tolist())
    graph.add_edges_from(zip(first.tolist(), second.tolist(), strict=True))
    return graph


def join(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The component of every name: the smallest name it is connected with.

    Parameters
    ----------
    names : (n,) uint64, sorted
    first, second : (m,) uint64
        Ends of the contacts, all in `names`.
    """
    if len(first) > _NETWORKX_EDGES:
        return _join_large(names, first, second)
    import networkx as nx

    result = names.copy()
    for component in nx.connected_components(contact_graph(names, first, second)):
        if len(component) > 1:
            members = np.fromiter(component, np.uint64, len(component))
            result[np.searchsorted(names, members)] = members.min()
    return result


def _join_large(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.searchsorted(names, first), np.searchsorted(names, second)
    size = len(names)
    graph = coo_array((np.ones(len(first), np.uint8), ends), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    smallest = np.full(count, KEPT)
    np.minimum.at(smallest, component, names)
    return smallest[component]


def merge(
    members: Sequence[tuple[Node, tuple[int, int, int]]], thres_small: int
) -> tuple[Node, Links]:
    """Merge the members of a group.

    Parameters
    ----------
    members : sequence of (Node, (z, y, x))
        Each with its place in the group, 0 or 1 along every axis.
    thres_small : int
        Finished side components with fewer voxels are dropped.

    Returns
    -------
    Node
        The group.
    Links
        For the way down.
    """
    nodes = [node for node, _ in members]
    touching, old, component = {}, {}, {}
    for kind in KINDS:
        if kind == "synapse":
            names = np.sort(np.concatenate([n.open_synapse for n in nodes]))
        else:
            names = np.sort(np.concatenate([n.open_sides[kind].name for n in nodes]))
        touching[kind], component[kind] = _join_kind(kind, members, names)
        old[kind] = names
    new = dict(component)
    open_synapse = np.unique(touching["synapse"].component)
    open_sides = {}
    for kind in ("pre", "post"):
        open_sides[kind], new[kind] = _join_sides(
            [n.open_sides[kind] for n in nodes],
            (old[kind], component[kind]),
            (old["synapse"], component["synapse"]),
            np.unique(touching[kind].component),
            thres_small,
        )
    links = Links(old, new)
    states = States(
        links.of("synapse", np.concatenate([n.states.synapse for n in nodes])),
        links.of("pre", np.concatenate([n.states.pre for n in nodes])),
        links.of("post", np.concatenate([n.states.post for n in nodes])),
        Stats.joined([n.states.stats for n in nodes]),
    ).settled()
    still_open = np.isin(states.synapse, open_synapse)
    finished = np.setdiff1d(component["synapse"], open_synapse)
    rows = Rows.of(finished, states[np.flatnonzero(~still_open)])
    node = Node(touching, open_synapse, open_sides, states[np.flatnonzero(still_open)], rows)
    return node, links


def _join_kind(
    kind: str, members: Sequence[tuple[Node, tuple[int, int, int]]], names: np.ndarray
) -> tuple[Touching, np.ndarray]:
    """Join the open components of one kind across the faces inside the group."""
    parts = [(node.touching[kind], np.array(place)) for node, place in members]
    fragment = np.concatenate([t.fragment for t, _ in parts])
    belongs = np.concatenate([t.component for t, _ in parts])
    order = np.argsort(fragment, kind="stable")
    # a face or contact is inside the group where the member is on the face's other side of it
    outer = np.concatenate([place[t.face // 2] == t.face % 2 for t, place in parts])
    leaving = np.concatenate([place[t.contact_axis] == 1 for t, place in parts])
    face = np.concatenate([t.face for t, _ in parts])
    axis = np.concatenate([t.contact_axis for t, _ in parts])
    own = np.concatenate([t.contact_own for t, _ in parts])
    other = np.concatenate([t.contact_other for t, _ in parts])
    inside = ~leaving
    met = translate(other[inside], fragment[order], belongs[order])
    component = join(names, own[inside], met)
    result = Touching(
        face[outer],
        fragment[outer],
        translate(belongs[outer], names, component),
        axis[leaving],
        translate(own[leaving], names, component),
        other[leaving],
    )
    return result, component


def _join_sides(
    parts: Sequence[Sides],
    side: tuple[np.ndarray, np.ndarray],
    synapse: tuple[np.ndarray, np.ndarray],
    still_open: np.ndarray,
    thres_small: int,
) -> tuple[Sides, np.ndarray]:
    """Add up side components; returns those still open, and what became of each old name."""
    old, component = side
    names, into = np.unique(
        translate(np.concatenate([p.name for p in parts]), old, component), return_inverse=True
    )
    voxels = np.zeros(len(names), np.int64)
    np.add.at(voxels, into, np.concatenate([p.voxels for p in parts]))
    of_synapse = _ids(len(names))
    of_synapse[into] = translate(np.concatenate([p.synapse for p in parts]), *synapse)
    is_open = np.isin(names, still_open)
    fate = np.where(is_open, names, np.where(voxels >= thres_small, KEPT, NONE))
    became = fate[np.searchsorted(names, component)] if len(names) else component
    return Sides(names[is_open], of_synapse[is_open], voxels[is_open]), became


def to_arrays(node: Node) -> dict[str, np.ndarray]:
    """The node as named arrays, for its record."""
    arrays = {"open_synapse": node.open_synapse}
    for kind in KINDS:
        arrays |= {f"{kind}.{k}": v for k, v in vars(node.touching[kind]).items()}
    for kind in ("pre", "post"):
        arrays |= {f"side.{kind}.{k}": v for k, v in vars(node.open_sides[kind]).items()}
    states = node.states
    arrays |= {f"states.{k}": getattr(states, k) for k in KINDS}
    return arrays | stats_to_arrays(states.stats, "states") | rows_to_arrays(node.rows)


def stats_to_arrays(stats: Stats, name: str) -> dict[str, np.ndarray]:
    """Statistics as named arrays, for a record."""
    return {f"{name}.{k}": v for k, v in vars(stats).items()}


def stats_from_arrays(arrays: Mapping[str, np.ndarray], name: str) -> Stats:
    """The inverse of `stats_to_arrays`."""
    return Stats(*(arrays[f"{name}.{f.name}"] for f in fields(Stats)))


def rows_from_arrays(arrays: Mapping[str, np.ndarray]) -> Rows:
    """The finished synapses of a record."""
    pre, post = (stats_from_arrays(arrays, f"rows.{side}") for side in ("pre", "post"))
    return Rows(arrays["rows.synapse"], pre, post)


def rows_to_arrays(rows: Rows) -> dict[str, np.ndarray]:
    """The inverse of `rows_from_arrays`."""
    arrays = {"rows.synapse": rows.synapse}
    for side, stats in (("pre", rows.pre), ("post", rows.post)):
        arrays |= stats_to_arrays(stats, f"rows.{side}")
    return arrays


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
    return Node(touching, arrays["open_synapse"], sides, states, rows_from_arrays(arrays))
