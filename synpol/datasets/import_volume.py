"""Conversion of a volume of another format to OME-Zarr, section by section.

Only a slab of sections, one chunk deep, is in memory at a time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from synpol.config import ImportVolume
from synpol.datasets.importers import open_stack
from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.claim import Answer, begun, claim_image
from synpol.images.identity import hash_of
from synpol.images.image import Image
from synpol.images.world import to_world
from synpol.images.writing import check_writable, complete, create_image

CHUNK = (16, 128, 128)


def import_volume(volume: ImportVolume) -> Image:
    """Convert one volume into ``output`` as OME-Zarr; what is there already is left alone.

    Raises
    ------
    InputError
        The source cannot be read, a size is not whole in its unit, or something that synpol did
        not write is at `output`.
    """
    if is_url(volume.output):
        raise InputError(f"output is {volume.output}; imports are written to local folders only")
    stack = open_stack(volume.source, volume.key)
    first, last = volume.sections or (0, stack.shape[0])
    if not 0 <= first < last <= stack.shape[0]:
        raise InputError(
            f"sections is [{first}, {last}], but {volume.source} has {stack.shape[0]} sections; "
            f"0 <= first < last <= {stack.shape[0]} is expected"
        )
    shrink = volume.downsample
    size = [v * f for v, f in zip(volume.voxel_size, (1, shrink, shrink), strict=True)]
    voxel_size, unit = to_world(size, volume.unit, "voxel_size", positive=True)
    offset, _ = to_world(volume.offset, volume.unit, "offset")
    shape = (last - first, stack.shape[1] // shrink, stack.shape[2] // shrink)
    dtype = stack.dtype if stack.dtype != bool else np.dtype(np.uint8)
    if min(shape) < 1:
        raise InputError(
            f"downsample is {shrink}, but the sections of {volume.source} have only "
            f"{stack.shape[1]} x {stack.shape[2]} pixels"
        )
    source = Path(volume.source)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    made_of = [[f.name, f.stat().st_mtime_ns, f.stat().st_size] for f in files]
    digest = hash_of([volume.model_dump(mode="json"), made_of])
    place = Path(volume.output)
    container, name = str(place.parent), place.name
    claim = claim_image(volume.output, digest)
    if claim.found is not None and claim.answer is Answer.FINISHED:
        return claim.found
    check_writable(container)
    image = create_image(
        container,
        name,
        shape=shape,
        dtype=dtype,
        voxel_size=voxel_size,
        offset=offset,
        unit=unit,
        chunk_shape=[min(c, s) for c, s in zip(CHUNK, shape, strict=True)],
        attributes=begun(digest),
        overwrite=claim.found is not None,
    )
    bar = tqdm(total=shape[0], desc=f"import {volume.source}", unit="section", mininterval=0.5)
    for begin in range(0, shape[0], CHUNK[0]):
        end = min(begin + CHUNK[0], shape[0])
        slab = stack.slab(first + begin, first + end)
        image.array[begin:end] = downsampled(slab, shrink, volume.kind).astype(dtype)
        bar.update(end - begin)
    bar.close()
    complete(image)
    return image


def downsampled(slab: np.ndarray, factor: int, kind: str) -> np.ndarray:
    """Shrink sections in plane.

    Parameters
    ----------
    slab : (z, y, x) array
    factor : int
        Pixels along each edge of a box that becomes one pixel. A rest at the far edges is cut off.
    kind : {"image", "labels"}
        Images are averaged. Labels keep the one in the middle of each box, so no id is invented.
    """
    if factor == 1:
        return slab
    z, y, x = slab.shape
    boxes = slab[:, : y // factor * factor, : x // factor * factor].reshape(
        z, y // factor, factor, x // factor, factor
    )
    if kind == "labels":
        return boxes[:, :, factor // 2, :, factor // 2]
    mean = boxes.mean(axis=(2, 4))
    return np.rint(mean) if slab.dtype.kind in "uib" else mean


def describe_volume(image: Image) -> str:
    """Describe an image in one line, for people."""
    shape = " x ".join(str(s) for s in image.array.shape)
    size = " x ".join(f"{v:g}" for v in image.voxel_size_nm)
    return f"{image.path}: {shape} voxels of {size} nm, {image.array.dtype}"
