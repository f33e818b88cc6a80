"""The synapse table in the forms that other programs read."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from funlib.geometry import Roi

from synpol.errors import InputError
from synpol.files import whole_file, whole_folder
from synpol.images.image import Image
from synpol.synapses.table import confidence

if TYPE_CHECKING:
    from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase

#: rows that are in memory at once
ROWS = 50_000
#: rows of a file where a table is several
PART_ROWS = 1_000_000
_PART = re.compile(r"part-\d+\.parquet")
#: of the synapse table, in the metadata of tables that are made of it
TABLE_HASH = b"synpol_table"
#: position of a node; the other columns of the table are its attributes
POSITION = "position"


def opened(table: str | os.PathLike[str]) -> pq.ParquetFile:
    """The file of a synapse table.

    Raises
    ------
    InputError
        There is none, or it is no synapse table.
    """
    if not Path(table).is_file():
        raise InputError(
            f"there is no synapse table {table}; pipelines/predict_blockwise.py makes it"
        )
    try:
        file = pq.ParquetFile(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table} is not a Parquet file: {error}") from None
    if "synapse_id" not in file.schema_arrow.names:
        raise InputError(f"{table} is not a synapse table: it has no column synapse_id")
    return file


def digest_of(path: str | os.PathLike[str]) -> bytes:
    """Hash of a file's content, for the metadata of what is made of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def parts_of(table: str | os.PathLike[str]) -> Iterator[pa.Table]:
    """The table in parts of at most `ROWS` rows; raises as `opened`."""
    for batch in opened(table).iter_batches(ROWS):
        yield pa.Table.from_batches([batch])


def write_csv(table: str | os.PathLike[str], path: Path) -> int:
    """All columns as comma-separated values; returns the rows."""
    count = 0
    with (
        whole_file(path) as temporary,
        pyarrow.csv.CSVWriter(temporary, opened(table).schema_arrow) as writer,
    ):
        for part in parts_of(table):
            writer.write_table(part)
            count += part.num_rows
    return count


def write_parts(table: str | os.PathLike[str], folder: Path, rows: int = PART_ROWS) -> int:
    """A folder of Parquet files by ascending ids, which readers take for one table.

    Parameters
    ----------
    table : path
    folder : path
        To be made; one that holds nothing but such files is replaced.
    rows : int
        Of a file at most.

    Returns
    -------
    int
        Files written.

    Raises
    ------
    InputError
        As `opened`, or the folder holds something else; see also `whole_folder`.
    """
    import pyarrow.dataset as ds

    file = opened(table)
    with whole_folder(folder) as temporary:
        if folder.exists() and any(not _PART.fullmatch(p.name) for p in folder.iterdir()):
            raise InputError(f"{folder} holds other files than parts of a table; give another name")
        if file.metadata.num_rows == 0:  # the dataset would have no file, and so no columns
            pq.write_table(file.schema_arrow.empty_table(), temporary / "part-0.parquet")
        ds.write_dataset(
            file.iter_batches(min(ROWS, rows)),
            temporary,
            schema=file.schema_arrow,
            format="parquet",
            basename_template="part-{i}.parquet",
            max_rows_per_file=rows,
            max_rows_per_group=min(ROWS, rows),
            preserve_order=True,
            existing_data_behavior="overwrite_or_ignore",
        )
        names = sorted(temporary.iterdir(), key=lambda p: int(p.stem.removeprefix("part-")))
        for number, path in enumerate(names):  # their order is that of their names
            path.rename(temporary / f"part-{number:05}.parquet")
    return len(names)


def cave_rows(part: pa.Table, grid: Image) -> pa.Table:
    """Rows with the columns of CAVE's synapse tables; synapses with a single side have none.

    ``pre_pt_position``, ``post_pt_position`` and ``ctr_pt_position`` (half-way between both) are
    x, y, z in voxels of the ``voxel_resolution`` that the metadata say, counted from the world's
    origin; ``size`` is in voxels.
    """
    part = _with_both_sides(part)
    resolution = np.array(grid.voxel_size_nm, float)
    ends = [_columns(part, [f"{side}_{a}" for a in "zyx"]) for side in ("pre", "post")]
    columns: dict[str, pa.Array] = {"id": part["synapse_id"].cast(pa.int64())}
    points = zip(("pre", "post", "ctr"), (*ends, (ends[0] + ends[1]) / 2), strict=True)
    for name, nm in points:
        voxel = np.floor(nm / resolution)[:, ::-1].astype(np.int64)
        values = pa.array(voxel.ravel())
        columns[f"{name}_pt_position"] = pa.FixedSizeListArray.from_arrays(values, 3)
    columns["size"] = pa.array(
        _columns(part, ["pre_voxels", "post_voxels"]).sum(1).astype(np.int64)
    )
    said = ", ".join(f"{size:g}" for size in resolution[::-1])
    return pa.table(columns).replace_schema_metadata({"voxel_resolution": f"[{said}]"})


def synful_rows(part: pa.Table, grid: Image) -> pa.Table:
    """Rows with the columns of synful's tables (nm); synapses with a single side have none.

    ``scores`` is the smaller mean probability of the two sides.
    """
    part = _with_both_sides(part)
    names = [f"{side}_{a}" for side in ("pre", "post") for a in "xyz"]
    columns: dict[str, Any] = {"id": part["synapse_id"]} | {name: part[name] for name in names}
    columns["scores"] = pa.array(confidence(part.select(["pre_score", "post_score"])))
    return pa.table(columns)


