"""Unpack an archive that somebody else made: bounded, and only into its own folder."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from synpol.errors import InputError, is_of_content
from synpol.files import whole_folder

_BLOCK = 2**20
#: bytes of the longest name that file systems take
_NAME = 255
#: ways of packing that are read
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP file into a folder, whole or not at all; a folder that exists is left alone.

    Raises
    ------
    InputError
        The file is not a ZIP file, is damaged or encrypted, needs more room than there is, or holds
        a path that leaves the folder or that no folder can hold.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            for member in members:
                _check_member(archive, member)
            _check_names(archive, members)
            _check_room(archive, members, folder.parent)
            with whole_folder(folder) as temporary:
                for member in members:
                    _extract(archive, content, member, temporary)
    except InputError:
        raise
    except OSError as error:
        if not is_of_content(error):  # a full disk is no fault of the archive
            raise
        said = error.strerror or error
        raise InputError(
            f"{archive} cannot be unpacked ({said}); remove it to download it again"
        ) from None
    except Exception as error:  # whatever zipfile and its decompressors make of damaged bytes
        raise InputError(
            f"{archive} is no readable ZIP file ({error or type(error).__name__}); remove it to "
            "download it again"
        ) from None


def _refuse(archive: Path, name: str, why: str) -> InputError:
    return InputError(f"{archive} holds {name[:200]!r}, {why}; this is not the data set")


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    """Refuse a member that leaves the folder, or that is neither a plain file nor a folder."""
    name = member.filename
    parts = PurePosixPath(name).parts
    is_link = member.external_attr >> 28 == 0o12
    if name.startswith("/") or ".." in parts or "\\" in name or is_link:
        raise _refuse(archive, name, "which would be written outside its folder")
    if not parts or any(len(os.fsencode(part)) > _NAME for part in parts):
        raise _refuse(archive, name, "which no file can be called")
    if member.flag_bits & 1:
        raise _refuse(archive, name, "which is encrypted")
    if member.compress_type not in _METHODS:
        raise _refuse(archive, name, f"which is packed in a way ({member.compress_type}) not read")


def _check_names(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse two members of one name, and a file that is to be a folder too."""
    files: set[PurePosixPath] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        if path in files and not member.is_dir():
            raise _refuse(archive, member.filename, "twice")
        if not member.is_dir():
            files.add(path)
    for member in members:
        path = PurePosixPath(member.filename)
        folders = [path, *path.parents] if member.is_dir() else path.parents
        if any(folder in files for folder in folders):
            raise _refuse(archive, member.filename, "of which a part is a file and a folder")


def _check_room(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> None:
    """Refuse an archive that says that it needs more room than there is."""
    needed, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{archive} unpacks to {needed} bytes, and {free} are free in {folder}; make room, or "
            "give another prepare.em_r50.output"
        )


def _extract(
    archive: Path, content: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path
) -> None:
    """Write one member; zipfile checks its checksum, and gives no more bytes than it says."""
    target = folder / member.filename
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with content.open(member) as packed, open(target, "wb") as file:
            shutil.copyfileobj(packed, file, _BLOCK)
        size = target.stat().st_size
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(
            f"{archive} is damaged at {member.filename} ({error}); remove it to download it again"
        ) from None
    if size != member.file_size:
        raise InputError(
            f"{archive} is damaged at {member.filename}: {size} bytes in place of "
            f"{member.file_size}; remove it to download it again"
        )
