"""Finding the array of an image in a Zarr hierarchy, and the OME metadata that describe it."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import zarr
import zarr.errors
from zarr.storage import ZipStore

from synpol.errors import InputError, nearest
from synpol.files import is_url, join
from synpol.images.ome import Multiscale, inner_paths, is_layout_of_series, multiscale_of
from synpol.images.stores import fault_of, for_zarr, is_outage

#: how many groups are entered, one in another, to find an image
_DEPTH = 4
#: how many folders up from an array its metadata may lie
_UP = 3
_METADATA = ("zarr.json", ".zattrs")
#: how volumes of other formats are imported
_BY = "(prepare.imports), by pipelines/prepare.py of synpol's repository"
#: files by which folders of other formats are known
_IMPORTED = {
    "attributes.json": "a group of an N5 container (its datasets may be named too)",
    "datasource-properties.json": "a WEBKNOSSOS data set (its Zarr layers, "
    "FOLDER/LAYER/MAGNIFICATION, may be named too)",
    "knossos.conf": "a KNOSSOS data set",
}


@dataclass(frozen=True)
class Found:
    """An array and the metadata that list it.

    Attributes
    ----------
    path : str
        Path or URL of the array.
    array : zarr.Array
    multiscale : Multiscale or None
        Metadata of a group that list the array, where there are some.
    name : str
        Path of the array within that group.
    """

    path: str
    array: zarr.Array
    multiscale: Multiscale | None = None
    name: str = ""


def find_array(path: str, mode: str, inside: bool, anonymous: bool = False) -> Found:
    """Open an array, or the full resolution of the image that a group is.

    Parameters
    ----------
    path : str
        Path or URL of an array or a group.
    mode : {"r", "r+"}
    inside : bool
        Whether a group that holds exactly one image stands for it.
    anonymous : bool
        Whether no credentials are used at a URL.

    Raises
    ------
    InputError
        Nothing there, several images, or metadata that cannot be read.
    """
    node = open_node(path, mode, anonymous)
    if isinstance(node, zarr.Array):
        return Found(path, node)
    for _ in range(_DEPTH):
        multiscale = multiscale_of(node.attrs, path)
        if multiscale is not None:
            return _full_resolution(path, node, multiscale)
        if not inside:
            break
        names = _images_in(path, node)
        if len(names) != 1:
            break
        path = join(path, names[0])
        node = _member(node, names[0], path)
        if isinstance(node, zarr.Array):
            return Found(path, node)
    raise _no_image(path, node)


def _full_resolution(path: str, group: zarr.Group, multiscale: Multiscale) -> Found:
    name = multiscale.paths[0]
    array = _member(group, name, f"{path} is an image whose array {name!r}")
    if not isinstance(array, zarr.Array):
        raise InputError(f"{join(path, name)} is not an array, but {path} names it as one")
    return Found(join(path, name), array, multiscale, name)


def _member(group: zarr.Group, name: str, what: str) -> zarr.Group | zarr.Array:
    try:
        return group[name]
    except KeyError:
        raise InputError(f"{what} is missing") from None
    except Exception as error:  # whatever zarr makes of metadata that are none
        raise InputError(
            f"{what} cannot be opened as Zarr: {_told(error)}. Run the command again that makes "
            "it, or copy it anew"
        ) from error


def _images_in(path: str, group: zarr.Group) -> list[str]:
    """Names of the images in a group that is none itself."""
    listed = inner_paths(group.attrs, path)
    if listed is not None:
        return [name.strip("/") for name in listed]
    try:
        members = dict(group.members())
    except Exception as error:  # whatever zarr makes of metadata that are none
        raise InputError(f"{path} cannot be read as Zarr: {_told(error)}") from error
    if is_layout_of_series(group.attrs, path):
        series = members.get("OME")
        known = None if series is None else inner_paths(series.attrs, join(path, "OME"))
        return known or sorted((name for name in members if name.isdigit()), key=int)
    return [name for name, node in sorted(members.items()) if _may_hold_image(path, name, node)]


def _may_hold_image(path: str, name: str, node: zarr.Group | zarr.Array) -> bool:
    if isinstance(node, zarr.Array):
        return node.ndim >= 3
    about = node.attrs
    where = join(path, name)
    if multiscale_of(about, where) is not None or is_layout_of_series(about, where):
        return True
    return bool(inner_paths(about, where)) or any(True for _ in node.members())


def _no_image(path: str, group: zarr.Group) -> InputError:
    listed = inner_paths(group.attrs, path)
    names = sorted(listed if listed is not None else (name for name, _ in group.members()))
    shown = names[:20] + ["..."] * (len(names) > 20)
    return InputError(
        f"{path} is a Zarr group without OME multiscales metadata; give the path of an "
        "image or an array inside it" + (f": {', '.join(shown)}" if names else "")
    )


def open_node(path: str, mode: str, anonymous: bool = False) -> zarr.Group | zarr.Array:
    """Open a group or an array.

    Raises
    ------
    InputError
        Nothing is there, or it cannot be opened.
    """
    if mode != "r" and zip_of(path) is not None:
        raise InputError(f"{path} is zipped, which is read only; unpack it, or give another place")
    try:
        if (zipped := zip_of(path)) is not None:
            return zarr.open(ZipStore(zipped[0], mode="r"), path=zipped[1], mode="r")
        place, options = for_zarr(path, anonymous)
        return zarr.open(
            place,
            mode=mode,  # type: ignore[arg-type]
            zarr_format=_local_format(path),
            storage_options=options,
        )
    except (FileNotFoundError, KeyError, zarr.errors.NodeNotFoundError) as error:
        if isinstance(error, KeyError) and _has_metadata(path):
            raise _unreadable(path, error, anonymous) from error
        raise InputError(f"there is no Zarr array or group at {path}{_siblings(path)}") from error
    except Exception as error:  # whatever zarr makes of metadata that are none
        raise _unreadable(path, error, anonymous) from error


def zip_of(path: str) -> tuple[str, str] | None:
    """The ZIP file that a local path lies in, and the path within it; None where there is none."""
    if is_url(path) or os.path.isdir(path):
        return None
    for place in (Path(path), *Path(path).parents):
        if place.is_file():
            inner = Path(path).relative_to(place).as_posix()
            return (str(place), inner.strip(".")) if zipfile.is_zipfile(place) else None
    return None


def _local_format(path: str) -> Literal[2, 3] | None:
    """The version of Zarr of a local node, None where it is not known; zarr finds it slower."""
    if is_url(path):
        return None
    if os.path.exists(f"{path}/zarr.json"):
        return 3
    return 2 if any(os.path.exists(f"{path}/{name}") for name in (".zarray", ".zgroup")) else None


def _unreadable(path: str, error: Exception, anonymous: bool = False) -> InputError:
    if is_url(path):
        return InputError(fault_of(path, _told(error), anonymous, is_outage(error)))
    return InputError(
        f"{path} cannot be opened as Zarr: {_told(error)}. Correct its metadata, run the command "
        "again that makes it, or copy it anew"
    )


def _told(error: Exception) -> str:
    text = str(error) if not isinstance(error, KeyError) else f"the key {error} is missing"
    return (text or type(error).__name__)[:300].rstrip(".")


def _has_metadata(path: str) -> bool:
    return not is_url(path) and any(os.path.exists(f"{path}/{n}") for n in (*_METADATA, ".zarray"))


def _siblings(path: str) -> str:
    if is_url(path):
        return ""
    here = Path(path)
    kinds = [kind for name, kind in _IMPORTED.items() if (here / name).is_file()]
    if kinds:
        return f"; it is {kinds[0]}, which is imported first {_BY}"
    if here.is_dir():
        names = sorted(p.name for p in here.iterdir())[:20]
        return "; it is a folder without Zarr metadata" + (
            f", in which there is: {', '.join(names)}" if names else " and empty"
        )
    if here.exists():
        return f"; it is a file; formats such as HDF5 and TIFF are imported first {_BY}"
    parent = next((p for p in here.parents if p.exists()), Path("."))
    missing = here.relative_to(parent).parts[0] if parent != Path(".") else here.parts[0]
    if not parent.is_dir():
        return f"; {parent} is a file"
    return f" ({parent} exists{nearest(missing, [p.name for p in parent.iterdir()][:1000])})"


def described(path: str, anonymous: bool = False) -> tuple[Multiscale, str] | None:
    """The metadata of a group that list an array, and the array's path within that group.

    Parameters
    ----------
    path : str
        Path or URL of an array.
    anonymous : bool
        Whether no credentials are used at a URL.

    Returns
    -------
    (Multiscale, str) or None
        None where no group says anything about it.

    Raises
    ------
    InputError
        The metadata cannot be read.
    """
    for parent, name in _parents(path):
        attributes = _attributes(parent, anonymous)
        found = None if attributes is None else multiscale_of(attributes, parent)
        if found is not None and name in found.paths:
            return found, name
    return None


def _attributes(path: str, anonymous: bool) -> Mapping[str, Any] | None:
    """Attributes of a group, None where there is none; of a local one without zarr: it is read
    each time an array is opened."""
    if is_url(path) or zip_of(path) is not None:
        group = opened_group(path, anonymous=anonymous)
        return None if group is None else group.attrs
    for name in _METADATA:
        try:
            with open(f"{path}/{name}", "rb") as file:
                found = json.load(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}/{name} cannot be read: {error}. Correct it") from None
        about = found.get("attributes", {}) if name == _METADATA[0] else found
        if isinstance(about, dict):
            return about
        raise InputError(f"{path}/{name} holds no attributes; correct it")
    return None


def _parents(path: str) -> Iterator[tuple[str, str]]:
    """Groups that a path may lie in, the nearest first, and its path within each."""
    parent, inner = path, ""
    for _ in range(_UP):
        parent, slash, name = parent.rpartition("/")
        if not name or parent.endswith((":/", "//")):
            return
        inner = f"{name}/{inner}".rstrip("/")
        here = parent or ("/" if slash else ".")
        known = is_url(here) or any(os.path.exists(f"{here}/{n}") for n in _METADATA)
        if known or zip_of(here) is not None:
            yield here, inner
        elif not os.path.isdir(here):
            return


def opened_group(
    path: str | os.PathLike[str],
    zarr_format: Literal[2, 3] | None = None,
    mode: Literal["r", "r+"] = "r",
    anonymous: bool = False,
) -> zarr.Group | None:
    """A Zarr group, or None where there is none.

    Raises
    ------
    InputError
        A server does not answer.
    """
    place, options = for_zarr(str(path), anonymous)
    try:
        if (zipped := zip_of(str(path))) is not None:
            return zarr.open_group(ZipStore(zipped[0], mode="r"), path=zipped[1], mode="r")
        return zarr.open_group(place, mode=mode, zarr_format=zarr_format, storage_options=options)
    except Exception as error:  # whatever zarr makes of what lies there: it is no group
        refuse_outage(str(path), error, anonymous)
        return None


def opened_array(path: str) -> zarr.Array | None:
    """A Zarr array, or None where there is none; errors are those of `opened_group`."""
    try:
        return zarr.open_array(path, mode="r")
    except Exception as error:  # whatever zarr makes of what lies there: it is no array
        refuse_outage(path, error)
        return None


def refuse_outage(path: str, error: Exception, anonymous: bool = False) -> None:
    """Refuse to take a server that fails for one that says that nothing is there.

    Raises
    ------
    InputError
    """
    if is_url(path) and is_outage(error):
        raise _unreadable(path, error, anonymous) from error
