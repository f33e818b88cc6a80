"""Read a synapse table, and refuse one that is damaged or says what cannot be.

A table lies in a file that people copy, filter and rewrite. Everything that is read of it is
checked here, part by part, before anything is computed from it: the kinds of the columns, missing
values, the order of the ids, and the range of each quantity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.errors import InputError
from synpol.files import has_rotted
from synpol.synapses.table import schema_of, values_of

#: rows in memory at once
ROWS = 50_000
#: columns of a synapse table, with and without sides, and of the table of partners
_KNOWN = {field.name: field for field in schema_of(sides=False)} | {
    field.name: field
    for field in (
        pa.field("pre_id", pa.uint64(), False),
        pa.field("post_id", pa.uint64(), False),
        pa.field("pre_fraction", pa.float64(), False),
        pa.field("post_fraction", pa.float64(), False),
        pa.field("unassigned", pa.bool_(), False),
        pa.field("autapse", pa.bool_(), False),
    )
}
#: largest position or size that is believed, nm; whole numbers beyond are not exact
_FARTHEST = float(2**53)
_ANEW = (
    "make it anew: pipelines/predict_blockwise.py CONFIG --only decode of synpol's repository "
    "writes synapses.parquet, pipelines/connect.py the tables of partners and links"
)


def open_table(table: str | os.PathLike[str], columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Open the Parquet file of a synapse table.

    Parameters
    ----------
    table : path
    columns : sequence of str
        Columns that the table needs to have.

    Raises
    ------
    InputError
        The file does not exist, is damaged, or is not a synapse table.
    """
    if not Path(table).is_file():
        raise InputError(
            f"there is no synapse table {table}; decode the volume first "
            "(synpol.decode_blockwise with synapses=PATH, or pipelines/predict_blockwise.py of "
            "synpol's repository)"
        )
    with _reading(table):
        file = pq.ParquetFile(table, page_checksum_verification=True)
        schema = file.schema_arrow
    for name in ("synapse_id", *columns):
        if name not in schema.names:
            raise InputError(f"{table} is not a synapse table: it has no column {name}; {_ANEW}")
    for field in schema:
        if schema.names.count(field.name) > 1:
            raise InputError(f"{table} has several columns {field.name!r:.80}; {_ANEW}")
        wanted = _KNOWN.get(field.name)
        if wanted is not None and not _is_of_kind(field.type, wanted.type):
            raise InputError(
                f"{table} has a column {field.name} of the type {field.type!s:.80}; "
                f"{wanted.type} is expected: {_ANEW}"
            )
    if has_rotted(table):
        raise InputError(
            f"{table} is damaged: its SHA-256 is not the one in {Path(table).name}.sha256 (if you "
            f"have changed it yourself, remove that file); {_ANEW}"
        )
    return file


def parts_of(
    table: str | os.PathLike[str], columns: Sequence[str] | None = None, rows: int = ROWS
) -> Iterator[pa.Table]:
    """Read a table in parts, each checked.

    Parameters
    ----------
    table : path
    columns : sequence of str, optional
        Columns to read; by default all. ``synapse_id`` is read and checked in any case.
    rows : int
        Most rows of a part.

    Yields
    ------
    pyarrow.Table
        The known columns in the types of `schema_of`.

    Raises
    ------
    InputError
        As `open_table`; or values are missing, out of order or impossible.
    """
    file = open_table(table, columns or ())
    there = file.schema_arrow.names
    key = "link_id" if "link_id" in there else "synapse_id"  # links may repeat a synapse
    names = list(dict.fromkeys(there if columns is None else [key, *columns]))
    with _reading(table):
        batches = file.iter_batches(rows, columns=names)
    before, count = -1, 0
    while True:
        with _reading(table):
            batch = next(batches, None)
            if batch is None:
                break
            part = _in_known_types(pa.Table.from_batches([batch]).select(names))
            part.validate(full=True)
        before = _check_order(table, key, part[key], before)
        for name in names:
            _check_values(table, name, part, key)
        count += part.num_rows
        yield part if columns is None else part.select(list(columns))
    if count != file.metadata.num_rows:
        raise InputError(
            f"{table} says that it has {file.metadata.num_rows} rows, but {count} are there; "
            f"{_ANEW}"
        )


