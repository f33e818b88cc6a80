"""Write the synapse table in the formats that other programs read."""

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

#: rows in memory at once
ROWS = 50_000
#: most rows in one file of a table that is split into several files
PART_ROWS = 1_000_000
_PART = re.compile(r"part-\d+\.parquet")
#: metadata key of tables derived from a synapse table: the hash of the synapse table
TABLE_HASH = b"synpol_table"
#: name of the node attribute that holds the position
POSITION = "position"


def open_table(table: str | os.PathLike[str]) -> pq.ParquetFile:
    """Open the Parquet file of a synapse table.

    Raises
    ------
    InputError
        The file does not exist, or it is not a synapse table.
    """
    if not Path(table).is_file():
        raise InputError(
            f"there is no synapse table {table}; decode the volume first "
            "(synpol.decode_blockwise with synapses=PATH, or pipelines/predict_blockwise.py of "
            "synpol's repository)"
        )
    try:
        file = pq.ParquetFile(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table} is not a Parquet file: {error}") from None
    if "synapse_id" not in file.schema_arrow.names:
        raise InputError(f"{table} is not a synapse table: it has no column synapse_id")
    return file


def digest_of(path: str | os.PathLike[str]) -> bytes:
    """Return the hash of a file's content, for the metadata of tables derived from it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().encode()


def parts_of(table: str | os.PathLike[str]) -> Iterator[pa.Table]:
    """Read the table in parts of at most `ROWS` rows; the errors are those of `open_table`."""
    for batch in open_table(table).iter_batches(ROWS):
        yield pa.Table.from_batches([batch])


def write_csv(table: str | os.PathLike[str], path: Path) -> int:
    """Write all columns as comma-separated values, and return the number of rows."""
    count = 0
    with (
        whole_file(path) as temporary,
        pyarrow.csv.CSVWriter(temporary, open_table(table).schema_arrow) as writer,
    ):
        for part in parts_of(table):
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

    file = open_table(table)
    with whole_folder(folder) as temporary:
        if folder.exists() and any(not _PART.fullmatch(p.name) for p in folder.iterdir()):
            raise InputError(f"{folder} holds other files than parts of a table; give another name")
        if file.metadata.num_rows == 0:  # the dataset would have no file and therefore no columns
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
    schema = rows_of(open_table(table).schema_arrow.empty_table(), instances).schema
    count = left_out = 0
    with (
        whole_file(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for part in parts_of(table):
            rows = rows_of(part, instances)
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
    """Create an empty graph database of funlib.persistence with the columns of the table.

    Parameters
    ----------
    table : path
        Synapse table.
    roi : Roi
        Extent of the volume, nm.
    sqlite : path, optional
        File of an SQLite database to write; a graph of synpol in this file is replaced.
    postgres : str, optional
        Database of a PostgreSQL server, ``HOST/DATABASE`` or ``HOST:PORT/DATABASE``. User and
        password come from the environment, as for PostgreSQL's own programs (``PGUSER``,
        ``PGPASSWORD``, ``~/.pgpass``).

    Raises
    ------
    InputError
        The server does not answer or refuses, or the database holds something else.
    """
    from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase
    from funlib.persistence.types import Vec

    kinds = {"bool": int, "int64": int, "uint64": int, "double": float}
    fields = [f for f in pq.read_schema(table) if f.name not in ("synapse_id", *"zyx")]
    attributes = {POSITION: Vec(float, 3)} | {f.name: kinds[str(f.type)] for f in fields}
    description: dict[str, Any] = {
        "position_attribute": POSITION,
        "mode": "w",
        "total_roi": roi,
        "node_attrs": attributes,
    }
    if sqlite is not None:
        sqlite.parent.mkdir(parents=True, exist_ok=True)
        metadata = sqlite.parent / f"{sqlite.stem}-meta.json"  # a file of funlib.persistence
        if sqlite.exists() or metadata.exists():
            _refuse_foreign(SQLiteGraphDataBase, str(sqlite), {"db_file": sqlite})
        return SQLiteGraphDataBase(sqlite, **description)
    import psycopg2

    address, slash, name = str(postgres).partition("/")
    host, _, port = address.partition(":")
    if not slash or not name.isidentifier() or (port and not port.isdigit()):
        raise InputError(
            f"{postgres!r} is no PostgreSQL database; HOST/DATABASE or HOST:PORT/DATABASE is "
            "expected, the database a plain name"
        )
    connection: dict[str, Any] = {
        "db_name": name,
        "db_host": host,
        "db_port": int(port) if port else None,
        "db_user": os.environ.get("PGUSER"),
    }
    try:
        _refuse_foreign(PgSQLGraphDatabase, str(postgres), connection)
        return PgSQLGraphDatabase(**connection, **description)
    except psycopg2.Error as error:
        raise InputError(f"PostgreSQL at {address} refuses: {str(error).strip()}") from None


def _refuse_foreign(kind: Any, name: str, connection: dict[str, Any]) -> None:
    """Refuse a database that holds another graph, which writing would remove.

    Raises
    ------
    InputError
        The database holds something that is not a table of synapses.
    """
    try:
        graph = kind(**connection, position_attribute=POSITION, mode="r")
    except RuntimeError:  # funlib.persistence finds no graph in the database
        if "db_file" in connection or _has_tables(connection):
            raise InputError(
                f"{name} exists and holds no synapses of synpol's; remove it or give another name"
            ) from None
        return
    except (AssertionError, KeyError, ValueError):  # another kind of graph
        attributes: Any = {}
    else:
        attributes = graph.node_attrs
        graph.close() if hasattr(graph, "close") else graph.connection.close()
    if "touches_border" not in attributes:
        raise InputError(f"{name} holds another graph; give another database")


def _has_tables(connection: dict[str, Any]) -> bool:
    """Return whether a PostgreSQL database has tables that writing a graph would remove."""
    import psycopg2

    database = psycopg2.connect(
        host=connection["db_host"],
        database=connection["db_name"],
        user=connection["db_user"],
        port=connection["db_port"],
    )
    try:
        with database.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM information_schema.tables "
                "WHERE table_name IN ('nodes', 'edges', 'metadata')"
            )
            return bool(cursor.fetchone()[0])
    finally:
        database.close()


def fill_graph(
    table: str | os.PathLike[str], graph: SQLiteGraphDataBase | PgSQLGraphDatabase
) -> int:
    """Write the synapses of a table as nodes of a graph database.

    Parameters
    ----------
    table : path
        Synapse table.
    graph : graph database
        Database that `open_graph` created. A node gets the synapse's id, its centroid (z, y, x in
        nm) as the position, and the other columns as attributes.

    Returns
    -------
    int
        Number of nodes.
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
