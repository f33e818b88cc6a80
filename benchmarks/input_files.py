"""Files as the field's writers make them, and what each of them means.

All hold the same volume, with voxels of 40 x 8 x 4 nm and its first corner at 0, unless they say
otherwise. Where a writer cannot say the size, the config of the import does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (19, 24, 37)
SIZE = (40.0, 8.0, 4.0)
RAW = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
IDS = RAW.astype(np.uint64) + (RAW > 0) * np.uint64(2**40)
BOTH = np.stack([RAW, 255 - RAW])
SAID = {"voxel_size": list(SIZE)}

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class File:
    """A file of a writer.

    Attributes
    ----------
    writer : str
        Package that writes it.
    about : str
        What is special about it.
    write : callable
        Writes it into an empty folder and returns its path.
    values : array or None
        Volume that it means; None: it has to be refused.
    entry : mapping
        Keys of the import besides source and output.
    in_place : bool
        Whether it is also opened without an import.
    offset : (z, y, x)
        Corner of the first voxel, nm.
    """

    writer: str
    about: str
    write: Write
    values: np.ndarray | None = field(default_factory=lambda: RAW)
    entry: dict[str, Any] = field(default_factory=dict)
    in_place: bool = False
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)


def all_files() -> Iterator[File]:
    """List the files of all writers."""
    for files in (zarr_files, chunked_files, hdf5_files, tiff_files, section_files, header_files):
        yield from files()


# ---------------------------------------------------------------- chunked formats

PLACE = {"voxel_size": [40, 8, 4], "offset": [0, 0, 0], "units": ["nm"] * 3}
STEPS = [
    {"type": "scale", "scale": [40.0, 8.0, 4.0]},
    {"type": "translation", "translation": [20.0, 4.0, 2.0]},
]
AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
DATASETS = [{"path": "s0", "coordinateTransformations": STEPS}]
OME: dict[str, Any] = {"version": "0.5", "multiscales": [{"axes": AXES, "datasets": DATASETS}]}


def zarr_files() -> Iterator[File]:
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    for codec in (ZstdCodec(), GzipCodec(), BloscCodec(), None):
        name = type(codec).__name__ if codec else "not compressed"
        yield File("zarr", f"v3, {name}", partial(zarr_array, compressors=codec), in_place=True)
    sharded = partial(zarr_array, shards=(24, 24, 40))
    yield File("zarr", "v3, sharded", sharded, in_place=True)
    turned = partial(zarr_array, values=RAW.T, dimension_names=["x", "y", "z"], attributes={})
    yield File("zarr", "v3, axes x, y, z", turned, entry=SAID)
    yield File("zarr", "v2", partial(zarr_array, zarr_format=2), in_place=True)
    fortran = partial(zarr_array, zarr_format=2, order="F")
    yield File("zarr", "v2, Fortran order", fortran, in_place=True)
    yield File("zarr", "no size", partial(zarr_array, attributes={}), None)
    yield File("zarr", "no size, said by the config", partial(zarr_array, attributes={}), RAW, SAID)
    yield File("zarr", "OME-Zarr 0.5", ome_zarr, in_place=True)


def zarr_array(folder: Path, values: np.ndarray = RAW, **how: Any) -> Path:
    import zarr

    zarr.create_array(
        folder / "a", data=values, **{"chunks": (8, 8, 8), "attributes": PLACE, **how}
    )
    return folder / "a"


def ome_zarr(folder: Path) -> Path:
    import zarr

    group = zarr.open_group(folder / "a", mode="w")
    group.create_array("s0", data=RAW)
    group.attrs.update({"ome": OME})
    return folder / "a"


def chunked_files() -> Iterator[File]:
    yield File("funlib.persistence", "prepare_ds", funlib, in_place=True)
    yield File("synpol", "create_image", synpol_image, in_place=True)
    yield File("dask", "to_zarr", dask_array, entry=SAID)
    yield File("xarray", "to_zarr", xarray_set, entry=SAID | {"key": "raw"})
    yield File("iohub", "OME-Zarr, axes tczyx", iohub_image, in_place=True)
    for codec in ("gzip", "raw", "zstd", "bzip2"):
        yield File("tensorstore", f"N5, {codec}", partial(n5, codec=codec))
    labels = {"kind": "labels"}
    yield File("tensorstore", "N5, uint64", partial(n5, codec="gzip", values=IDS), IDS, labels)
    for encoding in ("raw", "compressed_segmentation"):
        write = partial(precomputed, encoding=encoding)
        yield File("tensorstore", f"precomputed, {encoding}", write, IDS, labels, in_place=True)
    for driver, about in (("zarr", {"dtype": "|u1"}), ("zarr3", {"data_type": "uint8"})):
        metadata = {"shape": SHAPE, **about}
        write = partial(stored, driver=driver, values=RAW, metadata=metadata)
        yield File("tensorstore", driver, write, entry=SAID)


def funlib(folder: Path) -> Path:
    from funlib.persistence import prepare_ds

    about: dict[str, Any] = {"voxel_size": (40, 8, 4), "offset": (0, 0, 0), "units": ["nm"] * 3}
    array = prepare_ds(folder / "a.zarr/raw", SHAPE, axis_names=[*"zyx"], dtype="u1", **about)
    array[:] = RAW
    return folder / "a.zarr/raw"


def synpol_image(folder: Path) -> Path:
    from synpol.images.writing import create_image

    about: dict[str, Any] = {"voxel_size": (40, 8, 4), "offset": (0, 0, 0), "unit": "nm"}
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


def iohub_image(folder: Path) -> Path:
    from iohub.ngff import TransformationMeta, open_ome_zarr

    scale = TransformationMeta(type="scale", scale=[1, 1, 0.04, 0.008, 0.004])
    with open_ome_zarr(folder / "a.zarr", layout="fov", mode="w", channel_names=["em"]) as file:
        file.create_image("0", RAW[None, None], transform=[scale])
    return folder / "a.zarr"


def stored(folder: Path, driver: str, values: np.ndarray, **about: Any) -> Path:
    import tensorstore

    where = {"driver": "file", "path": f"{folder}/a/"}
    spec = {"driver": driver, "kvstore": where, **about}
    store = tensorstore.open(spec, create=True, open=True).result()
    if driver == "neuroglancer_precomputed":
        store = store[..., 0]
    store.write(values if driver in ("zarr", "zarr3") else values.T).result()
    return folder / "a"


def n5(folder: Path, codec: str, values: np.ndarray = RAW) -> Path:
    metadata = {
        "dimensions": SHAPE[::-1],
        "blockSize": [16, 16, 8],
        "dataType": str(values.dtype),
        "compression": {"type": codec},
    }
    path = stored(folder, "n5", values, metadata=metadata)
    said = json.loads((path / "attributes.json").read_text())
    said["pixelResolution"] = {"dimensions": SIZE[::-1], "unit": "nm"}
    (path / "attributes.json").write_text(json.dumps(said))
    return path


def precomputed(folder: Path, encoding: str) -> Path:
    scale: dict[str, Any] = {
        "resolution": SIZE[::-1],
        "size": SHAPE[::-1],
        "encoding": encoding,
        "chunk_size": [16, 16, 8],
    }
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    whole = {"type": "segmentation", "data_type": "uint64", "num_channels": 1}
    about = {"multiscale_metadata": whole, "scale_metadata": scale}
    return stored(folder, "neuroglancer_precomputed", IDS, **about)


# ---------------------------------------------------------------- HDF5


def hdf5_files() -> Iterator[File]:
    import hdf5plugin

    for name in ("Blosc", "Blosc2", "Zstd", "LZ4", "Bitshuffle", "BZip2"):
        how = getattr(hdf5plugin, name)()
        yield File("hdf5plugin", name, partial(h5, chunks=(8, 8, 8), **how), entry=SAID)
    for codec in ("gzip", "lzf", None):
        name = codec or "not compressed"
        yield File("h5py", name, partial(h5, compression=codec), entry=SAID)
    cremi = {"resolution": SIZE, "offset": (400.0, 80.0, 12.0)}
    write = partial(h5, attributes=cremi)
    yield File("h5py", "CREMI's attributes", write, offset=(400.0, 80.0, 12.0))
    element = {"element_size_um": (0.04, 0.008, 0.004)}
    yield File("h5py", "element_size_um", partial(h5, attributes=element))
    tags = {"axistags": json.dumps({"axes": [{"key": key} for key in "zyxc"]})}
    write = partial(h5, values=RAW[..., None], attributes=tags)
    yield File("h5py", "ilastik", write, entry=SAID)
    write = partial(h5, values=BOTH.transpose(1, 2, 3, 0), attributes=tags)
    yield File("h5py", "ilastik, two channels", write, None, SAID)
    matlab = {"MATLAB_class": np.bytes_("uint8")}
    write = partial(h5, values=RAW.transpose(0, 2, 1), attributes=matlab)
    yield File("h5py", "MATLAB 7.3", write, entry=SAID)
    yield File("h5py", "no size", h5, None)


def h5(
    folder: Path, values: np.ndarray = RAW, attributes: dict[str, Any] | None = None, **how: Any
) -> Path:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("main", data=values, **how).attrs.update(attributes or {})
    return folder / "a.h5"


# ---------------------------------------------------------------- TIFF and sections


def tiff_files() -> Iterator[File]:
    yield File("tifffile", "plain", tif, entry=SAID)
    yield File("tifffile", "BigTIFF", partial(tif, bigtiff=True), entry=SAID)
    write = partial(tif, values=IDS)
    yield File("tifffile", "uint64", write, IDS, SAID | {"kind": "labels"})
    yield File("tifffile", "tiled", partial(tif, tile=(16, 16)), entry=SAID)
    yield File("tifffile", "volumetric", partial(tif, volumetric=True), entry=SAID)
    size = {"PhysicalSizeZ": 0.04, "PhysicalSizeY": 0.008, "PhysicalSizeX": 0.004}
    write = partial(tif, ome=True, metadata={"axes": "ZYX", **size})
    yield File("tifffile", "OME-TIFF", write)
    about = {"axes": "ZYX", "spacing": 0.04, "unit": "um"}
    imagej = partial(tif, imagej=True, resolution=(250, 125), metadata=about)
    yield File("tifffile", "ImageJ", imagej)
    yield File("tifffile", "ImageJ, one page as above 4 GB", partial(imagej, truncate=True))
    both = np.ascontiguousarray(BOTH.swapaxes(0, 1))
    write = partial(tif, values=both, imagej=True, metadata={"axes": "ZCYX"})
    yield File("tifffile", "ImageJ, two channels", write, None, SAID)
    yield File("tifffile", "ImageJ, second channel", write, 255 - RAW, SAID | {"channel": 1})
    white = partial(tif, values=255 - RAW, photometric="miniswhite")
    yield File("tifffile", "min-is-white", white, entry=SAID)
    colours = partial(tif, values=np.stack([RAW] * 3, -1), photometric="rgb")
    yield File("tifffile", "colours", colours, None, SAID)
    for codec in ("lzw", "zlib", "zstd", "lzma", "packbits", "jpeg2000", "jpegxl"):
        how = {"lossless": True} if codec == "jpegxl" else None
        write = partial(tif, compression=codec, compressionargs=how)
        yield File("imagecodecs", codec, write, entry=SAID)
    yield File("imagecodecs", "lzw, cut", cut_tif, None, SAID)
    yield File("scikit-image", "imsave", skimage_tif, entry=SAID)


def tif(folder: Path, values: np.ndarray = RAW, **how: Any) -> Path:
    import tifffile

    grey = {} if "imagej" in how or "photometric" in how else {"photometric": "minisblack"}
    tifffile.imwrite(folder / "a.tif", values, **{**grey, **how})
    return folder / "a.tif"


def cut_tif(folder: Path) -> Path:
    path = tif(folder, compression="lzw")
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def skimage_tif(folder: Path) -> Path:
    import skimage.io

    skimage.io.imsave(folder / "a.tif", RAW, check_contrast=False)
    return folder / "a.tif"


def section_files() -> Iterator[File]:
    deep = RAW.astype(np.uint16) * 257
    for ending in ("png", "bmp", "tif"):
        yield File("Pillow", ending, partial(sections, pattern=f"s{{:04d}}.{ending}"), entry=SAID)
    write = partial(sections, values=deep)
    yield File("Pillow", "png, 16 bits", write, deep, SAID)
    jpeg = partial(sections, pattern="s{}.jpg")
    yield File("Pillow", "jpg as labels", jpeg, None, SAID | {"kind": "labels"})
    yield File("Pillow", "png, a gap", partial(sections, gap=True), None, SAID)
    for ending in ("png", "tif"):
        write = partial(sections, pattern=f"s{{}}.{ending}", by="imageio")
        yield File("imageio", ending, write, entry=SAID)
    yield File("matplotlib", "png of colours", partial(sections, by="matplotlib"), None, SAID)


def sections(
    folder: Path,
    pattern: str = "s{:04d}.png",
    values: np.ndarray = RAW,
    by: str = "Pillow",
    gap: bool = False,
) -> Path:
    import imageio.v3
    import matplotlib.pyplot
    import PIL.Image

    (folder / "sections").mkdir()
    for z, section in enumerate(values):
        path = folder / "sections" / pattern.format(z)
        if by == "Pillow":
            PIL.Image.fromarray(section).save(path)
        elif by == "imageio":
            imageio.v3.imwrite(path, section)
        else:
            matplotlib.pyplot.imsave(path, section)
    if gap:
        sorted((folder / "sections").iterdir())[5].unlink()
    return folder / "sections"


# ---------------------------------------------------------------- formats with a header


def header_files() -> Iterator[File]:
    for dtype in (np.int16, np.float32, np.uint16):
        name = np.dtype(dtype).name
        yield File("mrcfile", name, partial(mrc, dtype=dtype), RAW.astype(dtype))
    for ending in ("nii", "nii.gz"):
        yield File("nibabel", ending, partial(nifti, ending=ending))
    yield File("MONAI", "NibabelWriter", monai_nifti, RAW.astype(np.int16), SAID)
    for encoding in ("raw", "gzip", "bzip2"):
        yield File("pynrrd", encoding, partial(nrrd_file, encoding=encoding))


def mrc(folder: Path, dtype: type) -> Path:
    import mrcfile

    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(RAW.astype(dtype))
        file.voxel_size = tuple(10 * v for v in SIZE[::-1])
    return folder / "a.mrc"


def nifti(folder: Path, ending: str) -> Path:
    import nibabel

    affine = np.diag([0.004, 0.008, 0.04, 1])
    affine[:3, 3] = np.diag(affine)[:3] / 2
    image: Any = nibabel.Nifti1Image(RAW.T, affine)
    image.header.set_xyzt_units("micron")
    image.to_filename(folder / f"a.{ending}")
    return folder / f"a.{ending}"


def monai_nifti(folder: Path) -> Path:
    from monai.data import NibabelWriter

    writer = NibabelWriter(output_dtype=np.int16)
    writer.set_data_array(RAW.T, channel_dim=None)
    writer.set_metadata({"affine": np.eye(4), "original_affine": np.eye(4)})
    writer.write(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def nrrd_file(folder: Path, encoding: str) -> Path:
    import nrrd

    about = {
        "space": "left-posterior-superior",
        "space directions": np.diag(SIZE[::-1]),
        "space origin": np.array(SIZE[::-1]) / 2,
        "space units": ["nm"] * 3,
        "encoding": encoding,
    }
    nrrd.write(str(folder / "a.nrrd"), RAW.T, about, index_order="F")
    return folder / "a.nrrd"
