"""Write the synapse table, or the links between neurons, in a form that other programs read.

  --csv FILE              all columns
  --parts FOLDER          all columns, a Parquet file for every million synapses
  --cave FILE             Parquet with the columns of CAVE's synapse tables
  --synful FILE           Parquet with the columns of synful's tables
  --neuprint FILE         Parquet with the columns of neuprint-python's synapse connections
  --sqlite FILE           a graph database of funlib.persistence: synapses as nodes
  --postgres HOST/DB      the same in PostgreSQL (user and password as psql takes them)

Reads predict.output/synapses.parquet. Where pipelines/connect.py has written links.parquet beside
it, the forms of CAVE, synful and neuPrint have a row for each link.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from funlib.geometry import Coordinate, Roi

from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.image import Image, open_image
from synpol.images.writing import check_writable
from synpol.synapses.exports import (
    cave_rows,
    fill_graph,
    open_graph,
    open_table,
    synful_rows,
    write_csv,
    write_parquet_form,
    write_parts,
)
from synpol.synapses.link_forms import (
    cave_link_rows,
    links_of,
    neuprint_rows,
    synful_link_rows,
)


def options(parser: argparse.ArgumentParser) -> None:
    for form in ("csv", "cave", "synful", "neuprint", "sqlite"):
        parser.add_argument(f"--{form}", type=Path, metavar="FILE")
    parser.add_argument("--parts", type=Path, metavar="FOLDER")
    parser.add_argument("--postgres", metavar="HOST/DATABASE")


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if is_url(output):
        raise InputError("predict.output is remote; copy its synapses.parquet first")
    files = (given.csv, given.cave, given.synful, given.neuprint, given.sqlite)
    if given.postgres is None and given.parts is None and not any(files):
        raise InputError(
            "say what to write: --csv, --parts, --cave, --synful, --neuprint, --sqlite or "
            "--postgres"
        )
    for file in filter(None, files):
        if file.is_dir():
            raise InputError(f"{file} is a folder; a file to write is expected")
        check_writable(file.parent)
    table = Path(output) / "synapses.parquet"
    open_table(table)
    instances = open_image(join(output, "instances"), channels=0)
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
    for database in ({"sqlite": given.sqlite}, {"postgres": given.postgres}):
        [name] = database.values()
        if name:
            graph = open_graph(table, roi, **database)
            print(f"{fill_graph(table, graph)} synapses in {name}")


def write_link_forms(given: argparse.Namespace, table: Path, instances: Image) -> None:
    """Write the forms with a row for each pair of partners; without links, for each synapse."""
    links = links_of(table)
    if links is None and given.neuprint:
        raise InputError(
            f"there is no {table.with_name('links.parquet')}, and --neuprint writes links between "
            "neurons; pipelines/connect.py makes it"
        )
    for path, of_links, of_synapses in (
        (given.cave, cave_link_rows, cave_rows),
        (given.synful, synful_link_rows, synful_rows),
        (given.neuprint, neuprint_rows, None),
    ):
        if path and links is not None:
            count, left_out = write_parquet_form(links, path, of_links, instances)
            print(f"{count} links in {path}; {left_out} that repeat others are left out")
        elif path and of_synapses is not None:
            count, left_out = write_parquet_form(table, path, of_synapses, instances)
            print(f"{count} synapses in {path}; {left_out} with a single side are left out")


if __name__ == "__main__":
    run_command(main, __doc__, options=options)
