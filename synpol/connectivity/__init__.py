"""Find the neurons on both sides of every synapse, and the graph of their connections.

Stages count the voxels and faces of every *part* (what one neuron holds of one side of one synapse)
and find its anchor (`parts.py`, `job.py`); `links.py` pairs pre with post parts, and `graph.py`
counts the links between neurons.
"""

from __future__ import annotations

from synpol.connectivity.graph import connections, graph_of
from synpol.connectivity.job import partners_blockwise, parts_blockwise
from synpol.connectivity.partners import partners_of
from synpol.connectivity.tables import write_tables

__all__ = [
    "connections",
    "graph_of",
    "partners_blockwise",
    "partners_of",
    "parts_blockwise",
    "write_tables",
]
