"""Write synapses, links between neurons, or the instances in a form that other programs read.

  --csv FILE              all columns
  --parts FOLDER          all columns, a Parquet file for every million synapses
  --cave FILE             Parquet with the columns of CAVE's synapse tables
  --supervoxels IMAGE     adds to --cave the supervoxel that each point lies in, from an image
                          of supervoxels (folder or URL)
  --synful FILE           Parquet with the columns of synful's tables
  --neuprint FILE         Parquet with the columns of neuprint-python's synapse connections
  --sqlite FILE           a graph database of funlib.persistence: synapses as nodes
  --postgres HOST/DB      the same in PostgreSQL (user and password as psql takes them)
  --precomputed FOLDER    the instances as a segmentation that neuroglancer and cloud-volume
                          open, with coarser resolutions; FOLDER may be a URL (s3://, gs://)

Reads predict.output: synapses.parquet, and instances. Where pipelines/connect.py has written
links.parquet beside the table, the forms of CAVE, synful and neuPrint have a row for each link.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from funlib.geometry import Coordinate, Roi

from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.image import Image, open_image
from synpol.images.labels import open_labels
from synpol.images.writing import check_writable
from synpol.synapses.exports import (
    cave_rows,
    synful_rows,
    write_csv,
    write_parquet_form,
    write_parts,
)
from synpol.synapses.graphs import write_postgres, write_sqlite
from synpol.synapses.link_forms import (
    WithSupervoxels,
    cave_link_rows,
    links_of,
    neuprint_rows,
    synful_link_rows,
)
from synpol.synapses.reading import open_table
from synpol.synapses.segmentation import write_segmentation


def options(parser: argparse.ArgumentParser) -> None:
    for form in ("csv", "cave", "synful", "neuprint", "sqlite"):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE")
    parser.add_argument("--supervoxels", metavar="IMAGE")
    parser.add_argument("--parts", type=Path, metavar="FOLDER")
    parser.add_argument("--postgres", metavar="HOST/DATABASE")
    parser.add_argument("--precomputed", metavar="FOLDER")


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if is_url(output):
        raise InputError("predict.output is remote; copy its synapses.parquet first")
    files = (given.csv, given.cave, given.synful, given.neuprint, given.sqlite)
    tables = [*files, given.parts, given.postgres]
    if not any([*tables, given.precomputed]):
        raise InputError(
            "say what to write: --csv, --parts, --cave, --synful, --neuprint, --sqlite, "
            "--postgres or --precomputed"
        )
    if given.supervoxels and not given.cave:
        raise InputError("--supervoxels adds columns to --cave FILE, which is missing")
    for file in filter(None, files):
        if file.is_dir():
            raise InputError(f"{file} is a folder; a file to write is expected")
        check_writable(file.parent)
    table = Path(output) / "synapses.parquet"
    if any(tables):
        open_table(table)
    instances = open_image(join(output, "instances"), channels=0)
    write_tables(table, instances, given)
    if given.precomputed:
        count = write_segmentation(
            instances,
            given.precomputed,
            work_dir=work_folder(output, config.workers.work_dir),
            num_workers=config.workers.num_workers,
            workers=config.workers,
        )
        print(f"{count} resolutions in {given.precomputed}")


def write_tables(table: Path, instances: Image, given: argparse.Namespace) -> None:
    """Write the forms of the table that are asked for."""
    if given.csv:
        print(f"{write_csv(table, given.csv)} synapses in {given.csv}")
    if given.parts:
        check_writable(given.parts.parent)
        print(f"{write_parts(table, given.parts)} files in {given.parts}")
    if given.cave or given.synful or given.neuprint:
        write_link_forms(given, table, instances)
    corners = ((np.floor, instances.offset_nm), (np.ceil, instances.end_nm))
    begin, end = (Coordinate(f(corner).astype(int)) for f, corner in corners)
    roi = Roi(begin, end - begin)
    if given.sqlite:
        print(f"{write_sqlite(table, given.sqlite, roi)} synapses in {given.sqlite}")
    if given.postgres:
        print(f"{write_postgres(table, given.postgres, roi)} synapses in {given.postgres}")


def write_link_forms(given: argparse.Namespace, table: Path, instances: Image) -> None:
    """Write the forms with a row for each pair of partners; without links, for each synapse."""
    links = links_of(table)
    if links is None and given.neuprint:
        raise InputError(
            f"there is no {table.with_name('links.parquet')}, and --neuprint writes links between "
            "neurons; pipelines/connect.py makes it"
        )
    looked_up = []
    if given.supervoxels:
        supervoxels = open_labels(given.supervoxels, "ids")
        looked_up = [
            WithSupervoxels(rows_of, supervoxels) for rows_of in (cave_link_rows, cave_rows)
        ]
    for path, of_links, of_synapses in (
        (given.cave, *(looked_up or (cave_link_rows, cave_rows))),
        (given.synful, synful_link_rows, synful_rows),
        (given.neuprint, neuprint_rows, None),
    ):
        if path and links is not None:
            count, left_out = write_parquet_form(links, path, of_links, instances)
            print(f"{count} links in {path}; {left_out} that repeat others are left out")
        elif path and of_synapses is not None:
            count, left_out = write_parquet_form(table, path, of_synapses, instances)
            print(f"{count} synapses in {path}; {left_out} with a single side are left out")
    if missing := sum(one.missing for one in looked_up):
        print(f"{missing} points lie in no supervoxel of {given.supervoxels}; their id is 0")


if __name__ == "__main__":
    run_command(main, __doc__, options=options)
