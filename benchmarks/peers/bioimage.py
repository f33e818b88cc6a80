# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "bioimage-py==0.2.2",
#     "bioimage-cpp==0.10.0",
#     "numpy==2.5.5",
#     "scipy==1.18.1",
#     "zarr==3.4.2",
# ]
# ///
"""Peer: bioimage-py, `bioimage_py.segmentation.label`: blocks, faces, union-find, relabel.

    uv run --script bioimage.py INPUT OUTPUT --block Z Y X --workers N [--check FILE.npy]

Used with its local runner, which is threads. Labels go to a uint64 Zarr array with the blocks as
chunks; its blockwise path joins faces only.

For it: threads share memory and need no start. Against it: one interpreter runs all the Python
code, so more workers may not help; the labels are written twice as uint64, and every label of the
volume passes through a Python dictionary. Its processes (`job_type="subprocess"`) were not used.
"""

from __future__ import annotations

import numpy as np
import zarr
from bioimage_py.segmentation import label
from peer_command import parse_request, run_peer


def main() -> None:
    request = parse_request(__doc__)

    def run() -> None:
        mask = zarr.open_array(request.input, mode="r")
        labels = zarr.create_array(
            request.output, shape=mask.shape, chunks=request.block, dtype=np.uint64
        )
        label(
            mask,
            labels,
            connectivity=1,
            block_shape=request.block,
            num_workers=request.workers,
        )

    run_peer(request, "bioimage-py", run, lambda: zarr.open_array(request.output, mode="r"))


if __name__ == "__main__":
    main()
