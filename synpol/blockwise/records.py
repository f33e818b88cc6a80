"""Records: what one block leaves for the stages after it, and at once the mark that it is done.

A record is a NumPy ``.npz`` of named arrays, written under a temporary name and renamed, so it is
there whole or not at all, and writing it twice is the same as once. Because the record *is* the
mark, nothing can say "done" of something that is not there. Records lie in folders by block
index, so that no folder grows beyond a side of the block grid.
"""

from __future__ import annotations

import io
import itertools
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Index = tuple[int, int, int]


class DamagedRecord(RuntimeError):
    """A record that cannot be read; it has been set aside, and a rerun makes it anew."""


def record_path(folder: Path, index: Index) -> Path:
    z, y, x = index
    return folder / str(z) / str(y) / f"{x}.npz"


def write_record(folder: Path, index: Index, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the record of a block whole or not at all."""
    path = record_path(folder, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getbuffer())


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name, make sure it is on disk, and rename it."""
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_record(folder: Path, index: Index) -> dict[str, np.ndarray]:
    """Read the record of a block.

    Raises
    ------
    DamagedRecord
        Truncated or garbled (every array carries a checksum); the file has been set aside.
    """
    path = record_path(folder, index)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError) as error:
        path.replace(path.with_suffix(".damaged"))
        raise DamagedRecord(
            f"{path} is damaged ({error}) and has been set aside; run the same command again, "
            "only that block is redone"
        ) from None


def done_mask(folder: Path, grid: Index) -> np.ndarray:
    """Which blocks of a grid have their record.

    Parameters
    ----------
    folder : path
    grid : (int, int, int)
        Number of blocks along z, y, x.

    Returns
    -------
    bool array of shape `grid`
    """
    done = np.zeros(grid, dtype=bool)
    for z, y in itertools.product(range(grid[0]), range(grid[1])):
        try:
            entries = os.scandir(folder / str(z) / str(y))
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name, _, ending = entry.name.partition(".")
                if ending == "npz" and name.isdigit() and int(name) < grid[2]:
                    done[z, y, int(name)] = True
    return done