def write_parquet_form(
    table: str | os.PathLike[str],
    path: Path,
    form: Callable[[pa.Table, Image], pa.Table],
    grid: Image,
) -> tuple[int, int]:
    """Write what `cave_rows` or `synful_rows` makes; returns the rows, and those left out."""
    schema = form(opened(table).schema_arrow.empty_table(), grid).schema
    count = left_out = 0
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in parts_of(table):
            rows = form(part, grid)
            writer.write_table(rows)
            count += rows.num_rows
            left_out += part.num_rows - rows.num_rows
    return count, left_out


def _with_both_sides(part: pa.Table) -> pa.Table:
    return part.filter((_columns(part, ["pre_voxels", "post_voxels"]) > 0).all(axis=1))


def _columns(part: pa.Table, names: list[str]) -> np.ndarray:
    return np.stack([part[name].to_numpy() for name in names], axis=1).reshape(-1, len(names))


def open_graph(
    table: str | os.PathLike[str],
    roi: Roi,
    *,
    sqlite: Path | None = None,
    postgres: str | None = None,
) -> SQLiteGraphDataBase | PgSQLGraphDatabase:
    """An empty graph database of funlib.persistence with the columns of the table.

    Parameters
    ----------
    table : path
    roi : Roi
        What the volume covers, nm.
    sqlite : path, optional
        File to write; one that is there is replaced.
    postgres : str, optional
        ``HOST/DATABASE`` or ``HOST:PORT/DATABASE``; user and password are taken from the
        environment as PostgreSQL's own programs do (``PGUSER``, ``PGPASSWORD``, ``~/.pgpass``).

    Raises
    ------
    InputError
        There is no such server, or it refuses.
    """
    from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase
    from funlib.persistence.types import Vec

    kinds = {"bool": int, "int64": int, "uint64": int, "double": float}
    fields = [f for f in pq.read_schema(table) if f.name not in ("synapse_id", *"zyx")]
    attributes = {POSITION: Vec(float, 3)} | {f.name: kinds[str(f.type)] for f in fields}
    about: dict[str, Any] = {
        "position_attribute": POSITION,
        "mode": "w",
        "total_roi": roi,
        "node_attrs": attributes,
    }
    if sqlite is not None:
        sqlite.parent.mkdir(parents=True, exist_ok=True)
        about_it = sqlite.parent / f"{sqlite.stem}-meta.json"  # where funlib.persistence puts it
        if sqlite.exists() or about_it.exists():
            _refuse_foreign(SQLiteGraphDataBase, str(sqlite), {"db_file": sqlite})
        return SQLiteGraphDataBase(sqlite, **about)
    import psycopg2

    address, slash, name = str(postgres).partition("/")
    host, _, port = address.partition(":")
    if not slash or not name.isidentifier() or (port and not port.isdigit()):
        raise InputError(
            f"{postgres!r} is no PostgreSQL database; HOST/DATABASE or HOST:PORT/DATABASE is "
            "expected, the database a plain name"
        )
    where: dict[str, Any] = {
        "db_name": name,
        "db_host": host,
        "db_port": int(port) if port else None,
        "db_user": os.environ.get("PGUSER"),
    }
    try:
        _refuse_foreign(PgSQLGraphDatabase, str(postgres), where)
        return PgSQLGraphDatabase(**where, **about)
    except psycopg2.Error as error:
        raise InputError(f"PostgreSQL at {address} refuses: {str(error).strip()}") from None


def _refuse_foreign(kind: Any, name: str, where: dict[str, Any]) -> None:
    """Refuse a database that holds another graph: writing removes what is there.

    Raises
    ------
    InputError
    """
    try:
        there = kind(**where, position_attribute=POSITION, mode="r")
    except RuntimeError:  # it knows of no graph there
        if "db_file" in where or _has_tables(where):
            raise InputError(
                f"{name} exists and holds no synapses of synpol's; remove it or give another name"
            ) from None
        return
    except (AssertionError, KeyError, ValueError):  # a graph with other positions, or what looks so
        attributes: Any = {}
    else:
        attributes = there.node_attrs
        there.close() if hasattr(there, "close") else there.connection.close()
    if "touches_border" not in attributes:
        raise InputError(f"{name} holds another graph; give another database")


def _has_tables(where: dict[str, Any]) -> bool:
    """Whether a PostgreSQL database has tables that writing a graph would remove."""
    import psycopg2

    connection = psycopg2.connect(
        host=where["db_host"],
        database=where["db_name"],
        user=where["db_user"],
        port=where["db_port"],
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM information_schema.tables "
                "WHERE table_name IN ('nodes', 'edges', 'metadata')"
            )
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()


def fill_graph(
    table: str | os.PathLike[str], graph: SQLiteGraphDataBase | PgSQLGraphDatabase
) -> int:
    """Write the synapses as nodes: id, position (centroid; z, y, x in nm), and the other columns.

    Returns
    -------
    int
        Nodes.
    """
    count = 0
    with graph.bulk_write_mode():
        for part in parts_of(table):
            rows = part.to_pylist()
            nodes = {}
            for row in rows:
                position = row.pop("z"), row.pop("y"), row.pop("x")
                nodes[row.pop("synapse_id")] = {POSITION: position} | {
                    k: int(v) if isinstance(v, bool) else v for k, v in row.items()
                }
            graph.bulk_write_nodes(nodes)
            count += len(nodes)
    return count
