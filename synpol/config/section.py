"""Types that the sections of a config are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from synpol.config.text import shortened

Positive = Annotated[int, Field(gt=0)]
Triple = tuple[Positive, Positive, Positive]
NotNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] >= values[1]:
        raise ValueError(f"intensity_range is {values}; low, high is expected")
    return values


IntensityRange = Annotated[tuple[float, float], AfterValidator(_rising)]


#: by which pydantic tells one number from one for each axis; they are no keys
AXIS_TAGS = ("one", "by axis")


def _axis_tag(value: object) -> str:
    return AXIS_TAGS[isinstance(value, list | tuple)]


def _fractions(values: Sequence[Any]) -> Sequence[Any]:
    """Refuse what is not a fraction below 1 for each axis, by the name of the axis."""
    if len(values) != 3:
        raise ValueError(
            f"overlap is {shortened(list(values))}; one fraction or three, z, y, x, are expected"
        )
    for axis, value in zip("zyx", values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(
                f"overlap along {axis} is {shortened(value)}; a fraction from 0 to below 1 is "
                "expected"
            )
    return values


def _one_if_equal(values: tuple[float, ...]) -> float | tuple[float, ...]:
    """Return one number for three equal ones, so that both ways to say it have one hash."""
    return values[0] if len(set(values)) == 1 else values


#: fraction of a window by which neighbouring windows overlap: one, or one along each of z, y, x
Overlap = Annotated[
    Annotated[float, Field(ge=0, lt=1), Tag(AXIS_TAGS[0])]
    | Annotated[
        tuple[float, float, float],
        BeforeValidator(_fractions),
        AfterValidator(_one_if_equal),
        Tag(AXIS_TAGS[1]),
    ],
    Discriminator(_axis_tag),
]


class Section(BaseModel):
    """Part of a config: frozen, and strict about its keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )
