"""Write the synapse table into graph databases of funlib.persistence: SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funlib.geometry import Roi

from synpol.errors import InputError
from synpol.synapses.reading import open_table, parts_of, schema_read

if TYPE_CHECKING:
    from funlib.persistence.graphs import PgSQLGraphDatabase, SQLiteGraphDataBase

#: name of the node attribute that holds the position
POSITION = "position"
#: column by which a graph of synapses is known
_OURS = "touches_border"
#: endings of files that SQLite has beside a database
_BESIDE = ("wal", "shm", "journal")
#: types of columns that become attributes of nodes
_KINDS = {"bool": int, "int64": int, "uint64": int, "double": float}


def write_sqlite(table: str | os.PathLike[str], path: Path, roi: Roi) -> int:
    """Write the synapses of a table as nodes of an SQLite database, whole or not at all.

    Parameters
    ----------
    table : path
        Synapse table.
    path : Path
        File to write; a graph of synpol in this file is replaced. funlib.persistence has a second
        file beside it, ``<stem>-meta.json``.
    roi : Roi
        Extent of the volume, nm.

    Returns
    -------
    int
        Number of nodes.

    Raises
    ------
    InputError
        The file holds something else; or as `synpol.synapses.reading.parts_of`.
    """
    from funlib.persistence.graphs import SQLiteGraphDataBase

    description = _description(table, roi)
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_foreign_sqlite(path)
    with _beside(path) as temporary:
        with closing(SQLiteGraphDataBase(temporary, **description)) as graph:
            count = fill_graph(table, graph)
        for ending in _BESIDE:  # SQLite would take what is in them for a part of the new file
            path.with_name(f"{path.name}-{ending}").unlink(missing_ok=True)
        os.replace(_metadata_of(temporary), _metadata_of(path))
        os.replace(temporary, path)
    return count


def write_postgres(table: str | os.PathLike[str], database: str, roi: Roi) -> int:
    """Write the synapses of a table as nodes into a database of a PostgreSQL server.

    Parameters
    ----------
    table : path
        Synapse table.
    database : str
        ``HOST/DATABASE`` or ``HOST:PORT/DATABASE``. User and password come from the environment, as
        for PostgreSQL's own programs (``PGUSER``, ``PGPASSWORD``, ``~/.pgpass``).
    roi : Roi
        Extent of the volume, nm.

    Returns
    -------
    int
        Number of nodes.

    Raises
    ------
    InputError
        The server does not answer or refuses, or the database holds something else; or as
        `synpol.synapses.reading.parts_of`.
    """
    import psycopg2
    from funlib.persistence.graphs import PgSQLGraphDatabase

    description = _description(table, roi)
    address, slash, name = database.partition("/")
    host, _, port = address.partition(":")
    if not slash or not name.isidentifier() or (port and not port.isdigit()):
        raise InputError(
            f"{database!r} is no PostgreSQL database; HOST/DATABASE or HOST:PORT/DATABASE is "
            "expected, the database a plain name"
        )
    connection: dict[str, Any] = {
        "db_name": name,
        "db_host": host,
        "db_port": int(port) if port else None,
        "db_user": os.environ.get("PGUSER"),
    }
    try:
        _refuse_foreign_postgres(database, connection)
        return fill_graph(table, PgSQLGraphDatabase(**connection, **description))
    except psycopg2.Error as error:
        raise InputError(f"PostgreSQL at {address} refuses: {str(error).strip()}") from None


def _description(table: str | os.PathLike[str], roi: Roi) -> dict[str, Any]:
    """Describe a graph with the columns of a table, as funlib.persistence takes it."""
    from funlib.persistence.types import Vec

    attributes: dict[str, Any] = {POSITION: Vec(float, 3)}
    open_table(table, "zyx")
    for field in schema_read(table):
        if field.name in ("synapse_id", *"zyx"):
            continue
        if str(field.type) not in _KINDS or not field.name.isidentifier():
            raise InputError(
                f"{table} has a column {field.name!r:.80} of the type {field.type!s:.80}, which a "
                f"graph database cannot hold; plain names and {', '.join(_KINDS)} are expected: "
                "leave the column out"
            )
        attributes[field.name] = _KINDS[str(field.type)]
    return {
        "position_attribute": POSITION,
        "mode": "w",
        "total_roi": roi,
        "node_attrs": attributes,
    }


def _metadata_of(path: Path) -> Path:
    """Return the second file that funlib.persistence has for an SQLite database."""
    return path.parent / f"{path.stem}-meta.json"


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a name for a database in a temporary folder, ``<path>.tmp``, which is removed again.

    Raises
    ------
    InputError
        The folder holds something else than what a killed writer had begun.
    """
    folder = path.with_name(f"{path.name}.tmp")
    temporary = folder / path.name
    begun = {temporary.name, _metadata_of(temporary).name}
    begun |= {f"{path.name}-{ending}" for ending in _BESIDE}
    if os.path.lexists(folder) and (
        not folder.is_dir() or not {p.name for p in folder.iterdir()} <= begun
    ):
        raise InputError(
            f"{folder} holds other files than an unfinished {path.name}, for which this name is "
            "needed; remove it or give another name"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_foreign_sqlite(path: Path) -> None:
    """Refuse a file that holds something else than synapses, which writing would remove.

    One of its two files tells: the other one may be damaged.

    Raises
    ------
    InputError
    """
    metadata = _metadata_of(path)
    try:
        about = json.loads(metadata.read_text())["node_attrs"]
    except FileNotFoundError:
        about = None
    except (OSError, ValueError, KeyError, TypeError):
        about = {}
    if (path.exists() and _OURS in _columns_of(path)) or _OURS in (about or {}):
        return
    if about is not None:
        raise InputError(f"{path} holds another graph ({metadata}); give another database")
    if path.exists():
        raise InputError(
            f"{path} exists and holds no synapses of synpol's; remove it or give another name"
        )


def _columns_of(path: Path) -> list[str]:
    """Return the columns of the nodes in an SQLite database; none where there is none."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return [row[1] for row in database.execute("PRAGMA table_info(nodes)")]
    except sqlite3.Error:
        return []


def _refuse_foreign_postgres(name: str, connection: dict[str, Any]) -> None:
    """Refuse a database that holds another graph, which writing would remove.

    Raises
    ------
    InputError
        The database holds something that is not a table of synapses.
    """
    from funlib.persistence.graphs import PgSQLGraphDatabase

    try:
        graph = PgSQLGraphDatabase(**connection, position_attribute=POSITION, mode="r")
    except RuntimeError:  # funlib.persistence finds no graph in the database
        if _has_tables(connection):
            raise InputError(
                f"{name} exists and holds no synapses of synpol's; remove it or give another name"
            ) from None
        return
    except (AssertionError, KeyError, ValueError):  # another kind of graph
        attributes: Any = {}
    else:
        attributes = graph.node_attrs
        graph.connection.close()
    if _OURS not in attributes:
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
        Empty graph with the attributes of the table. A node gets the synapse's id, its centroid
        (z, y, x in nm) as the position, and the other columns as attributes.

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
            try:
                graph.bulk_write_nodes(nodes)
            except OverflowError:
                raise InputError(
                    f"{table} has a number of 2^63 or more, which a graph database cannot hold"
                ) from None
            count += len(nodes)
    return count
