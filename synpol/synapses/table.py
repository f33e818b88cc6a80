"""The synapse table: one row for each synapse that has a label in ``instances``.

Lengths are in nm and positions in world coordinates. Each column describes the voxels that carry
the label in ``instances``, where a voxel has one side only. So everybody can compute the same
values from the arrays ``instances`` and ``polarity``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.files import digest_beside, is_url, whole_file, whole_remote_file
from synpol.images.image import Image
from synpol.polarity import Channels
from synpol.synapses.statistics import Rows, Stats


def schema_of(sides: bool) -> pa.Schema:
    """Return the columns of the table; the metadata of a column say its unit and its meaning.

    Parameters
    ----------
    sides : bool
        Whether the labels tell the sides of a synapse apart; otherwise the table has columns
        ``union_*`` too.
    """
    parts = ["pre", "post"] if sides else ["pre", "post", "union"]

    def column(
        name: str, kind: pa.DataType, unit: str, meaning: str, null: bool = True
    ) -> pa.Field:
        return pa.field(name, kind, null, {"unit": unit, "meaning": meaning})

    number, real, flag = pa.int64(), pa.float64(), pa.bool_()
    columns = [column("synapse_id", pa.uint64(), "", "n, of the labels 2n-1 and 2n", False)]
    columns += [column(a, real, "nm", f"centroid along {a}", False) for a in "zyx"]
    for p in parts:
        columns += [column(f"{p}_{a}", real, "nm", f"centroid along {a}") for a in "zyx"]
    columns += [
        column(f"direction_{a}", real, "1", f"{a} of the unit vector from pre to post")
        for a in "zyx"
    ]
    for p in parts:
        columns += [
            column(
                f"{p}_{a}_vx", real, "voxels", f"centroid along {a}, from the centre of the first"
            )
            for a in "zyx"
        ]
    columns += [column(f"{p}_voxels", number, "voxels", "size", False) for p in parts]
    columns += [column(f"{p}_volume", real, "nm^3", "size", False) for p in parts]
    for p in ("pre", "post", "union"):
        of = "of its channel, over " + ("both sides" if p == "union" and sides else "its voxels")
        columns.append(column(f"{p}_score", real, "1", f"mean probability {of}"))
        columns.append(column(f"{p}_score_max", real, "1", f"largest probability {of}"))
    area = "of the voxel faces between pre and post"
    columns.append(column("contact_area", real, "nm^2", area, False))
    columns += [
        column(f"bbox_{a}_{end}", real, "nm", "outer edge of the voxels", False)
        for a in "zyx"
        for end in ("min", "max")
    ]
    columns.append(column("one_sided", flag, "", "pre or post has no voxel", False))
    columns.append(column("touches_border", flag, "", "reaches the border of the volume", False))
    return pa.schema(columns, metadata={"unit": "nm", "synpol": "synapse table 3"})


def synapse_rows(
    number: np.ndarray,
    rows: Rows,
    image: Image,
    scale: float,
    *,
    exclusive: bool = False,
    sides: bool = True,
) -> pa.Table:
    """Make rows of the table from sums over the voxels of each synapse.

    Parameters
    ----------
    number : (n,) uint64
        Numbers of the synapses.
    rows : Rows
        Sums of the same synapses. A synapse without voxels on either side gets no row.
    image : Image
        Image with the voxel size, offset and shape of the instances.
    scale : float
        Channel value that stands for probability 1 in the sums.
    exclusive : bool
        Whether the channels are background, pre, post instead of pre, post, union.
    sides : bool
        Whether the labels tell the sides apart. Without sides the values of a synapse are in
        the columns ``union_*``, and those of its sides are null or 0.

    Returns
    -------
    pyarrow.Table
        Columns of `schema_of`, in the order of `number`.
    """
    labelled = np.flatnonzero((rows.pre.voxels > 0) | (rows.post.voxels > 0))
    pre, post = rows.pre[labelled], rows.post[labelled]
    both = Stats(
        pre.sums + post.sums,
        np.minimum(pre.low, post.low),
        np.maximum(pre.high, post.high),
        np.maximum(pre.peak, post.peak),
    )
    parts = {"pre": pre, "post": post}
    if not sides:  # the stages keep the sums of the union in place of those of the pre side
        no_voxels = Stats.empty(len(labelled))
        parts = {"pre": no_voxels, "post": no_voxels, "union": pre}
    columns = _Columns(schema_of(sides), np.array(image.voxel_size_nm, float), image)
    columns.add("synapse_id", number[labelled])
    columns.add_positions(parts, both)
    columns.add_scores({**parts, "union": both}, Channels.of(exclusive), scale)
    columns.add("contact_area", rows.contact[labelled] @ (columns.size.prod() / columns.size))
    return columns.table()


@dataclass
class _Columns:
    """Columns of the table while they are made.

    Attributes
    ----------
    schema : pyarrow.Schema
    size : (3,) float64
        Voxel size, nm.
    image : Image
    arrays : dict of str to pyarrow.Array
        Columns so far, by name.
    """

    schema: pa.Schema
    size: np.ndarray
    image: Image
    arrays: dict[str, pa.Array] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray, missing: np.ndarray | None = None) -> None:
        """Add a column; rows where `missing` is true become null."""
        self.arrays[name] = _array(values, self.schema.field(name).type, missing)

    def add_positions(self, parts: Mapping[str, Stats], both: Stats) -> None:
        """Add centroids, sizes, the direction from pre to post, and the bounding box."""
        size, origin = self.size, np.array(self.image.offset_nm, float)
        for axis, letter in enumerate("zyx"):
            middle = both.index_sums[:, axis] / both.voxels + 0.5
            self.add(letter, origin[axis] + middle * size[axis])
        centres = {}
        for name, stats in parts.items():
            missing = stats.voxels == 0
            centre = stats.index_sums / np.maximum(stats.voxels, 1)[:, None]
            centres[name] = origin + (centre + 0.5) * size
            for axis, letter in enumerate("zyx"):
                self.add(f"{name}_{letter}", centres[name][:, axis], missing)
                self.add(f"{name}_{letter}_vx", centre[:, axis], missing)
            self.add(f"{name}_voxels", stats.voxels)
            self.add(f"{name}_volume", stats.voxels * size.prod())
        one_sided = (parts["pre"].voxels == 0) | (parts["post"].voxels == 0)
        vector = centres["post"] - centres["pre"]
        length = np.linalg.norm(vector, axis=1)
        undefined = one_sided | (length == 0)
        low, high = both.low, both.high + 1
        for axis, letter in enumerate("zyx"):
            component = vector[:, axis] / np.where(undefined, 1, length)
            self.add(f"direction_{letter}", component, undefined)
            self.add(f"bbox_{letter}_min", origin[axis] + low[:, axis] * size[axis])
            self.add(f"bbox_{letter}_max", origin[axis] + high[:, axis] * size[axis])
        self.add("one_sided", one_sided)
        at_border = (low == 0) | (high == np.array(self.image.shape_vx))
        self.add("touches_border", at_border.any(axis=1))

    def add_scores(self, parts: Mapping[str, Stats], channels: Channels, scale: float) -> None:
        """Add the mean and the largest probability of each part in its own channel."""
        of_channel = {"pre": channels.pre, "post": channels.post, "union": channels.union}
        for name, stats in parts.items():
            total = of_channel[name](stats.channel_sums, axis=1)
            if name == "union" and channels.exclusive:  # the largest sum of both is not known
                peak = channels.sides(stats.peak, axis=1).max(axis=1)
            else:
                peak = of_channel[name](stats.peak, axis=1)
            missing = stats.voxels == 0
            self.add(f"{name}_score", total / np.maximum(stats.voxels, 1) / scale, missing)
            self.add(f"{name}_score_max", peak / scale, missing)

    def table(self) -> pa.Table:
        """Return the columns in the order of the schema."""
        arrays = [self.arrays[name] for name in self.schema.names]
        return pa.table(arrays, schema=self.schema)


def confidence(table: pa.Table) -> np.ndarray:
    """Return one score per synapse: the smaller mean probability of its two sides.

    Parameters
    ----------
    table : pyarrow.Table
        Synapse table with the columns ``pre_score`` and ``post_score``; also ``union_score`` where
        both of them may be null.

    Returns
    -------
    (n,) float64
        Score in 0..1. A synapse with one side has the score of this side; one without sides has the
        score of its union, or NaN without the column ``union_score``.
    """
    score = np.fmin(values_of(table["pre_score"]), values_of(table["post_score"]))
    if "union_score" not in table.column_names:
        return score
    return np.where(np.isnan(score), values_of(table["union_score"]), score)


def values_of(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a column of numbers as an array; NaN for missing values.

    `to_numpy` of pyarrow does the same, but imports pandas if it is installed (1 s).
    """
    parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    dtype = np.dtype(column.type.to_pandas_dtype())
    values = [np.zeros(0, dtype)]
    for part in parts:
        valid, content = part.buffers()
        value = np.frombuffer(content, dtype)[part.offset : part.offset + len(part)]
        if part.null_count:
            bits = np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")
            there = bits[part.offset : part.offset + len(part)].astype(bool)
            value = np.where(there, value, np.nan)
        values.append(value)
    return values[1] if len(values) == 2 else np.concatenate(values)


