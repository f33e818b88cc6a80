"""N5 datasets, read through tensorstore."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from synpol.errors import InputError, nearest
from synpol.files import is_url
from synpol.formats import register
from synpol.formats.images import ZarrStack

#: levels of groups that are searched for datasets
_DEPTH = 5


@register
class N5Stack(ZarrStack):
    """Read a dataset of an N5 container."""

    name = "N5"
    files = "N5 (a folder with `attributes.json`)"

    def __init__(self, path: Path, key: str | None) -> None:
        super().__init__(path, key)
        if not is_url(self._path):
            _check_dataset(Path(self._path))

    @classmethod
    def opens(cls, path: Path) -> bool:
        return (path / "attributes.json").is_file()

    @classmethod
    def opens_url(cls, url: str) -> bool:
        return url.rstrip("/").endswith(".n5") or ".n5/" in url


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
