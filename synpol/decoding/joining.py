"""Merge the members of a group: join components across the faces between the members.

`synpol.decoding.fragments` says what is joined, and what travels up the tree of groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from synpol.decoding.fragments import (
    INSIDE,
    KEPT,
    KINDS,
    NONE,
    Claims,
    Contacts,
    MergeNode,
    OpenNode,
    Relabelling,
    Sides,
    Touching,
    translate,
)
from synpol.decoding.runs import component_labels, first_of_each

if TYPE_CHECKING:  # workers of most stages never touch a graph, and it takes a third of a second
    import networkx as nx

#: above this many contacts a group's components are computed by arrays over the same graph
_NETWORKX_EDGES = 20_000


def contact_graph(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> nx.Graph:
    """Make the merge graph: the components of the members, and the contacts between them.

    Parameters
    ----------
    names : (n,) uint64
        Names of the components.
    first, second : (m,) uint64
        Names of the two ends of each contact.

    Returns
    -------
    networkx.Graph
        A node for each name (int), and an edge for each contact.
    """
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(names.tolist())
    graph.add_edges_from(zip(first.tolist(), second.tolist(), strict=True))
    return graph


def join(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Find the component of every name: the smallest name with which it is connected.

    Parameters
    ----------
    names : (n,) uint64, sorted
        Names of the members' components.
    first, second : (m,) uint64
        Names of the two ends of each contact, all of them in `names`.
    """
    if len(first) > _NETWORKX_EDGES:
        return _join_large(names, first, second)
    import networkx as nx

    met = names[np.isin(names, first) | np.isin(names, second)]
    components = list(nx.connected_components(contact_graph(met, first, second)))
    result = names.copy()
    if components:
        sizes = np.array([len(component) for component in components])
        members = np.fromiter(itertools.chain(*components), np.uint64, len(met))
        smallest = np.minimum.reduceat(members, np.cumsum(sizes) - sizes)
        result[np.searchsorted(names, members)] = np.repeat(smallest, sizes)
    return result


