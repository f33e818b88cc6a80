# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "dask-image==2026.5.0",
#     "dask[array]==2026.8.0",
#     "numpy==2.5.5",
#     "scipy==1.18.1",
#     "zarr==3.4.2",
# ]
# ///
"""Peer: dask-image, `dask_image.ndmeasure.label`: scipy's label on every block, one sparse graph.

    uv run --script dask_image_label.py INPUT OUTPUT --block Z Y X --workers N [--check FILE.npy]

Used as documented: `da.from_zarr` with the blocks as chunks, `label` (its default structure joins
faces), `to_zarr`, on dask's threads. Nothing is kept between the passes.

Against it: the graph labels blocks again and again, a multiple that grows with the number of
blocks; the offsets of the labels form one chain over all blocks; the graph of all labels is built
in one task. For it: threads share memory and need no start. Labels are int32.
"""

from __future__ import annotations

import dask
import dask.array as da
import zarr
from dask_image.ndmeasure import label
from peer_command import parse_request, run_peer


def main() -> None:
    request = parse_request(__doc__)

    def run() -> None:
        with dask.config.set(scheduler="threads", num_workers=request.workers):
            mask = da.from_zarr(str(request.input), chunks=request.block)
            labels, _ = label(mask)
            labels.to_zarr(str(request.output))

    run_peer(request, "dask-image", run, lambda: zarr.open_array(request.output, mode="r"))


if __name__ == "__main__":
    main()
