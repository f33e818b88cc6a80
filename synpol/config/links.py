"""Sections about links: tables of pre- and post-synaptic points, and their scores."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from synpol.config.section import NotNegative, PositiveFloat, Section
from synpol.config.source import Source


class LinkTable(Section):
    """Links, each of a pre and a post point: a table, or lines of neuroglancer."""

    path: str = Field(
        description="CSV file (also gzipped) or Parquet file; lines drawn in neuroglancer: a file "
        "with its state, or a folder or URL of precomputed annotations"
    )
    columns: dict[str, str] = Field(
        default={},
        description="names of columns that are not known, such as {pre_z: z1}: of pre_z, pre_y, "
        "pre_x, post_z, post_y, post_x, and of pre_id, post_id (neurons), score, link_id; those "
        "of synpol, synful, CAVE and neuPrint are known. Of lines: the relations pre_id and "
        "post_id, and the property score",
    )
    unit: str = Field(default="nm", description="length unit of the places, or of `voxel_size`")
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        default=None,
        description="size of the voxels that the places are counted in, z, y, x, in `unit`; "
        "default: the places are in `unit`",
    )
    layer: str | None = Field(
        default=None,
        description="layer of a neuroglancer state; needed where several hold annotations",
    )
    pre_point: Literal["a", "b"] = Field(
        default="a", description="end of the lines of neuroglancer that lies on the pre side"
    )


class EvaluateLinks(Section):
    """Scores of links against true links."""

    truth: LinkTable | None = Field(default=None, description="true links")
    predicted: LinkTable | None = Field(
        default=None, description="predicted links; default: links.parquet of predict.output"
    )
    rule: Literal["cremi", "synful"] = Field(
        default="cremi",
        description="whose rule says what counts as found; the keys below change single points of "
        "it",
    )
    ends: Literal["pre", "post", "both"] | None = Field(
        default=None, description="ends that have to lie near each other"
    )
    distance: PositiveFloat | None = Field(
        default=None, description="largest distance of such ends, nm"
    )
    same_neurons: bool | None = Field(
        default=None, description="whether both links have to join the same two neurons"
    )
    duplicates: NotNegative | None = Field(
        default=None,
        description="predicted links of one pair of neurons whose post ends lie within this many "
        "nm count once; 0: all count",
    )
    within: bool | None = Field(
        default=None, description="whether predicted links from a neuron to itself count"
    )
    neurons: str | None = Field(
        default=None,
        description="text file with the neurons that are scored, a number on each line; a link "
        "counts once for each of its neurons that is listed; default: all links count once",
    )
    known: Source | None = Field(
        default=None,
        description="image that is not 0 where all links were annotated; links elsewhere are "
        "neither right nor wrong; default: everywhere",
    )
    site_distance: NotNegative = Field(
        default=50.0,
        description="true links of one neuron whose pre ends lie within this many nm leave from "
        "one site",
    )
    cutoffs: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=20, description="scores at which the curve is drawn; 0: no curve"
    )


class LinkSides(Section):
    """Labels of sides to be made from links."""

    links: LinkTable = Field(
        description="table of links; also a CREMI HDF5 file with its annotations"
    )
    image: Source = Field(description="image (z, y, x) whose voxels the labels have")
    segmentation: Source | None = Field(
        default=None,
        description="neurons on these voxels; without them a side is half of a ball between the "
        "two points",
    )
    clefts: Source | None = Field(
        default=None,
        description="synaptic clefts on these voxels; without them sides lie where the two neurons "
        "touch near the link",
    )
    output: str = Field(description="folder of the labels to write, for instance data/a/truth")
    radius: PositiveFloat = Field(
        default=250.0,
        description="distance from the middle of a link within which contact counts, and radius of "
        "the ball where there are no neurons; nm",
    )
    thickness: PositiveFloat = Field(
        default=100.0, description="depth of a side, from the contact; nm"
    )
    gap: NotNegative = Field(
        default=60.0,
        description="largest distance of two neurons in contact, or of a neuron and a cleft; nm",
    )
    site_distance: NotNegative = Field(
        default=50.0,
        description="links of one neuron whose pre points lie within this many nm are one synapse "
        "with several post sides",
    )