def _join_large(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    label = component_labels(
        len(names), np.searchsorted(names, first), np.searchsorted(names, second)
    )
    return names[first_of_each(label)][label - 1]


#: a member of a group, and its place in the group: from 0 on along each axis
Member = tuple[OpenNode, tuple[int, int, int]]
#: names of fragments that touch faces, sorted, and the component to which each belongs so far
_Belonging = tuple[np.ndarray, np.ndarray]


def merge(members: Sequence[Member], side: int, thres_small: int) -> tuple[MergeNode, Relabelling]:
    """Merge the members of a group.

    Parameters
    ----------
    members : sequence of (OpenNode, (z, y, x))
        Each member with its place in the group. Their claims are taken from them.
    side : int
        Number of members along a side of the group; at the end of the volume there may be fewer.
    thres_small : int
        Finished side components with fewer voxels are dropped.

    Returns
    -------
    MergeNode
        The group.
    Relabelling
        What became of the members' open components; for the way down.
    """
    nodes = [node for node, _ in members]
    old = {"synapse": np.sort(np.concatenate([n.open_synapse for n in nodes]))}
    for kind in ("pre", "post"):
        old[kind] = np.sort(np.concatenate([n.open_sides[kind].name for n in nodes]))
    belonging = {kind: _component_of_fragments([n.touching[kind] for n in nodes]) for kind in KINDS}
    touching, component = {}, {}
    for kind in KINDS:
        touching[kind], component[kind] = _join_kind(
            kind, members, side, old[kind], belonging[kind]
        )
    new = dict(component)
    open_sides = {}
    for kind in ("pre", "post"):
        open_sides[kind], new[kind] = _join_sides(
            [n.open_sides[kind] for n in nodes],
            (old[kind], component[kind]),
            (old["synapse"], component["synapse"]),
            np.unique(touching[kind].component),
            thres_small,
        )
    relabelling = Relabelling(old, new)
    open_synapse = np.unique(touching["synapse"].component)
    group = MergeNode.of(
        touching=touching,
        open_sides=open_sides,
        open_synapse=open_synapse,
        finished=np.setdiff1d(component["synapse"], open_synapse),
        claims=_join_claims(nodes, relabelling).reduced(),
        contacts=_join_contacts(members, side, belonging, relabelling).reduced(),
    )
    return group, relabelling


def _component_of_fragments(touching: Sequence[Touching]) -> _Belonging:
    fragment = np.concatenate([t.fragment for t in touching])
    order = np.argsort(fragment, kind="stable")
    return fragment[order], np.concatenate([t.component for t in touching])[order]


def _join_claims(nodes: Sequence[OpenNode], relabelling: Relabelling) -> Claims:
    """Name the members' claims by the components of the group."""
    claims = Claims.joined([node.claims for node in nodes])
    for node in nodes:  # they are the largest part of what a job holds in memory
        node.claims = claims[np.arange(0)]
    names = {kind: relabelling.of(kind, getattr(claims, kind)) for kind in KINDS}
    return Claims(names["synapse"], names["pre"], names["post"], claims.stats)


def _join_contacts(
    members: Sequence[Member],
    side: int,
    belonging: Mapping[str, _Belonging],
    relabelling: Relabelling,
) -> Contacts:
    """Name the members' contacts by the group; those across its inner faces lie inside it."""
    parts = []
    for node, place in members:
        contacts = node.contacts
        leaves = contacts.axis != INSIDE
        leaves[leaves] = np.array(place)[contacts.axis[leaves]] == side - 1
        claims = {}
        for kind in ("pre", "post"):
            own, other = getattr(contacts, kind).T
            inside = contacts.axis == INSIDE
            component = np.where(inside, other, translate(other, *belonging[kind]))
            joined = np.where(leaves, other, relabelling.of(kind, component))
            claims[kind] = np.stack([relabelling.of(kind, own), joined], axis=1)
        axis = np.where(leaves, contacts.axis, np.uint8(INSIDE))
        synapse = relabelling.of("synapse", contacts.synapse)
        parts.append(Contacts(synapse, claims["pre"], claims["post"], axis, contacts.faces))
    return Contacts.joined(parts)


def _join_kind(
    kind: str, members: Sequence[Member], side: int, names: np.ndarray, belonging: _Belonging
) -> tuple[Touching, np.ndarray]:
    """Join the open components of one kind across the faces inside the group."""
    parts = [(node.touching[kind], np.array(place)) for node, place in members]
    fragment = np.concatenate([t.fragment for t, _ in parts])
    component_so_far = np.concatenate([t.component for t, _ in parts])
    # a face or contact is inside the group where the group goes on at its other side
    ends = np.array([0, side - 1])  # places of members at the low and the high end of a group
    outer = np.concatenate([place[t.face // 2] == ends[t.face % 2] for t, place in parts])
    leaving = np.concatenate([place[t.contact_axis] == side - 1 for t, place in parts])
    face = np.concatenate([t.face for t, _ in parts])
    axis = np.concatenate([t.contact_axis for t, _ in parts])
    own = np.concatenate([t.contact_own for t, _ in parts])
    other = np.concatenate([t.contact_other for t, _ in parts])
    inside = ~leaving
    component = join(names, own[inside], translate(other[inside], *belonging))
    touching = Touching(
        face=face[outer],
        fragment=fragment[outer],
        component=translate(component_so_far[outer], names, component),
        contact_axis=axis[leaving],
        contact_own=translate(own[leaving], names, component),
        contact_other=other[leaving],
    )
    return touching, component


def _join_sides(
    parts: Sequence[Sides],
    side: tuple[np.ndarray, np.ndarray],
    synapse: tuple[np.ndarray, np.ndarray],
    still_open: np.ndarray,
    thres_small: int,
) -> tuple[Sides, np.ndarray]:
    """Add up side components; return those still open, and what became of each old name."""
    old, component = side
    sides = Sides.joined(parts)
    names, into = np.unique(translate(sides.name, old, component), return_inverse=True)
    voxels = np.zeros(len(names), np.int64)
    np.add.at(voxels, into, sides.voxels)
    of_synapse = np.zeros(len(names), np.uint64)
    of_synapse[into] = translate(sides.synapse, *synapse)
    is_open = np.isin(names, still_open)
    resolved = np.where(is_open, names, np.where(voxels >= thres_small, KEPT, NONE))
    became = resolved[np.searchsorted(names, component)] if len(names) else component
    return Sides(names[is_open], of_synapse[is_open], voxels[is_open]), became
