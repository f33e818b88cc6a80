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

from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.connectivity import check_same_synapses, connections, graph_of, partners_blockwise
from synpol.errors import InputError
from synpol.files import digest_beside, is_url, join, whole_file
from synpol.images.claim import SETTINGS, check_complete
from synpol.images.image import check_readable, open_image
from synpol.images.labels import open_labels
from synpol.images.writing import check_writable
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.reading import read_table


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if is_url(output):
        raise InputError("predict.output is remote; tables are written to a local folder only")
    folder, table = Path(output), Path(output) / "synapses.parquet"
    if not config.decode.sides or config.decode.semantic:
        raise InputError("partners need numbered sides: decode.sides true, decode.semantic false")
    instances = open_image(join(output, "instances"), channels=0)
    segmentation = open_labels(config.need_image("connect.segmentation"), "ids", instances)
    for image in (instances, segmentation):
        check_complete(image)
        check_readable(image)
    stored = instances.array.attrs.get(SETTINGS)
    if isinstance(stored, dict) and (stored["semantic"] or not stored["sides"]):
        raise InputError(
            f"{instances.path} was decoded with sides = {stored['sides']}, semantic = "
            f"{stored['semantic']}; partners need numbered sides"
        )
    columns = ["synapse_id", "pre_score", "post_score", "contact_area"]
    synapses = read_table(table, columns)
    check_writable(folder)
    partners = partners_blockwise(
        instances,
        segmentation,
        partly=True,
        block_shape=config.decode.block_shape,
        work_dir=work_folder(output, config.workers.work_dir),
        num_workers=config.workers.num_workers,
        workers=config.workers,
    )
    check_same_synapses(partners, synapses, str(table))
    edges = connections(partners, synapses)
    graph = graph_of(edges)
    for name, rows in (("partners", partners), ("connectivity", edges)):
        rows = rows.replace_schema_metadata({TABLE_HASH: digest_of(table)})
        path = folder / f"{name}.parquet"
        with digest_beside(path), whole_file(path) as temporary:
            pq.write_table(rows, temporary)
    with whole_file(folder / "connectivity.graphml") as temporary:
        nx.write_graphml(graph, temporary)
    counts = {name: int(partners[name].to_numpy().sum()) for name in ("unassigned", "autapse")}
    print(
        f"{partners.num_rows} synapses, {counts['unassigned']} with a side in no neuron, "
        f"{counts['autapse']} autapses; {graph.number_of_nodes()} neurons, "
        f"{graph.number_of_edges()} connections: {folder / 'connectivity.graphml'}"
    )


if __name__ == "__main__":
    run_command(main, __doc__)
