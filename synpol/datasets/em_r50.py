"""The EM-R50 data set: download, unpack, check and convert it.

Lin et al., "Two Stream Active Query Suggestion for Active Learning in Connectomics", ECCV 2020: rat
visual cortex, pre-synaptic sides with odd and post-synaptic sides with even labels. We could not
obtain the archive when this was written. The code expects what PyTorch Connectomics' configs for
it say, and refuses anything else with a message that lists what it found.
"""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synpol.config import EmR50, ImportVolume
from synpol.datasets.archive import unpack
from synpol.datasets.import_volume import describe_volume, import_volume
from synpol.errors import InputError
from synpol.files import is_url, sha256_of, write_text
from synpol.formats import open_stack
from synpol.images.image import Image
from synpol.polarity import check_polarity_labels

_BLOCK = 2**20
_TRIES = 5


def prepare_em_r50(options: EmR50) -> Iterator[str]:
    """Get the data set and convert its volumes; finished steps are not repeated.

    Parameters
    ----------
    options : EmR50

    Yields
    ------
    str
        Line about each step, for people.

    Raises
    ------
    InputError
        The archive cannot be obtained, is damaged or has another layout, or labels cannot be pre
        and post sides. The message says what to do.
    """
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    archive = _fetched(options.archive, output)
    yield f"{archive}: SHA-256 {record_digest(archive)}"
    unpacked = output / "unpacked"
    unpack(archive, unpacked)
    for volume in options.volumes:
        found = find_volume(unpacked, volume, options.image, options.labels)
        check_labels(found["truth"], options.key)
        for name, source in found.items():
            image = _converted(options, source, output / volume / name)
            yield describe_volume(image)


def _fetched(archive: str, folder: Path) -> Path:
    if not is_url(archive):
        path = Path(archive)
        if not path.is_file():
            raise InputError(
                f"prepare.em_r50.archive is {archive}: there is no such file; give the URL of a "
                "mirror, or the path of jwr15_synapse.zip if you have it"
            )
        return path
    path = folder / archive.rstrip("/").rpartition("/")[2]
    if not path.exists():
        download(archive, path)
    return path


def download(url: str, path: Path) -> None:
    """Download a file, and go on where an earlier try was broken off.

    Parameters
    ----------
    url : str
    path : path
        Final name. The file is called ``<path>.part`` until it is whole, and stays after an
        error, since the next try goes on from it.

    Raises
    ------
    InputError
        The server does not have the file, or the connection broke `_TRIES` times without progress.
    """
    part = path.with_name(f"{path.name}.part")
    tries = 0
    while tries < _TRIES:
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                resumed = answer.status == 206
                size = int(answer.headers.get("Content-Length", 0)) + (have if resumed else 0)
                _receive(answer, part, have if resumed else 0, size)
            if size in (0, part.stat().st_size):
                os.replace(part, path)
                return
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:  # all of it is there already
                os.replace(part, path)
                return
            raise InputError(f"{url} cannot be downloaded: {error}; {_DIRECTIONS}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
        else:
            reason = "the connection was closed early"
        tries = 0 if part.exists() and part.stat().st_size > have else tries + 1
    raise InputError(f"{url} cannot be downloaded: {reason}; {_DIRECTIONS}")


_DIRECTIONS = (
    "what has arrived is kept, and the same command goes on from there. Or get jwr15_synapse.zip "
    "elsewhere and say prepare.em_r50.archive=PATH"
)


def _receive(answer: object, part: Path, have: int, size: int) -> None:
    bar = tqdm(total=size or None, initial=have, unit="B", unit_scale=True, desc=part.stem)
    with open(part, "ab" if have else "wb") as file, bar:
        while content := answer.read(_BLOCK):  # type: ignore[attr-defined]
            file.write(content)
            bar.update(len(content))


def record_digest(archive: Path) -> str:
    """Compute the SHA-256 of a file, and keep it beside the file.

    Raises
    ------
    InputError
        The digest that lies beside the file is of other content.
    """
    digest = sha256_of(archive)
    kept = archive.with_name(f"{archive.name}.sha256")
    before = kept.read_text(errors="replace").partition(" ")[0] if kept.exists() else ""
    if re.fullmatch("[0-9a-f]{64}", before) and before != digest:
        raise InputError(
            f"{archive} has changed: its SHA-256 is {digest}, {kept} says {before}; remove "
            "both to download it again"
        )
    if os.access(archive.parent, os.W_OK):
        write_text(kept, f"{digest}  {archive.name}\n")
    return digest


def find_volume(unpacked: Path, volume: str, image: str, labels: str) -> dict[str, Path]:
    """Find the files of a volume: its image as ``raw`` and its labels as ``truth``.

    Raises
    ------
    InputError
        The archive has another layout; the message lists what is there.
    """
    found = {}
    for name, wanted in (("raw", image), ("truth", labels)):
        places = sorted(unpacked.rglob(f"{volume}/{wanted}"))
        if len(places) != 1:
            there = sorted(str(p.relative_to(unpacked)) for p in unpacked.rglob("*.h5"))
            raise InputError(
                f"{len(places)} files {volume}/{wanted} in {unpacked}, one is expected; there is: "
                f"{', '.join(there[:20]) or 'no HDF5 file'}. Where names differ, say so: "
                "prepare.em_r50.volumes, .image, .labels and .key"
            )
        found[name] = places[0]
    return found


def check_labels(path: Path, key: str) -> None:
    """Raise InputError where odd and even labels cannot be pre and post sides.

    Raises
    ------
    InputError
    """
    stack = open_stack(str(path), key)
    present: np.ndarray = np.zeros(0, np.uint64)
    for begin in range(0, stack.shape[0], 16):
        slab = stack.read(begin, min(begin + 16, stack.shape[0]))
        present = np.union1d(present, np.unique(slab).astype(np.uint64))
    check_polarity_labels(present, str(path))


def _converted(options: EmR50, source: Path, output: Path) -> Image:
    if options.voxel_size is None:
        shape = open_stack(str(source), options.key).shape
        raise InputError(
            f"prepare.em_r50.voxel_size is not set; {source.name} has {shape} voxels. The "
            "paper's images have 30 x 8 x 8 nm, and the x2 in a file's name may mean that an axis "
            "was scaled by 2: look at the image, and confirm with, for instance, "
            "prepare.em_r50.voxel_size=[30,8,8]"
        )
    kind = "labels" if output.name == "truth" else "image"
    return import_volume(
        ImportVolume(
            source=str(source),
            output=str(output),
            kind=kind,  # type: ignore[arg-type]
            key=options.key,
            voxel_size=options.voxel_size,
        )
    )
