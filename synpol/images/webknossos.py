"""Layers of WEBKNOSSOS data sets: Zarr arrays whose axes and voxel size stand in a file above."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.axes import letter_of
from synpol.images.world import is_number

#: file of a data set, two folders above the arrays of its layers
ABOUT = "datasource-properties.json"


@dataclass(frozen=True)
class Layer:
    """One magnification of a layer.

    Attributes
    ----------
    where : str
        The file, for messages.
    axes : list of str
        Letters of the axes as they are stored.
    size : list of float
        Voxel size, z, y, x, in `unit`.
    unit : str
    """

    where: str
    axes: list[str]
    size: list[float]
    unit: str


def layer_of(path: str, ndim: int) -> Layer | None:
    """Find the magnification of a WEBKNOSSOS layer that a local array is; None where it is none.

    Parameters
    ----------
    path : str
        Folder of the array.
    ndim : int
        Number of its axes.

    Raises
    ------
    InputError
        The file of the data set cannot be understood.
    """
    if is_url(path):
        return None
    here = Path(path).resolve()
    about = here.parent.parent / ABOUT
    if not about.is_file():
        return None
    try:
        told = json.loads(about.read_bytes())
        found = next(
            (mag for name, mag in _magnifications(told) if (about.parent / name) == here), None
        )
        if found is None:
            return None
        scale = told["scale"]
        factor, unit = (
            (scale, "nm") if isinstance(scale, list) else (scale["factor"], scale["unit"])
        )
        steps = found["mag"] if isinstance(found["mag"], list) else [found["mag"]] * 3
        x, y, z = (f * m for f, m in zip(factor, steps, strict=True))
        order = found.get("axisOrder") or {a: n for n, a in enumerate("cxyz"[-ndim:])}
        axes = [letter_of(name) for name in sorted(order, key=lambda name: int(order[name]))]
        if not all(map(is_number, (z, y, x))):
            raise ValueError(f"the scale {scale!r:.80} is no three numbers")
        return Layer(str(about), axes, [float(z), float(y), float(x)], str(unit))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{about} cannot be understood: {type(error).__name__}: {error}. Correct it, or export "
            "the data set anew"
        ) from None


def _magnifications(told: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """List all magnifications with the path of their array."""
    for layer in told["dataLayers"]:
        for mag in layer.get("mags", ()):
            steps = mag["mag"] if isinstance(mag["mag"], list) else [mag["mag"]]
            alike = len(set(steps)) == 1
            name = str(steps[0]) if alike else "-".join(map(str, steps))
            yield mag.get("path", f"{layer['name']}/{name}").removeprefix("./"), mag
