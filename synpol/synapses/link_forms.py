"""Write the table of links in the columns of other programs: a row for each pair of partners.

The points are anchors: voxels that lie inside both the side of the synapse and its neuron.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synpol.errors import InputError
from synpol.images.image import Image
from synpol.images.points import values_at
from synpol.synapses.exports import TABLE_HASH, digest_of
from synpol.synapses.reading import open_table, parts_of

#: columns of a synapse table that links are scored by
SCORED = ("synapse_id", "pre_score", "post_score", "contact_area")


def links_of(table: str | os.PathLike[str]) -> Path | None:
    """Return the table of links beside a synapse table, or None where there is none.

    Raises
    ------
    InputError
        The links are of other synapses.
    """
    links = Path(table).with_name("links.parquet")
    if not links.is_file():
        return None
    metadata = open_table(links).schema_arrow.metadata or {}
    if metadata.get(TABLE_HASH) != digest_of(table):
        for _ in parts_of(table, SCORED):  # a damaged table is the reason then
            pass
        raise InputError(
            f"{links} is of other synapses than the table beside it; run pipelines/connect.py of "
            "synpol's repository again, or remove it"
        )
    return links


def cave_link_rows(part: pa.Table, instances: Image) -> pa.Table:
    """Convert links to the columns of CAVE's synapse tables; repeated links are left out.

    Parameters
    ----------
    part : pyarrow.Table
        Rows of ``links.parquet``.
    instances : Image
        Image whose voxel size is the unit of the positions.

    Returns
    -------
    pyarrow.Table
        As `synpol.synapses.exports.cave_rows`, and ``pre_pt_root_id``, ``post_pt_root_id``: the
        neurons of the segmentation.
    """
    part = _counted(part)
    pre, post = _places(part, "pre"), _places(part, "post")
    columns: dict[str, pa.Array] = {"id": part["link_id"].cast(pa.int64())}
    for name, nm in (("pre", pre), ("post", post), ("ctr", (pre + post) / 2)):
        values = pa.array(_voxels(nm, instances)[:, ::-1].ravel())
        columns[f"{name}_pt_position"] = pa.FixedSizeListArray.from_arrays(values, 3)
    columns |= {f"{side}_pt_root_id": part[f"{side}_id"] for side in ("pre", "post")}
    columns["size"] = pc.add(part["pre_voxels"], part["post_voxels"])
    sizes = ", ".join(f"{size:g}" for size in instances.voxel_size_nm[::-1])
    return pa.table(columns).replace_schema_metadata({"voxel_resolution": f"[{sizes}]"})


@dataclass
class WithSupervoxels:
    """Make the rows of CAVE's form, each with the supervoxels that its two points lie in.

    The columns are ``pre_pt_supervoxel_id`` and ``post_pt_supervoxel_id`` (uint64); 0 is no
    supervoxel.

    Parameters
    ----------
    rows_of : callable
        `cave_link_rows` or `synpol.synapses.exports.cave_rows`.
    supervoxels : Image
        Labels of the supervoxels, of any voxel size.

    Attributes
    ----------
    missing : int
        Number of points so far that lie in no supervoxel, or outside of the image.
    """

    rows_of: Callable[[pa.Table, Image], pa.Table]
    supervoxels: Image
    missing: int = 0

    def __call__(self, part: pa.Table, instances: Image) -> pa.Table:
        """Return the rows of a part of a table."""
        rows = self.rows_of(part, instances)
        size = np.array(instances.voxel_size_nm, float)
        for side in ("pre", "post"):
            position = rows[f"{side}_pt_position"].combine_chunks()
            voxels = position.flatten().to_numpy().reshape(-1, 3)[:, ::-1]
            found, _ = values_at(self.supervoxels, (voxels + 0.5) * size)
            self.missing += int((found == 0).sum())
            rows = rows.append_column(f"{side}_pt_supervoxel_id", pa.array(found.astype(np.uint64)))
        return rows


def synful_link_rows(part: pa.Table, instances: Image) -> pa.Table:
    """Convert links to the columns of synful, and the neurons ``pre_id`` and ``post_id``; nm.

    Repeated links are left out.
    """
    part = _counted(part)
    names = [f"{side}_{a}" for side in ("pre", "post") for a in "xyz"]
    columns = {"id": part["link_id"]} | {name: part[name] for name in names}
    columns |= {f"{side}_id": part[f"{side}_id"] for side in ("pre", "post")}
    return pa.table(columns | {"scores": part["score"]})


def neuprint_rows(part: pa.Table, instances: Image) -> pa.Table:
    """Convert links to the columns of neuprint-python's tables of synapse connections.

    ``bodyId_pre``, ``bodyId_post``; ``x_pre`` .. ``z_post`` in voxels; ``confidence_pre`` and
    ``confidence_post``, both the score of the link. Repeated links are left out.
    """
    part = _counted(part)
    columns = {f"bodyId_{side}": part[f"{side}_id"] for side in ("pre", "post")}
    for side in ("pre", "post"):
        voxels = _voxels(_places(part, side), instances)
        columns |= {f"{axis}_{side}": pa.array(voxels[:, "zyx".index(axis)]) for axis in "xyz"}
    return pa.table(columns | {f"confidence_{side}": part["score"] for side in ("pre", "post")})


def _counted(part: pa.Table) -> pa.Table:
    return part.filter(part["duplicate_of"].to_numpy() == 0)


def _places(part: pa.Table, side: str) -> np.ndarray:
    return np.stack([part[f"{side}_{axis}"].to_numpy() for axis in "zyx"], axis=1).reshape(-1, 3)


def _voxels(nm: np.ndarray, instances: Image) -> np.ndarray:
    return np.floor(nm / np.array(instances.voxel_size_nm, float)).astype(np.int64)
