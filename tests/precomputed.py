"""Precomputed volumes for tests, written by tensorstore itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore


def write_precomputed(
    path: Path,
    values: np.ndarray,
    size: Sequence[float] = (40, 8, 4),
    begin: Sequence[int] = (0, 0, 0),
    *,
    encoding: str = "raw",
    chunk: Sequence[int] = (5, 6, 7),
    kind: str = "",
    empty: bool = True,
    **scale: Any,
) -> Path:
    """Write (z, y, x) or (channel, z, y, x) as the next scale of a volume.

    `empty` says whether chunks that hold nothing but 0 are stored.
    """
    if values.ndim == 3:
        values = values[None]
    about: dict[str, Any] = {
        "size": values.shape[:0:-1],
        "voxel_offset": list(begin)[::-1],
        "resolution": list(size)[::-1],
        "chunk_size": list(chunk)[::-1],
        "encoding": encoding,
    }
    if encoding == "compressed_segmentation":
        about["compressed_segmentation_block_size"] = [4, 4, 4]
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {
                "type": kind or ("image" if values.dtype.itemsize < 4 else "segmentation"),
                "data_type": str(values.dtype),
                "num_channels": values.shape[0],
            },
            "scale_metadata": {**about, **scale},
            "store_data_equal_to_fill_value": empty,
        },
        create=True,
        open=False,
    ).result()
    store.T[...] = values
    return path


def chunks_of(path: Path) -> list[Path]:
    """The files of all chunks."""
    return sorted(p for p in path.rglob("*-*_*-*") if p.is_file())


def pack(path: Path, ending: str, how: Callable[[bytes], bytes]) -> None:
    """Compress every chunk, and give it another name."""
    for file in chunks_of(path):
        packed = how(file.read_bytes())
        file.unlink()
        file.with_name(f"{file.name}{ending}").write_bytes(packed)


def change_info(path: Path, **values: Any) -> None:
    """Change keys of ``info``, or of its first scale where it has them."""
    info = json.loads((path / "info").read_text())
    for key, value in values.items():
        (info["scales"][0] if key in info["scales"][0] else info)[key] = value
    (path / "info").write_text(json.dumps(info))
