"""The synapse table: one row for each synapse that has a label in ``instances``.

Lengths are nm in world coordinates. Everything is about the voxels that carry the label, after
overlaps of both sides were decided: what a person would compute from ``instances``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.arrays import Image, is_url
from synpol.blockwise.fragments import Rows, Stats


def _schema(sides: bool) -> pa.Schema:
    number, count, score = pa.uint64(), pa.int64(), pa.float64()
    parts = ["pre", "post"] if sides else ["pre", "post", "union"]
    return pa.schema(
        [
            pa.field("synapse_id", number, nullable=False),
            *(pa.field(f"{p}_{a}", score) for p in parts for a in "zyx"),
            *(pa.field(f"{p}_voxels", count, nullable=False) for p in parts),
            *(pa.field(f"{p}_score", score) for p in parts),
            *(
                pa.field(f"bbox_{a}_{end}", score, nullable=False)
                for a in "zyx"
                for end in ("min", "max")
            ),
        ],
        metadata={"unit": "nm", "synpol": "synapse table 1"},
    )


def synapse_rows(
    number: np.ndarray,
    rows: Rows,
    grid: Image,
    scale: float,
    *,
    exclusive: bool = False,
    sides: bool = True,
) -> pa.Table:
    """Rows of the table from what was summed up over voxels.

    Parameters
    ----------
    number : (n,) uint64
        Of the synapses.
    rows : Rows
        Synapses that lost both sides are left out.
    grid : Image
        Says where voxels lie.
    scale : float
        Channel value of probability 1 in the sums.
    exclusive : bool
        Whether the channels are background, pre, post instead of pre, post, union.
    sides : bool
        False: columns ``union_*`` instead of those of the sides, which are null and 0.

    Returns
    -------
    pyarrow.Table
    """
    there = np.flatnonzero((rows.pre.sums[:, 0] > 0) | (rows.post.sums[:, 0] > 0))
    number, pre, post = number[there], rows.pre[there], rows.post[there]
    channel = {"pre": 1, "post": 2} if exclusive else {"pre": 0, "post": 1, "union": 2}
    schema = _schema(sides)

    def column(name: str, values: np.ndarray, missing: np.ndarray | None = None) -> None:
        columns[name] = _array(values, schema.field(name).type, missing)

    columns: dict[str, pa.Array] = {}
    column("synapse_id", number)
    parts = {"pre": pre, "post": post}
    if not sides:
        nothing = Stats.empty(len(there))
        parts = {"pre": nothing, "post": nothing, "union": pre}
    for name, stats in parts.items():
        voxels = stats.sums[:, 0]
        missing = voxels == 0
        some = np.maximum(voxels, 1)
        for axis, letter in enumerate("zyx"):
            centre = stats.sums[:, 1 + axis] / some + 0.5
            world = grid.offset_nm[axis] + centre * grid.voxel_size_nm[axis]
            column(f"{name}_{letter}", world, missing)
        column(f"{name}_voxels", voxels)
        if name == "union" and exclusive:
            total = stats.sums[:, 5] + stats.sums[:, 6]
        else:
            total = stats.sums[:, 4 + channel[name]]
        column(f"{name}_score", total / some / scale, missing)
    low = np.minimum(pre.low, post.low)
    high = np.maximum(pre.high, post.high) + 1
    for axis, letter in enumerate("zyx"):
        size, origin = grid.voxel_size_nm[axis], grid.offset_nm[axis]
        column(f"bbox_{letter}_min", origin + low[:, axis] * float(size))
        column(f"bbox_{letter}_max", origin + high[:, axis] * float(size))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _array(values: np.ndarray, kind: pa.DataType, missing: np.ndarray | None) -> pa.Array:
    """A column without `pyarrow.array`, which imports pandas where there is one: a second."""
    content = np.ascontiguousarray(values, kind.to_pandas_dtype())
    valid = None if missing is None else np.packbits(~missing, bitorder="little")
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(content)]
    return pa.Array.from_buffers(kind, len(content), buffers)


def write_synapses(path: str | os.PathLike[str], parts: Iterable[pa.Table], sides: bool) -> int:
    """Write the table, part by part, whole or not at all.

    Parameters
    ----------
    path : path or URL
        A Parquet file.
    parts : iterable of pyarrow.Table
        In the order of their numbers; one row group each.
    sides : bool
        As in `synapse_rows`.

    Returns
    -------
    int
        Rows written.
    """
    from pyarrow import fs

    schema = _schema(sides)
    filesystem: fs.FileSystem
    if is_url(path):
        from fsspec.core import url_to_fs

        remote, target = url_to_fs(str(path))
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(remote))
    else:
        filesystem, target = fs.LocalFileSystem(), str(path)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{target}.tmp"  # one name, so that what a killed driver left is overwritten
    count = 0
    try:
        with pq.ParquetWriter(
            temporary, schema, filesystem=filesystem, compression="zstd"
        ) as writer:
            for part in parts:
                if part.num_rows:
                    writer.write_table(part)
                    count += part.num_rows
        filesystem.move(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temporary)
        raise
    return count
