"""Section about the review of a result: the page, the sample, and what verdicts belong to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from synpol.config.section import Fraction, Positive, PositiveFloat, Section


class Review(Section):
    """Verdicts of people about single synapses, and the page on which they judge."""

    reviewer: str | None = Field(
        default=None,
        min_length=1,
        max_length=80,
        description="name that the page proposes to a reviewer; default: the user's name on this "
        "machine",
    )
    verdicts: str | None = Field(
        default=None,
        description="SQLite file of the verdicts; default: verdicts.db in predict.output",
    )
    port: int = Field(
        default=8643,
        ge=0,
        le=65535,
        description="port of this machine at which the page is served; 0: any free one",
    )
    extent: Annotated[float, Field(ge=100, le=20_000)] = Field(
        default=1000.0, description="length of a side of a tile, nm"
    )
    sections: Annotated[int, Field(ge=1, le=101)] = Field(
        default=15,
        description="sections of a tile; of voxels thinner than 16 nm, sections that far apart",
    )
    distance: PositiveFloat = Field(
        default=100.0,
        description="largest distance of either side between a verdict and its synapse in another "
        "decoding, nm",
    )
    strata: Annotated[int, Field(ge=1, le=50)] = Field(
        default=5, description="classes of the score, from each of which the sample takes as many"
    )
    twice: Fraction = Field(
        default=0.1,
        description="share of the synapses that is shown to every reviewer, which tells how well "
        "they agree",
    )
    width: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="length of the 95 % interval that the page counts verdicts for"
    )
    thres: Fraction | None = Field(
        default=None,
        description="threshold below decode.thres at which candidates for missed synapses are "
        "decoded; default: there are none",
    )
    places: Positive = Field(
        default=1000, description="most random places that are drawn to be searched"
    )
    compare: list[str] = Field(
        default=[],
        description="folders of other results of the same volume (of other checkpoints, of flipped "
        "copies), for the order by disagreement",
    )
