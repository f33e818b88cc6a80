"""Tables of links: the points at which synapses join a pre-synaptic to a post-synaptic neuron.

Laboratories share synapses as such tables more often than as masks. `read_links` reads those of
synpol, synful, CAVE and neuPrint, and tables with other columns if a config names them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synpol.errors import InputError
from synpol.images.world import power_of
from synpol.synapses.line_annotations import holds_lines, read_lines

if TYPE_CHECKING:
    from synpol.config import LinkTable

PLACES = ("pre_z", "pre_y", "pre_x", "post_z", "post_y", "post_x")
#: columns that a table may have beside the places of its links
OTHERS = ("pre_id", "post_id", "pre_segment", "post_segment", "score", "link_id")
#: how known writers call their columns; the first set whose places all occur is taken
DIALECTS: tuple[dict[str, str], ...] = (
    {name: name for name in (*PLACES, *OTHERS)}  # synpol, synful_fafb
    | {
        "pre_segment": "pre_segment_id",
        "post_segment": "post_segment_id",
        "link_id": "id",
    },
    {f"{side}_{axis}": f"{side}_pt_position_{axis}" for side in ("pre", "post") for axis in "zyx"}
    | {"pre_id": "pre_pt_root_id", "post_id": "post_pt_root_id", "score": "score", "link_id": "id"},
    {f"{side}_{axis}": f"{axis}_{side}" for side in ("pre", "post") for axis in "zyx"}
    | {"pre_id": "bodyId_pre", "post_id": "bodyId_post", "score": "confidence_post"},
)
#: other names of neurons, tried where a dialect's own does not occur
_ALSO = {
    "pre_id": ("pre_skeleton_id", "pre_root_id", "pre_neuron_id"),
    "post_id": ("post_skeleton_id", "post_root_id", "post_neuron_id"),
    "link_id": ("link_id", "synapse_id"),
}


@dataclass(frozen=True)
class Links:
    """Links, a row each.

    Attributes
    ----------
    pre, post : (n, 3) float64
        Places of both ends, z, y, x; nm.
    pre_id, post_id : (n,) int64
        Neurons at both ends; 0 where unknown.
    score : (n,) float64
        How sure each link is; NaN where nobody said.
    no_segment : (n,) bool
        Whether an end lies in no segment at all (segment 0).
    link_id : (n,) int64
        Number of each link in its table; its row, from 0 on, where it has none.
    """

    pre: np.ndarray
    post: np.ndarray
    pre_id: np.ndarray
    post_id: np.ndarray
    score: np.ndarray
    no_segment: np.ndarray
    link_id: np.ndarray

    def __len__(self) -> int:
        return len(self.pre)

    def __getitem__(self, rows: np.ndarray) -> Links:
        return Links(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def known(self) -> np.ndarray:
        """Whether the neurons at both ends are known; (n,) bool."""
        return (self.pre_id != 0) & (self.post_id != 0)

    @classmethod
    def of(
        cls,
        pre: np.ndarray,
        post: np.ndarray,
        pre_id: np.ndarray | None = None,
        post_id: np.ndarray | None = None,
        score: np.ndarray | None = None,
    ) -> Links:
        """Make links of their places, and of neurons and scores where there are some."""
        count = len(pre)
        return cls(
            np.asarray(pre, float).reshape(-1, 3),
            np.asarray(post, float).reshape(-1, 3),
            np.zeros(count, np.int64) if pre_id is None else np.asarray(pre_id, np.int64),
            np.zeros(count, np.int64) if post_id is None else np.asarray(post_id, np.int64),
            np.full(count, np.nan) if score is None else np.asarray(score, float),
            np.zeros(count, bool),
            np.arange(count),
        )


def read_links(source: str | os.PathLike[str] | LinkTable) -> Links:
    """Read a table of links, or links that were drawn as lines in neuroglancer.

    Parameters
    ----------
    source : path or LinkTable
        CSV file (also gzipped), Parquet file, state of neuroglancer, or folder or URL of
        precomputed annotations. A mapping of a config names columns and units.

    Returns
    -------
    Links

    Raises
    ------
    InputError
        No such file, not a table, columns that are missing, or places that are no numbers.
    """
    if isinstance(source, str | os.PathLike):
        options, where = None, os.fspath(source)
    else:
        options, where = source, source.path
    path = Path(where)
    if holds_lines(where):
        return _links_of_lines(where, options)
    if options is not None and (options.layer is not None or options.pre_point != "a"):
        raise InputError(
            f"{path} is a table, but layer or pre_point is given, which are of lines of "
            "neuroglancer; leave them out"
        )
    if is_hdf5(path):
        return read_cremi(path)
    table = read_table_of_links(path)
    table, resolution = _split_positions(path, table, options)
    names = _columns(path, table.column_names, {} if options is None else options.columns)
    scale = _scale(options) if resolution is None else resolution
    places = [_numbers(path, table, names[name], needed=True) for name in PLACES]
    pre, post = (np.stack(places[k : k + 3], axis=1) * scale for k in (0, 3))
    pre_id, post_id = (_ids(path, table, names.get(name)) for name in ("pre_id", "post_id"))
    segments = [names[name] for name in ("pre_segment", "post_segment") if name in names]
    none = np.zeros(len(table), bool)
    for name in segments:
        none |= _numbers(path, table, name) == 0
    score = np.full(len(table), np.nan)
    if "score" in names:
        score = _numbers(path, table, names["score"])
    links = Links.of(pre, post, pre_id, post_id, score)
    number = _ids(path, table, names["link_id"]) if "link_id" in names else links.link_id
    return replace(links, no_segment=none, link_id=number)


def _links_of_lines(path: str, options: LinkTable | None) -> Links:
    """Read lines as links from one end to the other."""
    if options is not None and (options.voxel_size is not None or options.unit != "nm"):
        raise InputError(
            f"{path} holds annotations, which say their own units, but unit or voxel_size is "
            "given; leave them out"
        )
    lines = read_lines(
        path,
        {} if options is None else options.columns,
        None if options is None else options.layer,
    )
    pre, post = lines.ends if options is None or options.pre_point == "a" else lines.ends[::-1]
    neurons = lines.neurons
    links = Links.of(pre, post, neurons.get("pre_id"), neurons.get("post_id"), lines.score)
    return links if lines.number is None else replace(links, link_id=lines.number)


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def read_cremi(path: Path) -> Links:
    """Read the annotated partners of a CREMI file.

    Places are in nm, z, y, x, from the corner of the labels or of the offset that the group
    ``annotations`` names.

    Raises
    ------
    InputError
        The file has no such annotations, or they do not fit each other.
    """
    import h5py  # a table in another format needs it not

    try:
        with h5py.File(path) as file:
            if "annotations" not in file:
                raise InputError(
                    f"{path} holds {', '.join(file) or 'nothing'}, and no annotations; a CREMI "
                    "file with annotated partners, or a table is expected"
                )
            group = file["annotations"]
            offset = np.asarray(group.attrs.get("offset", (0.0, 0.0, 0.0)), float)
            ids, places = np.asarray(group["ids"]), np.asarray(group["locations"], float)
            partners = np.asarray(group["presynaptic_site/partners"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a CREMI file: {error}. annotations/ids, locations and "
            "presynaptic_site/partners are expected"
        ) from None
    order = np.argsort(ids, kind="stable")
    at = np.searchsorted(ids[order], partners)
    known = (at < len(ids)) & (ids[order][np.minimum(at, max(0, len(ids) - 1))] == partners)
    if places.shape != (len(ids), 3) or not known.all():
        raise InputError(
            f"{path}: annotations/presynaptic_site/partners names annotations that "
            "annotations/ids does not list, or locations are not (n, 3); export the file anew"
        )
    pre, post = (places[order][column] + offset for column in at.T)
    return Links.of(pre, post)


def read_table_of_links(path: Path) -> pa.Table:
    """Read all columns of a CSV or Parquet file.

    Raises
    ------
    InputError
        No such file, or one that cannot be read.
    """
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    if not path.is_file():
        raise InputError(f"there is no table of links {path}; a CSV or Parquet file is expected")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    try:
        table = pq.read_table(path) if is_parquet else csv.read_csv(path)
        table.column_names  # noqa: B018  # which may be no text
    except (pa.ArrowException, OSError, ValueError) as error:
        kind = "Parquet" if is_parquet else "CSV"
        raise InputError(
            f"{path} cannot be read as {kind}: {error}; export the table anew"
        ) from None
    return table


def _split_positions(
    path: Path, table: pa.Table, options: LinkTable | None
) -> tuple[pa.Table, np.ndarray | None]:
    """Split the positions of CAVE (x, y, z in one column), and find the size of their voxels.

    Returns
    -------
    pyarrow.Table
    (3,) float64 or None
        Size of a step along z, y, x, nm, as the table itself says it.
    """
    names = [f"{side}_pt_position" for side in ("pre", "post")]
    if not all(table.column_names.count(n) == 1 and _is_list(table[n].type) for n in names):
        return table, None
    for name in names:
        points = pc.list_value_length(table[name])
        if points.null_count or pc.any(pc.not_equal(points, 3)).as_py():
            raise InputError(f"{path}: {name} is not x, y, z in every row; export the table anew")
        for place, axis in enumerate("xyz"):
            table = table.append_column(f"{name}_{axis}", pc.list_element(table[name], place))
    if options is not None and options.voxel_size is not None:
        return table, None
    said = (table.schema.metadata or {}).get(b"voxel_resolution")
    try:
        sizes = np.array(json.loads(said or "null"), float)
    except (ValueError, TypeError):
        sizes = np.zeros(0)
    if sizes.shape != (3,) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise InputError(
            f"{path} counts positions in voxels, and has no voxel_resolution in its metadata; say "
            "their size in nm, z, y, x (voxel_size: [40, 4, 4]; [1, 1, 1] where they are in nm)"
        )
    return table, sizes[::-1]


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _columns(path: Path, there: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Find the column of each name."""
    known = (*PLACES, *OTHERS)
    for name, column in given.items():
        if name not in known:
            raise InputError(
                f"columns of {path}: {name!r} is nothing that a link has; known are "
                f"{', '.join(known)}"
            )
        if column not in there:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(there)}")
    for dialect in DIALECTS:
        names = {name: column for name, column in dialect.items() if column in there}
        for name, others in _ALSO.items():
            also = [column for column in others if column in there]
            if name not in names and also:
                names[name] = also[0]
        names |= given
        if all(name in names for name in PLACES):
            return names
    raise InputError(
        f"{path} has the columns {', '.join(there)}; {', '.join(PLACES)} are expected, or "
        "pre_pt_position (CAVE; also split: pre_pt_position_x ..), or x_pre .. (neuPrint). Name "
        "others: "
        f"{{path: {path}, columns: {{pre_z: ..., pre_y: ..., ...}}}}"
    )


