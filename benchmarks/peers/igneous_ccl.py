# /// script
# requires-python = ">=3.12"
# dependencies = [
#     "igneous-pipeline==4.37.0",
#     "cloud-volume[all_codecs]==12.15.2",
#     "connected-components-3d==4.1.1",
#     "numpy==2.5.5",
#     "task-queue==2.14.3",
#     "zarr==3.4.2",
#     "zfpy==1.0.1",
# ]
# ///
"""Peer: igneous, the tasks behind `igneous image ccl auto`: faces, links, union-find, relabel.

    uv run --script igneous_ccl.py INPUT OUTPUT --block Z Y X --workers N [--check FILE.npy]

Used as that command is without a queue: a local task queue with `--workers` processes, in the
driver itself with one worker. The mask is first written, untimed, as an uncompressed (but gzipped)
precomputed volume with the chunks of the Zarr array. The result is precomputed, with the blocks as
chunks and the command's default encoding, compresso.

Against it: the blocks are read with an overlap of a voxel and labeled three times; the union-find
is a Python dictionary in the driver; the processes start within the timed part, though once.
It is made for object stores and queues, and the tasks, not the driver's step, can be resumed.
For it: the labels are stored in the smallest integer type that holds them.

zfpy is pinned because numcodecs, and with it zarr, cannot be imported beside 1.0.1.post0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from cloudvolume import CloudVolume
from igneous import task_creation
from igneous.tasks.image.ccl import create_relabeling
from pathos.pools import ProcessPool
from peer_command import Request, boxes, parse_request, run_peer
from taskqueue import LocalTaskQueue


class Labels:
    """A precomputed volume, sliced as (z, y, x)."""

    def __init__(self, path: str) -> None:
        self.volume = CloudVolume(path, progress=False)
        x, y, z = (int(s) for s in self.volume.shape[:3])
        self.shape = (z, y, x)

    def __getitem__(self, box: tuple[slice, ...]) -> np.ndarray:
        return np.asarray(self.volume[box[::-1]])[..., 0].T


def convert(request: Request, path: str) -> None:
    """The mask as a precomputed volume with the chunks of the Zarr array."""
    mask: Any = zarr.open_array(request.input, mode="r")
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation",
        data_type="uint8",
        encoding="raw",
        resolution=(8, 8, 30),
        voxel_offset=(0, 0, 0),
        chunk_size=mask.chunks[::-1],
        volume_size=mask.shape[::-1],
    )
    volume = CloudVolume(path, info=info, progress=False)
    volume.commit_info()
    for box in boxes(mask.shape, mask.chunks):
        volume[box[::-1]] = mask[box].T[..., None]


def main() -> None:
    request = parse_request(__doc__)
    source, target = f"file://{request.scratch / 'mask'}", f"file://{request.output}"
    convert(request, source)
    shape = request.block[::-1]
    queue = LocalTaskQueue(parallel=request.workers, progress=False)

    def run() -> None:
        queue.insert_all(task_creation.create_ccl_face_tasks(source, 0, shape))
        queue.insert_all(task_creation.create_ccl_equivalence_tasks(source, 0, shape))
        create_relabeling(source, 0, shape)
        queue.insert_all(
            task_creation.create_ccl_relabel_tasks(
                source, target, mip=0, shape=shape, chunk_size=shape, encoding="compresso"
            )
        )

    def end_workers() -> None:
        if request.workers > 1:
            pool = ProcessPool(request.workers)  # pathos hands back the pool the queue used
            pool.close()
            pool.join()
            pool.clear()

    run_peer(request, "igneous-pipeline", run, lambda: Labels(target), end_workers)


if __name__ == "__main__":
    main()
