"""Find the neurons on both sides of every synapse, and the graph of who talks to whom.

Reads predict.output (instances, synapses.parquet) and connect.segmentation; writes beside them
links.parquet (a row for each pair of neurons that a synapse joins), parts.parquet (a row for each
synapse, side and neuron), partners.parquet (a row a synapse), connectivity.parquet (a row a pair of
neurons) and connectivity.graphml.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config, Connect
from synpol.connectivity.job import parts_blockwise
from synpol.connectivity.tables import Summary, write_tables
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.claim import SETTINGS, check_complete
from synpol.images.image import check_readable, open_image
from synpol.images.labels import open_labels
from synpol.images.writing import check_writable
from synpol.synapses.link_forms import SCORED
from synpol.synapses.reading import open_table


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
    open_table(table, SCORED)
    check_writable(folder)
    work = work_folder(output, config.workers.work_dir)
    with parts_blockwise(
        instances,
        segmentation,
        partly=True,
        max_distance=config.connect.max_distance,
        block_shape=config.decode.block_shape,
        work_dir=work,
        num_workers=config.workers.num_workers,
        workers=config.workers,
    ) as ranges:
        found = write_tables(ranges, table, folder, config.connect, work)
    print(
        f"{found.synapses} synapses, {found.unassigned} with a side in no neuron, "
        f"{found.autapses} autapses; {found.neurons} neurons, "
        f"{found.connections} connections: {folder / 'connectivity.graphml'}"
    )
    for line in remarks(found, config.connect):
        print(line)


def remarks(found: Summary, options: Connect) -> Iterator[str]:
    """Say what is left out, and which keys change it."""
    if found.left_out:
        yield (
            f"{found.polyadic} synapses join several neurons on a side; {found.left_out} links are "
            "left out, which connect.partners=all keeps"
        )
    elif found.polyadic:
        yield f"{found.polyadic} synapses join several neurons on a side: a link for each"
    if found.outside and options.max_distance:
        yield (
            f"{found.outside} sides have no neuron within {options.max_distance:g} nm; a larger "
            "connect.max_distance may find one"
        )
    elif found.outside:
        yield (
            f"{found.outside} sides lie where the segmentation has no neuron; "
            "connect.max_distance=50 takes the nearest one within 50 nm of each voxel"
        )
    if found.duplicates or found.below:
        yield (
            f"{found.links} links; not counted: {found.duplicates} that repeat others within "
            f"{options.duplicates:g} nm, {found.below} below the score {options.min_score:g}"
        )


if __name__ == "__main__":
    run_command(main, __doc__)
