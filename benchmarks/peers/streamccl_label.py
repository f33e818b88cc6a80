# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "streamccl==0.1.0",
#     "numpy==2.5.5",
#     "scipy==1.18.1",
#     "zarr==3.4.2",
# ]
# ///
"""Peer: streamccl, `streamccl.label`: blocks, contacts, union-find in SQLite, relabeled in place.

    uv run --script streamccl_label.py INPUT OUTPUT --block Z Y X --workers N [--check FILE.npy]

It is serial: `--workers` is ignored. Labels go to an int64 Zarr array with the blocks as chunks;
like the names in synpol, a label is 1 + the index of a first voxel. Its planner counts 128 bytes a
voxel and refuses blocks of 128 x 128 x 128 at its default of 256 MiB, so the limit is set to what
it counts for a block plus 256 MiB, which keeps its whole relabeling table in memory.

Against it: one process, and the labels are written, read for their faces, read and written again.
For it: nothing is started, and its memory hardly grows with the volume.
"""

from __future__ import annotations

import math

import numpy as np
import zarr
from peer_command import parse_request, run_peer
from streamccl import label

PLANNED_BYTES_A_VOXEL = 128
SPARE_BYTES = 256 * 1024**2


def main() -> None:
    request = parse_request(__doc__)

    def run() -> None:
        mask = zarr.open_array(request.input, mode="r")
        labels = zarr.create_array(
            request.output, shape=mask.shape, chunks=request.block, dtype=np.int64
        )
        label(
            mask,
            labels,
            chunks=request.block,
            connectivity=1,
            memory_limit=PLANNED_BYTES_A_VOXEL * math.prod(request.block) + SPARE_BYTES,
            workdir=request.scratch,
        )

    run_peer(request, "streamccl", run, lambda: zarr.open_array(request.output, mode="r"))


if __name__ == "__main__":
    main()
