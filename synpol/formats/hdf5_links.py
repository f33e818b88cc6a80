"""Which dataset of an HDF5 file is meant, and whether its values can be had.

Links are followed, and a virtual dataset is read where all of its sources are there: HDF5 itself
reads a missing one as zeros. Both may reach into other files of the same folder only, so that a
file from elsewhere cannot have others of the user imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from synpol.errors import InputError, nearest

if TYPE_CHECKING:
    import h5py

#: how many links may lead on to each other
_LINKS = 16
#: groups in which programs keep other things than volumes
_INNER = ("#refs#", "#subsystem#", "__DATA_TYPES__")


def find_dataset(file: h5py.File, path: Path, key: str | None) -> h5py.Dataset:
    """Find a dataset by its key, or the only volume of a file where no key is given.

    Raises
    ------
    InputError
        There is no such dataset, several could be meant, or a link leads nowhere.
    """
    import h5py

    datasets = _datasets_in(file)
    known = list(datasets)
    file.visititems_links(
        lambda name, link: None if isinstance(link, h5py.HardLink) else known.append(name)
    )
    if key is None:
        volumes = volumes_in(file)
        if len(volumes) == 1:
            return datasets[volumes[0]]
        raise InputError(f"{path} is HDF5: say which dataset (`key:`){nearest('', known)}")
    key = key.strip("/")
    item = _follow(file, path, key, path.resolve().parent, _LINKS)
    if not isinstance(item, h5py.Dataset):
        inside = [name for name in known if name.startswith(f"{key}/")]
        raise InputError(f"{path} has no dataset {key!r}{nearest(key, inside or known)}")
    return item


def volumes_in(file: h5py.File) -> list[str]:
    """List the datasets that can be volumes."""
    return [name for name, data in _datasets_in(file).items() if _is_volume(data)]


def _datasets_in(file: h5py.File) -> dict[str, h5py.Dataset]:
    import h5py

    found: dict[str, h5py.Dataset] = {}
    file.visititems(
        lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
    )
    return {name: data for name, data in found.items() if not name.startswith(_INNER)}


def _is_volume(data: h5py.Dataset) -> bool:
    return data.dtype.kind in "buif" and data.shape is not None and data.ndim >= 3


def _follow(file: h5py.File, path: Path, key: str, folder: Path, hops: int) -> object:
    """Return the dataset or group at a key, None where there is none; links are followed."""
    import h5py

    here: object = file
    parts = key.split("/")
    for number, part in enumerate(parts):
        link = here.get(part, getlink=True) if isinstance(here, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            here = here[part]  # type: ignore[index]
            continue
        at = "/".join(parts[: number + 1])
        to = link.path
        if not hops:
            raise InputError(f"{path}:{at} is a link that leads back to itself; give another `key`")
        if isinstance(link, h5py.ExternalLink):
            file, path = _other_file(link.filename, path, folder, f"{path}:{at} is a link to")
            target = to
        else:
            target = to if to.startswith("/") else "/".join([*parts[:number], to])
        target = "/".join([target.strip("/"), *parts[number + 1 :]])
        found = _follow(file, path, target, folder, hops - 1)
        if found is None:
            raise InputError(
                f"{path} has no dataset {target!r}, to which {at!r} is a link; give another `key`"
            )
        return found
    return here


def _other_file(name: str, path: Path, folder: Path, why: str) -> tuple[h5py.File, Path]:
    """Open another file that a file refers to, if it lies in the same folder."""
    import h5py

    other = (path.resolve().parent / name).resolve()
    if not other.is_relative_to(folder):
        raise InputError(
            f"{why} {name}, which is not in the folder of {path.name}; other files are read there "
            "only: copy it there and make the link anew, or import that file itself"
        )
    if not other.is_file():
        raise InputError(f"{why} {name}, which is missing: copy it to {other} as well")
    try:
        return h5py.File(other, "r"), other
    except OSError as error:
        raise InputError(f"{why} {name}, which cannot be read as HDF5: {error}") from None


def check_storage(data: h5py.Dataset, path: Path, what: str, hops: int = _LINKS) -> None:
    """Refuse a dataset whose values lie elsewhere, or cannot be unpacked here.

    Parameters
    ----------
    data : h5py.Dataset
    path : Path
        File that was named by the user.
    what : str
        Dataset in messages.

    Raises
    ------
    InputError
    """
    import h5py

    if data.shape is None or not hops:
        raise InputError(f"{what} holds no values; give another `key`")
    if data.external:
        names = ", ".join(str(name) for name, *_ in data.external)
        raise InputError(
            f"{what} keeps its values in other files ({names}), which is not read; save the "
            "dataset into one HDF5 file"
        )
    properties = data.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{what} is compressed with the HDF5 filter {code} ({name.decode()}), which "
                "neither h5py nor hdf5plugin unpacks; save it with gzip, for instance with "
                f"`h5repack -f GZIP=1 {path.name} new.h5`"
            )
    if data.is_virtual:
        folder = path.resolve().parent
        for source in {(s.file_name, s.dset_name) for s in data.virtual_sources()}:
            _check_source(data, path, folder, what, *source, hops=hops)


def _check_source(
    data: h5py.Dataset, path: Path, folder: Path, what: str, name: str, key: str, hops: int
) -> None:
    """Refuse a virtual dataset of which a source is missing."""
    why = f"{what} is a virtual dataset of"
    here = Path(data.file.filename)
    if "%" in name or "%" in key:
        raise InputError(f"{why} {name}:{key}, a row of files; save it as a dataset of its own")
    file, other = (data.file, here) if name == "." else _other_file(name, here, folder, why)
    if key.strip("/") not in file:
        raise InputError(
            f"{why} {name}:{key}, but {other} has no such dataset: a source is missing"
        )
    check_storage(file[key], path, f"{other}:{key.strip('/')}", hops - 1)
