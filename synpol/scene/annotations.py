"""Write synapses as lines that neuroglancer loads piece by piece, for any number of synapses.

The format is neuroglancer's precomputed annotations. It has an index by position with several
levels of cells (`synpol.scene.spatial_index`), an index by id, and an index by neuron if the
neurons are known. All indices are sharded files, written with tensorstore. (The writer in
neuroglancer's Python package is meant for few annotations: it writes one file for each line and a
single cell, so that a viewer loads all lines at once.)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from synpol.errors import InputError
from synpol.files import sha256_of, whole_folder
from synpol.scene.spatial_index import SpatialLevel, spatial_levels
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.reading import open_table, parts_of, read_table
from synpol.synapses.table import confidence

#: version of the content, to be raised when a change of code changes it
VERSION = 1
#: most lines of one cell, which a viewer loads at once
LIMIT = 2000
#: approximate bytes of a shard file
FILE_BYTES = 2**24
#: approximate number of keys in a minishard, an entry of a shard file's own index
MINISHARD_KEYS = 256

#: key of the info with a digest of all that was written
_CONTENT = "synpol_content"

_RECORD = np.dtype(
    [
        ("line", "<f4", (6,)),
        ("score", "<f4"),
        ("contact_area", "<f4"),
        ("pre_voxels", "<i4"),
        ("post_voxels", "<i4"),
    ]
)
_PROPERTIES = [
    ("score", "float32", "smaller mean probability of the two sides"),
    ("contact_area", "float32", "nm^2"),
    ("pre_voxels", "int32", "size of the pre side"),  # neuroglancer 2.41 pads uint32 to 6 bytes
    ("post_voxels", "int32", "size of the post side"),
]


def write_annotations(
    folder: Path,
    table: str | os.PathLike[str],
    low: Sequence[float] | np.ndarray,
    high: Sequence[float] | np.ndarray,
    partners: str | os.PathLike[str] | None = None,
    links: str | os.PathLike[str] | None = None,
) -> int:
    """Write the synapses of a table as precomputed annotations; an error leaves no partial folder.

    The line of a synapse connects the centroid of its pre side with the centroid of its post side.
    The line of a synapse with one side, or without known sides, has no length.

    Parameters
    ----------
    folder : Path
        Folder to write. An existing folder is kept if it was made from the same tables and holds
        what was written, and replaced otherwise.
    table : path
        Synapse table.
    low, high : 3 numbers
        Lower and upper corner of the volume, z, y, x; nm.
    partners : path, optional
        Table of `synpol.connectivity.partners_of`. A viewer can then find lines by the neurons on
        their two sides.
    links : path, optional
        Table of links of the same synapses; lines are found by all of its neurons too.

    Returns
    -------
    int
        Number of lines.

    Raises
    ------
    InputError
        A table does not exist, or the partners or links belong to another synapse table.

    Notes
    -----
    The function needs about 500 bytes of memory for each synapse.
    """
    digest = _digest(table, partners, links, low, high)
    count = _count_written(folder, digest)
    if count is not None:
        return count
    ids, records = _lines(table)
    corners = np.array([low[::-1], high[::-1]], float)
    info: dict[str, Any] = {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {axis: [1e-9, "m"] for axis in "xyz"},
        "lower_bound": corners[0].tolist(),
        "upper_bound": corners[1].tolist(),
        "annotation_type": "LINE",
        "properties": [{"id": i, "type": t, "description": d} for i, t, d in _PROPERTIES],
        "relationships": [],
        "spatial": [],
        "synpol_hash": digest,
        "synpol_count": len(ids),
    }
    with (
        whole_folder(folder) as temporary,
        tqdm(total=2 * len(ids), unit="line", desc="annotations", leave=False) as bar,
    ):
        related = _related(partners, links, table, ids)
        sharding = _sharding_of(int(ids.max(initial=1)).bit_length(), len(ids), records.nbytes)
        store = _Store(temporary / "by_id", sharding)
        store.write(_by_id(ids, records, list(related.values()), bar))
        info["by_id"] = {"key": "by_id", "sharding": sharding}
        for name, of_side in related.items():
            sharding = _write_related(temporary / f"by_{name}", of_side, ids, records)
            info["relationships"].append({"id": name, "key": f"by_{name}", "sharding": sharding})
        levels = spatial_levels(records["line"], corners[0], corners[1], LIMIT)
        for number, level in enumerate(levels):
            key = f"level_{number}"
            info["spatial"].append(
                {"key": key, **_write_level(temporary / key, level, ids, records)}
            )
            bar.update(len(np.unique(level.line)))
        info[_CONTENT] = _content_of(temporary, info)
        (temporary / "info").write_text(json.dumps(info))
    return len(ids)


def _count_written(folder: Path, digest: str) -> int | None:
    """Return the number of lines of annotations that are there already; None: make them anew."""
    try:
        written = json.loads((folder / "info").read_text())
        if written["synpol_hash"] != digest:
            return None
        content = written.pop(_CONTENT, None)  # None: of an older version
        right = content is None or content == _content_of(folder, written)
        return int(written["synpol_count"]) if right else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # damaged, or none of ours
        return None


def _content_of(folder: Path, info: dict[str, Any]) -> str:
    """Return a digest of all files of a folder, and of its info without this digest."""
    digest = hashlib.sha256(json.dumps(info).encode())
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / "info"):
        digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def score_range(table: str | os.PathLike[str]) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of the scores of a table, as limits for colours."""
    file = open_table(table)
    names = [n for n in file.schema_arrow.names if n in ("pre_score", "post_score", "union_score")]
    score = confidence(read_table(table, names))
    if not len(score):
        return 0.0, 1.0
    low, high = np.quantile(score, [0.02, 0.98])
    return float(low), float(high)


