"""Keep what one block leaves for later stages, which is at once the mark that the block is done.

A record is a file of named arrays: a JSON line that lists them, their bytes, and a checksum. It is
written under a temporary name and renamed, so it exists whole or not at all, and writing it twice
is the same as writing it once. Because the record *is* the mark, nothing can say "done" of a result
that does not exist. Records lie in folders by block index, so that no folder grows beyond
one side of the block grid. (``.npz`` would do, but reading fifty small arrays from one takes 4 ms,
against 0.2 ms here, and a merge job reads up to twenty records.)

In Python a record is a dataclass. `pack` turns it into named arrays and `unpack` turns named arrays
into it: a field ``voxels`` of a field ``state`` is the array ``state.voxels``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from synpol.errors import InputError
from synpol.files import is_url, sync_together, write_whole

Index = tuple[int, int, int]


class DamagedRecord(RuntimeError):
    """Say that a record cannot be read; it has been set aside, and a rerun makes it anew."""


@dataclass
class Done:
    """Record of a block whose result lies elsewhere, in an array."""


@dataclass
class Written:
    """Record of a block of an array on a local disk.

    Attributes
    ----------
    sizes : (n,) int64
        Bytes of each file of the block; see `synpol.images.writing.stored_sizes`.
    """

    sizes: np.ndarray


def stored(name: str | None = None, keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Declare how a field of a record is named in the file, as the ``metadata`` of the field.

    Parameters
    ----------
    name : str, optional
        Name of the field in the file; by default its own. With "" the parts of the field are named
        as if they were fields of the record itself.
    keys : sequence of str, optional
        Keys of a field that is a dict; by default those that the file holds.
    """
    named: dict[str, Any] = {} if name is None else {"name": name}
    return named if keys is None else named | {"keys": tuple(keys)}


def pack(record: Any) -> dict[str, np.ndarray]:
    """Turn a dataclass of arrays, dicts and other such dataclasses into named arrays."""
    arrays: dict[str, np.ndarray] = {}
    for part in fields(record):
        arrays |= _packed(part.metadata.get("name", part.name), getattr(record, part.name))
    return arrays


def _packed(name: str, value: Any) -> dict[str, np.ndarray]:
    if is_dataclass(value):
        parts = pack(value)
    elif isinstance(value, Mapping):
        parts = {}
        for key, item in value.items():
            parts |= _packed(str(key), item)
    else:
        return {name: np.asarray(value, order="C")}
    return {f"{name}.{key}": array for key, array in parts.items()} if name else parts


#: arrays by name; the arrays ``state.low`` and ``state.high`` are a tree under ``state``
_Tree = dict[str, "np.ndarray | _Tree"]


def unpack[Record](
    kind: type[Record], arrays: Mapping[str, np.ndarray], *, copy: bool = False
) -> Record:
    """Turn named arrays into a dataclass: the inverse of `pack`.

    Parameters
    ----------
    kind : type
        The dataclass. Its fields are arrays, dicts (with str or int keys) and other dataclasses.
    arrays : mapping of str to array
        May hold more than the dataclass has fields.
    copy : bool
        Whether the dataclass gets copies of its arrays.

    Raises
    ------
    KeyError
        An array of the dataclass is missing.
    """
    tree: _Tree = {}
    for name, array in arrays.items():
        *path, last = name.split(".")
        below = tree
        for step in path:
            below = below.setdefault(step, {})  # type: ignore[assignment]
        below[last] = array
    return _unpacked(kind, tree, None, copy)


def _unpacked(kind: Any, tree: Any, keys: Sequence[str] | None, copy: bool) -> Any:
    if get_origin(kind) is dict:
        key_kind, value_kind = get_args(kind)
        names = tree if keys is None else keys
        return {key_kind(name): _unpacked(value_kind, tree[name], None, copy) for name in names}
    if isinstance(kind, type) and is_dataclass(kind):
        values = []
        for name, part_kind, part_keys in _parts_of(kind):
            part = tree.get(name, {}) if name else tree
            value = _unpacked(part_kind, part, part_keys, copy)
            if value is part and isinstance(part, dict):
                raise KeyError(f"the record has no array {name!r} for {kind.__name__}")
            values.append(value)
        return kind(*values)
    return tree.copy() if copy else tree


