"""Make synthetic volumes, convert volumes, and make labels from links, as prepare lists them.

What is there already is left alone.
"""

from __future__ import annotations

import argparse

from synpol.command import run_command
from synpol.config import Config, LinkSides
from synpol.datasets.import_volume import all_volumes, describe_volume, import_volume
from synpol.datasets.write_link_sides import write_link_sides
from synpol.datasets.write_synthetic import write_synthetic
from synpol.errors import InputError
from synpol.formats import known_formats
from synpol.images.image import open_image
from synpol.report.link_page import write_link_page


def main(config: Config, given: argparse.Namespace) -> None:
    prepare = config.prepare
    if not (prepare.synthetic or prepare.imports or prepare.links):
        raise InputError(
            "prepare.synthetic, prepare.imports and prepare.links are all empty: nothing to prepare"
        )
    for dataset in prepare.synthetic:
        print(describe_volume(write_synthetic(dataset, config.workers.num_workers)))
    for source in prepare.imports:
        for volume in all_volumes(source):
            print(describe_volume(import_volume(volume)))
    for entry in prepare.links:
        make_sides(entry, config.workers.num_workers)


def make_sides(entry: LinkSides, num_workers: int) -> None:
    """Make labels from links, and the page on which a person checks them."""
    made = write_link_sides(entry, num_workers)
    page = made.table.with_suffix(".html")
    write_link_page(page, open_image(entry.image), made.image, made.table)
    print(describe_volume(made.image))
    told = ", ".join(f"{count} {name}" for name, count in made.counts.items() if count)
    print(f"{made.synapses} synapses of {sum(made.counts.values())} links: {told}")
    print(f"{made.table}\n{page}: please look at it before you train")


if __name__ == "__main__":
    run_command(main, f"{__doc__}\nFormats that are imported: {known_formats()}.")
