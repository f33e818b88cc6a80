"""Recognition of a file by its first bytes, since endings are often missing or wrong."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

_GZIP, _BZIP2 = b"\x1f\x8b", b"BZh"
_SIZE = 1024
_TO_TIFF = "open it in Fiji and save it as TIFF (File > Save As > Tiff...)"
_FOLDER = "sections are imported together: give the folder that holds them"
_UNPACK = "unpack it first"
_NUMPY = "write the array as TIFF (tifffile.imwrite) or HDF5 (h5py)"
#: formats that are not imported: place and content of their mark, name, and how to go on
_OTHERS: list[tuple[int, bytes, str, str]] = [
    (0, b"\x89PNG", "a single PNG image", _FOLDER),
    (0, b"\xff\xd8\xff", "a single JPEG image", _FOLDER),
    (0, b"BM", "a single BMP image", _FOLDER),
    (0, b"\x00\x00\x00\x0cjP", "a JPEG 2000 image", "convert its sections to PNG or TIFF"),
    (0, b"GIF8", "a GIF image", "convert its sections to PNG or TIFF"),
    (0, b"PK\x03\x04", "a ZIP archive", _UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", _UNPACK),
    (0, b"Rar!", "a RAR archive", _UNPACK),
    (0, b"\xfd7zXZ", "a file compressed with xz", _UNPACK),
    (257, b"ustar", "a TAR archive", _UNPACK),
    (0, b"\x93NUMPY", "a NumPy file", _NUMPY),
    (0, b"MATLAB 5.0", "a MATLAB file of an old version", "save it with save(..., '-v7.3')"),
    (0, b"\x0e\x03\x13\x01", "an HDF4 file", "convert it to HDF5 (h4toh5)"),
    (0, b"CDF", "a NetCDF 3 file", "convert it to NetCDF 4, which is HDF5 (nccopy -k nc4)"),
    (0, b"\x00\x00\x00\x03", "a DigitalMicrograph 3 file", _TO_TIFF),
    (0, b"\x00\x00\x00\x04", "a DigitalMicrograph 4 file", _TO_TIFF),
    (0, b"# AmiraMesh", "an Amira file", _TO_TIFF),
    (0, b"# Avizo", "an Avizo file", _TO_TIFF),
    (0, b"ObjectType", "a MetaImage header", _TO_TIFF),
    (0, b"ZISRAWFILE", "a Zeiss CZI file", _TO_TIFF),
    (0, b"\xda\xce\xbe\x0a", "a Nikon ND2 file", _TO_TIFF),
    (0, b"SIMPLE  =", "a FITS file", _TO_TIFF),
    (128, b"DICM", "a DICOM file", _TO_TIFF),
    (
        0,
        b"version https://git-lfs",
        "a pointer of Git LFS, not the data",
        "fetch the file with `git lfs pull`",
    ),
    (0, b"<!DOCTYPE", "a web page, not the data", "download the file again"),
    (0, b"<html", "a web page, not the data", "download the file again"),
]


def first_bytes(path: Path, size: int = _SIZE) -> bytes:
    """Return the first bytes of a file, none where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""


def unpacked_first_bytes(path: Path) -> bytes:
    """Return the first bytes of a file, of its content where it is a gzip or bzip2 file."""
    found = first_bytes(path)
    try:
        if found.startswith(_GZIP):
            with gzip.open(path) as unpacked:
                return unpacked.read(_SIZE)
        if found.startswith(_BZIP2):
            with bz2.open(path) as unpacked:
                return unpacked.read(_SIZE)
    except (OSError, EOFError, ValueError):
        pass
    return found


def compression_of(path: Path) -> str:
    """Return ``gzip``, ``bzip2`` or an empty text."""
    found = first_bytes(path, 4)
    return {_GZIP: "gzip", _BZIP2[:2]: "bzip2"}.get(found[:2], "")


def describe_file(path: Path) -> str:
    """Say what a file is that no format opens, and how to go on.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(b"PK" + bytes([3, 4]))
    ...     file.flush()
    ...     describe_file(Path(file.name))
    'it is a ZIP archive; unpack it first'
    """
    if path.is_dir():
        return "it is a folder"
    found = first_bytes(path)
    if not found:
        return "it is empty or cannot be read; copy it again"
    for place, mark, name, advice in _OTHERS:
        if found[place : place + len(mark)] == mark:
            return f"it is {name}; {advice}"
    if compression_of(path):
        if unpacked_first_bytes(path) == found:
            return (
                f"it is compressed with {compression_of(path)}, and cut or damaged; copy it again"
            )
        return f"it is compressed with {compression_of(path)}; {_UNPACK}"
    if not any(found):
        return "its first bytes are zero, as of a copy that did not arrive; copy it again"
    if all(32 <= b < 127 or b in b"\t\r\n" for b in found[:64]):
        return (
            f"it begins with the text {found[:30].decode()!r}; save the volume as TIFF, HDF5 or "
            "Zarr"
        )
    return f"it begins with the bytes {found[:8].hex(' ')}; save the volume as TIFF, HDF5 or Zarr"
