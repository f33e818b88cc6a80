"""How the members of a group become one: joining components across faces, and what goes on upwards.

See `synpol.decoding.fragments` for what is joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from synpol.decoding.fragments import (
    INSIDE,
    KEPT,
    KINDS,
    NONE,
    Contacts,
    Links,
    Node,
    Sides,
    States,
    Touching,
    rows_of,
    translate,
)
from synpol.synapses.statistics import Stats

if TYPE_CHECKING:  # workers of most stages never touch a graph, and it takes a third of a second
    import networkx as nx

#: above this many contacts a group's components are computed by scipy over the same graph
_NETWORKX_EDGES = 20_000


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
    touching, old, component, met = {}, {}, {}, {}
    for kind in KINDS:
        if kind == "synapse":
            names = np.sort(np.concatenate([n.open_synapse for n in nodes]))
        else:
            names = np.sort(np.concatenate([n.open_sides[kind].name for n in nodes]))
        met[kind] = _component_of_fragments([n.touching[kind] for n in nodes])
        touching[kind], component[kind] = _join_kind(kind, members, names, met[kind])
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
    contacts = _join_contacts(members, met, links).settled()
    goes_on, stays = (np.isin(x.synapse, open_synapse) for x in (states, contacts))
    finished = np.setdiff1d(component["synapse"], open_synapse)
    rows = rows_of(finished, states[np.flatnonzero(~goes_on)], contacts[np.flatnonzero(~stays)])
    states, contacts = states[np.flatnonzero(goes_on)], contacts[np.flatnonzero(stays)]
    return Node(touching, open_synapse, open_sides, states, contacts, rows), links


#: fragments that touch faces, sorted, and the component that each belongs to by now
_Met = tuple[np.ndarray, np.ndarray]


def _component_of_fragments(touching: Sequence[Touching]) -> _Met:
    fragment = np.concatenate([t.fragment for t in touching])
    order = np.argsort(fragment, kind="stable")
    return fragment[order], np.concatenate([t.component for t in touching])[order]


def _join_contacts(
    members: Sequence[tuple[Node, tuple[int, int, int]]], met: Mapping[str, _Met], links: Links
) -> Contacts:
    """The members' contacts by the names of the group; those across its inner faces lie inside."""
    parts = []
    for node, place in members:
        contacts = node.contacts
        leaves = np.append(place, [0] * (INSIDE - 2))[contacts.axis] == 1  # not where INSIDE
        claims = {}
        for kind in ("pre", "post"):
            own, other = getattr(contacts, kind).T
            named = np.where(contacts.axis == INSIDE, other, translate(other, *met[kind]))
            there = links.of(kind, named)
            claims[kind] = np.stack([links.of(kind, own), np.where(leaves, other, there)], axis=1)
        axis = np.where(leaves, contacts.axis, np.uint8(INSIDE))
        synapse = links.of("synapse", contacts.synapse)
        parts.append(Contacts(synapse, claims["pre"], claims["post"], axis, contacts.faces))
    return Contacts.joined(parts)


def _join_kind(
    kind: str,
    members: Sequence[tuple[Node, tuple[int, int, int]]],
    names: np.ndarray,
    met: _Met,
) -> tuple[Touching, np.ndarray]:
    """Join the open components of one kind across the faces inside the group."""
    parts = [(node.touching[kind], np.array(place)) for node, place in members]
    fragment = np.concatenate([t.fragment for t, _ in parts])
    belongs = np.concatenate([t.component for t, _ in parts])
    # a face or contact is inside the group where the member is on the face's other side of it
    outer = np.concatenate([place[t.face // 2] == t.face % 2 for t, place in parts])
    leaving = np.concatenate([place[t.contact_axis] == 1 for t, place in parts])
    face = np.concatenate([t.face for t, _ in parts])
    axis = np.concatenate([t.contact_axis for t, _ in parts])
    own = np.concatenate([t.contact_own for t, _ in parts])
    other = np.concatenate([t.contact_other for t, _ in parts])
    inside = ~leaving
    component = join(names, own[inside], translate(other[inside], *met))
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
    of_synapse = np.zeros(len(names), np.uint64)
    of_synapse[into] = translate(np.concatenate([p.synapse for p in parts]), *synapse)
    is_open = np.isin(names, still_open)
    fate = np.where(is_open, names, np.where(voxels >= thres_small, KEPT, NONE))
    became = fate[np.searchsorted(names, component)] if len(names) else component
    return Sides(names[is_open], of_synapse[is_open], voxels[is_open]), became
