"""How a config names an image: by its path alone, or by a mapping that says more."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_serializer

from synpol.config.section import PositiveFloat, Section

Index = Annotated[int, Field(ge=0)]


def _several(value: object) -> object:
    return [value] if isinstance(value, int) else value


class ImageSource(Section):
    """An image as a mapping. Keys settle what the file leaves open and must not contradict it."""

    path: str = Field(description="path or URL, as it could stand alone")
    channel: Index | None = Field(default=None, description="which channel, from 0 on")
    time: Index | None = Field(default=None, description="which point in time, from 0 on")
    axes: str | None = Field(
        default=None,
        pattern=r"^[a-z]{3,6}$",
        description="letters of the axes in their order, such as xyz or czyx; default: as the file "
        "names them, else the last three are zyx",
    )
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        default=None, description="z, y, x, in `unit`; default: as the file says"
    )
    offset: tuple[float, float, float] | None = Field(
        default=None,
        description="corner of the first voxel, z, y, x, in `unit`; default: as the file says",
    )
    unit: str | None = Field(
        default=None,
        description="length unit, such as nm or um: of `voxel_size` and `offset` (default: nm), or "
        "without these of the file's numbers where it names none",
    )
    origin: Literal["corner", "centre"] | None = Field(
        default=None,
        description="which point of the first voxel the file tells the place of; default: the "
        "centre in OME metadata, the corner in others",
    )
    fill_missing: bool = Field(
        default=False, description="precomputed: chunks that are missing are 0"
    )
    anonymous: bool = Field(
        default=False, description="at a URL: whether it is read without credentials"
    )
    background: Annotated[list[int], BeforeValidator(_several)] | None = Field(
        default=None,
        description="labels that mean background, beside 0; default: the largest three values of "
        "32 and 64 bits, -1, and 255 in a mask of 0 and 1",
    )
    unknown: Annotated[list[int], BeforeValidator(_several)] | None = Field(
        default=None,
        description="labels of voxels that nobody looked at: they are neither learned nor scored, "
        "and background for everything else",
    )
    known: str | None = Field(
        default=None,
        description="path or URL of a mask on the voxels of these labels, 0 where nobody looked; "
        "works as `unknown` does",
    )
    sides_unknown: Annotated[list[int], BeforeValidator(_several)] | None = Field(
        default=None,
        description="labels of synapses whose sides nobody knows, among labels with sides: the "
        "union is learned there, and they are not scored",
    )

    @model_serializer(mode="plain")
    def _what_was_said(self) -> dict[str, Any]:
        # keys that are added one day must not change the hashes of what is said today
        fields = type(self).model_fields
        told = {name: getattr(self, name) for name in fields}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in told.items()
            if fields[name].is_required() or value != fields[name].default
        }


#: by which pydantic tells both ways apart; they are no keys
TAGS = ("a path", "a mapping")


def _tag(value: object) -> str:
    return TAGS[isinstance(value, dict | ImageSource)]


#: an image in a config
Source = Annotated[
    Annotated[str, Tag(TAGS[0])] | Annotated[ImageSource, Tag(TAGS[1])], Discriminator(_tag)
]