def _scale(options: LinkTable | None) -> np.ndarray:
    """Return the nm (z, y, x) that one step of the table's numbers stands for."""
    if options is None:
        return np.ones(3)
    unit = 10.0 ** power_of(options.unit, f"unit of {options.path}")
    return np.array(options.voxel_size or (1.0, 1.0, 1.0)) * unit


def _column(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    if table.column_names.count(name) > 1:
        raise InputError(
            f"{path} has several columns {name!r:.80}; one is expected: export the table anew"
        )
    return table[name]


def _numbers(path: Path, table: pa.Table, column: str, needed: bool = False) -> np.ndarray:
    try:
        values = _column(path, table, column).cast(pa.float64()).to_numpy()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: the column {column} holds no numbers: {error}") from None
    if needed and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise InputError(
            f"{path}: {column} is empty or not finite in row {row + 1}; every link needs both "
            "places. Leave such rows out"
        )
    return np.asarray(values, float)


def _ids(path: Path, table: pa.Table, column: str | None) -> np.ndarray:
    """Read numbers of neurons; empty and negative ones are 0: unknown."""
    if column is None:
        return np.zeros(len(table), np.int64)
    try:
        values = pc.fill_null(_column(path, table, column), 0)
        whole = values.cast(pa.int64()).to_numpy()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"{path}: the column {column} holds no whole numbers below 2^63: {error}"
        ) from None
    return np.where(whole < 0, 0, whole)


def read_neurons(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a list of neurons: a text file with a number on each line.

    Raises
    ------
    InputError
        No such file, or a line that is no whole number.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no list of neurons {file}; a number on each line is expected")
    numbers = []
    for row, line in enumerate(file.read_text(errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            numbers.append(int(line))
        except ValueError:
            raise InputError(
                f"{file}, line {row}: {line.strip()[:40]!r} is no whole number; a number of a "
                "neuron on each line is expected"
            ) from None
    if not numbers:
        raise InputError(f"{file} lists no neuron; a number on each line is expected")
    return np.unique(np.array(numbers, np.int64))


def pair_numbers(*links: Links) -> list[np.ndarray]:
    """Number the pairs of neurons that occur in several tables, the same in all of them."""
    pairs = np.concatenate([np.stack([one.pre_id, one.post_id], axis=1) for one in links])
    _, number = np.unique(pairs, axis=0, return_inverse=True)
    ends = np.cumsum([len(one) for one in links])[:-1]
    return np.split(number.reshape(-1), ends)