def _digest(
    table: str | os.PathLike[str],
    partners: str | os.PathLike[str] | None,
    links: str | os.PathLike[str] | None,
    low: Sequence[float] | np.ndarray,
    high: Sequence[float] | np.ndarray,
) -> str:
    """Return a hash of everything that the annotations depend on."""
    open_table(table)
    inputs = [VERSION, LIMIT, *map(float, (*low, *high)), digest_of(table).decode()]
    inputs.append(None if partners is None else digest_of(partners).decode())
    inputs += [] if links is None else [digest_of(links).decode()]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def _lines(table: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the ids and the records (`_RECORD`) of all synapses."""
    file = open_table(table)
    parts = ["union"] if "union_x" in file.schema_arrow.names else ["pre", "post"]
    names = [f"{p}_{a}" for p in parts for a in "xyz"]
    names += [f"{p}_score" for p in dict.fromkeys(("pre", "post", *parts))]
    names += ["synapse_id", "contact_area", "pre_voxels", "post_voxels"]
    ids, records = [np.zeros(0, np.uint64)], [np.zeros(0, _RECORD)]
    for rows in parts_of(table, names):
        lines = np.zeros(rows.num_rows, _RECORD)
        ends = [np.stack([rows[f"{p}_{a}"].to_numpy() for a in "xyz"], axis=1) for p in parts]
        first, last = ends[0], ends[-1]  # NaN for a missing side
        lines["line"][:, :3] = np.where(np.isnan(first), last, first)
        lines["line"][:, 3:] = np.where(np.isnan(last), first, last)
        lines["score"] = confidence(rows)
        for name in ("contact_area", "pre_voxels", "post_voxels"):
            lines[name] = rows[name].to_numpy()
        ids.append(rows["synapse_id"].to_numpy())
        records.append(lines)
    return np.concatenate(ids), np.concatenate(records)


@dataclass(frozen=True)
class _Related:
    """Neurons of one side of all lines.

    Attributes
    ----------
    line : (k,) int64
        Row of a line, ascending; a line may have several neurons, or none.
    neuron : (k,) uint64
        Neuron, ascending within a line.
    """

    line: np.ndarray
    neuron: np.ndarray


def _related(
    partners: str | os.PathLike[str] | None,
    links: str | os.PathLike[str] | None,
    table: str | os.PathLike[str],
    ids: np.ndarray,
) -> dict[str, _Related]:
    """Read the neurons on each side of every synapse; without `partners` no side."""
    if partners is None:
        return {}
    found: dict[str, list[np.ndarray]] = {"pre": [], "post": []}
    for path in (partners,) if links is None else (partners, links):
        metadata = open_table(path).schema_arrow.metadata or {}
        rows = read_table(path, ["synapse_id", "pre_id", "post_id"])
        short = path == partners and rows.num_rows != len(ids)
        if metadata.get(TABLE_HASH) != digest_of(table) or short:
            raise InputError(
                f"{path} is of other synapses than the table beside it; run "
                "pipelines/connect.py of synpol's repository again, or remove it"
            )
        line = np.searchsorted(ids, rows["synapse_id"].to_numpy()).astype(np.uint64)
        for side, pairs in found.items():
            pairs.append(np.stack([line, rows[f"{side}_id"].to_numpy()], axis=1))
    related = {}
    for side, pairs in found.items():
        line, neuron = np.concatenate(pairs).T
        order = np.lexsort((neuron, line))
        line, neuron = line[order], neuron[order]
        kept = neuron != 0
        kept[1:] &= (line[1:] != line[:-1]) | (neuron[1:] != neuron[:-1])
        related[side] = _Related(line[kept].astype(np.int64), neuron[kept])
    return related


def _sharding_of(
    bits: int, keys: int, size: int, *, hashed: bool = False, data: str = "raw"
) -> dict[str, Any]:
    """Choose how the values of an index are distributed over files.

    Parameters
    ----------
    bits : int
        Number of bits of the largest key.
    keys : int
        Number of keys.
    size : int
        Bytes of all values together.
    hashed : bool
        Whether the keys are hashed. Without a hash, neighbouring keys lie in the same file.
    data : {"raw", "gzip"}
        Encoding of the values.

    Returns
    -------
    dict
        Sharding specification of neuroglancer's precomputed format.
    """
    shard = min(bits, max(0, size // FILE_BYTES).bit_length())
    minishard = min(bits - shard, (max(0, keys // MINISHARD_KEYS) >> shard).bit_length())
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "murmurhash3_x86_128" if hashed else "identity",
        "preshift_bits": 0 if hashed else bits - shard - minishard,
        "minishard_bits": minishard,
        "shard_bits": shard,
        "minishard_index_encoding": "gzip",
        "data_encoding": data,
    }


class _Store:
    """Write values by key into sharded files; one file at a time is in memory."""

    def __init__(self, folder: Path, sharding: dict[str, Any]) -> None:
        import tensorstore

        self._tensorstore = tensorstore
        base = {"driver": "file", "path": f"{folder}/"}
        spec = {
            "driver": "neuroglancer_uint64_sharded",
            "metadata": sharding,
            "base": base,
            "context": {"file_io_sync": False},  # the whole folder is renamed at the end
        }
        self._store = tensorstore.KvStore.open(spec).result()
        is_hashed = sharding["hash"] != "identity"
        self._shift = 64 if is_hashed else sharding["preshift_bits"] + sharding["minishard_bits"]

    def write(self, items: Iterable[tuple[int, bytes]]) -> None:
        """Write pairs of key and value in ascending order of the keys."""
        shard, transaction = -1, None
        for key, value in items:
            if key >> self._shift != shard:
                if transaction is not None:
                    transaction.commit_sync()
                shard, transaction = key >> self._shift, self._tensorstore.Transaction()
                store = self._store.with_transaction(transaction)
            store.write(key.to_bytes(8, "big"), value)
        if transaction is not None:
            transaction.commit_sync()


def _by_id(
    ids: np.ndarray, records: np.ndarray, related: list[_Related], bar: Any
) -> Iterator[tuple[int, bytes]]:
    """Yield id and encoded record of each line, with the neurons on its two sides."""
    size = _RECORD.itemsize
    content = records.tobytes()
    lines, sides = np.arange(len(ids) + 1), []
    for of in related:
        begins = np.searchsorted(of.line, lines).tolist()
        sides.append((begins, of.neuron.astype("<u8").tobytes()))
    for row, number in enumerate(ids.tolist()):
        value = content[row * size : (row + 1) * size]
        for begins, neurons in sides:
            first, last = begins[row], begins[row + 1]
            value += (last - first).to_bytes(4, "little") + neurons[8 * first : 8 * last]
        yield number, value
        bar.update()


def _grouped(
    key: np.ndarray, line: np.ndarray, ids: np.ndarray, records: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    """Yield each key with the encoded records of its lines, in ascending order of the keys."""
    keys, begins = np.unique(key, return_index=True)
    ends = np.append(begins[1:], len(key)).astype(int)[: len(keys)]
    for number, begin, end in zip(keys.tolist(), begins.tolist(), ends.tolist(), strict=True):
        rows = line[begin:end]
        content = records[rows].tobytes() + ids[rows].astype("<u8").tobytes()
        yield number, len(rows).to_bytes(8, "little") + content


def _write_related(
    folder: Path, related: _Related, ids: np.ndarray, records: np.ndarray
) -> dict[str, Any]:
    """Write the index by the neurons of one side, and return its sharding."""
    order = np.argsort(related.neuron, kind="stable")
    neurons, rows = related.neuron[order], related.line[order]
    count, size = len(np.unique(neurons)), len(rows) * _RECORD.itemsize
    sharding = _sharding_of(64, count, size, hashed=True)
    _Store(folder, sharding).write(_grouped(neurons, rows, ids, records))
    folder.mkdir(exist_ok=True)  # without any neuron, nothing was written
    return sharding


def _write_level(
    folder: Path, level: SpatialLevel, ids: np.ndarray, records: np.ndarray
) -> dict[str, Any]:
    """Write one level of the index by position, and return its description."""
    bits = sum(int(g - 1).bit_length() for g in level.grid)
    cells, size = len(np.unique(level.cell)), len(level.line) * _RECORD.itemsize
    sharding = _sharding_of(bits, cells, size, data="gzip")
    _Store(folder, sharding).write(_grouped(level.cell, level.line, ids, records))
    return {
        "sharding": sharding,
        "grid_shape": [int(g) for g in level.grid],
        "chunk_size": [float(s) for s in level.size],
        "limit": LIMIT,
    }
