"""The synapse table: one row for each synapse that has a label in ``instances``.

Lengths are nm in world coordinates. Everything is about the voxels that carry the label, after
overlaps of both sides were decided: what a person would compute from ``instances``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.files import is_url, whole_file, whole_remote_file
from synpol.images.image import Image
from synpol.polarity import Channels
from synpol.synapses.statistics import Rows, Stats


def schema_of(sides: bool) -> pa.Schema:
    """Columns of the table; each has its unit and its meaning in its metadata."""
    parts = ["pre", "post"] if sides else ["pre", "post", "union"]

    def field(name: str, kind: pa.DataType, unit: str, meaning: str, null: bool = True) -> pa.Field:
        return pa.field(name, kind, null, {"unit": unit, "meaning": meaning})

    number, real, flag = pa.int64(), pa.float64(), pa.bool_()
    columns = [field("synapse_id", pa.uint64(), "", "n, of the labels 2n-1 and 2n", False)]
    columns += [field(a, real, "nm", f"centroid along {a}", False) for a in "zyx"]
    for p in parts:
        columns += [field(f"{p}_{a}", real, "nm", f"centroid along {a}") for a in "zyx"]
    columns += [
        field(f"direction_{a}", real, "1", f"{a} of the unit vector from pre to post")
        for a in "zyx"
    ]
    for p in parts:
        columns += [
            field(
                f"{p}_{a}_vx", real, "voxels", f"centroid along {a}, from the centre of the first"
            )
            for a in "zyx"
        ]
    columns += [field(f"{p}_voxels", number, "voxels", "size", False) for p in parts]
    columns += [field(f"{p}_volume", real, "nm^3", "size", False) for p in parts]
    for p in ("pre", "post", "union"):
        of = "of its channel, over " + ("both sides" if p == "union" and sides else "its voxels")
        columns.append(field(f"{p}_score", real, "1", f"mean probability {of}"))
        columns.append(field(f"{p}_score_max", real, "1", f"largest probability {of}"))
    area = "of the voxel faces between pre and post"
    columns.append(field("contact_area", real, "nm^2", area, False))
    columns += [
        field(f"bbox_{a}_{end}", real, "nm", "outer edge of the voxels", False)
        for a in "zyx"
        for end in ("min", "max")
    ]
    columns.append(field("one_sided", flag, "", "pre or post has no voxel", False))
    columns.append(field("touches_border", flag, "", "reaches the border of the volume", False))
    return pa.schema(columns, metadata={"unit": "nm", "synpol": "synapse table 3"})


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
    labelled = np.flatnonzero((rows.pre.voxels > 0) | (rows.post.voxels > 0))
    number, pre, post = number[labelled], rows.pre[labelled], rows.post[labelled]
    contact = rows.contact[labelled]
    channels = Channels.of(exclusive)
    schema = schema_of(sides)
    columns: dict[str, pa.Array] = {}

    def column(name: str, values: np.ndarray, missing: np.ndarray | None = None) -> None:
        columns[name] = _array(values, schema.field(name).type, missing)

    size, origin = np.array(grid.voxel_size_nm, float), np.array(grid.offset_nm, float)
    column("synapse_id", number)
    both = Stats(pre.sums + post.sums, pre.low, pre.high, np.maximum(pre.peak, post.peak))
    for axis, letter in enumerate("zyx"):
        middle = both.index_sums[:, axis] / both.voxels + 0.5
        column(letter, origin[axis] + middle * size[axis])
    parts = {"pre": pre, "post": post}
    if not sides:
        nothing = Stats.empty(len(labelled))
        parts = {"pre": nothing, "post": nothing, "union": pre}
    centres = {}
    for name, stats in parts.items():
        voxels = stats.voxels
        missing = voxels == 0
        some = np.maximum(voxels, 1)
        centre = stats.index_sums / some[:, None]
        centres[name] = origin + (centre + 0.5) * size
        for axis, letter in enumerate("zyx"):
            column(f"{name}_{letter}", centres[name][:, axis], missing)
            column(f"{name}_{letter}_vx", centre[:, axis], missing)
        column(f"{name}_voxels", voxels)
        column(f"{name}_volume", voxels * size.prod())
    for name, stats in {**parts, "union": both}.items():
        voxels = stats.voxels
        of_part = {"pre": channels.pre, "post": channels.post, "union": channels.union}[name]
        total = of_part(stats.channel_sums, axis=1)
        if name == "union" and exclusive:  # the largest sum of pre and post is not known
            peak = channels.sides(stats.peak, axis=1).max(axis=1)
        else:
            peak = of_part(stats.peak, axis=1)
        column(f"{name}_score", total / np.maximum(voxels, 1) / scale, voxels == 0)
        column(f"{name}_score_max", peak / scale, voxels == 0)
    column("contact_area", contact @ (size.prod() / size))
    one_sided = (parts["pre"].voxels == 0) | (parts["post"].voxels == 0)
    way = centres["post"] - centres["pre"]
    length = np.linalg.norm(way, axis=1)
    nowhere = one_sided | (length == 0)
    for axis, letter in enumerate("zyx"):
        column(f"direction_{letter}", way[:, axis] / np.where(nowhere, 1, length), nowhere)
    low = np.minimum(pre.low, post.low)
    high = np.maximum(pre.high, post.high) + 1
    for axis, letter in enumerate("zyx"):
        column(f"bbox_{letter}_min", origin[axis] + low[:, axis] * size[axis])
        column(f"bbox_{letter}_max", origin[axis] + high[:, axis] * size[axis])
    column("one_sided", one_sided)
    column("touches_border", ((low == 0) | (high == np.array(grid.shape_vx))).any(axis=1))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def confidence(table: pa.Table) -> np.ndarray:
    """One score of each synapse: the smaller mean probability of its sides, or of its union.

    Parameters
    ----------
    table : pyarrow.Table
        With the columns ``pre_score`` and ``post_score``, and ``union_score`` where those may both
        be null.

    Returns
    -------
    (n,) float64
        A side that is missing does not count; NaN where there is none.
    """
    score = np.fmin(table["pre_score"].to_numpy(), table["post_score"].to_numpy())
    if "union_score" not in table.column_names:
        return score
    return np.where(np.isnan(score), table["union_score"].to_numpy(), score)


def _array(values: np.ndarray, kind: pa.DataType, missing: np.ndarray | None) -> pa.Array:
    """A column without `pyarrow.array`, which imports pandas where there is one: a second."""
    if kind == pa.bool_():
        content = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(content)])
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
    count = 0
    with (
        whole_remote_file(str(path)) if is_url(path) else whole_file(path) as target,
        pq.ParquetWriter(target, schema_of(sides), compression="zstd") as writer,
    ):
        for part in parts:
            if part.num_rows:
                writer.write_table(part)
                count += part.num_rows
    return count