def read_table(table: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole table, or some columns of it; see `parts_of`."""
    empty = pa.Table.from_batches([], schema=schema_read(table, columns))
    return pa.concat_tables([empty, *parts_of(table, columns)]).combine_chunks()


def schema_read(table: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Schema:
    """Return the schema of the parts that `parts_of` reads; errors are those of `open_table`."""
    schema = open_table(table, columns or ()).schema_arrow
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns], schema.metadata)
    return _in_known_types(pa.Table.from_batches([], schema=schema)).schema


@contextmanager
def _reading(table: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever pyarrow raises about a file into an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{table} is not a Parquet file, or it is damaged: {said:.200}; {_ANEW}"
        ) from error


def _is_of_kind(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a type can be that of a column; programs rewrite tables in other widths."""
    if pa.types.is_boolean(wanted):
        return bool(pa.types.is_boolean(kind))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(kind))
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


def _in_known_types(part: pa.Table) -> pa.Table:
    """Bring known columns to the types of `schema_of`; metadata stay."""
    fields = [
        field.with_type(_KNOWN[field.name].type) if field.name in _KNOWN else field
        for field in part.schema
    ]
    schema = pa.schema(fields, part.schema.metadata)
    return part if schema.equals(part.schema) else part.cast(schema)


def _check_order(table: str | os.PathLike[str], key: str, ids: pa.ChunkedArray, before: int) -> int:
    """Refuse ids that do not ascend; returns the last one."""
    if ids.null_count:
        raise InputError(f"{table} has rows without a {key}; {_ANEW}")
    numbers = values_of(ids)
    wrong = np.flatnonzero(numbers[1:] <= numbers[:-1])
    if (len(numbers) and int(numbers[0]) <= before) or len(wrong):
        first, second = (before, numbers[0]) if not len(wrong) else numbers[wrong[0] : wrong[0] + 2]
        raise InputError(
            f"{table} has the {key} {second} after {first}; ascending numbers are "
            f"expected: sort it by {key}, or {_ANEW}"
        )
    return int(numbers[-1]) if len(numbers) else before


def _check_values(table: str | os.PathLike[str], name: str, part: pa.Table, key: str) -> None:
    """Refuse values of a known column that cannot be.

    Raises
    ------
    InputError
    """
    known, values = _KNOWN.get(name), part[name]
    if known is None:
        return
    if values.null_count and not known.nullable:
        raise InputError(f"{table} has rows without {name}; {_ANEW}")
    if pa.types.is_boolean(known.type) or name.endswith("_id"):
        return
    number = values_of(values).astype(float)
    missing = np.isnan(number)
    low, high = _range_of(name)
    wrong = ~missing & ~((number >= low) & (number <= high))
    wrong |= missing & (not known.nullable)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{table} has {name} = {number[row]:g} in the row of {key.removesuffix('_id')} "
            f"{part[key][row].as_py()}; {low:g} to {high:g} is expected: {_ANEW}"
        )


def _range_of(name: str) -> tuple[float, float]:
    """Return the smallest and the largest value that a column can have."""
    if name.endswith(("_score", "_score_max", "_fraction")):
        return 0.0, 1.0 + 1e-9
    if name.startswith("direction"):
        return -1.0 - 1e-9, 1.0 + 1e-9
    if name.endswith(("_voxels", "_vx")):
        return 0.0, _FARTHEST
    if name.endswith("_volume") or name == "contact_area":
        return 0.0, _FARTHEST**2
    return -_FARTHEST, _FARTHEST
