"""Zarr, as its own library, OME's and others write it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import BOTH, CORNER, IDS, LABELS, RAW, SAID, SHAPE, SIZE, File

PLACE = {"voxel_size": [40, 8, 4], "offset": [400, 80, 12], "units": ["nm"] * 3}
#: OME's translation is the centre of the first voxel
CENTRE = [c + s / 2 for c, s in zip(CORNER, SIZE, strict=True)]
UNSAID = "nothing says its voxel size"


def array_files() -> Iterator[File]:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    here = partial(File, "Zarr", in_place=True)
    for codec in (ZstdCodec(), GzipCodec(), BloscCodec(), None):
        name = type(codec).__name__.removesuffix("Codec") if codec else "not compressed"
        write = partial(zarr_array, compressors=codec)
        yield here("zarr", f"v3, {name}", write, placed=True)
    sharded = partial(zarr_array, shards=(24, 24, 40))
    yield here("zarr", "v3, sharded", sharded, placed=True)
    turned = partial(zarr_array, values=RAW.T, dimension_names=["x", "y", "z"], attributes={})
    yield here("zarr", "v3, axes x, y, z", turned, keys=SAID)
    both = partial(zarr_array, values=BOTH, chunks=(1, 8, 8, 8), attributes={})
    yield here("zarr", "v3, two channels", both, 255 - RAW, SAID | {"channel": 1})
    yield here("zarr", "v2", partial(zarr_array, zarr_format=2), placed=True)
    fortran = partial(zarr_array, zarr_format=2, order="F")
    yield here("zarr", "v2, Fortran order", fortran, placed=True)
    big = partial(zarr_array, values=RAW.astype(">u2"), zarr_format=2)
    yield here("zarr", "v2, big-endian", big, RAW.astype(np.uint16), placed=True)
    bare = partial(zarr_array, attributes={})
    yield here("zarr", "no size", bare, None, remark=UNSAID)
    yield here("zarr", "no size, said by the config", bare, keys=SAID)
    yield here("zarr", "uint64", partial(zarr_array, values=IDS), IDS, LABELS, placed=True)
    yield here("zarr", "OME-Zarr 0.5 by hand", ome_zarr, placed=True)
    first: Any = {
        "placed": True,
        "corner": tuple(-s / 2 for s in SIZE),
        "remark": "its first voxel is centred at 0",
    }
    for version in ("0.4", "0.5"):
        write = partial(by_ome, version=version)
        yield here("ome-zarr", f"write_image, {version}, pyramid", write, **first)
        labels = partial(by_ome, version=version, labels=True)
        yield here("ome-zarr", f"write_labels, {version}", labels, IDS, LABELS, **first)
    unsaid = partial(by_ome, version="0.5", about={})
    alone = "1 x 1 x 1 without a unit is what is written when nobody said a size"
    yield here("ome-zarr", "write_image, no size", unsaid, None, remark=alone)
    yield here("iohub", "OME-Zarr, axes tczyx", iohub_image)
    yield here("funlib.persistence", "prepare_ds", funlib, placed=True)
    yield here("synpol", "create_image", synpol_image, placed=True)
    yield here("dask", "to_zarr", dask_array, keys=SAID)
    yield here("xarray", "to_zarr", xarray_set, keys=SAID | {"key": "raw"})


def zarr_array(folder: Path, values: np.ndarray = RAW, **how: Any) -> Path:
    import zarr

    zarr.create_array(
        folder / "a", data=values, **{"chunks": (8, 8, 8), "attributes": PLACE, **how}
    )
    return folder / "a"


def ome_zarr(folder: Path) -> Path:
    import zarr

    steps = [
        {"type": "scale", "scale": [*SIZE]},
        {"type": "translation", "translation": CENTRE},
    ]
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    about: Any = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group = zarr.open_group(folder / "a", mode="w")
    group.create_array("s0", data=RAW)
    group.attrs.update({"ome": about})
    return folder / "a"


def by_ome(
    folder: Path, version: str, labels: bool = False, about: dict[str, Any] | None = None
) -> Path:
    from ome_zarr.format import format_from_version
    from ome_zarr.writer import write_image, write_labels

    if about is None:
        scale = dict(zip("zyx", SIZE, strict=True))
        about = {"scale": scale, "axes_units": dict.fromkeys("zyx", "nanometer")}
    how: Any = {"fmt": format_from_version(version), "axes": "zyx", "scale_factors": [2], **about}
    place = str(folder / "a.zarr")
    if not labels:
        write_image(RAW, place, **how)
        return folder / "a.zarr"
    write_labels(IDS, place, name="sides", **how)
    return folder / "a.zarr/labels/sides"


def iohub_image(folder: Path) -> Path:
    import zarr

    # iohub changes how zarr reads in this whole process, which is undone here
    with zarr.config.set({"codec_pipeline.path": zarr.config.get("codec_pipeline.path")}):
        from iohub.ngff import TransformationMeta, open_ome_zarr

        scale = TransformationMeta(type="scale", scale=[1, 1, 0.04, 0.008, 0.004])
        how: Any = {"layout": "fov", "mode": "w", "channel_names": ["em"]}
        with open_ome_zarr(folder / "a.zarr", **how) as file:
            file.create_image("0", RAW[None, None], transform=[scale])
    return folder / "a.zarr"


def funlib(folder: Path) -> Path:
    from funlib.persistence import prepare_ds

    about: dict[str, Any] = {"voxel_size": (40, 8, 4), "offset": (400, 80, 12)}
    about |= {"units": ["nm"] * 3, "axis_names": [*"zyx"]}
    array = prepare_ds(folder / "a.zarr/raw", SHAPE, dtype="u1", **about)
    array[:] = RAW
    return folder / "a.zarr/raw"


def synpol_image(folder: Path) -> Path:
    from synpol.images.writing import create_image

    about: dict[str, Any] = {"voxel_size": (40, 8, 4), "offset": (400, 80, 12), "unit": "nm"}
    image = create_image(folder, "raw", shape=SHAPE, dtype=np.uint8, chunk_shape=(8, 8, 8), **about)
    image.array[:] = RAW
    return folder / "raw"


def dask_array(folder: Path) -> Path:
    import dask.array

    dask.array.from_array(RAW, chunks=(8, 8, 8)).to_zarr(str(folder / "a"))
    return folder / "a"


def xarray_set(folder: Path) -> Path:
    import xarray

    xarray.Dataset({"raw": (("z", "y", "x"), RAW)}).to_zarr(folder / "a")
    return folder / "a"
