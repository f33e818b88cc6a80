"""Labels made from links, on disk: neurons looked up, links grouped, sides made block by block."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.run import fill_image
from synpol.datasets.link_sides import (
    APART,
    MADE,
    NO_NEURON,
    OUTSIDE,
    STATUS,
    WITHIN,
    SideRule,
)
from synpol.datasets.link_stages import (
    FoundNeurons,
    NeuronsStage,
    SidesRecord,
    SidesStage,
    Table,
    Volume,
    box_of,
    by_block,
)
from synpol.errors import InputError
from synpol.evaluation.links import groups, near
from synpol.files import is_url, whole_file
from synpol.images.claim import Answer, begun, claim_image
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, check_readable, open_image
from synpol.images.labels import open_labels
from synpol.images.writing import check_writable, create_image, inner_chunks
from synpol.synapses.links import PLACES, Links, read_links, read_table_of_links

if TYPE_CHECKING:
    from synpol.config import ImageSource, LinkSides, Workers

BLOCK = (64, 256, 256)


@dataclass(frozen=True)
class WrittenSides:
    """Labels that were made from links.

    Attributes
    ----------
    image : Image
        The labels.
    table : Path
        ``links.parquet`` beside them: every link, with its synapse and what became of it.
    counts : dict of str to int
        Number of links by what became of them; see `STATUS`.
    synapses : int
        Number of synapses.
    """

    image: Image
    table: Path
    counts: dict[str, int]
    synapses: int


def write_link_sides(
    entry: LinkSides, num_workers: int = 1, workers: Workers | None = None
) -> WrittenSides:
    """Make labels from links; an interrupted run is continued, a finished one left alone.

    Parameters
    ----------
    entry : LinkSides
        Links, image, neurons, and the rule.
    num_workers, workers
        As in `synpol.decode_blockwise`.

    Raises
    ------
    InputError
        A table or an image that cannot be used, no link inside the image, or something else at the
        output.
    """
    if is_url(entry.output):
        raise InputError(f"output is {entry.output}; labels from links are written locally only")
    if entry.clefts is not None and entry.segmentation is None:
        raise InputError(
            "clefts are given without neurons, and a cleft does not say which side is which; name "
            "the neurons: segmentation"
        )
    links, image = read_links(entry.links), open_image(entry.image)
    check_readable(image)
    neurons = _volume(entry.segmentation, image, "the neurons")
    clefts = _volume(entry.clefts, image, "the clefts")
    container, _, name = entry.output.rstrip("/").rpartition("/")
    table = Path(container or ".") / f"{name}.links.parquet"
    digest = _digest(entry, image, links)
    claim = claim_image(entry.output, digest)
    if claim.answer is Answer.FINISHED and claim.found is not None and table.is_file():
        return _told(claim.found, table)
    check_writable(container or ".")
    work = Path(f"{entry.output}.work")
    blocks = BlockGrid.of(image.shape_vx, BLOCK)
    with Driver(work, f"sides from {entry.links.path}", num_workers, workers) as driver:
        folder = work / f"sides-{digest[:16]}"
        size, corner = np.array(image.voxel_size_nm), np.array(image.offset_nm)
        status = np.full(len(links), MADE)
        voxels = [np.floor((p - corner) / size).astype(np.int64) for p in (links.pre, links.post)]
        inside = [((v >= 0) & (v < image.shape_vx)).all(axis=1) for v in voxels]
        status[~(inside[0] & inside[1])] = OUTSIDE
        if not (status == MADE).any():
            raise InputError(
                f"no link of {entry.links.path} has both points inside {image.path}, which covers "
                f"{image.offset_nm} to {image.end_nm} nm; the first link is at "
                f"{tuple(links.pre[0]) if len(links) else 'nowhere'} nm. Check the unit, the "
                "voxel_size and the columns of the links"
            )
        pre_id, post_id = links.pre_id.astype(np.uint64), links.post_id.astype(np.uint64)
        if neurons is not None:
            rows = np.flatnonzero(status == MADE)
            found = _neurons_at(
                driver, folder, neurons, blocks, np.concatenate([v[rows] for v in voxels])
            )
            pre_id, post_id = np.zeros((2, len(links)), np.uint64)
            pre_id[rows], post_id[rows] = found[: len(rows)], found[len(rows) :]
            made = status == MADE
            status[made & ((pre_id == 0) | (post_id == 0))] = NO_NEURON
            status[made & (pre_id == post_id) & (pre_id != 0)] = WITHIN
        number = _numbers(links, pre_id, status == MADE, entry.site_distance)
        stage = _prepared(entry, image, neurons, clefts, links, (pre_id, post_id), number, folder)

        def create(overwrite: bool) -> Image:
            return create_image(
                container or ".",
                name,
                shape=blocks.shape,
                dtype=np.uint64,
                voxel_size=image.voxel_size,
                offset=image.offset,
                unit=image.unit,
                chunk_shape=inner_chunks(blocks.block),
                shard_shape=blocks.block,
                attributes=begun(digest),
                placed=image.placed,
                overwrite=overwrite,
            )

        def stage_of(labels: Image) -> SidesStage:
            return replace(stage, output=labels.path)

        forget = [p for p in (folder / "sides", table) if p.exists()]
        made_image = fill_image(driver, claim, create, stage_of, forget=forget)
        sorted_rows = stage.links.column("row")
        for record in stage.records(SidesRecord):
            status[sorted_rows[record.apart]] = APART
        _write_table(table, links, pre_id, post_id, number, status)
        shutil.rmtree(folder, ignore_errors=True)
    return _told(made_image, table)


def _volume(source: str | ImageSource | None, image: Image, what: str) -> Volume | None:
    if source is None:
        return None
    labels = open_labels(source, "ids")
    check_readable(labels)
    return Volume(labels.source, labels.place_of(image, what))


def _digest(entry: LinkSides, image: Image, links: Links) -> str:
    """Hash everything on which the labels depend."""
    told = entry.model_dump(mode="json", exclude={"output"})
    for key, default in (("layer", None), ("pre_point", "a")):  # labels made before these keys
        if told["links"][key] == default:
            del told["links"][key]
    sources = [image]
    sources += [open_image(s) for s in (entry.segmentation, entry.clefts) if s is not None]
    if Path(entry.links.path).is_file():
        content = hashlib.sha256(Path(entry.links.path).read_bytes()).hexdigest()
    else:  # a folder or URL of annotations
        columns = (links.pre, links.post, links.pre_id, links.post_id, links.score, links.link_id)
        content = hashlib.sha256(b"".join(np.ascontiguousarray(c) for c in columns)).hexdigest()
    versions = [NeuronsStage.version, SidesStage.version]
    return hash_of([told, [identity_of(s) for s in sources], content, versions])


def _neurons_at(
    driver: Driver, folder: Path, neurons: Volume, blocks: BlockGrid, voxels: np.ndarray
) -> np.ndarray:
    """Look up the neurons at voxels, block by block; (n,) uint64."""
    order, first = by_block(voxels // np.array(blocks.block), blocks)
    points = Table(folder / "points")
    points.keep(voxel=voxels[order], first=first)
    stage = NeuronsStage(folder=folder / "neurons", blocks=blocks, neurons=neurons, points=points)
    driver.run(stage)
    found = np.zeros(len(voxels), np.uint64)
    for record in stage.records(FoundNeurons):
        found[order[record.point]] = record.neuron
    return found


def _numbers(
    links: Links, pre_id: np.ndarray, used: np.ndarray, site_distance: float
) -> np.ndarray:
    """Number the synapses 1, 2, ... by their first link; 0 for links that are not used.

    Links of one presynaptic site are one synapse: those that begin at the same point, or in one
    neuron within the distance of each other.
    """
    rows = np.flatnonzero(used)
    number = np.zeros(len(links), np.int64)
    i, j = near(links.pre[rows], links.pre[rows], site_distance)
    same = (pre_id[rows][i] == pre_id[rows][j]) & (
        (pre_id[rows][i] != 0) | (links.pre[rows][i] == links.pre[rows][j]).all(axis=1)
    )
    group = groups(i[same], j[same], len(rows))
    _, first, into = np.unique(group, return_index=True, return_inverse=True)
    number[rows] = np.argsort(np.argsort(first))[into] + 1
    return number


def _prepared(
    entry: LinkSides,
    image: Image,
    neurons: Volume | None,
    clefts: Volume | None,
    links: Links,
    ids: tuple[np.ndarray, np.ndarray],
    number: np.ndarray,
    folder: Path,
) -> SidesStage:
    """Write the tables of the stage, and make the stage; its output is not known yet."""
    rule = SideRule(entry.radius, entry.thickness, entry.gap)
    rows = np.flatnonzero(number)
    rows = rows[np.argsort(number[rows], kind="stable")]
    table, nearby = Table(folder / "links"), Table(folder / "near")
    pre_id, post_id = ids
    table.keep(
        row=rows,
        pre=links.pre[rows],
        post=links.post[rows],
        pre_id=pre_id[rows],
        post_id=post_id[rows],
        number=number[rows],
    )
    blocks = BlockGrid.of(image.shape_vx, BLOCK)
    starts = np.flatnonzero(np.diff(number[rows], prepend=0))
    middle = (links.pre[rows] + links.post[rows]) / 2
    low, high = box_of(
        np.minimum.reduceat(middle, starts),
        np.maximum.reduceat(middle, starts),
        rule,
        np.array(image.offset_nm),
        np.array(image.voxel_size_nm),
        np.array(blocks.shape),
    )
    first, last = low // np.array(blocks.block), (high - 1) // np.array(blocks.block)
    count = last - first + 1
    many = np.prod(count, axis=1)
    which = np.repeat(np.arange(len(starts)), many)
    step = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
    y, x = count[which, 1], count[which, 2]
    at = first[which] + np.stack([step // (y * x), step // x % y, step % x], axis=1)
    order, begin = by_block(at, blocks)
    nearby.keep(row=starts[which[order]], first=begin)
    z_size, y_size, x_size = image.voxel_size_nm
    z, y_corner, x_corner = image.offset_nm
    return SidesStage(
        folder=folder / "sides",
        blocks=blocks,
        output="",
        neurons=neurons,
        clefts=clefts,
        rule=rule,
        offset=(z, y_corner, x_corner),
        voxel_size=(z_size, y_size, x_size),
        links=table,
        near=nearby,
    )


def _write_table(
    path: Path,
    links: Links,
    pre_id: np.ndarray,
    post_id: np.ndarray,
    number: np.ndarray,
    status: np.ndarray,
) -> None:
    columns: dict[str, Any] = {"link_id": links.link_id, "synapse_id": number.astype(np.uint64)}
    for side, place in (("pre", links.pre), ("post", links.post)):
        columns |= {f"{side}_{a}": place[:, k] for k, a in enumerate("zyx")}
    columns |= {"pre_id": pre_id, "post_id": post_id}
    columns["score"] = pa.array(links.score, from_pandas=True)  # null where nobody said
    columns["status"] = np.array(STATUS)[status]
    table = pa.table(columns)
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)


def read_made(table: Path) -> pa.Table:
    """Read the table of links that labels were made from.

    Raises
    ------
    InputError
        No such file, a damaged one, or another table.
    """
    rows, wanted = read_table_of_links(table), {"status": "string", "link_id": "int64"}
    wanted |= {"synapse_id": "uint64"} | dict.fromkeys(PLACES, "double")
    for name, kind in wanted.items():
        if name not in rows.column_names or rows[name].null_count or str(rows[name].type) != kind:
            raise InputError(
                f"{table} has no whole column {name} of the type {kind}, as synpol writes it; "
                "remove the file and run the same command again, which makes it anew"
            )
    return rows


def _told(image: Image, table: Path) -> WrittenSides:
    rows = read_made(table)
    names, counts = np.unique(rows["status"].to_numpy(), return_counts=True)
    found = dict(zip(names.tolist(), counts.tolist(), strict=True))
    made = rows["synapse_id"].to_numpy()[rows["status"].to_numpy() == STATUS[MADE]]
    return WrittenSides(
        image, table, {name: found.get(name, 0) for name in STATUS}, len(np.unique(made))
    )
