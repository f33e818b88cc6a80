"""Layers of WEBKNOSSOS data sets that are stored as Zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from synpol.errors import InputError, nearest
from synpol.formats import ArrayStack, register
from synpol.formats.calibration import Calibration

_ABOUT = "datasource-properties.json"


@register
class WebknossosStack(ArrayStack):
    """Read the finest magnification of a layer; `key` is the layer's name."""

    name = "WEBKNOSSOS"
    files = f"WEBKNOSSOS (a folder with {_ABOUT})"

    def __init__(self, path: Path, key: str | None) -> None:
        self.about: dict[str, Any] = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        layers = {str(layer["name"]): layer for layer in self.about["dataLayers"]}
        if key is None and len(layers) == 1:
            key = next(iter(layers))
        if key not in layers:
            raise InputError(f"{path}: say which layer (`key:`){nearest(key or '', layers)}")
        layer = layers[key]
        if layer["dataFormat"] not in ("zarr", "zarr3"):
            raise InputError(
                f"{path}: the layer {key} is stored as {layer['dataFormat']}; convert it to Zarr "
                "with the Python package webknossos (Layer.add_copy_layer or `webknossos convert`)"
            )
        mags = layer["mags"]
        self.mag = min(mags, key=lambda m: np.prod(_mag_of(m)))
        place = path / str(self.mag.get("path", f"{key}/{'-'.join(map(str, _mag_of(self.mag)))}"))
        if not place.is_dir() and len(set(_mag_of(self.mag))) == 1:
            place = path / key / str(_mag_of(self.mag)[0])
        self.what = str(place)
        self.array = zarr.open_array(str(place), mode="r")
        order = self.mag.get("axisOrder") or dict(zip("cxyz", range(4), strict=True))
        self.names = sorted(order, key=lambda axis: int(order[axis]))

    @classmethod
    def opens(cls, path: Path) -> bool:
        return (path / _ABOUT).is_file()

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        return sorted(p for p in path.rglob("*") if p.is_file())

    def calibration(self) -> Calibration:
        scale = self.about.get("scale")
        size, unit = (scale["factor"], scale["unit"]) if isinstance(scale, dict) else (scale, "nm")
        if not size:
            return Calibration()
        x, y, z = (float(v) * m for v, m in zip(size, _mag_of(self.mag), strict=True))
        return Calibration.of((z, y, x), unit, _ABOUT)


def _mag_of(mag: dict[str, Any]) -> list[int]:
    found = mag.get("mag", 1)
    return [int(found)] * 3 if isinstance(found, int) else [int(v) for v in found]