def _array(values: np.ndarray, kind: pa.DataType, missing: np.ndarray | None) -> pa.Array:
    """Make a column without `pyarrow.array`, which imports pandas if it is installed (1 s)."""
    if kind == pa.bool_():
        content = np.packbits(values, bitorder="little")
        return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(content)])
    content = np.ascontiguousarray(values, kind.to_pandas_dtype())
    valid = None if missing is None else np.packbits(~missing, bitorder="little")
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(content)]
    return pa.Array.from_buffers(kind, len(content), buffers)


def write_synapses(path: str | os.PathLike[str], parts: Iterable[pa.Table], sides: bool) -> int:
    """Write the table to a Parquet file, part by part; an interruption leaves no partial file.

    Beside a local file its SHA-256 is kept; see `synpol.files.digest_beside`.

    Parameters
    ----------
    path : path or URL
        Parquet file to write; an existing one is replaced.
    parts : iterable of pyarrow.Table
        Rows of `synapse_rows`, in ascending order of the numbers. Each part becomes a row group.
    sides : bool
        As in `synapse_rows`.

    Returns
    -------
    int
        Number of rows.
    """
    count, remote = 0, is_url(path)
    with (
        contextlib.nullcontext() if remote else digest_beside(path),
        whole_remote_file(str(path)) if remote else whole_file(path) as target,
        pq.ParquetWriter(target, schema_of(sides), compression="zstd") as writer,
    ):
        for part in parts:
            if part.num_rows:
                writer.write_table(part)
                count += part.num_rows
    return count
