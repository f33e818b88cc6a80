"""Records: what one block leaves for the stages after it, and at once the mark that it is done.

A record is a file of named arrays: a JSON line that says what they are, their bytes, and a
checksum. It is written under a temporary name and renamed, so it is there whole or not at all, and
writing it twice is the same as once. Because the record *is* the mark, nothing can say "done" of
something that is not there. Records lie in folders by block index, so that no folder grows beyond
a side of the block grid. (``.npz`` would do, but reading fifty small arrays from one takes 4 ms,
against 0.2 ms here, and a merge job reads up to twenty records.)
"""

from __future__ import annotations

import itertools
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from synpol.errors import InputError
from synpol.files import is_url, write_whole

Index = tuple[int, int, int]


class DamagedRecord(RuntimeError):
    """A record that cannot be read; it has been set aside, and a rerun makes it anew."""


def record_path(folder: Path, index: Index) -> Path:
    z, y, x = index
    return folder / str(z) / str(y) / f"{x}.record"


def write_record(folder: Path, index: Index, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the record of a block whole or not at all."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    about = [[name, array.dtype.str, array.shape] for name, array in contiguous.items()]
    content = (
        json.dumps(about).encode() + b"\n" + b"".join(a.tobytes() for a in contiguous.values())
    )
    write_whole(record_path(folder, index), content + zlib.crc32(content).to_bytes(4, "little"))


def read_record(folder: Path, index: Index) -> dict[str, np.ndarray]:
    """Read the record of a block.

    Raises
    ------
    DamagedRecord
        Truncated or garbled; the file has been set aside.
    """
    path = record_path(folder, index)
    content = path.read_bytes()
    if zlib.crc32(content[:-4]).to_bytes(4, "little") != content[-4:]:
        path.replace(path.with_suffix(".damaged"))
        raise DamagedRecord(
            f"{path} is damaged and has been set aside; run the same command again, only that "
            "block is redone"
        )
    at = content.index(b"\n") + 1
    arrays = {}
    for name, dtype, shape in json.loads(content[:at]):
        count = int(np.prod(shape))
        array = np.frombuffer(content, np.dtype(dtype), count, at)
        arrays[name] = array.reshape(shape)
        at += array.nbytes
    return arrays


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
                if ending == "record" and name.isdigit() and int(name) < grid[2]:
                    done[z, y, int(name)] = True
    return done


def work_folder(output: str | os.PathLike[str], work_dir: str | os.PathLike[str] | None) -> Path:
    if work_dir is None:
        if is_url(output):
            raise InputError(f"{output} is remote: give work_dir, a folder that all workers share")
        return Path(f"{Path(output).resolve()}.work")
    if is_url(work_dir):
        raise InputError(f"work_dir is {work_dir}; a folder is expected, not a URL")
    return Path(work_dir).resolve()
