"""Notice that an image was rewritten in place since a job read it.

An image that synpol wrote carries a hash that changes with its content. One that others wrote has
none: its files alone tell. Their sizes and times of change are kept in a small file beside the
records of a job and compared when the job is run again. They are no part of the hash of a result.
At a URL it is what the server says of a few files (ETag, time, size) without sending them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import zarr

from synpol.files import is_url, write_whole
from synpol.images.claim import is_ours
from synpol.images.identity import hash_of
from synpol.images.image import Image
from synpol.images.kinds import SCHEME
from synpol.images.nodes import opened_array, zip_of
from synpol.images.precomputed import PrecomputedArray
from synpol.images.stores import for_zarr
from synpol.images.view import View

_log = logging.getLogger(__name__)

#: number of files at a URL that the server is asked about
REMOTE_SAMPLES = 32
#: what a server says about a file that changes with its content; where it does not, when written
_OF_CONTENT = ("ETag", "etag", "md5Hash")
_OF_TIME = ("LastModified", "Last-Modified", "updated", "size")
#: number of chunk files that are looked at; more of them are sampled evenly over the image
SAMPLES = 4096


@dataclass(frozen=True)
class SourceStamps:
    """Stamps of the images that a job reads, now and when it last ran.

    Attributes
    ----------
    path : Path
        File that keeps them.
    now : dict of str to str
        Stamp of each image that others wrote, by its path.
    """

    path: Path
    now: dict[str, str]

    @classmethod
    def of(cls, records: Path, images: Iterable[Image]) -> SourceStamps:
        """Look at the images of a job.

        Parameters
        ----------
        records : Path
            Folder of the job's records; the stamps are kept beside it.
        images : iterable of Image
            Images that the job reads.
        """
        found = {image.path: stamp_of(image) for image in images}
        path = records.with_name(f"sources-{records.name}.json")
        return cls(path, {name: stamp for name, stamp in found.items() if stamp is not None})

    def rewritten(self) -> list[str]:
        """Return the paths of the images that were rewritten since their stamps were kept."""
        try:
            before = json.loads(self.path.read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return []
        if not isinstance(before, dict):  # damaged
            return []
        return [name for name, stamp in self.now.items() if before.get(name, stamp) != stamp]

    def keep(self) -> None:
        """Keep the stamps of now, once nothing speaks of the images of before any more."""
        if self.now:
            write_whole(self.path, json.dumps(self.now, indent=1).encode())


def stamp_of(image: Image) -> str | None:
    """Hash the sizes and times of change of an image's files.

    Returns
    -------
    str or None
        None where synpol wrote the image, or where a server says nothing.
    """
    path = image.path.removeprefix(SCHEME)
    if is_ours(image.array):
        return None
    if is_url(path):
        return _remote_stamp(path, image)
    if (zipped := zip_of(path)) is not None:
        path = zipped[0]
    array = opened_array(path) if os.path.isdir(path) else None
    files = _files(path) if array is None else _chunk_files(path, array, SAMPLES)
    return hash_of([_state(file) for file in files])


def _remote_stamp(path: str, image: Image) -> str | None:
    """Hash what a server says about some files of an image."""
    from fsspec.core import url_to_fs  # for URLs only

    place, options = for_zarr(path, image.options is not None and image.options.anonymous)
    array = image.array.source if isinstance(image.array, View) else image.array
    if isinstance(array, PrecomputedArray):
        files = [f"{place}/{name}" for name in array.files(REMOTE_SAMPLES)]
    else:
        stored = cast(zarr.Array, array)
        files = [f"{place}/{'zarr.json' if stored.metadata.zarr_format == 3 else '.zarray'}"]
        files += _chunk_files(place, stored, REMOTE_SAMPLES)

    def state(file: str) -> list[str] | None:
        try:
            about = system.info(file)
        except FileNotFoundError:  # a chunk that is not stored
            return None
        said = [str(about[key]) for key in _OF_CONTENT if about.get(key)]
        return said or [str(about[key]) for key in _OF_TIME if about.get(key)]

    try:
        system, _ = url_to_fs(place, skip_instance_cache=True, **(options or {}))
        with ThreadPoolExecutor(8) as pool:
            return hash_of(list(pool.map(state, files)))
    except Exception as error:  # whatever a file system makes of a server that does not say it
        _log.debug("%s: the server says nothing about its files: %s", path, error)
        return None


def _state(file: str) -> list[str | int] | None:
    try:
        about = os.stat(file)
    except OSError:  # a chunk that is not stored
        return None
    return [os.path.basename(file), about.st_size, about.st_mtime_ns]


def _chunk_files(path: str, array: zarr.Array, samples: int) -> Iterator[str]:
    """Name the files of some chunks (or shards), spread evenly over the array."""
    unit = array.shards or array.chunks
    grid = [max(1, -(-n // u)) for n, u in zip(array.shape, unit, strict=True)]
    total = int(np.prod(grid))
    for flat in np.unique(np.linspace(0, total - 1, min(samples, total)).astype(np.int64)):
        place = tuple(int(i) for i in np.unravel_index(flat, grid))
        yield f"{path}/{array.metadata.encode_chunk_key(place)}"


def _files(path: str) -> Iterator[str]:
    """Name a file itself, or some files below a folder."""
    if os.path.isfile(path):
        yield path
        return
    below = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    yield from sorted(itertools.islice(below, SAMPLES))
