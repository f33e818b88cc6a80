"""Other chunked formats, as tensorstore and the programs that made them write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import CORNER, IDS, LABELS, RAW, SAID, SHAPE, SIZE, File

#: edge of a KNOSSOS cube
EDGE = 128


def chunked_files() -> Iterator[File]:
    for driver, about in (("zarr", {"dtype": "|u1"}), ("zarr3", {"data_type": "uint8"})):
        write = partial(stored, driver=driver, values=RAW, metadata={"shape": SHAPE, **about})
        yield File("Zarr", "tensorstore", driver, write, keys=SAID, in_place=True)
    for codec in ("gzip", "raw", "zstd", "bzip2"):
        yield File("N5", "tensorstore", codec, partial(n5, codec=codec), in_place=True)
    write = partial(n5, codec="gzip", values=IDS)
    yield File("N5", "tensorstore", "gzip, uint64", write, IDS, LABELS, True)
    moved = {"resolution": SIZE[::-1], "offset": CORNER[::-1], "units": ["nm"] * 3}
    write = partial(n5, codec="gzip", about=moved)
    what = "resolution and offset of funlib"
    yield File("N5", "tensorstore", what, write, placed=True, in_place=True)
    write = partial(n5, codec="raw", about={})
    yield File("N5", "tensorstore", "no size", write, keys=SAID, in_place=True)
    for encoding in ("raw", "compressed_segmentation"):
        write = partial(precomputed, encoding=encoding)
        yield File(
            "precomputed", "tensorstore", f"segmentation, {encoding}", write, IDS, LABELS, True
        )
    write = partial(precomputed, encoding="raw", values=RAW)
    yield File("precomputed", "tensorstore", "image, raw", write, in_place=True)
    yield File("KNOSSOS", "numpy", "raw cubes and knossos.conf", knossos)
    yield File("WEBKNOSSOS", "zarr", "layer of Zarr v3", webknossos)


def stored(folder: Path, driver: str, values: np.ndarray, **about: Any) -> Path:
    import tensorstore

    where = {"driver": "file", "path": f"{folder}/a/"}
    spec = {"driver": driver, "kvstore": where, **about}
    store = tensorstore.open(spec, create=True, open=True).result()
    if driver == "neuroglancer_precomputed":
        store = store[..., 0]
    store.write(values if driver in ("zarr", "zarr3") else values.T).result()
    return folder / "a"


def n5(
    folder: Path, codec: str, values: np.ndarray = RAW, about: dict[str, Any] | None = None
) -> Path:
    metadata = {
        "dimensions": SHAPE[::-1],
        "blockSize": [16, 16, 8],
        "dataType": str(values.dtype),
        "compression": {"type": codec},
    }
    path = stored(folder, "n5", values, metadata=metadata)
    said = json.loads((path / "attributes.json").read_text())
    java = {"pixelResolution": {"dimensions": SIZE[::-1], "unit": "nm"}}
    said |= java if about is None else about
    (path / "attributes.json").write_text(json.dumps(said))
    return path


def precomputed(folder: Path, encoding: str, values: np.ndarray = IDS) -> Path:
    scale: dict[str, Any] = {
        "resolution": SIZE[::-1],
        "size": SHAPE[::-1],
        "encoding": encoding,
        "chunk_size": [16, 16, 8],
    }
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    kind = "segmentation" if values is IDS else "image"
    whole = {"type": kind, "data_type": str(values.dtype), "num_channels": 1}
    about = {"multiscale_metadata": whole, "scale_metadata": scale}
    return stored(folder, "neuroglancer_precomputed", values, **about)


def knossos(folder: Path) -> Path:
    cube = np.zeros([EDGE] * 3, np.uint8)
    cube[tuple(slice(n) for n in SHAPE)] = RAW
    inside = folder / "mag1/x0000/y0000/z0000"
    inside.mkdir(parents=True)
    cube.tofile(inside / "a_mag1_x0000_y0000_z0000.raw")
    lines = ['experiment name "a_mag1";']
    lines += [f"boundary {a} {n};" for a, n in zip("zyx", SHAPE, strict=True)]
    lines += [f"scale {a} {v};" for a, v in zip("zyx", SIZE, strict=True)]
    (folder / "mag1/knossos.conf").write_text("\n".join([*lines, "magnification 1;"]))
    return folder / "mag1"


def webknossos(folder: Path) -> Path:
    import zarr

    layer = zarr.create_array(
        folder / "wk/em/1", shape=(1, *SHAPE[::-1]), dtype="u1", chunks=(1, 16, 16, 8)
    )
    layer[0] = RAW.T
    em = {
        "name": "em",
        "category": "color",
        "dataFormat": "zarr3",
        "elementClass": "uint8",
        "mags": [{"mag": [1, 1, 1], "path": "em/1", "axisOrder": dict(c=0, x=1, y=2, z=3)}],
    }
    scale = {"factor": SIZE[::-1], "unit": "nanometer"}
    about = {"id": {"name": "wk", "team": ""}, "dataLayers": [em], "scale": scale}
    (folder / "wk/datasource-properties.json").write_text(json.dumps(about))
    return folder / "wk"
