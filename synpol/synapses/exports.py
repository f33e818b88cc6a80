"""Write the synapse table in the formats that other programs read."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from synpol.errors import InputError
from synpol.files import sha256_of, whole_file, whole_folder
from synpol.images.image import Image
from synpol.synapses import reading
from synpol.synapses.reading import open_table, parts_of, schema_read
from synpol.synapses.table import confidence

#: rows in memory at once
ROWS = reading.ROWS
#: most rows in one file of a table that is split into several files
PART_ROWS = 1_000_000
_PART = re.compile(r"part-\d+\.parquet")
#: columns from which the tables of other programs are made
_OF_SIDES = [f"{side}_{name}" for side in ("pre", "post") for name in ("voxels", "score", *"zyx")]
#: metadata key of tables derived from a synapse table: the hash of the synapse table
TABLE_HASH = b"synpol_table"


def digest_of(path: str | os.PathLike[str]) -> bytes:
    """Return the hash of a file's content, for the metadata of tables derived from it."""
    return sha256_of(path).encode()


def write_csv(table: str | os.PathLike[str], path: Path) -> int:
    """Write all columns as comma-separated values, and return the number of rows."""
    count, schema = 0, schema_read(table)
    for field in schema:
        if pa.types.is_nested(field.type):
            raise InputError(
                f"{table} has a column {field.name} of the type {field.type}, which a CSV file "
                "cannot hold; leave the column out"
            )
    with whole_file(path) as temporary, pyarrow.csv.CSVWriter(temporary, schema) as writer:
        for part in parts_of(table, rows=ROWS):
            writer.write_table(part)
            count += part.num_rows
    return count


def write_parts(table: str | os.PathLike[str], folder: Path, rows: int = PART_ROWS) -> int:
    """Write the table as a folder of Parquet files, which readers open as one table.

    Parameters
    ----------
    table : path
        Synapse table.
    folder : path
        Folder to write. An existing folder is replaced if it holds only files of this kind.
    rows : int
        Most rows in one file. The files continue each other in ascending order of the ids.

    Returns
    -------
    int
        Number of files.

    Raises
    ------
    InputError
        The folder holds other files; or an error of `open_table` or `whole_folder`.
    """
    import pyarrow.dataset as ds

    schema = schema_read(table)
    with whole_folder(folder) as temporary:
        if folder.exists() and any(not _PART.fullmatch(p.name) for p in folder.iterdir()):
            raise InputError(f"{folder} holds other files than parts of a table; give another name")
        parts = parts_of(table, rows=min(ROWS, rows))
        ds.write_dataset(
            (batch for part in parts for batch in part.to_batches()),
            temporary,
            schema=schema,
            format="parquet",
            basename_template="part-{i}.parquet",
            max_rows_per_file=rows,
            max_rows_per_group=min(ROWS, rows),
            preserve_order=True,
            existing_data_behavior="overwrite_or_ignore",
        )
        if not any(temporary.iterdir()):  # without rows, there is no file and therefore no column
            pq.write_table(schema.empty_table(), temporary / "part-0.parquet")
        names = sorted(temporary.iterdir(), key=lambda p: int(p.stem.removeprefix("part-")))
        for number, path in enumerate(names):  # readers sort the files by their names
            path.rename(temporary / f"part-{number:05}.parquet")
    return len(names)


def cave_rows(part: pa.Table, instances: Image) -> pa.Table:
    """Convert rows to the columns of CAVE's synapse tables; synapses with one side are left out.

    Parameters
    ----------
    part : pyarrow.Table
        Rows of the synapse table.
    instances : Image
        Image whose voxel size is the unit of the positions.

    Returns
    -------
    pyarrow.Table
        ``pre_pt_position``, ``post_pt_position`` and ``ctr_pt_position`` (the middle between both)
        are x, y, z in voxels, counted from the origin of the world; the metadata key
        ``voxel_resolution`` holds the voxel size in nm. ``size`` is in voxels.
    """
    part = _with_both_sides(part)
    resolution = np.array(instances.voxel_size_nm, float)
    ends = [_columns(part, [f"{side}_{a}" for a in "zyx"]) for side in ("pre", "post")]
    if max(part["synapse_id"].to_pylist()[-1:], default=0) >= 2**63:  # they ascend
        raise InputError(
            "the table has a synapse_id of 2^63 or more, which CAVE's tables cannot hold"
        )
    columns: dict[str, pa.Array] = {"id": part["synapse_id"].cast(pa.int64())}
    points = zip(("pre", "post", "ctr"), (*ends, (ends[0] + ends[1]) / 2), strict=True)
    for name, nm in points:
        voxel = np.floor(nm / resolution)[:, ::-1].astype(np.int64)
        values = pa.array(voxel.ravel())
        columns[f"{name}_pt_position"] = pa.FixedSizeListArray.from_arrays(values, 3)
    columns["size"] = pa.array(
        _columns(part, ["pre_voxels", "post_voxels"]).sum(1).astype(np.int64)
    )
    sizes = ", ".join(f"{size:g}" for size in resolution[::-1])
    return pa.table(columns).replace_schema_metadata({"voxel_resolution": f"[{sizes}]"})


def synful_rows(part: pa.Table, instances: Image) -> pa.Table:
    """Convert rows to the columns of synful's tables (nm); synapses with one side are left out.

    The column ``scores`` is the smaller mean probability of the two sides. The parameters are
    those of `cave_rows`.
    """
    part = _with_both_sides(part)
    names = [f"{side}_{a}" for side in ("pre", "post") for a in "xyz"]
    columns: dict[str, Any] = {"id": part["synapse_id"]} | {name: part[name] for name in names}
    columns["scores"] = pa.array(confidence(part.select(["pre_score", "post_score"])))
    return pa.table(columns)


def write_parquet_form(
    table: str | os.PathLike[str],
    path: Path,
    rows_of: Callable[[pa.Table, Image], pa.Table],
    instances: Image,
) -> tuple[int, int]:
    """Write a table in the columns of another program to a Parquet file.

    Parameters
    ----------
    table : path
        Synapse table.
    path : path
        File to write.
    rows_of : callable
        `cave_rows` or `synful_rows`.
    instances : Image
        Image that the table describes.

    Returns
    -------
    int
        Number of rows.
    int
        Number of synapses that were left out.
    """
    if "link_id" not in open_table(table).schema_arrow.names:  # a table of links has others
        open_table(table, _OF_SIDES)
    schema = rows_of(schema_read(table).empty_table(), instances).schema
    count = left_out = 0
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in parts_of(table, rows=ROWS):
            rows = rows_of(part, instances)
            writer.write_table(rows)
            count += rows.num_rows
            left_out += part.num_rows - rows.num_rows
    return count, left_out


def _with_both_sides(part: pa.Table) -> pa.Table:
    part = part.filter((_columns(part, ["pre_voxels", "post_voxels"]) > 0).all(axis=1))
    lacking = np.isnan(_columns(part, [f"{s}_{a}" for s in ("pre", "post") for a in "zyx"])).any(1)
    if lacking.any():
        number = part["synapse_id"][int(np.flatnonzero(lacking)[0])]
        raise InputError(
            f"synapse {number} of the table has voxels on both sides, and no place of one of them; "
            "decode again, which makes the table anew"
        )
    return part


def _columns(part: pa.Table, names: list[str]) -> np.ndarray:
    return np.stack([part[name].to_numpy() for name in names], axis=1).reshape(-1, len(names))
