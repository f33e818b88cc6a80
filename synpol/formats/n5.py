"""N5 datasets, read through tensorstore."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError, nearest
from synpol.files import is_url
from synpol.formats import ArrayStack, register
from synpol.formats.axes import letters_of
from synpol.formats.calibration import Calibration

#: levels of groups that are searched for datasets
_DEPTH = 5


@register
class N5Stack(ArrayStack):
    """Read a dataset of an N5 container.

    N5 counts axes the other way round, so that x comes first in its attributes.
    """

    name = "N5"
    files = "N5 (a folder with `attributes.json`)"

    def __init__(self, path: Path, key: str | None) -> None:
        import tensorstore  # takes a while to import

        place = "/".join([str(path).rstrip("/"), *([key.strip("/")] if key else [])])
        self.what = place
        where: Any = place + "/"
        if not is_url(place):
            _check_dataset(Path(place))
            where = {"driver": "file", "path": f"{Path(place).resolve()}/"}
        spec = {"driver": "n5", "kvstore": where}
        stored = tensorstore.open(spec, read=True, open=True).result()
        attributes = tensorstore.KvStore.open(where).result().read("attributes.json").result()
        self.attributes: Mapping[str, Any] = json.loads(attributes.value)
        if self.attributes.get("isLabelMultiset"):
            raise InputError(
                f"{place} is a label multiset of Paintera; export it as plain labels "
                "(paintera-conversion-helper: to scalar)"
            )
        self.array = _Transposed(stored)
        axes = self.attributes.get("axes")
        if isinstance(axes, list) and len(axes) == len(self.array.shape):
            self.names = [str(a) for a in axes[::-1]]

    @classmethod
    def opens(cls, path: Path) -> bool:
        return (path / "attributes.json").is_file()

    @classmethod
    def opens_url(cls, url: str) -> bool:
        return url.rstrip("/").endswith(".n5") or ".n5/" in url

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        return sorted(p for p in path.rglob("*") if p.is_file())

    def calibration(self) -> Calibration:
        found = Calibration()
        for key, part in (
            ("pixelResolution", self._pixel_resolution),
            ("transform", self._transform),
            ("resolution", self._resolution),
        ):
            try:
                said = part()
            except (TypeError, ValueError, KeyError, AttributeError, IndexError):
                raise InputError(
                    f"{self.what} has an attribute {key} = {self.attributes.get(key)!r}, which "
                    "cannot be understood; correct it, or say `voxel_size` in the config with "
                    "`ignore_metadata: true`"
                ) from None
            found = found.joined(said, self.what)
        return found

    def _pixel_resolution(self) -> Calibration:
        about = self.attributes.get("pixelResolution")
        if isinstance(about, Mapping):
            size, unit = about["dimensions"], about.get("unit")
        else:
            size, unit = about, None
        if not size:
            return Calibration()
        size = self.layout.spatial([float(v) for v in size][::-1])
        return Calibration.of(size, unit, "its attribute pixelResolution")

    def _transform(self) -> Calibration:
        about = self.attributes.get("transform")
        if not isinstance(about, Mapping) or "axes" not in about or "scale" not in about:
            return Calibration()
        axes = letters_of([str(a) for a in about["axes"]])
        places = [axes.index(letter) for letter in "zyx"]
        unit = (about.get("units") or [None] * len(axes))[places[0]]
        size = [float(about["scale"][p]) for p in places]
        where = "its attribute transform"
        found = Calibration.of(size, unit, where)
        moved = about.get("translate")
        if moved is None:
            return found
        # the translation is the centre of the first voxel, as in OME-Zarr
        corner = [float(moved[p]) - s / 2 for p, s in zip(places, size, strict=True)]
        return Calibration.of(size, unit, where, corner)

    def _resolution(self) -> Calibration:
        size, offset = self.attributes.get("resolution"), self.attributes.get("offset")
        unit = self.attributes.get("units", self.attributes.get("unit"))
        unit = unit[-1] if isinstance(unit, list) and unit else unit
        corner = None if offset is None else self.layout.spatial([float(v) for v in offset][::-1])
        if not size:
            return Calibration()
        size = self.layout.spatial([float(v) for v in size][::-1])
        return Calibration.of(size, unit, "its attribute resolution", corner)


class _Transposed:
    """Show a tensorstore array with its last axis first."""

    def __init__(self, stored: Any) -> None:
        self._stored = stored.T
        self.shape = tuple(int(n) for n in self._stored.shape)
        self.dtype = np.dtype(stored.dtype.numpy_dtype)

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        return np.asarray(self._stored[where].read().result())


def _check_dataset(place: Path) -> None:
    """Refuse a group, naming the datasets below it.

    Raises
    ------
    InputError
    """
    if _is_dataset(place):
        return
    about = place / "attributes.json"
    if about.is_file():
        try:
            json.loads(about.read_bytes())
        except ValueError as error:
            raise InputError(f"{about} is not JSON ({error}); copy it again") from None
    top = next((p for p in (place, *place.parents) if p.is_dir()), place)
    names = [str(p.relative_to(top)) for p in _datasets(top, _DEPTH)]
    raise InputError(
        f"{place} is no N5 dataset: say which one with `key`{nearest('', names)}"
        + ("" if names else "; none was found in it")
    )


def _is_dataset(place: Path) -> bool:
    try:
        about = json.loads((place / "attributes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and "dimensions" in about


def _datasets(folder: Path, depth: int) -> Iterator[Path]:
    """Find datasets in a folder, without looking at their blocks."""
    if _is_dataset(folder):
        yield folder
    elif depth:
        for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
            yield from _datasets(inner, depth - 1)
