"""Decide what becomes of the image that lies where one is to be written.

Every array that synpol writes carries a hash of all that it depends on. A job that is called again
therefore knows the array that lies there: it goes on with its own, makes one anew that was made
from something else, and refuses to touch what others wrote. All jobs ask here.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import zarr

from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.image import Image, open_image
from synpol.images.metadata import HASH
from synpol.images.nodes import opened_array, opened_group, refuse_outage
from synpol.images.ome import multiscale_of, ome_metadata

_log = logging.getLogger(__name__)

#: attribute of an array that synpol writes: whether it is finished
COMPLETE = "synpol_complete"
#: name of the file in an unfinished array, and beside its records, that binds both together
ID = "synpol.id"
#: attribute of an array that synpol writes: settings that its readers have to know
SETTINGS = "synpol_settings"


class Answer(Enum):
    """What a job does about the array that it has to write."""

    FINISHED = "nothing, the array is complete"
    RESUME = "go on with what an interrupted run left"
    ANEW = "make a new array"


@dataclass(frozen=True)
class Claim:
    """What lies where an array is to be written, and what a job does about it.

    Attributes
    ----------
    answer : Answer
    found : Image or None
        Image that lies there, open to be read. With `Answer.ANEW` it is the one to replace, and
        None where there is none.
    """

    answer: Answer
    found: Image | None

    def image_to_write(self, create: Callable[[bool], Image], forget: Iterable[Path] = ()) -> Image:
        """Open the array of this job that is there, or create a new one.

        Parameters
        ----------
        create : callable
            Makes the new image. Its argument says whether another image has to be replaced.
        forget : iterable of Path
            Records about the old array and files that were made from it. They are removed before a
            new one is created, so that no record ever speaks of an array that is gone.

        Returns
        -------
        Image
            Open to be written.
        """
        if self.found is not None and self.answer is not Answer.ANEW:
            mend_group(self.found)
            return open_image(self.found.path, mode="r+")
        for path in forget:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        return create(self.found is not None)


def begun(digest: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of an array that a job begins to write.

    Parameters
    ----------
    digest : str
        Hash of everything on which the array depends.
    settings : mapping, optional
        Settings that readers of the array have to know.
    """
    attributes: dict[str, Any] = {HASH: digest, COMPLETE: False}
    return attributes if settings is None else attributes | {SETTINGS: dict(settings)}


def is_ours(node: zarr.Array | zarr.Group) -> bool:
    """Whether synpol wrote an array."""
    return HASH in node.attrs


def answer_of(array: zarr.Array | None, digest: str, fresh: bool = False) -> Answer:
    """Say what a job does about an array that may be replaced.

    Parameters
    ----------
    array : zarr.Array or None
    digest : str
        Hash of everything on which the job's array depends.
    fresh : bool
        Make it anew, whatever is there.
    """
    if array is None or fresh or array.attrs.get(HASH) != digest:
        return Answer.ANEW
    return Answer.FINISHED if array.attrs.get(COMPLETE) else Answer.RESUME


def claim_image(
    path: str,
    digest: str,
    *,
    fresh: bool = False,
    advice: str = "remove it",
    replace_empty: bool = False,
) -> Claim:
    """Look at the OME-Zarr image that lies where a job writes one.

    Parameters
    ----------
    path : path or URL
        Group of the image, for instance ``.../polarity``.
    digest : str
        Hash of everything on which the job's image depends.
    fresh : bool
        Make it anew, whatever is there.
    advice : str
        What to do about an image that synpol did not write, for the message.
    replace_empty : bool
        Whether an image of others may be replaced when no voxel of it is stored.

    Returns
    -------
    Claim

    Raises
    ------
    InputError
        Something that synpol did not write is there.
    """
    return _claim(replaceable_image(path, advice, replace_empty), digest, fresh)


def claim_array(path: str, digest: str, *, fresh: bool = False, advice: str = "remove it") -> Claim:
    """Look at the single array that lies where a job writes one; as `claim_image`."""
    return _claim(_replaceable_array(path, advice, replace_empty=False), digest, fresh)


def _claim(found: Image | None, digest: str, fresh: bool) -> Claim:
    return Claim(answer_of(None if found is None else found.array, digest, fresh), found)


def replaceable_image(
    path: str, advice: str = "remove it", replace_empty: bool = False
) -> Image | None:
    """Open the image that lies where one is to be written; None where there is none.

    Parameters and errors are those of `claim_image`.
    """
    if is_damaged(path):
        return None
    found = _replaceable_array(join(path, "s0"), advice, replace_empty)
    if found is None and _is_occupied(path) and not half_made(path):
        raise _foreign(path, advice)
    return found


