"""Find the neuron on each side of every synapse, and the graph of who talks to whom.

Reads predict.output (instances, synapses.parquet) and connect.segmentation; writes beside them
partners.parquet (a row a synapse), connectivity.parquet (a row a pair of neurons) and
connectivity.graphml.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import networkx as nx
import pyarrow.parquet as pq

from synpol.arrays import check_complete, check_writable, is_url, join, open_image
from synpol.blockwise.output import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.connectivity import connectivity, edge_table, partners_blockwise
from synpol.errors import InputError


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if is_url(output):
        raise InputError("predict.output is remote; tables are written to a local folder only")
    folder, table = Path(output), Path(output) / "synapses.parquet"
    if not config.decode.sides or config.decode.semantic:
        raise InputError("partners need numbered sides: decode.sides true, decode.semantic false")
    instances = open_image(join(output, "instances"), channels=0)
    segmentation = open_image(config.need("connect.segmentation"), channels=0)
    for image in (instances, segmentation):
        check_complete(image)
    if not table.is_file():
        raise InputError(f"there is no {table}; pipelines/predict_blockwise.py makes it")
    check_writable(folder)
    partners = partners_blockwise(
        instances,
        segmentation,
        block_shape=config.decode.block_shape,
        work_dir=work_folder(output, config.workers.work_dir),
        num_workers=config.workers.num_workers,
        workers=config.workers,
    )
    graph = connectivity(partners, pq.read_table(table))
    pq.write_table(partners, folder / "partners.parquet")
    pq.write_table(edge_table(graph), folder / "connectivity.parquet")
    nx.write_graphml(graph, folder / "connectivity.graphml")
    counts = {name: int(partners[name].to_numpy().sum()) for name in ("unassigned", "autapse")}
    print(
        f"{partners.num_rows} synapses, {counts['unassigned']} with a side in no neuron, "
        f"{counts['autapse']} autapses; {graph.number_of_nodes()} neurons, "
        f"{graph.number_of_edges()} connections: {folder / 'connectivity.graphml'}"
    )


if __name__ == "__main__":
    run_command(main, __doc__)
