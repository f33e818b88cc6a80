"""Keep verdicts in one SQLite file beside the result.

Rows are only ever added; triggers refuse everything else. A verdict is on the disk before `add`
returns, so a killed server loses none. The journal is SQLite's rollback journal and not its WAL,
which needs shared memory and therefore fails between machines: so reviewers on several machines may
write one file on a shared file system, as far as that has locks (NFS and Lustre: see
docs/safety.md).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from synpol.errors import InputError
from synpol.review.verdicts import COLUMNS, NUMBERS, REALS, Verdict, row_of, verdict_of

#: name of the file in the folder of a result
NAME = "verdicts.db"
#: marks the file as synpol's (SQLite's application_id), and the version of its columns
APPLICATION, VERSION = 0x53594E56, 1
#: seconds to wait for another reviewer who is writing
PATIENCE = 30.0

_TYPES = {**dict.fromkeys(NUMBERS, "INTEGER"), **dict.fromkeys(REALS, "REAL")}
_NULL = {"score", "stratum", "stratum_size", "undoes"}
_TABLE = ", ".join(
    f"{name} {_TYPES.get(name, 'TEXT')}"
    + ("" if name in _NULL else " NOT NULL")
    + (" UNIQUE" if name == "uuid" else "")
    for name in COLUMNS
)
_SCHEMA = f"""
CREATE TABLE verdicts (number INTEGER PRIMARY KEY AUTOINCREMENT, {_TABLE});
CREATE TRIGGER kept BEFORE DELETE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are kept'); END;
CREATE TRIGGER fixed BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'verdicts are kept'); END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""


class VerdictStore:
    """Verdicts in a file that several reviewers write at once.

    Parameters
    ----------
    path : Path
        SQLite file; it is made when it is missing.

    Raises
    ------
    InputError
        The file is damaged, is of something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._telling():
            self._connection = sqlite3.connect(
                path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, verdicts: Iterable[Verdict]) -> int:
        """Add verdicts, all or none; those whose uuid is there already are left out.

        Returns
        -------
        int
            Number of verdicts that are new.
        """
        rows = [row_of(verdict.checked()) for verdict in verdicts]
        places = ", ".join("?" * len(COLUMNS))
        command = f"INSERT OR IGNORE INTO verdicts ({', '.join(COLUMNS)}) VALUES ({places})"
        with self._lock, self._telling(), self._transaction():
            before = self._connection.total_changes
            self._connection.executemany(command, rows)
            return self._connection.total_changes - before

    def read(self, after: int = 0) -> tuple[list[Verdict], int]:
        """Read the verdicts that were added after a number, in the order in which they came.

        Returns
        -------
        list of Verdict
        int
            Number of the last verdict, for the next call.
        """
        command = f"SELECT number, {', '.join(COLUMNS)} FROM verdicts WHERE number > ? ORDER BY 1"
        with self._lock, self._telling():
            rows = self._connection.execute(command, (after,)).fetchall()
        return [verdict_of(row[1:]) for row in rows], rows[-1][0] if rows else after

    def _prepare(self) -> None:
        """Make the table in a new file, or check that it is there."""
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self._connection.execute("PRAGMA synchronous = EXTRA")  # the folder is synced too
        with self._transaction():  # of two who make it at the same time one does
            (kind,) = self._connection.execute("PRAGMA application_id").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if kind == 0 and tables == 0:
                for command in _statements(_SCHEMA):
                    self._connection.execute(command)
                return
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if kind != APPLICATION or version != VERSION:
            raise InputError(
                f"{self.path} is an SQLite file, but not one of verdicts (application_id {kind}, "
                f"version {version}; {APPLICATION}, {VERSION} is expected); move it away, or name "
                "another file in review.verdicts"
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn errors of SQLite into ones that say what to do."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            said = str(error)
            if "full" in said or "disk I/O" in said:  # `synpol.command` knows these
                raise
            way = (
                "another program holds it, or its file system has no locks: end that program, or "
                "name a file on another file system in review.verdicts"
                if "locked" in said
                else "see that the folder can be written to, or name another file in "
                "review.verdicts; a damaged file: take it back from a backup, or move it away and "
                "import an exported table of verdicts (--import)"
            )
            raise InputError(
                f"{self.path} cannot be used as a file of verdicts: {said}; {way}"
            ) from error


def _statements(script: str) -> Iterator[str]:
    """Split a script into its commands."""
    command = ""
    for part in script.split(";"):
        command += part + ";"
        if sqlite3.complete_statement(command):
            if command.strip(" \n;"):
                yield command
            command = ""