@functools.cache
def _parts_of(kind: Any) -> list[tuple[str, Any, Sequence[str] | None]]:
    hints = get_type_hints(kind)
    return [
        (part.metadata.get("name", part.name), hints[part.name], part.metadata.get("keys"))
        for part in fields(kind)
    ]


def record_path(folder: Path, index: Index) -> Path:
    """Return the path of a block's record."""
    z, y, x = index
    return folder / str(z) / str(y) / f"{x}.record"


def write_record(folder: Path, index: Index, record: Any) -> None:
    """Write the record of a block, a dataclass, whole or not at all."""
    arrays = pack(record)
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(
                f"{name} of the record {type(record).__name__} is of Python objects; arrays of "
                "numbers, all rows of one length, are expected"
            )
    about = [[name, array.dtype.str, array.shape] for name, array in arrays.items()]
    parts = [json.dumps(about).encode() + b"\n", *(a.tobytes() for a in arrays.values())]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    content = b"".join([*parts, checksum.to_bytes(4, "little")])
    del parts
    write_whole(record_path(folder, index), content, sync=False)


def sync_records(folder: Path, indices: Iterable[Index]) -> None:
    """Wait until a power cut cannot take the records of blocks away.

    It is done once a stage, since it is slow one by one. A record that a power cut has damaged
    before does not have its checksum.
    """
    files = [record_path(folder, index) for index in indices]
    sync_together([*files, *{place for file in files for place in file.parents[:4]}])


def read_record[Record](
    folder: Path, index: Index, kind: type[Record], *, copy: bool = False
) -> Record:
    """Read the record of a block.

    Parameters
    ----------
    folder : path
        Folder of the stage's records.
    index : (int, int, int)
        Index of the block.
    kind : type
        The dataclass that was written, or one with some of its fields.
    copy : bool
        Whether to copy the arrays of `kind`, so that the rest of the record is not kept in memory.

    Raises
    ------
    DamagedRecord
        The file is truncated or garbled; it has been set aside.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass
    ... class Counts:
    ...     label: np.ndarray
    ...     voxels: np.ndarray
    >>> write_record(Path("records"), (0, 0, 1), Counts(np.array([1, 2]), np.array([90, 80])))
    >>> read_record(Path("records"), (0, 0, 1), Counts).voxels.tolist()
    [90, 80]
    """
    return unpack(kind, read_arrays(folder, index), copy=copy)


def read_arrays(folder: Path, index: Index) -> dict[str, np.ndarray]:
    """Read the record of a block as named arrays; raises as `read_record`."""
    path = record_path(folder, index)
    aside = path.with_suffix(".damaged")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        if aside.exists():  # another reader has set it aside
            content = b""
        else:
            raise
    if (
        len(content) <= 4
        or zlib.crc32(memoryview(content)[:-4]).to_bytes(4, "little") != content[-4:]
    ):
        with contextlib.suppress(FileNotFoundError):
            path.replace(aside)
        raise DamagedRecord(
            f"{path} is damaged and has been set aside; run the same command again, only that "
            "block is redone"
        )
    at = content.index(b"\n") + 1
    arrays = {}
    for name, dtype, shape in json.loads(content[:at]):
        count = math.prod(shape)
        array = np.frombuffer(content, np.dtype(dtype), count, at)
        arrays[name] = array.reshape(shape)
        at += array.nbytes
    return arrays


def done_mask(folder: Path, grid: Index) -> np.ndarray:
    """Tell which blocks of a grid have their record.

    Parameters
    ----------
    folder : path
        Folder of the stage's records.
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
    """Return the work folder of a job: records, lock, logs.

    Parameters
    ----------
    output : path or URL
        Where the job writes.
    work_dir : path or None
        Folder that was asked for; None is ``<output>.work``.

    Raises
    ------
    InputError
        The folder is a URL, or the output is one and no folder was asked for.
    """
    if work_dir is None:
        if is_url(output):
            raise InputError(f"{output} is remote: give work_dir, a folder that all workers share")
        return Path(f"{Path(output).resolve()}.work")
    if is_url(work_dir):
        raise InputError(f"work_dir is {work_dir}; a folder is expected, not a URL")
    return Path(work_dir).resolve()
