"""HDF5, with the filters of hdf5plugin and the attributes of programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import BOTH, CORNER, IDS, LABELS, RAW, SAID, SIZE, File


def hdf5_files() -> Iterator[File]:
    import hdf5plugin

    here = partial(File, "HDF5")
    for name in ("Blosc", "Blosc2", "Zstd", "LZ4", "Bitshuffle", "BZip2", "Zfp"):
        how = getattr(hdf5plugin, name)(**({"reversible": True} if name == "Zfp" else {}))
        values = RAW.astype(np.float32) if name == "Zfp" else RAW
        write = partial(h5, values=values, chunks=(8, 8, 8), **how)
        yield here("hdf5plugin", name, write, values, SAID)
    for codec in ("gzip", "lzf", None):
        yield here("h5py", codec or "not compressed", partial(h5, compression=codec), keys=SAID)
    cremi = {"resolution": SIZE, "offset": CORNER}
    yield here("h5py", "CREMI's attributes", partial(h5, attributes=cremi), placed=True)
    write = partial(h5, values=IDS, attributes=cremi, compression="gzip")
    yield here("h5py", "CREMI's neuron ids", write, IDS, LABELS, placed=True)
    element = {"element_size_um": (0.04, 0.008, 0.004)}
    yield here("h5py", "element_size_um (ilastik, Fiji)", partial(h5, attributes=element))
    tags = {"axistags": json.dumps({"axes": [{"key": key} for key in "zyxc"]})}
    write = partial(h5, values=RAW[..., None], attributes=tags)
    yield here("h5py", "axistags of ilastik", write, keys=SAID)
    write = partial(h5, values=BOTH.transpose(1, 2, 3, 0), attributes=tags)
    several = "a channel has to be chosen"
    yield here("h5py", "axistags, two channels", write, None, SAID, remark=several)
    yield here("h5py", "axistags, second channel", write, 255 - RAW, SAID | {"channel": 1})
    matlab = {"MATLAB_class": np.bytes_("uint8")}
    write = partial(h5, values=RAW.transpose(0, 2, 1), attributes=matlab)
    yield here("h5py", "as MATLAB 7.3 (z, x, y)", write, keys=SAID)
    turned = partial(h5, values=RAW.T)
    yield here("h5py", "x, y, z without names", turned, keys=SAID | {"axes": "xyz"})
    yield here("h5py", "no size", h5, None, remark="nothing says its voxel size")


def h5(
    folder: Path, values: np.ndarray = RAW, attributes: dict[str, Any] | None = None, **how: Any
) -> Path:
    import h5py

    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("main", data=values, **how).attrs.update(attributes or {})
    return folder / "a.h5"
