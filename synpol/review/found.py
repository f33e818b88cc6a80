"""The synapses of a table as arrays: only the columns that a review needs."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

import numpy as np

from synpol.files import known_sha256
from synpol.synapses.reading import open_table, read_table
from synpol.synapses.table import confidence, values_of


@dataclass(frozen=True)
class Found:
    """Synapses of a table, a row each.

    Attributes
    ----------
    number : (n,) uint64
        Number of each synapse, ascending.
    pre, post : (n, 3) float64
        Centroids of both sides, z, y, x; nm. A synapse with one side has it twice, and one without
        sides has its own centroid twice.
    voxels : (n, 2) int64
        Size of the pre and of the post side, voxels.
    score : (n,) float64
        Score, 0..1.
    """

    number: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    voxels: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.number)

    def __getitem__(self, rows: np.ndarray) -> Found:
        return Found(*(getattr(self, f.name)[rows] for f in fields(self)))

    @property
    def middle(self) -> np.ndarray:
        """Middle between both sides, (n, 3); nm."""
        return np.asarray((self.pre + self.post) / 2)


def read_found(table: str | os.PathLike[str]) -> tuple[Found, str]:
    """Read the synapses of a table.

    Parameters
    ----------
    table : path
        Synapse table.

    Returns
    -------
    Found
    str
        SHA-256 of the table.

    Raises
    ------
    InputError
        There is no such table, or it is damaged.
    """
    there = open_table(table).schema_arrow.names
    parts = ["union"] if "union_x" in there else ["pre", "post"]
    names = ["synapse_id", "pre_voxels", "post_voxels"]
    names += [f"{p}_{a}" for p in parts for a in "zyx"]
    names += [f"{p}_score" for p in dict.fromkeys(("pre", "post", *parts))]
    rows = read_table(table, names)
    ends = [np.stack([values_of(rows[f"{p}_{a}"]) for a in "zyx"], axis=1) for p in parts]
    first, last = ends[0], ends[-1]  # NaN for a missing side
    found = Found(
        number=values_of(rows["synapse_id"]),
        pre=np.where(np.isnan(first), last, first),
        post=np.where(np.isnan(last), first, last),
        voxels=np.stack([values_of(rows[f"{s}_voxels"]) for s in ("pre", "post")], axis=1),
        score=np.nan_to_num(confidence(rows)),
    )
    return found, known_sha256(table)


def read_like(table: str | os.PathLike[str], rows: np.ndarray) -> np.ndarray:
    """Read what tells synapses apart, for rows of a table: (n, 5) float64, each column comparable.

    The columns are the score, the difference of the scores of both sides, the size of either side
    and the area of contact; each is scaled by its spread over the whole table.
    """
    names = ["pre_score", "post_score", "pre_voxels", "post_voxels", "contact_area"]
    columns = read_table(table, names)
    pre, post, *sizes = (np.nan_to_num(values_of(columns[n]).astype(float)) for n in names)
    score = np.minimum(pre, post)
    values = np.stack([score, pre - post, *(np.log1p(size) for size in sizes)], axis=1)
    spread = values.std(axis=0)
    return np.asarray((values / np.where(spread > 0, spread, 1.0))[rows])
