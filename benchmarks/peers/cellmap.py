# /// script
# requires-python = ">=3.12,<3.13"
# dependencies = [
#     "bokeh==3.7.3",
#     "cellmap-analyze==0.6.2",
#     "connected-components-3d==4.1.1",
#     "dask[distributed]==2025.5.1",
#     "numpy==2.5.5",
#     "zarr==3.4.2",
# ]
#
# [tool.uv]
# override-dependencies = ["mwatershed==0.5.4"]
# ///
"""Peer: cellmap-analyze, `ConnectedComponents`: labels to Zarr, faces, sparse graph, relabel.

    uv run --script cellmap.py INPUT OUTPUT --block Z Y X --workers N [--check FILE.npy]

Used with `binarize` at 1, face connectivity and no size filter. With one worker it runs in this
process, with more on a local dask cluster, as its dask-config.yaml asks; the labels lie in
`OUTPUT/labels.zarr/components/s0`, beside its labels before merging.

Against it: it starts a cluster for each of its three passes, seconds each time, within the timed
part, so with two workers small volumes time little else: look at `--workers 1` as well. All ids
and contacts pass through Python sets in the driver, and sizes are counted although nothing is
filtered. For it: tensorstore reads and writes with threads of its own, beyond `--workers`.

mwatershed, which connected components do not use, is 0.5.4 instead of the 0.5.2 that
cellmap-analyze demands and that has no wheel for Python 3.12 on Linux. bokeh is pinned because
dask 2025.5.1, which cellmap-analyze demands as well, cannot shut a cluster down with bokeh 3.10.
"""

from __future__ import annotations

import os

import zarr
from cellmap_analyze.process.connected_components import ConnectedComponents
from peer_command import parse_request, run_peer


def main() -> None:
    request = parse_request(__doc__)
    (request.scratch / "dask-config.yaml").write_text("jobqueue:\n  local: {}\n")
    os.chdir(request.scratch)
    labels = request.output / "labels.zarr" / "components"

    def run() -> None:
        ConnectedComponents(
            output_path=str(labels),
            input_path=str(request.input),
            intensity_threshold_minimum=1,
            connectivity=1,
            chunk_shape=request.block,
            num_workers=request.workers,
        ).get_connected_components()

    run_peer(request, "cellmap-analyze", run, lambda: zarr.open_array(labels / "s0", mode="r"))


if __name__ == "__main__":
    main()