def _replaceable_array(path: str, advice: str, replace_empty: bool) -> Image | None:
    try:
        found = open_image(path, inside=False)
    except InputError:
        if not is_url(path) and has_damaged_metadata(Path(path)):
            return None
        nodes = opened_array(path), opened_group(path, 3), opened_group(path, 2)
        if any(node is not None for node in nodes):
            raise _foreign(path, advice) from None
        return None
    if is_ours(found.array):
        return found
    if not replace_empty:
        raise _foreign(found.path, advice)
    if found.array.nchunks_initialized:
        raise InputError(f"{found.path} exists with data that synpol did not write; {advice}")
    return found


def _foreign(path: str, advice: str) -> InputError:
    return InputError(f"{path} exists and was not written by synpol; {advice}")


def _is_occupied(path: str) -> bool:
    """Whether a local path holds more than what a killed run, or a power cut, left of nothing."""
    place = Path(path)
    if is_url(path) or not place.is_dir():
        return not is_url(path) and place.exists()
    return not all(map(_is_left_over, place.iterdir()))


def _is_left_over(place: Path) -> bool:
    """Whether a file, or all in a folder, holds nothing: no voxels, and no metadata."""
    if place.is_dir():
        return all(map(_is_left_over, place.iterdir()))
    if place.name.endswith(".partial") or place.name == ID:
        return True
    return place.name == "zarr.json" and not place.read_bytes().strip(b"\0")


def half_made(path: str) -> bool:
    """Whether an interruption left an image of synpol's there without its full resolution."""
    if not is_url(path) and Path(path).is_dir() and not _is_occupied(path):
        return True
    group = opened_group(path, 3)
    if group is not None:
        try:
            multiscale = multiscale_of(group.attrs, path)
        except InputError:
            return False
        if multiscale is None or multiscale.paths[0] != "s0":
            return False
        try:
            left = dict(group.members())
        except Exception as error:  # whatever zarr makes of metadata that are none
            refuse_outage(path, error)
            return False
        return "s0" not in left and all(is_ours(node) for node in left.values())
    if is_url(path) or not Path(path).is_dir():
        return False
    found = [opened_array(join(path, p.name)) for p in Path(path).iterdir() if p.is_dir()]
    arrays = [array for array in found if array is not None]
    return bool(arrays) and all(is_ours(array) for array in arrays)


def is_damaged(path: str) -> bool:
    """Whether a local image has a full resolution whose metadata nobody can read."""
    return not is_url(path) and has_damaged_metadata(Path(path, "s0"))


def has_damaged_metadata(place: Path) -> bool:
    """Whether nobody can read the metadata of a local array or group.

    Metadata that are whole, and that only this machine cannot read, are not damaged: an array of
    others may have codecs that are not installed here.
    """
    try:
        about = json.loads((place / "zarr.json").read_bytes())
    except OSError:  # it is not there, or cannot be read now
        return False
    except (ValueError, RecursionError):
        return True
    if not isinstance(about, dict) or about.get("node_type") not in ("array", "group"):
        return True
    attributes = about.get("attributes", {})
    if not isinstance(attributes, dict):
        return True
    if HASH not in attributes:
        return False
    return opened_array(str(place)) is None and opened_group(place) is None


def set_aside(place: Path) -> None:
    """Move a damaged image, or damaged metadata, out of the way; nothing of it is removed.

    Its metadata get another name, so that zarr does not stumble over them.
    """
    aside, number = place.with_name(f"{place.name}.damaged"), 1
    while aside.exists():
        number += 1
        aside = place.with_name(f"{place.name}.damaged{number}")
    place.rename(aside)
    for metadata in [*aside.glob("zarr.json"), *aside.glob("*/zarr.json")]:
        metadata.rename(f"{metadata}.damaged")
    _log.warning("%s is damaged and made anew; what was there is now %s", place, aside)


def mend_group(image: Image) -> None:
    """Write the metadata of a local image's group anew, where they are damaged or gone."""
    path, _, name = image.path.rpartition("/")
    if is_url(image.path) or name != "s0" or not is_ours(image.array):
        return
    group = opened_group(path, 3)
    try:
        if group is not None and multiscale_of(group.attrs, path) is not None:
            return
    except InputError:
        pass
    metadata = Path(path, "zarr.json")
    if metadata.exists():
        set_aside(metadata)
    shape, kind = image.array.shape, Path(path).name
    about = ome_metadata(kind, len(shape) == 3, image.voxel_size, image.offset, image.unit)
    zarr.open_group(path, mode="a", zarr_format=3, attributes={"ome": about})


def check_complete(image: Image) -> None:
    """Refuse an array that synpol began to write and did not finish.

    Raises
    ------
    InputError
    """
    if is_ours(image.array) and not image.array.attrs.get(COMPLETE):
        raise InputError(
            f"{image.path} is unfinished: what writes it was interrupted; run that again first "
            "(of synpol's repository: pipelines/prepare.py for raw and truth, "
            "pipelines/predict_blockwise.py for polarity and instances)"
        )
