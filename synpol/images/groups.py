"""What the OME group of an image says beside its full resolution."""

from __future__ import annotations

from typing import cast

import zarr

from synpol.errors import InputError
from synpol.images.axes import Layout
from synpol.images.image import Image
from synpol.images.kinds import SCHEME
from synpol.images.nodes import described
from synpol.images.ome import Multiscale
from synpol.images.view import View


def listed(image: Image) -> tuple[Multiscale, str] | None:
    """The OME metadata of which an array is the full resolution and its path there, else None."""
    if image.path.startswith(SCHEME):
        return None
    try:
        options = image.options
        found = described(image.path, options is not None and options.anonymous)
    except InputError:  # metadata that were not needed to open it
        return None
    return None if found is None or found[1] != found[0].paths[0] else found


def stored_array(image: Image) -> tuple[zarr.Array, Layout]:
    """The array of a Zarr image as it is stored, and which axis of it is which."""
    if isinstance(image.array, View):
        return cast(zarr.Array, image.array.source), image.array.layout
    return image.array, Layout(tuple(range(image.array.ndim)), {})


def levels_of(image: Image) -> list[str]:
    """Names of the coarser levels that an image's metadata list; none for an array alone."""
    found = listed(image)
    return list(found[0].paths[1:]) if found else []


def image_path(image: Image) -> str:
    """Path of the OME-Zarr group whose full resolution an array is, else of the array itself."""
    found = listed(image)
    return found[0].where if found else image.path
